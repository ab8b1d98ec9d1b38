"""Measurements too slow for the tests: speeds as ratios side by side, exhaustive checks, nulls."""
