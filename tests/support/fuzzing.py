"""How cases are drawn, and what may come of them."""

import os
import re

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import mfdeq

TOLERANCE = {"float64": 1e-7, "float32": 1e-3}
WHEN = st.sampled_from(["always", "once", "alternately", 1, 2, 3, 5, 8])


MORE = int(os.environ.get("MFDEQ_MORE_CASES", "1"))


def cases(number):
    """Settings for so many cases; MFDEQ_MORE_CASES in the environment multiplies them."""
    return settings(
        max_examples=MORE * number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def any_of(things):
    return st.sampled_from(list(things))


def outcome(compute):
    """What it returns, or raises."""
    try:
        return compute()
    except Exception as raised:
        return raised


def assert_named(raised, pattern, typed=True):
    """An error of this library, or with its note, that says where."""
    notes = getattr(raised, "__notes__", [])
    said = " ".join([str(raised), *notes])
    assert re.search(pattern, said), f"no {pattern!r} in {type(raised).__name__}: {said}"
    noted = not typed and any(note.startswith("mfdeq: raised in ") for note in notes)
    assert isinstance(raised, mfdeq.MfdeqError) or noted, repr(raised)
