"""Bytes to uint8 RGB, upright, S × S: in worker processes that a hostile file may take down."""
