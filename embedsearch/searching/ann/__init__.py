"""Nearest neighbours by FAISS; its files are caches of the shards."""
