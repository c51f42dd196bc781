"""The inner loops of Krylov methods and multigrid cycles, for any array library.

They access memory as rarely as the library allows, since reading and writing cost more than the
arithmetic. Functions that return the available and the peak memory are also here. `cuda` contains
the same functions for cupy arrays.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

Array = Any
MAX_BLOCK_COLUMNS = 16  # columns in one block product
MAX_BLOCK_ENTRIES = 16_000_000  # entries in one block product
PIECE_COLUMNS = 2048  # columns of the rows of a basis in one product
PIECE_SIZE = 2**13  # of a vector, or of pieces of it, for which BLAS wakes no other thread
CACHE_ENTRIES = 32_768  # entries of each of several arrays that fit in a cache together


def inner_loops(rows: int) -> AbstractContextManager[Any]:
    """Return a context for many calls of these functions; here one that does nothing."""
    return contextlib.nullcontext()


def column_dots(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    # einsum is not in the array API standard, but in numpy it needs no temporary array, and wakes
    # no threads of BLAS, which stay busy for milliseconds after the product of two long vectors.
    einsum = getattr(xp, "einsum", None)
    if x.ndim == 1 and x.shape[0] > PIECE_SIZE and einsum is not None:
        return einsum("i,i->", x, y)
    if x.ndim == 1 or x.shape[1] == 1 or einsum is None:
        return xp.vecdot(x, y, axis=-x.ndim)  # the standard allows negative axes only
    return einsum("ij,ij->j", x, y)


def difference_squares(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the squared norms of the columns of x - y.

    The difference is formed piece by piece, since allocating it as a whole costs several times as
    much as the norms.
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
    """Assign x' to target piece by piece, which is four times as fast as a single assignment."""
    for here in pieces(x):
        target[:, here] = x[here, :].T


def advance(xp: ModuleType, X: Array, R: Array, P: Array, Q: Array, step: Array) -> Array:
    """Compute X += P step and R -= Q step in place; return the squared column norms of R."""
    squares = 0.0
    for here in pieces(X):
        X[here, :] += P[here, :] * step
        R[here, :] -= Q[here, :] * step
        squares = squares + column_dots(xp, R[here, :], R[here, :])
    return squares


def redirect(xp: ModuleType, P: Array, Z: Array, ratio: Array) -> None:
    """Compute P = Z + P ratio in place."""
    P *= ratio
    P += Z


def converted(xp: ModuleType, x: Array, dtype: Any, divisor: float = 1.0) -> Array:
    """Return x / divisor in another dtype; x may be changed."""
    x = xp.astype(x, dtype, copy=False)
    if divisor != 1.0:
        x /= divisor
    return x


def products(matrix: Any) -> Any:
    """Return an object that multiplies by a matrix; here the matrix itself."""
    return matrix


def by_diagonals(matrix: Any) -> Any:
    """Return a matrix stored by diagonals for fast products, or None; here None."""
    return None


def capturable_matrix(matrix: Any) -> Any:
    """Return an object for products in `capture_launches`; here the matrix itself."""
    return matrix


def capture_launches(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Capture the kernel launches of a function; here return the function itself."""
    return function


def add_product(x: Array, A: Any, y: Array, sign: int = 1) -> Array:
    """Compute x += A y or, with sign -1, x -= A y in place."""
    if hasattr(A, "add_to"):  # the matrices of `cuda`, which do it in one launch
        return A.add_to(x, y, sign)
    if sign == 1:
        x += A @ y
    else:
        x -= A @ y
    return x


def inner_products(V: Array, W: Array) -> Array:
    """Return V W for the (m, n) rows of a basis and an (n, k) block of few columns.

    In pieces that stay in a cache, a product with two columns takes the time of one.
    """
    if W.shape[1] == 1 or W.shape[0] <= PIECE_COLUMNS:
        return V @ W
    total = V[:, :PIECE_COLUMNS] @ W[:PIECE_COLUMNS, :]
    for i in range(PIECE_COLUMNS, W.shape[0], PIECE_COLUMNS):
        here = slice(i, min(i + PIECE_COLUMNS, W.shape[0]))
        total += V[:, here] @ W[here, :]
    return total


def subtract_combination(W: Array, V: Array, h: Array) -> Array:
    """Subtract V' h from an (n, k) block of few columns in place and return it.

    V has (m, n) rows, and h (m, k) coefficients.
    """
    step = PIECE_COLUMNS if W.shape[1] > 1 else max(1, W.shape[0])
    for i in range(0, W.shape[0], step):
        here = slice(i, min(i + step, W.shape[0]))
        W[here, :] -= V[:, here].T @ h
    return W


def combine_rows(V: Array, first: int, C: Array) -> None:
    """Replace the first k of m rows of V, which begin at `first`, by C' times these m, in place.

    C is (m, k), k <= m. The pieces that are read and written stay in a cache, without which the
    product would be a new array as large as the rows.
    """
    (m, k), n = C.shape, V.shape[1]
    for i in range(0, n, PIECE_COLUMNS):
        here = slice(i, min(i + PIECE_COLUMNS, n))
        V[first : first + k, here] = C.T @ V[first : first + m, here]


def chebyshev(d: Array, x: Array, r: Array, D: Any, a: float, c: float) -> None:
    """Compute d = a d + c D r and x += d in place; D is a matrix or a diagonal as a vector."""
    d *= a
    d += c * (D @ r if D.ndim == 2 else scale_rows(D, r))
    x += d


def scale_rows(diagonal: Array, x: Array) -> Array:
    """Return diag(diagonal) @ x for an (n,) vector or an (n, k) block."""
    return diagonal * x if x.ndim == 1 else diagonal[:, None] * x


def available_bytes(device: Any = None) -> int:
    """Return the memory of the machine, or the limit of this process, in bytes.

    This is not the memory that is free at the moment, since the host reclaims caches.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return machine if limit == resource.RLIM_INFINITY else min(machine, limit)


def peak_bytes() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in kilobytes on Linux


def pieces(x: Array) -> Iterator[slice]:
    """Iterate over slices of the rows of x that fit in a cache."""
    n, k = x.shape[0], max(1, math.prod(x.shape[1:]))
    step = max(1, CACHE_ENTRIES // k)
    return (slice(i, min(i + step, n)) for i in range(0, n, step))
