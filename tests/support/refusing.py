"""How the tests of bad input say what they expect."""

import contextlib
import re

import pytest

import mfdeq


@contextlib.contextmanager
def refused(kind, *words):
    """Expect exactly this kind of error, its message having all the words (patterns)."""
    with pytest.raises(mfdeq.MfdeqError) as caught:
        yield caught
    assert type(caught.value) is kind, f"{type(caught.value).__name__}: {caught.value}"
    for word in words:
        assert re.search(word, str(caught.value)), f"no {word!r} in: {caught.value}"


def table(*rows):
    """Parameters with ids from the first column, which names the case."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]
