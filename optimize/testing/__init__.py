"""Conformance suites for a search's plug-ins, its method and the terms of its objective; see `safethink.testing`."""
