"""Optuna studies: one trial is one whole search, never one candidate."""
