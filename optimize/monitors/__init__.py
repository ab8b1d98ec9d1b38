"""Trains monitors: a probe on the reasoner's hidden states, or a classifier of sequences, from another's labels."""
