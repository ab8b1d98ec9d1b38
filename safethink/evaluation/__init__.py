"""Evaluation: run defenses on the same prompts with the same seeds, judge, and put intervals on every number."""
