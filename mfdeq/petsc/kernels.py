"""Inner loops on distributed arrays: those of the host on what a rank has, and its memory."""

from __future__ import annotations

from typing import Any

from ..arrays import kernels as of_host
from .ranks import Ranks

Array = Any
peak_bytes, replayed, replayable = of_host.peak_bytes, of_host.replayed, of_host.replayable
products, scale_rows = of_host.products, of_host.scale_rows
MAX_BLOCK_COLUMNS, MAX_BLOCK_ENTRIES = of_host.MAX_BLOCK_COLUMNS, of_host.MAX_BLOCK_ENTRIES


def column_dots(xp: Any, x: Array, y: Array) -> Array:
    """Inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    return xp.vecdot(x, y, axis=-x.ndim)


def difference_squares(xp: Any, x: Array, y: Array) -> Array:
    """Squares of the norms of the columns of x - y."""
    difference = x - y
    return column_dots(xp, difference, difference)


def available_bytes(device: Ranks) -> int:
    """Memory that there can be, on all machines of the ranks: the same number on each."""
    return device.memory
