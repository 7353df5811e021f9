"""Bytes to uint8 RGB, upright, S × S: in worker processes, which a hostile file may crash."""
