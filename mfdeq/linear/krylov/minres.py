"""The minimal residual method on blocks, each column in its own space.

Its iterates minimize the residual in the norm of the preconditioner, so they are stopped by the
residual itself, for which there is a recurrence. An iteration reads from the device once.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host
from .columns import OUT_OF_ITERATIONS, Columns, Product, Solved

INDEFINITE = "the preconditioner is not positive definite: use gmres"


def minres(
    backend: Backend,
    A: Product,
    M: Product,
    B: Array,
    rtol: float,
    max_iterations: int,
    record: Callable[[float], None],
) -> Solved:
    """Minimal residuals for symmetric A and positive definite M, each column in its own space.

    Parameters
    ----------
    backend, A, M, B, rtol, max_iterations, record
        As in `cg.cg`, but A may be indefinite.

    Notes
    -----
    With the vectors v of the Lanczos process, the rotations (c, s) and the residual norm |eta| in
    M, the residual itself is r_j = s^2 r_(j-1) + c eta v_(j+1).

    References
    ----------
    C. C. Paige and M. A. Saunders, Solution of sparse indefinite systems of linear equations,
    SIAM J. Numer. Anal. 12 (1975).

    H. C. Elman, D. J. Silvester and A. J. Wathen, Finite Elements and Fast Iterative Solvers, 2nd
    ed., Oxford University Press (2014), algorithm 4.1.
    """
    xp, dots = backend.xp, backend.column_dots
    columns = Columns(backend, B)
    R = columns.residual(B, rtol)
    if R.shape[1] == 0:
        return columns.finish()
    V, Z = R, M(R)
    squares = dots(Z, V)
    if not _definite(backend, array_on_host(squares), V, Z):
        return columns.finish(INDEFINITE)
    gamma = _root(xp, squares)
    zeros, ones = xp.zeros_like(gamma), xp.ones_like(gamma)
    V, Z = V * _inverse(xp, gamma), Z * _inverse(xp, gamma)
    V_before, W_before, W = xp.zeros_like(V), xp.zeros_like(V), xp.zeros_like(V)
    eta, c_before, c, s_before, s = gamma, ones, ones, zeros, zeros
    beta = zeros  # gamma of this step, which couples V to V_before
    for _ in range(max_iterations):
        V_next = A(Z)
        delta = dots(Z, V_next)
        V_next = V_next - V * delta - V_before * beta
        Z_next = M(V_next)
        squares = dots(Z_next, V_next)
        gamma = _root(xp, squares)
        inverse = _inverse(xp, gamma)
        V_before, V, Z_before, Z = V, V_next * inverse, Z, Z_next * inverse
        rotated = c * delta - c_before * s * beta
        size = xp.sqrt(rotated * rotated + gamma * gamma)
        above, further = s * delta + c_before * c * beta, s_before * beta
        c_before, s_before = c, s
        c, s = rotated * _inverse(xp, size), gamma * _inverse(xp, size)
        W_before, W = W, (Z_before - W_before * further - W * above) * _inverse(xp, size)
        columns.X += W * (c * eta)
        eta = -s * eta
        R = R * (s * s) + V * (c * eta)
        beta = gamma
        norms, squares = array_on_host(xp.stack([backend.column_norms(R), squares]))
        record(float(norms.max()))
        if not _definite(backend, squares, V_next, Z_next):
            return columns.finish(INDEFINITE)
        more = (norms > rtol) & (squares > 0)  # otherwise the space of the column is exhausted
        R, V_before, V, Z, W_before, W, eta, beta, c_before, c, s_before, s = columns.leave(
            more, R, V_before, V, Z, W_before, W, eta, beta, c_before, c, s_before, s
        )
        if R.shape[1] == 0:
            return columns.finish()
    return columns.finish(OUT_OF_ITERATIONS)


def _definite(backend: Backend, squares: Any, V: Array, Z: Array) -> bool:
    """Return whether v'Z = v'M v, on the host, is positive, or negative by rounding only."""
    if not (squares < 0).any():
        return True
    sizes = array_on_host(backend.column_norms(V) * backend.column_norms(Z))
    return bool((squares >= -(backend.eps**0.5) * sizes).all())


def _root(xp: ModuleType, x: Array) -> Array:
    """Return the square root, and zero for negative numbers."""
    return xp.sqrt(xp.where(x > 0, x, xp.zeros_like(x)))


def _inverse(xp: ModuleType, x: Array) -> Array:
    """Return 1 / x, and zero for zero."""
    positive = x > 0
    return xp.where(positive, 1.0 / xp.where(positive, x, xp.ones_like(x)), xp.zeros_like(x))
