"""The HTTP server; no other package imports it."""
