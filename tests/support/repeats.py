"""Parameters that repeat a test: one of them in the fast tests, all of them in the slow ones."""

import pytest


def one_fast(*values):
    """Return the values as parameters of a test, all but the first of which are slow."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in others)]
