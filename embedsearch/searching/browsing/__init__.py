"""A store to look around in: lists in an order, values of columns, folders."""
