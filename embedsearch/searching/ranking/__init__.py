"""The order of hits."""
