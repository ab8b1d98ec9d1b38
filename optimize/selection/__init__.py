"""Chooses on validation by what a prefix does."""
