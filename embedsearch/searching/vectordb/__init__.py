"""Vector databases that hold a store's rows and name candidates."""
