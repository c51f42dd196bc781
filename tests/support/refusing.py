"""Expectations of the tests of bad input."""

import contextlib
import re

import pytest

import mfdeq


@contextlib.contextmanager
def refused(kind, *words):
    """Expect an error of exactly this class whose message matches all patterns."""
    with pytest.raises(mfdeq.MfdeqError) as caught:
        yield caught
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {caught.value}"
    for word in words:
        assert re.search(word, str(caught.value)), f"no {word!r} in: {caught.value}"


def table(*rows):
    """Return parameters with the first column as their ids."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]
