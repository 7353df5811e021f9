"""Cleaning up a collection: duplicates, clusters, outliers and a map."""
