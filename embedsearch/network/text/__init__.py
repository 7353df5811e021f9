"""Networks that make vectors of texts."""
