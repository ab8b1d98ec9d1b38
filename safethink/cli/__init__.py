"""The command line of `safethink`."""
