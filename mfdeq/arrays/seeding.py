"""numpy's global random numbers, which other libraries draw from: of one seed, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .backend import host


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Make numpy's global random numbers those of a seed for a while, and then the user's again."""
    state = host.random.get_state()
    host.random.seed(0)
    try:
        yield
    finally:
        host.random.set_state(state)
