"""The inner loops of Krylov methods and multigrid cycles, on any array library.

Each touches memory as rarely as the library allows: at these sizes reading and writing cost more
than the arithmetic. `cuda` has the same functions for cupy's arrays. What memory there is, and how
much of it has been used, is here as well because it depends on the library in the same way.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

Array = Any
MAX_BLOCK_COLUMNS = 16  # columns that one block product is made of
MAX_BLOCK_ENTRIES = 16_000_000  # entries of such a block
CACHE_ENTRIES = 32_768  # numbers of each of several arrays that fit in a cache together


def column_dots(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    # einsum is not in the standard, but numpy has it, and it makes no temporary.
    einsum = getattr(xp, "einsum", None)
    if x.ndim == 1 or x.shape[1] == 1 or einsum is None:
        return xp.vecdot(x, y, axis=-x.ndim)  # the standard allows negative axes only
    return einsum("ij,ij->j", x, y)


def difference_squares(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the squared norms of the columns of x - y.

    The difference is formed piece by piece: allocating it whole costs several times what is
    computed from it.
    """
    if math.prod(x.shape) <= CACHE_ENTRIES:
        difference = x - y
        return column_dots(xp, difference, difference)
    squares = column_dots(xp, x[:0, ...], y[:0, ...])
    for here in pieces(x):
        piece = x[here, ...] - y[here, ...]
        squares = squares + column_dots(xp, piece, piece)
    return squares


def transpose_into(target: Array, x: Array) -> None:
    """Assign x' to target piece by piece, which takes a quarter of the time of doing it at once."""
    for here in pieces(x):
        target[:, here] = x[here, :].T


def advance(xp: ModuleType, X: Array, R: Array, P: Array, Q: Array, step: Array) -> Array:
    """Do X += P step and R -= Q step in place; return the squared norms of the columns of R."""
    squares = 0.0
    for here in pieces(X):
        X[here, :] += P[here, :] * step
        R[here, :] -= Q[here, :] * step
        squares = squares + column_dots(xp, R[here, :], R[here, :])
    return squares


def redirect(xp: ModuleType, P: Array, Z: Array, ratio: Array) -> None:
    """Do P = Z + P ratio in place."""
    P *= ratio
    P += Z


def products(matrix: Any) -> Any:
    """Return what multiplies by a matrix: here the matrix itself."""
    return matrix


def multiplier(matrix: Any) -> Any:
    """Return what multiplies by a dense matrix inside a captured function: here the matrix."""
    return matrix


def capture_launches(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return a function that launches the same kernels at each call: here the function itself."""
    return function


def add_product(x: Array, A: Any, y: Array, sign: int = 1) -> Array:
    """Do x += A y or, with sign -1, x -= A y in place."""
    if hasattr(A, "add_to"):  # what `products` of a device returned does it in one launch
        return A.add_to(x, y, sign)
    if sign == 1:
        x += A @ y
    else:
        x -= A @ y
    return x


def chebyshev(d: Array, x: Array, r: Array, D: Any, a: float, c: float) -> None:
    """Do d = a d + c D r and x += d in place; D is a matrix, or the vector of a diagonal one."""
    d *= a
    d += c * (D @ r if D.ndim == 2 else scale_rows(D, r))
    x += d


def scale_rows(diagonal: Array, x: Array) -> Array:
    """Return diag(diagonal) @ x for an (n,) vector or an (n, k) block."""
    return diagonal * x if x.ndim == 1 else diagonal[:, None] * x


def available_bytes(device: Any = None) -> int:
    """Return the memory of the machine, or what the process may have of it, in bytes.

    It is not what is free at the moment: a host reclaims what is unused.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return machine if limit == resource.RLIM_INFINITY else min(machine, limit)


def peak_bytes() -> int:
    """Return the most memory that this process has held at once, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def pieces(x: Array) -> Iterator[slice]:
    """Iterate over the rows of x in pieces that fit in a cache."""
    n, k = x.shape[0], max(1, math.prod(x.shape[1:]))
    step = max(1, CACHE_ENTRIES // k)
    return (slice(i, min(i + step, n)) for i in range(0, n, step))
