"""The loops of `compiled`, by numba. Import this module only where they are called.

Each function works on a part of its arrays, from `start` to `stop`, so that several threads can
share them. Sums over all rows are those of pieces of a fixed length, whatever the number of
threads. Indices must be unsigned, since negative ones count from the end, which takes time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import FAST_SUMS, njit

Array = Any
ONE, FOUR, EIGHT = np.uint64(1), np.uint64(4), np.uint64(8)


@njit
def multiply(
    starts: Array, indices: Array, data: Array, x: Array, y: Array, sign: int, start: int, stop: int
) -> None:
    """Compute y = A x or, with a sign, y += sign A x, for rows of a CSR matrix and vectors."""
    zero = data.dtype.type(0)
    for i in range(np.uint64(start), np.uint64(stop)):
        total = zero
        for e in range(starts[i], starts[i + ONE]):
            total += data[e] * x[indices[e]]
        if sign == 0:
            y[i] = total
        elif sign > 0:
            y[i] += total
        else:
            y[i] -= total


@njit
def multiply_block(
    starts: Array, indices: Array, data: Array, x: Array, y: Array, sign: int, start: int, stop: int
) -> None:
    """Compute the same for (n, k) blocks, with eight, four or one sum in registers."""
    zero, k = data.dtype.type(0), np.uint64(x.shape[1])
    for i in range(np.uint64(start), np.uint64(stop)):
        first, last = np.uint64(starts[i]), np.uint64(starts[i + ONE])
        c = np.uint64(0)
        while c < k:
            c1, c2, c3 = c + ONE, c + np.uint64(2), c + np.uint64(3)
            s0 = s1 = s2 = s3 = zero
            if c + EIGHT <= k:
                c4, c5, c6, c7 = c + FOUR, c1 + FOUR, c2 + FOUR, c3 + FOUR
                s4 = s5 = s6 = s7 = zero
                for e in range(first, last):
                    a, j = data[e], indices[e]
                    s0 += a * x[j, c]
                    s1 += a * x[j, c1]
                    s2 += a * x[j, c2]
                    s3 += a * x[j, c3]
                    s4 += a * x[j, c4]
                    s5 += a * x[j, c5]
                    s6 += a * x[j, c6]
                    s7 += a * x[j, c7]
                if sign == 0:
                    y[i, c], y[i, c1], y[i, c2], y[i, c3] = s0, s1, s2, s3
                    y[i, c4], y[i, c5], y[i, c6], y[i, c7] = s4, s5, s6, s7
                else:
                    if sign < 0:
                        s0, s1, s2, s3, s4, s5, s6, s7 = -s0, -s1, -s2, -s3, -s4, -s5, -s6, -s7
                    y[i, c] += s0
                    y[i, c1] += s1
                    y[i, c2] += s2
                    y[i, c3] += s3
                    y[i, c4] += s4
                    y[i, c5] += s5
                    y[i, c6] += s6
                    y[i, c7] += s7
                c += EIGHT
            elif c + FOUR <= k:
                for e in range(first, last):
                    a, j = data[e], indices[e]
                    s0 += a * x[j, c]
                    s1 += a * x[j, c1]
                    s2 += a * x[j, c2]
                    s3 += a * x[j, c3]
                if sign == 0:
                    y[i, c], y[i, c1], y[i, c2], y[i, c3] = s0, s1, s2, s3
                else:
                    if sign < 0:
                        s0, s1, s2, s3 = -s0, -s1, -s2, -s3
                    y[i, c] += s0
                    y[i, c1] += s1
                    y[i, c2] += s2
                    y[i, c3] += s3
                c += FOUR
            else:
                for e in range(first, last):
                    s0 += data[e] * x[indices[e], c]
                if sign == 0:
                    y[i, c] = s0
                elif sign > 0:
                    y[i, c] += s0
                else:
                    y[i, c] -= s0
                c += ONE


@njit(fastmath=FAST_SUMS)
def dots(x: Array, y: Array, sums: Array, length: int, start: int, stop: int) -> None:
    """Store the inner products of the pieces of two vectors."""
    for piece in range(start, stop):
        total = x.dtype.type(0)
        for i in range(piece * length, min((piece + 1) * length, x.shape[0])):
            total += x[i] * y[i]
        sums[piece, 0] = total


@njit(fastmath=FAST_SUMS)
def block_dots(x: Array, y: Array, sums: Array, length: int, start: int, stop: int) -> None:
    """Store the inner products of the columns of pieces of two (n, k) blocks."""
    for piece in range(start, stop):
        for i in range(piece * length, min((piece + 1) * length, x.shape[0])):
            for c in range(x.shape[1]):
                sums[piece, c] += x[i, c] * y[i, c]


@njit(fastmath=FAST_SUMS)
def difference_dots(x: Array, y: Array, sums: Array, length: int, start: int, stop: int) -> None:
    """Store the squared norms of the columns of pieces of x - y, for (n, k) blocks."""
    for piece in range(start, stop):
        if x.shape[1] == 1:
            total = x.dtype.type(0)
            for i in range(piece * length, min((piece + 1) * length, x.shape[0])):
                difference = x[i, 0] - y[i, 0]
                total += difference * difference
            sums[piece, 0] = total
            continue
        for i in range(piece * length, min((piece + 1) * length, x.shape[0])):
            for c in range(x.shape[1]):
                difference = x[i, c] - y[i, c]
                sums[piece, c] += difference * difference


@njit(fastmath=FAST_SUMS)
def advance(
    X: Array,
    R: Array,
    P: Array,
    Q: Array,
    step: Array,
    sums: Array,
    length: int,
    start: int,
    stop: int,
) -> None:
    """Compute X += P step and R -= Q step, and store the squared norms of pieces of R."""
    for piece in range(start, stop):
        if X.shape[1] == 1:
            total = X.dtype.type(0)
            for i in range(piece * length, min((piece + 1) * length, X.shape[0])):
                X[i, 0] += P[i, 0] * step[0]
                left = R[i, 0] - Q[i, 0] * step[0]
                R[i, 0] = left
                total += left * left
            sums[piece, 0] = total
            continue
        for i in range(piece * length, min((piece + 1) * length, X.shape[0])):
            for c in range(X.shape[1]):
                X[i, c] += P[i, c] * step[c]
                left = R[i, c] - Q[i, c] * step[c]
                R[i, c] = left
                sums[piece, c] += left * left


@njit(fastmath=FAST_SUMS)
def redirect(P: Array, Z: Array, ratio: Array, start: int, stop: int) -> None:
    """Compute P = Z + P ratio for rows of (n, k) blocks."""
    for i in range(start, stop):
        for c in range(P.shape[1]):
            P[i, c] = Z[i, c] + P[i, c] * ratio[c]


@njit(fastmath=FAST_SUMS)
def chebyshev(
    d: Array, x: Array, r: Array, D: Array, a: float, c: float, start: int, stop: int
) -> None:
    """Compute d = a d + c D r and x += d for rows of (n, k) blocks and a diagonal D."""
    for i in range(start, stop):
        weight = c * D[i]
        for j in range(d.shape[1]):
            d[i, j] = a * d[i, j] + weight * r[i, j]
            x[i, j] += d[i, j]
