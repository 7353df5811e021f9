"""How good a model is on labelled pictures, and making one better."""
