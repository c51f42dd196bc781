"""Inner loops on distributed arrays: those of the host on what a rank has, and its memory."""

from __future__ import annotations

import functools
from typing import Any

from .. import kernels as of_host

Array = Any
peak_bytes, replayed, replayable = of_host.peak_bytes, of_host.replayed, of_host.replayable
products, scale_rows = of_host.products, of_host.scale_rows
TOGETHER, NUMBERS = of_host.TOGETHER, of_host.NUMBERS


def column_dots(xp: Any, x: Array, y: Array) -> Array:
    """Inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    return xp.vecdot(x, y, axis=-x.ndim)


def available_bytes() -> int:
    """Memory that there can be, on all machines of the ranks."""
    return of_host.available_bytes() * _machines()


@functools.cache
def _machines() -> int:
    from mpi4py import MPI

    here = MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)
    return MPI.COMM_WORLD.allreduce(int(here.Get_rank() == 0))
