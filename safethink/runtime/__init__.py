"""Runs guarded rows: many defenses at once, their results and their streams."""
