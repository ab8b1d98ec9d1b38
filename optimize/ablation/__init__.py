"""Ablations: a grid of cells over any axis of a configuration, each measured alike."""
