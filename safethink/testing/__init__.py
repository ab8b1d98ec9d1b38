"""Conformance suites for plug-ins: what every defense, monitor, judge and engine must keep, ready for pytest.

A suite is a tuple of checks, each of which raises `AssertionError` with the fault it found:

    import pytest
    from safethink.testing import defenses

    @pytest.mark.parametrize("check", defenses.checks(my_defense), ids=str)
    def test_my_defense(check):
        check()
"""
