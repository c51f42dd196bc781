"""Inverses of stacks of small dense blocks, and Newton's steps with them.

Compiled loops (`block_loops`) are several times as fast as LAPACK's routines for blocks of a few
dozen rows. Other libraries, and numpy without numba, solve by their own batched functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy

from .. import parallel
from . import jit

Array = Any
DTYPES = (numpy.dtype("float32"), numpy.dtype("float64"))
MAX_SIZE = 128  # rows of a block above which LAPACK's routines are as fast
PARTS = 4  # parts of a loop for each thread


def loops_pay(like: Array, count: int, size: int) -> bool:
    """Return whether compiled loops are used for so many blocks of a size.

    Parameters
    ----------
    like : array
        An array of the library and dtype of the blocks.
    count, size : int
    """
    return (
        type(like) is numpy.ndarray
        and like.dtype in DTYPES
        and 0 < size <= MAX_SIZE
        and jit.pays_for_rows(count * size * size)
    )


def run(loop: Callable[..., None], *arguments: Any) -> None:
    """Call a loop for all blocks, which threads share."""
    count, threads = arguments[0].shape[0], parallel.threads()
    step = max(1, -(-count // (PARTS * threads if threads > 1 else 1)))
    bounds = itertools.pairwise(range(0, count + step, step))
    parallel.share(loop, [(*arguments, start, min(stop, count)) for start, stop in bounds])


def invert(xp: Any, blocks: Array) -> Array:
    """Return the inverses of (count, n, n) blocks.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a pivot of a block is zero.
    """
    if not loops_pay(blocks, *blocks.shape[:2]):
        return xp.linalg.inv(blocks)
    from . import block_loops

    inverses, singular = numpy.empty(blocks.shape, blocks.dtype), numpy.zeros(len(blocks), bool)
    run(block_loops.invert, blocks, inverses, singular)
    if singular.any():
        raise numpy.linalg.LinAlgError("Singular matrix")
    return inverses


def largest_entries(xp: Any, blocks: Array) -> tuple[Array, Array]:
    """Return the largest |entry| of each row and of each column of finite (count, n, n) blocks."""
    if loops_pay(blocks, *blocks.shape[:2]):
        from . import block_loops

        rows, columns = (numpy.empty(blocks.shape[:2], blocks.dtype) for _ in range(2))
        run(block_loops.largest_entries, numpy.ascontiguousarray(blocks), rows, columns)
        return rows, columns
    sizes = xp.abs(blocks)
    return xp.max(sizes, axis=2), xp.max(sizes, axis=1)


def multiply_sizes(xp: Any, blocks: Array, x: Array) -> Array:
    """Return |A| |x| for (count, n, n) blocks and a (count, n, k) array."""
    if loops_pay(blocks, *blocks.shape[:2]):
        from . import block_loops

        x = numpy.ascontiguousarray(x, blocks.dtype)
        products = numpy.empty_like(x)
        run(block_loops.multiply_sizes, numpy.ascontiguousarray(blocks), x, products)
        return products
    return xp.abs(blocks) @ xp.abs(x)


def iterate_powers(xp: Any, blocks: Array, u: Array, steps: int) -> tuple[Array, Array, Array]:
    """Approximate the largest singular value of each of (count, n, n) blocks.

    Parameters
    ----------
    xp : module
        The array namespace of the blocks.
    blocks : (count, n, n) array
    u : (count, n) array
        Starts.
    steps : int
        Steps of the power iteration for M' M.

    Returns
    -------
    u, v : (count, n) arrays
        The right and left singular vectors.
    values : (count,) array
        The singular values.
    """
    if loops_pay(blocks, *u.shape):
        from . import block_loops

        blocks, u = numpy.ascontiguousarray(blocks), numpy.array(u)
        v, values = numpy.empty_like(u), numpy.empty(len(u), u.dtype)
        run(block_loops.iterate_powers, blocks, steps, u, v, values)
        return u, v, values

    def normalized(x: Array) -> tuple[Array, Array]:
        lengths = xp.sqrt(xp.sum(x * x, axis=1, keepdims=True))
        return x / lengths, lengths[:, 0]

    u, values = normalized(u)
    for _ in range(steps):
        v, _ = normalized((blocks @ u[:, :, None])[:, :, 0])
        u, values = normalized((xp.matrix_transpose(blocks) @ v[:, :, None])[:, :, 0])
    return u, v, values


class CompiledStep:
    """Newton's steps with A = J or I - J, whose factors serve further solves.

    Parameters
    ----------
    R, sizes : (count, n) arrays
        Residuals, and sizes of the unknowns s.
    J : (count, n, n) array
        Blocks for which `loops_pay` has returned True.
    identity_minus : bool
        Whether A is I - J.

    Attributes
    ----------
    R, D, terms, wide : (count, n) arrays
        R, A^-1 R, |A| s and |A| max(s, |D|). What belongs to a singular block is not finite in D.
    """

    def __init__(self, R: Array, J: Array, sizes: Array, identity_minus: bool) -> None:
        from . import block_loops

        self.R, self._factors = R, numpy.empty(J.shape, J.dtype)
        self._pivots = numpy.empty(R.shape, numpy.uint64)
        self.D, self.terms, self.wide = (numpy.empty(R.shape, J.dtype) for _ in range(3))
        given = (numpy.ascontiguousarray(x, J.dtype) for x in (J, R, sizes))
        J, R, sizes = given
        results = self._factors, self._pivots, self.D, self.terms, self.wide
        run(block_loops.newton_steps, J, R, sizes, identity_minus, *results)

    def solve(self, b: Array) -> Array:
        """Return A^-1 b for a (count, n, k) array, which is not finite where A is singular."""
        from . import block_loops

        b = numpy.ascontiguousarray(b, self._factors.dtype)
        X = numpy.empty(b.shape, b.dtype)
        run(block_loops.solve, b, self._factors, self._pivots, X)
        return X
