"""Searches for a hard prefix: one method per file."""
