"""The commands of `safethink-optimize`, by theme; none loads torch before it has work to do."""
