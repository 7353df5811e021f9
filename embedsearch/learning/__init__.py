"""Evaluating a model on labeled images, and training it on them."""
