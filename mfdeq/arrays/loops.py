"""The loops of `compiled`, by numba. Import this module only where they are called.

Each function works on a part of its arrays, from `start` to `stop`, so that several threads can
share them. Sums over all rows are those of pieces of a fixed length, whatever the number of
threads, in float64. Indices must be unsigned, since negative ones count from the end, which takes
time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import FAST_SUMS, njit

Array = Any
ONE, TWO, FOUR = (np.uint64(number) for number in (1, 2, 4))


@njit
def multiply(
    starts: Array, indices: Array, data: Array, x: Array, y: Array, sign: int, start: int, stop: int
) -> None:
    """Compute y = A x or, with a sign, y += sign A x, for rows of a CSR matrix and vectors.

    The even and the odd entries of a row have sums of their own, which do not wait for each other.
    """
    zero, e = data.dtype.type(0), np.uint64(starts[start])
    for i in range(np.uint64(start), np.uint64(stop)):
        even = odd = zero
        last = np.uint64(starts[i + ONE])
        while e + ONE < last:
            even += data[e] * x[indices[e]]
            odd += data[e + ONE] * x[indices[e + ONE]]
            e += TWO
        if e < last:
            even += data[e] * x[indices[e]]
            e += ONE
        total = even + odd
        if sign == 0:
            y[i] = total
        elif sign > 0:
            y[i] += total
        else:
            y[i] -= total


@njit(fastmath=FAST_SUMS)
def multiply_long_rows(
    starts: Array, indices: Array, data: Array, x: Array, y: Array, sign: int, start: int, stop: int
) -> None:
    """Compute the same with sums that are vectorized, which pays for rows of a dozen entries."""
    first = np.uint64(starts[start])
    for i in range(np.uint64(start), np.uint64(stop)):
        total, last = data.dtype.type(0), np.uint64(starts[i + ONE])
        for e in range(first, last):
            total += data[e] * x[indices[e]]
        first = last
        if sign == 0:
            y[i] = total
        elif sign > 0:
            y[i] += total
        else:
            y[i] -= total


@njit
def store(y: Array, i: int, c: int, total: Any, sign: int) -> None:
    """Assign a number to an entry or, with a sign, add it or subtract it."""
    if sign == 0:
        y[i, c] = total
    elif sign > 0:
        y[i, c] += total
    else:
        y[i, c] -= total


@njit
def multiply_block(
    starts: Array, indices: Array, data: Array, x: Array, y: Array, sign: int, start: int, stop: int
) -> None:
    """Compute the same for (n, k) blocks, with the sums of four columns in registers."""
    zero, k = data.dtype.type(0), np.uint64(x.shape[1])
    for i in range(np.uint64(start), np.uint64(stop)):
        first, last = np.uint64(starts[i]), np.uint64(starts[i + ONE])
        c = np.uint64(0)
        while c + FOUR <= k:
            c1, c2, c3 = c + ONE, c + TWO, c + TWO + ONE
            s0 = s1 = s2 = s3 = zero
            for e in range(first, last):
                a, j = data[e], indices[e]
                s0 += a * x[j, c]
                s1 += a * x[j, c1]
                s2 += a * x[j, c2]
                s3 += a * x[j, c3]
            store(y, i, c, s0, sign)
            store(y, i, c1, s1, sign)
            store(y, i, c2, s2, sign)
            store(y, i, c3, s3, sign)
            c += FOUR
        while c < k:
            s0 = zero
            for e in range(first, last):
                s0 += data[e] * x[indices[e], c]
            store(y, i, c, s0, sign)
            c += ONE


@njit(fastmath=FAST_SUMS)
def dot(x: Array, y: Array) -> Any:
    """Return the inner product of two short vectors."""
    total = 0.0
    for i in range(x.shape[0]):
        total += np.float64(x[i]) * np.float64(y[i])
    return total


@njit
def dots(x: Array, y: Array, sums: Array, length: int, start: int, stop: int) -> None:
    """Store the inner products of the pieces of two vectors."""
    for piece in range(start, stop):
        here = slice(piece * length, (piece + 1) * length)
        sums[piece, 0] = dot(x[here], y[here])


@njit(fastmath=FAST_SUMS)
def block_dots(x: Array, y: Array, sums: Array, length: int, start: int, stop: int) -> None:
    """Store the inner products of the columns of pieces of two (n, k) blocks."""
    for piece in range(start, stop):
        here = slice(piece * length, (piece + 1) * length)
        a, b, total = x[here], y[here], sums[piece]
        for i in range(a.shape[0]):
            for c in range(a.shape[1]):
                total[c] += np.float64(a[i, c]) * np.float64(b[i, c])


@njit(fastmath=FAST_SUMS)
def difference_dots(x: Array, y: Array, sums: Array, length: int, start: int, stop: int) -> None:
    """Store the squared norms of the pieces of x - y, for vectors."""
    for piece in range(start, stop):
        here = slice(piece * length, (piece + 1) * length)
        a, b, total = x[here], y[here], 0.0
        for i in range(a.shape[0]):
            difference = np.float64(a[i] - b[i])
            total += difference * difference
        sums[piece, 0] = total


@njit(fastmath=FAST_SUMS)
def block_difference_dots(
    x: Array, y: Array, sums: Array, length: int, start: int, stop: int
) -> None:
    """Store the squared norms of the columns of pieces of x - y, for (n, k) blocks."""
    for piece in range(start, stop):
        here = slice(piece * length, (piece + 1) * length)
        a, b, total = x[here], y[here], sums[piece]
        for i in range(a.shape[0]):
            for c in range(a.shape[1]):
                difference = np.float64(a[i, c] - b[i, c])
                total[c] += difference * difference


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
    a = step[0]
    for piece in range(start, stop):
        here = slice(piece * length, (piece + 1) * length)
        x, r, p, q = X[here], R[here], P[here], Q[here]
        total = 0.0
        for i in range(x.shape[0]):
            x[i] += p[i] * a
            left = r[i] - q[i] * a
            r[i] = left
            total += np.float64(left) * np.float64(left)
        sums[piece, 0] = total


@njit(fastmath=FAST_SUMS)
def block_advance(
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
    """Compute the same for the columns of (n, k) blocks."""
    for piece in range(start, stop):
        here = slice(piece * length, (piece + 1) * length)
        x, r, p, q, total = X[here], R[here], P[here], Q[here], sums[piece]
        for i in range(x.shape[0]):
            for c in range(x.shape[1]):
                x[i, c] += p[i, c] * step[c]
                left = r[i, c] - q[i, c] * step[c]
                r[i, c] = left
                total[c] += np.float64(left) * np.float64(left)


@njit(fastmath=FAST_SUMS)
def eight_dots(
    a: Array, b: Array, c: Array, d: Array, x: Array, y: Array, total: Array, r: int, q: int
) -> None:
    """Store the inner products of four pieces of rows, from r on, with two pieces, from q on."""
    ax = ay = bx = by = cx = cy = dx = dy = 0.0
    for i in range(x.shape[0]):
        first, second = np.float64(x[i]), np.float64(y[i])
        ax += np.float64(a[i]) * first
        ay += np.float64(a[i]) * second
        bx += np.float64(b[i]) * first
        by += np.float64(b[i]) * second
        cx += np.float64(c[i]) * first
        cy += np.float64(c[i]) * second
        dx += np.float64(d[i]) * first
        dy += np.float64(d[i]) * second
    total[r, q], total[r, q + 1], total[r + 1, q], total[r + 1, q + 1] = ax, ay, bx, by
    total[r + 2, q], total[r + 2, q + 1], total[r + 3, q], total[r + 3, q + 1] = cx, cy, dx, dy


@njit
def inner_products(V: Array, W: Array, sums: Array, length: int, start: int, stop: int) -> None:
    """Store the inner products of pieces of the rows of V and W, of eight pairs at a time.

    V[r, here] is contiguous also for the compiler, which vectorizes no sum over V[:, here][r].
    """
    m, k = V.shape[0], W.shape[0]
    fours, twos = m - m % 4, k - k % 2
    for piece in range(start, stop):
        here, total = slice(piece * length, (piece + 1) * length), sums[piece]
        for q in range(0, twos, 2):
            x, y = W[q, here], W[q + 1, here]
            for r in range(0, fours, 4):
                a, b, c, d = V[r, here], V[r + 1, here], V[r + 2, here], V[r + 3, here]
                eight_dots(a, b, c, d, x, y, total, r, q)
        for q in range(k):
            for r in range(fours if q < twos else 0, m):
                total[r, q] = dot(V[r, here], W[q, here])


@njit(fastmath={"contract"})
def subtract_combination(W: Array, V: Array, h: Array, length: int, start: int, stop: int) -> None:
    """Subtract h' V from pieces of the rows of W, four rows of V at a time."""
    m = V.shape[0]
    for piece in range(start, stop):
        here = slice(piece * length, (piece + 1) * length)
        for r in range(0, m - m % 4, 4):
            v0, v1, v2, v3 = V[r, here], V[r + 1, here], V[r + 2, here], V[r + 3, here]
            for q in range(W.shape[0]):
                w, a, b, c, d = W[q, here], h[r, q], h[r + 1, q], h[r + 2, q], h[r + 3, q]
                for i in range(w.shape[0]):
                    w[i] -= (a * v0[i] + b * v1[i]) + (c * v2[i] + d * v3[i])
        for r in range(m - m % 4, m):
            v0 = V[r, here]
            for q in range(W.shape[0]):
                w, a = W[q, here], h[r, q]
                for i in range(w.shape[0]):
                    w[i] -= a * v0[i]


