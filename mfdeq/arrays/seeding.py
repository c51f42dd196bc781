"""Temporary seeding of numpy's global random number generator, which other libraries use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .library import host


@contextlib.contextmanager
def seed_numpy() -> Iterator[None]:
    """Seed numpy's global generator within a ``with`` block, and restore its state afterwards."""
    state = host.random.get_state()
    host.random.seed(0)
    try:
        yield
    finally:
        host.random.set_state(state)
