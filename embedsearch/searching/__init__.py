"""A query to its hits: exact and approximate search, filters, vector databases."""
