"""The documentation, and in `support` what builds and runs it."""
