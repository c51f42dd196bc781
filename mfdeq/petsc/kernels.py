"""The inner loops on distributed arrays, with the functions of `mfdeq.arrays.kernels`."""

from __future__ import annotations

from typing import Any

# The local parts of distributed arrays are numpy arrays, to which these apply as they are.
from ..arrays.kernels import (  # noqa: F401
    MAX_BLOCK_COLUMNS,
    MAX_BLOCK_ENTRIES,
    capturable_matrix,
    capture_launches,
    converted,
    inner_loops,
    peak_bytes,
    products,
    scale_rows,
)
from .ranks import Ranks

Array = Any


def column_dots(xp: Any, x: Array, y: Array) -> Array:
    """Return inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    return xp.vecdot(x, y, axis=-x.ndim)


def difference_squares(xp: Any, x: Array, y: Array) -> Array:
    """Return the squared norms of the columns of x - y."""
    difference = x - y
    return column_dots(xp, difference, difference)


def inner_products(V: Array, W: Array) -> Array:
    """Return V W for the rows of a basis and an (n, k) block of few columns."""
    return V @ W


def subtract_combination(W: Array, V: Array, h: Array) -> Array:
    """Return W - V' h for an (n, k) block of few columns."""
    return W - V.T @ h


def combine_rows(V: Array, first: int, C: Array) -> None:
    """Replace the first k of m rows of V, which begin at `first`, by C' times these m, in place."""
    V[first : first + C.shape[1], :] = C.T @ V[first : first + C.shape[0], :]


def available_bytes(device: Ranks) -> int:
    """Return the memory on all machines of the ranks, the same number on every rank."""
    return device.memory
