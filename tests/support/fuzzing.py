"""Settings of random tests, and checks of their outcomes."""

import os
import re

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import mfdeq

TOLERANCE = {"float64": 1e-7, "float32": 1e-3}
WHEN = st.sampled_from(["always", "once", "alternately", 1, 2, 3, 5, 8])

CASE_FACTOR = int(os.environ.get("MFDEQ_MORE_CASES", "1"))


def cases(number):
    """Return settings for this number of cases, times MFDEQ_MORE_CASES in the environment."""
    return settings(
        max_examples=CASE_FACTOR * number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def any_of(things):
    return st.sampled_from(list(things))


def outcome(compute):
    """Return the result of `compute`, or the exception that it raises."""
    try:
        return compute()
    except Exception as raised:
        return raised


def assert_named(raised, pattern, typed=True):
    """Assert that an error is of this library, or has its note, and matches the pattern."""
    notes = getattr(raised, "__notes__", [])
    said = " ".join([str(raised), *notes])
    assert re.search(pattern, said), f"no {pattern!r} in {type(raised).__name__}: {said}"
    noted = not typed and any(note.startswith("mfdeq: raised in ") for note in notes)
    assert isinstance(raised, mfdeq.MfdeqError) or noted, repr(raised)
