"""A filter is a question about rows; each is parsed and answered in a process of its own."""
