"""Residual networks: uint8 RGB pixels in, unit vectors out."""
