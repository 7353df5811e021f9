"""Collections made clean: copies, groups, what is unlike the rest, and a map of all."""
