"""Vectors and stores in and out: export, import, pull, upload."""
