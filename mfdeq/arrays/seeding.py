"""numpy's global random numbers, which other libraries draw from: seeded for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .library import host


@contextlib.contextmanager
def seed_numpy() -> Iterator[None]:
    """Seed numpy's global random numbers inside the block, and restore the user's state after."""
    state = host.random.get_state()
    host.random.seed(0)
    try:
        yield
    finally:
        host.random.set_state(state)
