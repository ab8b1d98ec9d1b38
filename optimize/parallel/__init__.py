"""Several processes, in lockstep."""
