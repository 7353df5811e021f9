"""Where images come from; each file turns one kind of place into a stream of `ImageRef`."""
