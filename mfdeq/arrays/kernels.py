"""The inner loops of Krylov methods and cycles, on any array library; `cuda` has them for cupy.

Each is written to touch memory as rarely as the library allows: at these sizes it is the reading
and writing that costs, not the arithmetic. With them, what memory there is.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

Array = Any
TOGETHER, NUMBERS = 16, 16_000_000  # columns whose products are taken together, and their entries
PIECE = 32_768  # numbers that are worked on at a time, where several arrays should fit in a cache


def column_dots(xp: ModuleType, x: Array, y: Array) -> Array:
    """Inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    # Not in the standard, but numpy has it, and it makes no temporary.
    einsum = getattr(xp, "einsum", None)
    if x.ndim == 1 or x.shape[1] == 1 or einsum is None:
        return xp.vecdot(x, y, axis=-x.ndim)  # of the standard, negative only
    return einsum("ij,ij->j", x, y)


def difference_squares(xp: ModuleType, x: Array, y: Array) -> Array:
    """Squares of the norms of the columns of x - y, which is never in memory as a whole.

    Fresh memory costs several times what is computed in it.
    """
    squares = column_dots(xp, x[:0, ...], y[:0, ...])
    for here in pieces(x):
        piece = x[here, ...] - y[here, ...]
        squares = squares + column_dots(xp, piece, piece)
    return squares


def transpose_into(target: Array, x: Array) -> None:
    """target[:, :] = x', by pieces: as a whole, it takes four times as long."""
    for here in pieces(x):
        target[:, here] = x[here, :].T


def advance(xp: ModuleType, X: Array, R: Array, P: Array, Q: Array, step: Array) -> Array:
    """X += P step and R -= Q step, in place, and the squares of the norms of R's columns."""
    squares = 0.0
    for here in pieces(X):
        X[here, :] += P[here, :] * step
        R[here, :] -= Q[here, :] * step
        squares = squares + column_dots(xp, R[here, :], R[here, :])
    return squares


def redirect(xp: ModuleType, P: Array, Z: Array, ratio: Array) -> None:
    """P = Z + P ratio, in place."""
    P *= ratio
    P += Z


def products(matrix: Any) -> Any:
    """What multiplies by a matrix: itself."""
    return matrix


def replayable(matrix: Any) -> Any:
    """What multiplies by a dense matrix inside a function to be `replayed`: itself."""
    return matrix


def replayed(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of an array that launches the same kernels at each call: itself."""
    return function


def add_product(x: Array, A: Any, y: Array, sign: int = 1) -> Array:
    """x + A y or, of sign -1, x - A y, in place."""
    if hasattr(A, "add_to"):
        return A.add_to(x, y, sign)
    if sign == 1:
        x += A @ y
    else:
        x -= A @ y
    return x


def chebyshev(d: Array, x: Array, r: Array, D: Any, a: float, c: float) -> None:
    """d = a d + c D r and x += d, in place; D a matrix, or a vector for a diagonal one."""
    d *= a
    d += c * (D @ r if D.ndim == 2 else scale_rows(D, r))
    x += d


def scale_rows(diagonal: Array, x: Array) -> Array:
    """diag(diagonal) @ x for an (n,) vector or an (n, k) block."""
    return diagonal * x if x.ndim == 1 else diagonal[:, None] * x


def available_bytes(device: Any = None) -> int:
    """Memory that there can be: the machine's, or what the process may have of it.

    Not what is free: a host gives back what is unused.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return machine if limit == resource.RLIM_INFINITY else min(machine, limit)


def peak_bytes() -> int:
    """The most memory that this process has held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def pieces(x: Array) -> Iterator[slice]:
    """Rows of x that fit in a cache together."""
    n, k = x.shape[0], max(1, math.prod(x.shape[1:]))
    step = max(1, PIECE // k)
    return (slice(i, min(i + step, n)) for i in range(0, n, step))