@njit(fastmath={"contract"})
def redirect(P: Array, Z: Array, ratio: Array, start: int, stop: int) -> None:
    """Compute P = Z + P ratio for parts of vectors."""
    p, z, a = P[start:stop], Z[start:stop], ratio[0]
    for i in range(p.shape[0]):
        p[i] = z[i] + p[i] * a


@njit(fastmath={"contract"})
def block_redirect(P: Array, Z: Array, ratio: Array, start: int, stop: int) -> None:
    """Compute the same for rows of (n, k) blocks."""
    p, z = P[start:stop], Z[start:stop]
    for i in range(p.shape[0]):
        for c in range(p.shape[1]):
            p[i, c] = z[i, c] + p[i, c] * ratio[c]


@njit(fastmath={"contract"})
def chebyshev(
    d: Array, x: Array, r: Array, D: Array, a: float, c: float, start: int, stop: int
) -> None:
    """Compute d = a d + c D r and x += d for parts of vectors and a diagonal D."""
    d, x, r, D = d[start:stop], x[start:stop], r[start:stop], D[start:stop]
    for i in range(d.shape[0]):
        d[i] = a * d[i] + c * D[i] * r[i]
        x[i] += d[i]


@njit(fastmath={"contract"})
def block_chebyshev(
    d: Array, x: Array, r: Array, D: Array, a: float, c: float, start: int, stop: int
) -> None:
    """Compute the same for rows of (n, k) blocks."""
    d, x, r, D = d[start:stop], x[start:stop], r[start:stop], D[start:stop]
    for i in range(d.shape[0]):
        for j in range(d.shape[1]):
            d[i, j] = a * d[i, j] + c * D[i] * r[i, j]
            x[i, j] += d[i, j]


@njit
def convert(target: Array, x: Array, divisor: float, start: int, stop: int) -> None:
    """Assign x / divisor to parts of a vector of another dtype."""
    target, x = target[start:stop], x[start:stop]
    if divisor == 1.0:
        for i in range(target.shape[0]):
            target[i] = x[i]
    else:
        for i in range(target.shape[0]):
            target[i] = target.dtype.type(x[i]) / divisor
