"""Inverses of the blocks G11 of fronts, compiled by numba: see `compiled_fronts`."""

from __future__ import annotations

from typing import Any

from ...arrays.compiled_lapack import GEMM, GETRF, GETRI, POTRF, POTRI, call
from ...arrays.jit import njit

# Unknowns of a front from which a definite G11 is inverted by sweeps, and those of one sweep.
MIN_SWEPT, SWEPT = 768, 128


@njit
def invert(f: Any, k: Any, m: Any, layout: Any, factors: Any, scratch: Any) -> Any:
    """Invert G11 of front f; return whether it is regular."""
    if copy_definite(f, k, m, layout, factors, scratch):
        if k < MIN_SWEPT:
            if _invert_definite(k, layout[0][f], layout[4][f], factors, scratch):
                return True
        elif sweep_all(f, k, layout, factors, scratch):
            return True
    return invert_general(f, k, m, layout, factors, scratch)


@njit
def copy_definite(f: Any, k: Any, m: Any, layout: Any, factors: Any, scratch: Any) -> Any:
    """Copy the lower triangle of G11 to the factors; return whether it may be definite."""
    panel, at, ld, side = scratch[0], layout[0][f], layout[4][f], k + m
    definite = scratch[1].shape[0] == 0  # symmetric
    for i in range(k):
        definite = definite and panel[i * side + i] > 0.0
    if definite:
        for j in range(k):
            for i in range(j, k):
                factors[at + j * ld + i] = panel[j * side + i]
    return definite


@njit
def _invert_definite(k: Any, at: Any, ld: Any, factors: Any, scratch: Any) -> Any:
    """Invert a block by its lower triangle; return whether it is positive definite."""
    sizes, routines = scratch[5], scratch[8]
    sizes[0], sizes[1], sizes[2] = k, ld, 0
    order, letter = sizes.ctypes.data, scratch[7].ctypes.data + 2
    matrix, lda, info = factors.ctypes.data + at * factors.itemsize, order + 4, order + 8
    call(routines[POTRF], (letter, order, matrix, lda, info))
    if sizes[2] == 0:
        call(routines[POTRI], (letter, order, matrix, lda, info))
    for j in range(k):
        for i in range(j):
            factors[at + j * ld + i] = factors[at + i * ld + j]
    return sizes[2] == 0


@njit
def sweep_all(f: Any, k: Any, layout: Any, factors: Any, scratch: Any) -> Any:
    """Invert G11 by sweeps; return whether it is positive definite."""
    for p in range(0, k, SWEPT):
        if not sweep(f, p, k, layout, factors, scratch):
            return False
        for column in range(0, k, SWEPT):
            sweep_columns(f, p, column, k, layout, factors, scratch)
    end_sweeps(f, k, layout, factors)
    return True


@njit
def sweep(f: Any, p: Any, k: Any, layout: Any, factors: Any, scratch: Any) -> Any:
    """Sweep G11 by its unknowns from p on, except for the other columns.

    With index p for these unknowns and i, j for others, a sweep replaces

        Gpp by -Gpp^-1,   Gip by Gip Gpp^-1,   Gij by Gij - Gip Gpp^-1 Gpj,

    and all of them lead to -G^-1 [1]_. Only the lower triangle is computed, by products whose rate
    is twice that of LAPACK's inverse. The old Gip and the new ones stay in the workspace.

    References
    ----------
    .. [1] J. H. Goodnight, "A tutorial on the SWEEP operator", The American Statistician 33(3),
           149-158, 1979.
    """
    at, ld, work, itemsize = layout[0][f], layout[4][f], scratch[6], factors.itemsize
    width = min(SWEPT, k - p)
    for j in range(width):
        for i in range(p):
            work[j * k + i] = factors[at + i * ld + p + j]
        work[j * k + p : j * k + p + width] = 0.0
        for i in range(p + width, k):
            work[j * k + i] = factors[at + (p + j) * ld + i]
    pivot = at + p * ld + p
    if not _invert_definite(width, pivot, ld, factors, scratch):
        return False
    old, new = work.ctypes.data, work.ctypes.data + width * k * itemsize
    inverse = factors.ctypes.data + pivot * itemsize
    multiply(False, k, width, width, 1.0, old, k, inverse, ld, 0.0, new, k, scratch)
    for j in range(width):
        column = (width + j) * k
        for i in range(p):
            factors[at + i * ld + p + j] = work[column + i]
        for i in range(j, width):
            factors[pivot + j * ld + i] = -factors[pivot + j * ld + i]
        for i in range(p + width, k):
            factors[at + (p + j) * ld + i] = work[column + i]
    return True


