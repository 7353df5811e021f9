"""Measurements, run by `make bench`; none of them is a test, none of them is timed in CI."""
