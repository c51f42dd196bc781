"""The loops of `diagonals`, by numba. Import this module only where they are called."""

from __future__ import annotations

from typing import Any

import numpy as np

from .jit import njit

Array = Any
BLOCK_ENTRIES = 1024  # entries of a vector or block for which all diagonals are added, in a cache
ADD, ASSIGN, COMBINE = range(3)


@njit
def find_offsets(starts: Array, indices: Array, found: Array) -> int:
    """Store the offsets of all diagonals with entries; return their number, at most len(found) + 1.

    Parameters
    ----------
    starts, indices : (n + 1,) and (nnz,) array of unsigned int
        Of the rows of a square CSR matrix.
    found : (m,) array of int64
    """
    n, count = starts.shape[0] - 1, 0
    seen = np.zeros(2 * n, np.bool_)
    for i in range(n):
        for e in range(starts[i], starts[i + 1]):
            offset = np.int64(indices[e]) - i
            if not seen[offset + n]:
                if count == found.shape[0]:
                    return count + 1
                seen[offset + n] = True
                found[count] = offset
                count += 1
    return count


@njit
def fill_diagonals(
    starts: Array, indices: Array, data: Array, offsets: Array, diagonals: Array
) -> None:
    """Add the entries of a CSR matrix to its diagonals, whose offsets are sorted.

    Entry i of a diagonal is that of row i.
    """
    n = starts.shape[0] - 1
    for i in range(n):
        k = 0
        for e in range(starts[i], starts[i + 1]):
            offset = np.int64(indices[e]) - i
            if offset < offsets[k]:  # if the indices of the row are not in order
                k = 0
            while offsets[k] < offset:
                k += 1
            diagonals[k, i] += data[e]


@njit(fastmath={"contract"})
def begin(x: Array, z: Array, a: float, b: float, y: Array, mode: int) -> None:
    """Assign zero to y or, in the mode COMBINE, a z + b x."""
    if mode == ASSIGN:
        y[:] = 0
    elif mode == COMBINE and a == 0:
        for i in range(y.shape[0]):
            y[i] = b * x[i]
    elif mode == COMBINE:
        for i in range(y.shape[0]):
            y[i] = a * z[i] + b * x[i]


@njit(fastmath={"contract"})
def add(d: Array, x: Array, c: float, y: Array, k: int) -> None:
    """Compute y += c diag(d) x for (n k,) arrays of n rows of k columns."""
    if k == 1:
        for i in range(d.shape[0]):
            y[i] += c * d[i] * x[i]
        return
    if k == 2:  # Rows of two columns are too short for a loop over them.
        for i in range(d.shape[0]):
            factor = c * d[i]
            y[2 * i] += factor * x[2 * i]
            y[2 * i + 1] += factor * x[2 * i + 1]
        return
    columns = np.uint64(k)
    for i in range(np.uint64(d.shape[0])):
        factor, first = c * d[i], i * columns
        for j in range(first, first + columns):
            y[j] += factor * x[j]


@njit(fastmath={"contract"})
def add_both(d: Array, x: Array, e: Array, w: Array, c: float, y: Array, k: int) -> None:
    """Compute y += c (diag(d) x + diag(e) w) for (n k,) arrays of n rows of k columns."""
    if k == 1:
        for i in range(d.shape[0]):
            y[i] += c * (d[i] * x[i] + e[i] * w[i])
        return
    if k == 2:
        for i in range(d.shape[0]):
            u, v = c * d[i], c * e[i]
            y[2 * i] += u * x[2 * i] + v * w[2 * i]
            y[2 * i + 1] += u * x[2 * i + 1] + v * w[2 * i + 1]
        return
    columns = np.uint64(k)
    for i in range(np.uint64(d.shape[0])):
        u, v, first = c * d[i], c * e[i], i * columns
        for j in range(first, first + columns):
            y[j] += u * x[j] + v * w[j]


@njit
def multiply(
    offsets: Array,
    diagonals: Array,
    forward: bool,
    backward: bool,
    x: Array,
    z: Array,
    a: float,
    b: float,
    c: float,
    y: Array,
    mode: int,
    k: int,
    rows: int,
    start: int,
    stop: int,
) -> None:
    """Compute y += c A x, y = c A x or y = a z + b x + c A x, for blocks of rows.

    A has the entries of the diagonals (forward), those of their transposes (backward), or both.
    Arrays are (n k,) ones of n rows of k columns; a block of rows has `rows` of them.
    """
    n = x.shape[0] // k
    for block in range(start, stop):
        s, t = block * rows, min((block + 1) * rows, n)
        here = slice(s * k, t * k)
        begin(x[here], z[here], a, b, y[here], mode)
        for m in range(offsets.shape[0]):
            o, d = offsets[m], diagonals[m]
            # Rows i with a column i + o, and with a column i - o.
            s_f, t_f = max(s, -o), min(t, n - o)
            s_b, t_b = max(s, o), min(t, n + o)
            mirrored = backward and (o != 0 or not forward)
            if forward and mirrored and s_f == s_b == s and t_f == t_b == t:
                add_both(
                    d[s:t],
                    x[(s + o) * k : (t + o) * k],
                    d[s - o : t - o],
                    x[(s - o) * k : (t - o) * k],
                    c,
                    y[here],
                    k,
                )
                continue
            if forward and s_f < t_f:
                there = x[(s_f + o) * k : (t_f + o) * k]
                add(d[s_f:t_f], there, c, y[s_f * k : t_f * k], k)
            if mirrored and s_b < t_b:
                there = x[(s_b - o) * k : (t_b - o) * k]
                add(d[s_b - o : t_b - o], there, c, y[s_b * k : t_b * k], k)
