"""Pictures in: where they lie, and their bytes as pixels."""
