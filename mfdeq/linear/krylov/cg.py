"""Conjugate gradients on blocks: each column in its own space, or all in one space.

An iteration reads from the device once: the numbers for its decisions on all columns together.

With a preconditioner so good that a dozen iterations suffice, the columns of a block gain only from
sharing products. If hundreds are needed, one space for all columns saves most of them.
"""

from __future__ import annotations

from collections.abc import Callable

from ...arrays.backend import Array, Backend, array_on_host, host
from .columns import (
    OUT_OF_ITERATIONS,
    Columns,
    Product,
    Solved,
    all_directions,
    directions,
    read_together,
    reorthonormalize,
    times,
)

INDEFINITE = "A or the preconditioner is not positive definite: use minres or gmres"


def cg(
    backend: Backend,
    A: Product,
    M: Product,
    B: Array,
    rtol: float,
    max_iterations: int,
    record: Callable[[float], None],
) -> Solved:
    """Conjugate gradients for symmetric positive definite A and M, each column in its own space.

    Parameters
    ----------
    backend : Backend
    A, M : callable
        Products of an (n, k) block with the matrix and with the preconditioner.
    B : (n, k) array
        Columns of unit length, or zero.
    rtol : float
        Norm below which the residual of a column counts as converged.
    max_iterations : int
        Limit on the products of a block with A.
    record : callable
        Called with the largest residual of each iteration.

    References
    ----------
    M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems,
    J. Res. Nat. Bur. Standards 49 (1952).
    """
    xp, dtype, dots = backend.xp, backend.dtype, backend.column_dots
    kernels = backend.kernels
    columns = Columns(backend, B)
    R = columns.residual(B, rtol)
    if R.shape[1] == 0:  # Some versions of cuSPARSE refuse blocks without columns.
        return columns.finish()
    P = xp.asarray(M(R), copy=True)
    rho = dots(R, P)
    for _ in range(max_iterations):
        Q = A(P)
        curvature, ones = dots(P, Q), xp.ones_like(rho)
        definite = (curvature > 0) & (rho > 0)
        step = xp.where(definite, rho, 0.0 * ones) / xp.where(definite, curvature, ones)
        norms = xp.sqrt(kernels.advance(xp, columns.X, R, P, Q, step))
        norms, definite = array_on_host(xp.stack([norms, xp.astype(definite, dtype)]))
        if not definite.all():
            return columns.finish(INDEFINITE)
        record(float(norms.max()))
        R, P, before = columns.leave(norms > rtol, R, P, rho)
        if R.shape[1] == 0:
            return columns.finish()
        Z = M(R)
        rho = dots(R, Z)
        kernels.redirect(xp, P, Z, rho / before)
    return columns.finish(OUT_OF_ITERATIONS)


def block_cg(
    backend: Backend,
    A: Product,
    M: Product,
    B: Array,
    rtol: float,
    max_iterations: int,
    record: Callable[[float], None],
) -> Solved:
    """Conjugate gradients in one space for all columns, which may be dependent.

    Parameters
    ----------
    backend, A, M, B, rtol, max_iterations, record
        As in `cg`.

    References
    ----------
    D. P. O'Leary, The block conjugate gradient algorithm and related methods, Linear Algebra Appl.
    29 (1980).

    H. Ji and Y. Li, A breakdown-free block conjugate gradient method, BIT Numer. Math. 57 (2017).
    """
    solve = backend.xp.linalg.solve
    columns = Columns(backend, B)
    R = columns.residual(B, rtol)
    if R.shape[1] == 0:
        return columns.finish()
    Q, S = directions(backend, R)
    if 0 < (rank := Q.shape[1]) < R.shape[1]:
        # Solve for a basis: rounding would separate dependent columns, which would cost iterations.
        Q, S = reorthonormalize(backend, Q, S)
        solved = block_cg(backend, A, M, Q, rtol / rank**0.5, max_iterations, record)
        columns.X = solved.X @ backend.coefficients(S)
        return columns.finish(solved.stopped)
    P = all_directions(backend, M(R))
    for _ in range(max_iterations):
        if P.shape[1] == 0:
            break
        Q = A(P)
        PQ = P.T @ Q
        curved, onto = read_together(backend, PQ.T, (P.T @ R).T)
        if not (host.diagonal(curved) > 0).all():
            return columns.finish(INDEFINITE)
        step = host.linalg.solve(curved.T, onto.T)
        columns.X += times(backend, P, step)
        R -= times(backend, Q, step)
        norms = array_on_host(backend.column_norms(R))
        record(float(norms.max()))
        (R,) = columns.leave(norms > rtol, R)
        if R.shape[1] == 0:
            break
        Z = M(R)
        P = all_directions(backend, Z - P @ solve(PQ, Q.T @ Z))
    else:
        return columns.finish(OUT_OF_ITERATIONS)
    return columns.finish()
