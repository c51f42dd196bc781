"""Conjugate gradients on blocks: each column in its own space, or all in one.

An iteration reads from the device once: what it decides by, for all columns together.

Where a good preconditioner needs a dozen iterations, sharing the products is all there is to gain
from a block. Where hundreds are needed, one space for all columns saves most of them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..arrays import Array, Backend, array_on_host
from .columns import Columns, Solved, all_directions, directions, times

INDEFINITE = "A or the preconditioner is not positive definite: use minres or gmres"
Product = Callable[[Array], Array]


def cg(
    backend: Backend,
    A: Product,
    M: Product,
    B: Array,
    rtol: float,
    max_iterations: int,
    record: Callable[[float], None],
) -> Solved:
    """Conjugate gradients for symmetric definite A and M, each column in its own space.

    Parameters
    ----------
    backend : Backend
    A, M : callable
        Products of an (n, k) block with the matrix and with the preconditioner.
    B : (n, k) array
        Columns of unit length, or zero.
    rtol : float
        What the norm of each column of the residual falls to.
    max_iterations : int
        Products with A, of a block.
    record : callable
        Told the largest residual of each iteration.
    """
    xp, dtype, dots = backend.xp, backend.dtype, backend.column_dots
    columns = Columns(backend, B)
    R = xp.asarray(B, copy=True)
    (R,) = columns.leave(array_on_host(backend.column_norms(R)) > rtol, R)
    if R.shape[1] == 0:  # some versions of cuSPARSE refuse blocks without columns
        return columns.finish()
    P = xp.asarray(M(R), copy=True)
    rho = dots(R, P)
    for _ in range(max_iterations):
        Q = A(P)
        curvature, ones = dots(P, Q), xp.ones_like(rho)
        definite = (curvature > 0) & (rho > 0)
        # In place throughout: at this size a temporary costs more than its arithmetic.
        step = xp.where(definite, rho, 0.0 * ones) / xp.where(definite, curvature, ones)
        P *= step
        Q *= step
        columns.X += P
        R -= Q
        norms, fine = array_on_host(xp.stack([backend.column_norms(R), xp.astype(definite, dtype)]))
        if not fine.all():
            return columns.finish(INDEFINITE)
        record(float(norms.max()))
        R, P, scaled = columns.leave(norms > rtol, R, P, rho * step)
        if R.shape[1] == 0:
            return columns.finish()
        Z = M(R)
        rho = dots(R, Z)
        P *= rho / scaled
        P += Z
    return columns.finish("it ran out of iterations")


def block_cg(
    backend: Backend,
    A: Product,
    M: Product,
    B: Array,
    rtol: float,
    max_iterations: int,
    record: Callable[[float], None],
) -> Solved:
    """Conjugate gradients in one space for all columns, breakdown-free (Ji and Li 2017).

    Parameters
    ----------
    backend, A, M, B, rtol, max_iterations, record
        As in `cg`.
    """
    solve = backend.xp.linalg.solve
    columns = Columns(backend, B)
    R = backend.xp.asarray(B, copy=True)
    (R,) = columns.leave(array_on_host(backend.column_norms(R)) > rtol, R)
    if R.shape[1] == 0:
        return columns.finish()
    Q, S = directions(backend, R)
    if 0 < (rank := Q.shape[1]) < R.shape[1]:
        # Rounding would part dependent columns, and each part be solved for.
        solved = block_cg(backend, A, M, Q, rtol / rank**0.5, max_iterations, record)
        columns.X = solved.X @ S
        return columns.finish(solved.stopped)
    P = all_directions(backend, M(R))
    for _ in range(max_iterations):
        if P.shape[1] == 0:
            break
        Q = A(P)
        PQ = P.T @ Q
        if not bool(backend.xp.all(backend.xp.linalg.diagonal(PQ) > 0)):
            return columns.finish(INDEFINITE)
        step = solve(PQ, P.T @ R)
        columns.X += times(P, step)
        R -= times(Q, step)
        norms = array_on_host(backend.column_norms(R))
        record(float(norms.max()))
        (R,) = columns.leave(norms > rtol, R)
        if R.shape[1] == 0:
            break
        Z = M(R)
        P = all_directions(backend, Z - times(P, solve(PQ, Q.T @ Z)))
    else:
        return columns.finish("it ran out of iterations")
    return columns.finish()
