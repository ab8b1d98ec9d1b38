"""Commands of `safethink` that have commands of their own; none loads torch before it has work to do."""
