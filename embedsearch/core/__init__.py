"""Vocabulary and plumbing: errors, settings, records, paths. Imports nothing of ours."""
