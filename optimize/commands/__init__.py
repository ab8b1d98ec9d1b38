"""The commands of `safethink-optimize`, one file each; none loads torch before it has work to do."""