@njit
def sweep_columns(
    f: Any, p: Any, column: Any, k: Any, layout: Any, factors: Any, scratch: Any
) -> None:
    """Update `SWEPT` columns of G11 from a column on, after `sweep` by the unknowns from p on."""
    at, ld, work, itemsize = layout[0][f], layout[4][f], scratch[6], factors.itemsize
    width, columns = min(SWEPT, k - p), min(SWEPT, k - column)
    old = work.ctypes.data + column * itemsize
    new = old + width * k * itemsize
    c = factors.ctypes.data + (at + column * ld + column) * itemsize
    multiply(True, k - column, columns, width, -1.0, new, k, old, k, 1.0, c, ld, scratch)


@njit
def end_sweeps(f: Any, k: Any, layout: Any, factors: Any) -> None:
    """Turn -G11^-1, of which all sweeps have computed the lower triangle, into G11^-1."""
    at, ld = layout[0][f], layout[4][f]
    for j in range(k):
        for i in range(j, k):
            x = -factors[at + j * ld + i]
            factors[at + j * ld + i] = x
            factors[at + i * ld + j] = x


@njit
def invert_general(f: Any, k: Any, m: Any, layout: Any, factors: Any, scratch: Any) -> Any:
    """Invert G11 of front f by an LU; return whether it is regular."""
    panel, sizes, routines = scratch[0], scratch[5], scratch[8]
    symmetric = scratch[1].shape[0] == 0
    at, ld, side = layout[0][f], layout[4][f], k + m
    integers, matrix = sizes.ctypes.data, factors.ctypes.data + at * factors.itemsize
    for j in range(k):
        for i in range(k):
            lower = j if symmetric and i < j else i
            other = i if symmetric and i < j else j
            factors[at + j * ld + i] = panel[other * side + lower]
    pivots, work = scratch[4], scratch[6]
    sizes[0], sizes[1], sizes[2], sizes[3] = k, ld, 0, work.shape[0]
    order, lda, info, length = integers, integers + 4, integers + 8, integers + 12
    p, w = pivots.ctypes.data, work.ctypes.data
    call(routines[GETRF], (order, order, matrix, lda, p, info))
    if sizes[2] == 0:
        call(routines[GETRI], (order, matrix, lda, p, w, length, info))
    return sizes[2] == 0


@njit
def multiply(
    transposed: Any,
    m: Any,
    n: Any,
    k: Any,
    alpha: Any,
    a: Any,
    lda: Any,
    b: Any,
    ldb: Any,
    beta: Any,
    c: Any,
    ldc: Any,
    scratch: Any,
) -> None:
    """Compute C = alpha A B + beta C, or alpha A B' + beta C, given the addresses of the three."""
    sizes, work, characters, routines = scratch[5], scratch[9], scratch[7], scratch[8]
    sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5] = m, n, k, lda, ldb, ldc
    work[0], work[1] = alpha, beta
    s, letters, w = sizes.ctypes.data, characters.ctypes.data, work.ctypes.data
    other = letters + 1 if transposed else letters
    call(
        routines[GEMM],
        (
            letters,
            other,
            s,
            s + 4,
            s + 8,
            w,
            a,
            s + 12,
            b,
            s + 16,
            w + work.itemsize,
            c,
            s + 20,
        ),
    )
