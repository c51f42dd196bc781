"""What one process does by itself. Where several must agree, `mfdeq.petsc.process` has the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ..files import checkpoints
from .backend import Array, Backend, host

ACCEPTS_REPLICATED = False  # whether numpy's arrays are taken for ones that every process holds


def on_first_rank(function: Callable[[], Any], device: Any) -> Any:
    """What a function returns or raises."""
    return function()


def any_rank(found: bool, device: Any) -> bool:
    """Whether something is so on any rank."""
    return found


def same_on_all_ranks(value: float, name: str, device: Any) -> float:
    """A number that every process has computed."""
    return value


def together(device: Any, name: str) -> Any:
    """A context in which a function of the user's is called."""
    return contextlib.nullcontext()


def to_user(x: Array) -> Any:
    """An array as functions of the user's get it."""
    return x


def from_user(x: Any, size: int, device: Any) -> Any:
    """What a function of the user's returned for a vector."""
    return x


def global_size(size: Any, device: Any) -> Any:
    """The entries of a vector, as a model says it."""
    return size


def from_host(backend: Backend, x: Any, rows: int | None) -> Array:
    """A numpy array in the problem's library, its `rows` spread where others are."""
    return backend.xp.asarray(x, dtype=backend.dtype, device=backend.device)


def random(backend: Backend, shape: tuple[int, ...], seed: int) -> Array:
    """Standard normal numbers."""
    return backend.from_host(host.random.default_rng(seed).standard_normal(shape))


def rows(backend: Backend, many: int, n: int) -> Array:
    """Zeros (many, n)."""
    return backend.zeros(many, n)


def files(path: str, device: Any) -> Any:
    """What reads and writes the checkpoint of that name."""
    return checkpoints


def solver() -> Any:
    """What solves where nobody says; None where this library chooses."""
    return None


def symmetric_solver() -> Any:
    """What solves with a precision, the same."""
    return None
