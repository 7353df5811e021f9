"""Words over the columns of a store."""
