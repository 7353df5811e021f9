"""How good a model is on labeled pictures, and making one better."""
