"""Loops over stacks of small dense blocks, by numba. Import this module only where they are called.

LAPACK takes more time for its calls than for the arithmetic of a block of a few dozen rows. Each
function works on the blocks from `start` to `stop`, so that several threads can share them, and the
result for a block does not depend on the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import FAST_SUMS, njit

Array = Any
ONE = np.uint64(1)
STRIDE = np.uint64(16)  # numbers that a vectorized loop takes at once; the rest is slow


@njit(fastmath=FAST_SUMS)
def exchange(M: Array, k: Any, column: Any) -> Any:
    """Exchange row k with the one that has the largest entry of a column below; return its index.

    This is partial pivoting.
    """
    n = np.uint64(M.shape[0])
    pivot, largest = k, abs(M[k, column])
    for i in range(k + ONE, n):
        size = abs(M[i, column])
        if size > largest:
            pivot, largest = i, size
    if pivot != k:
        for j in range(n):
            M[k, j], M[pivot, j] = M[pivot, j], M[k, j]
    return pivot


@njit(fastmath=FAST_SUMS)
def factorize(M: Array, pivots: Array, row: Array) -> None:
    """Replace a block by its LU factors with a unit lower one; `row` is n numbers of scratch.

    The loop over the columns of a row begins at most a stride early, with zeros, so that its length
    is a multiple of the stride.
    """
    n = np.uint64(M.shape[0])
    for k in range(n):
        pivots[k] = exchange(M, k, k)
        inverse = 1.0 / M[k, k]
        whole = (n - k - ONE + STRIDE - ONE) // STRIDE * STRIDE
        first = n - whole if whole <= n else n - n
        for j in range(n):
            row[j] = M[k, j] if j > k else 0.0
        for i in range(k + ONE, n):
            multiplier = M[i, k] * inverse
            for j in range(first, n):
                M[i, j] -= multiplier * row[j]
            M[i, k] = multiplier


@njit(fastmath=FAST_SUMS)
def substitute(M: Array, pivots: Array, x: Array) -> None:
    """Solve with the factors of a block for a vector in place."""
    n = np.uint64(M.shape[0])
    for k in range(n):
        pivot = pivots[k]
        x[k], x[pivot] = x[pivot], x[k]
    for i in range(n):
        total = x[i]
        for j in range(i):
            total -= M[i, j] * x[j]
        x[i] = total
    for below in range(n):
        row = n - ONE - below
        total = x[row]
        for j in range(row + ONE, n):
            total -= M[row, j] * x[j]
        x[row] = total / M[row, row]


@njit(fastmath=FAST_SUMS)
def newton_steps(
    blocks: Array,
    R: Array,
    sizes: Array,
    identity_minus: bool,
    factors: Array,
    pivots: Array,
    D: Array,
    terms: Array,
    wide: Array,
    start: int,
    stop: int,
) -> None:
    """Compute D = A^-1 R, |A| s and |A| max(s, |D|) for A = blocks or I - blocks."""
    n = np.uint64(blocks.shape[1])
    row = np.empty(n, blocks.dtype)
    for s in range(np.uint64(start), np.uint64(stop)):
        M = factors[s]
        for i in range(n):
            total = blocks.dtype.type(0)
            for j in range(n):
                M[i, j] = -blocks[s, i, j] if identity_minus else blocks[s, i, j]
            if identity_minus:
                M[i, i] += blocks.dtype.type(1)
            for j in range(n):
                total += abs(M[i, j]) * sizes[s, j]
            terms[s, i] = total
            D[s, i] = R[s, i]
        factorize(M, pivots[s], row)
        substitute(M, pivots[s], D[s])
        for j in range(n):
            row[j] = max(sizes[s, j], abs(D[s, j]))
        for i in range(n):
            total = blocks.dtype.type(0)
            for j in range(n):
                total += abs(blocks[s, i, j]) * row[j]
            if identity_minus:
                entry = blocks[s, i, i]
                total += (abs(1.0 - entry) - abs(entry)) * row[i]
            wide[s, i] = total


@njit(fastmath=FAST_SUMS)
def solve(b: Array, factors: Array, pivots: Array, X: Array, start: int, stop: int) -> None:
    """Solve with factorized blocks for (blocks, n, k) right-hand sides."""
    n, columns = np.uint64(b.shape[1]), np.uint64(b.shape[2])
    x = np.empty(n, b.dtype)
    for s in range(np.uint64(start), np.uint64(stop)):
        for c in range(columns):
            for i in range(n):
                x[i] = b[s, i, c]
            substitute(factors[s], pivots[s], x)
            for i in range(n):
                X[s, i, c] = x[i]


@njit(fastmath=FAST_SUMS)
def invert(blocks: Array, inverses: Array, singular: Array, start: int, stop: int) -> None:
    """Invert blocks by Gauss-Jordan elimination, and say in which a pivot is zero."""
    n = np.uint64(blocks.shape[1])
    row, pivots = np.empty(n, blocks.dtype), np.empty(n, np.uint64)
    for s in range(np.uint64(start), np.uint64(stop)):
        M = inverses[s]
        for i in range(n):
            for j in range(n):
                M[i, j] = blocks[s, i, j]
        for k in range(n):
            pivots[k] = exchange(M, k, k)
            singular[s] |= M[k, k] == 0.0
            inverse = 1.0 / M[k, k]
            M[k, k] = 1.0
            for j in range(n):
                M[k, j] *= inverse
                row[j] = M[k, j]
            for i in range(n):
                if i != k:
                    multiplier = M[i, k]
                    for j in range(n):
                        M[i, j] -= multiplier * row[j]
                    M[i, k] = -multiplier * row[k]  # last: vectors wait for an entry just stored
        for below in range(n):
            column = n - ONE - below
            pivot = pivots[column]
            if pivot != column:
                for i in range(n):
                    M[i, column], M[i, pivot] = M[i, pivot], M[i, column]


@njit(fastmath=FAST_SUMS | {"nnan", "nsz"})  # without which a maximum is not vectorized
def largest_entries(blocks: Array, rows: Array, columns: Array, start: int, stop: int) -> None:
    """Find the largest size of an entry in each row and each column, where none is NaN."""
    n = np.uint64(blocks.shape[1])
    for s in range(np.uint64(start), np.uint64(stop)):
        columns[s, :] = 0.0
        for i in range(n):
            largest = blocks.dtype.type(0)
            for j in range(n):
                largest = max(largest, abs(blocks[s, i, j]))
            for j in range(n):
                columns[s, j] = max(columns[s, j], abs(blocks[s, i, j]))
            rows[s, i] = largest


@njit(fastmath=FAST_SUMS)
def multiply_sizes(blocks: Array, x: Array, products: Array, start: int, stop: int) -> None:
    """Compute |A| |x| for (blocks, n, k) right-hand sides."""
    n, columns = np.uint64(x.shape[1]), np.uint64(x.shape[2])
    sizes = np.empty(n, x.dtype)
    for s in range(np.uint64(start), np.uint64(stop)):
        for c in range(columns):
            for i in range(n):
                sizes[i] = abs(x[s, i, c])
            for i in range(n):
                total = x.dtype.type(0)
                for j in range(n):
                    total += abs(blocks[s, i, j]) * sizes[j]
                products[s, i, c] = total


@njit(fastmath=FAST_SUMS)
def iterate_powers(
    blocks: Array, steps: int, u: Array, v: Array, lengths: Array, start: int, stop: int
) -> None:
    """Repeat v = M u and u = M' v, both normalized in place, with the lengths of the last M' v."""
    n = np.uint64(blocks.shape[1])
    for s in range(np.uint64(start), np.uint64(stop)):
        x, y = u[s], v[s]
        normalize(x)
        for _ in range(steps):
            for i in range(n):
                total = blocks.dtype.type(0)
                for j in range(n):
                    total += blocks[s, i, j] * x[j]
                y[i] = total
            normalize(y)
            x[:] = 0.0
            for i in range(n):
                for j in range(n):
                    x[j] += blocks[s, i, j] * y[i]
            lengths[s] = normalize(x)


@njit(fastmath=FAST_SUMS)
def normalize(x: Array) -> float:
    """Divide a vector by its length in place, and return the length."""
    square = x.dtype.type(0)
    for entry in x:
        square += entry * entry
    length = np.sqrt(square)
    for i in range(np.uint64(x.shape[0])):
        x[i] /= length
    return length
