"""Doors into frameworks, one file each; nothing of embedsearch imports them."""
