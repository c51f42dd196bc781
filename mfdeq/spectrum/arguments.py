"""Checks of the arguments that several functions of this package share."""

from __future__ import annotations

import operator
from typing import Any

from ..arguments import one_of
from ..arrays.backend import Array, Backend, shape_of
from ..errors import ArgumentError, short_repr

WHICH = ("LM", "LA", "SA", "BE")


def check_operator(H: Any, k: Any) -> int:
    """Return the size P of H, which must be square, and check that k is at most P."""
    shape = shape_of(H)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ArgumentError(f"H: expected a square symmetric operator, got shape {shape}")
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= operator.index(k) <= shape[0]:
        raise ArgumentError(f"k: expected an integer from 1 to P = {shape[0]}, got {short_repr(k)}")
    return shape[0]


def check_which(which: str) -> None:
    """Raise an `ArgumentError` if `which` is unknown."""
    if which == "SM":
        raise ArgumentError(
            f"which: expected one of {', '.join(map(repr, WHICH))}, got 'SM'. For the eigenvalues "
            "nearest to zero, pass sigma=0.0"
        )
    one_of(which, WHICH, "which")


def start_block(backend: Backend, v0: Array | None, P: int, block: int) -> Array:
    """Return the start of a search, (P, b): `v0`, checked, or `block` random columns."""
    if v0 is None:
        return backend.random(P, block, seed=13)
    start = backend.check_array(v0, None, "v0", ArgumentError)
    if start.ndim not in (1, 2) or start.shape[0] != P or 0 in start.shape:
        raise ArgumentError(f"v0: expected shape ({P},) or ({P}, b), got {tuple(start.shape)}")
    if backend.norm(start) == 0.0:
        raise ArgumentError("v0: expected a nonzero start, got zeros. Use None for a random start")
    return start if start.ndim == 2 else start[:, None]
