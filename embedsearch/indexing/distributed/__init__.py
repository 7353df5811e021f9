"""Engines that run the work on more than one machine."""
