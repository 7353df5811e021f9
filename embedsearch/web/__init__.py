"""The HTTP door; nothing else of embedsearch imports it."""
