"""Lists in an order, values of columns, folders, counts of searches."""
