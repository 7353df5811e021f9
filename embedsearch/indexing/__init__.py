"""Folders to a store: find changes, embed, commit, watch, repair."""
