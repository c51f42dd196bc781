"""Temporary seeding of numpy's global random number generator, which other libraries use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..locks import Lock
from .library import host

_seeding = Lock()  # One thread at a time: the generator belongs to the whole process.


@contextlib.contextmanager
def seed_numpy() -> Iterator[None]:
    """Seed numpy's global generator within a ``with`` block, and restore its state afterwards."""
    with _seeding:
        state = host.random.get_state()
        host.random.seed(0)
        try:
            yield
        finally:
            host.random.set_state(state)
