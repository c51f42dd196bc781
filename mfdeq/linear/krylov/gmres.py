"""GMRES on blocks, each column in its own space; `block_gmres` has one space for all columns.

Columns that have converged leave the block between cycles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ...arrays.backend import Array, Backend, array_on_host, host
from ...arrays.memory import reserve
from .columns import (
    LOST_FACTOR,
    OUT_OF_ITERATIONS,
    Columns,
    Product,
    Solved,
)

STAGNATION_RATIO = 0.999  # reduction of the residual by a cycle above which it has stagnated
EMPTY_RTOL = 1e-24  # relative singular value of an empty column of H, unlike one that is rounding


def gmres(
    backend: Backend,
    A: Product,
    M: Product,
    B: Array,
    rtol: float,
    max_iterations: int,
    record: Callable[[float], None],
    *,
    length: int,
    flexible: bool = False,
) -> Solved:
    """Restarted GMRES, preconditioned from the right, each column in its own space.

    Parameters
    ----------
    backend, A, M, B, rtol, max_iterations, record
        As in `cg.cg`, but A and M need not be symmetric.
    length : int
        Vectors that are stored for each column, which is the number of iterations of a cycle.
    flexible : bool
        Whether M is not linear. M V is then stored, too, and a cycle has half as many iterations.

    References
    ----------
    Y. Saad and M. H. Schultz, GMRES: a generalized minimal residual algorithm for solving
    nonsymmetric linear systems, SIAM J. Sci. Stat. Comput. 7 (1986).

    Y. Saad, A flexible inner-outer preconditioned GMRES algorithm, SIAM J. Sci. Comput. 14 (1993).
    """
    length = max(length // 2, 1) if flexible else length

    def cycle(R: Array, steps: int) -> Cycle:
        return _SeparateSpaces(backend, A, M, R, min(length, steps), flexible)

    return restarted(cycle, backend, A, B, rtol, max_iterations, record)[0]


class Cycle(Protocol):
    """The iterations between two restarts."""

    residual: float  # the largest of the columns, from the least-squares problems

    @property
    def steps(self) -> int:
        """Number of products with A M so far."""
        ...

    def run(self, rtol: float, record: Callable[[float], None]) -> None:
        """Extend the space until the residual of every column is below rtol."""
        ...

    def correction(self) -> Array:
        """Return the element of the space with the smallest residual, column by column."""
        ...


def restarted(
    cycle_of: Callable[[Array, int], Cycle],
    backend: Backend,
    A: Product,
    B: Array,
    rtol: float,
    max_iterations: int,
    record: Callable[[float], None],
) -> tuple[Solved, int]:
    """Run cycles, each from the residual of the last; return X and the number of iterations."""
    columns = Columns(backend, B)
    R = columns.residual(B, rtol)
    used, before, stopped = 0, float("inf"), ""
    while R.shape[1]:
        if used >= max_iterations:
            stopped = OUT_OF_ITERATIONS
            break
        cycle = cycle_of(R, max_iterations - used)
        cycle.run(rtol, record)
        used += cycle.steps
        D = cycle.correction()
        columns.X += D
        if cycle.residual <= rtol:
            break
        R -= A(D)
        norms = array_on_host(backend.column_norms(R))
        worst = float(norms.max())
        if not worst < STAGNATION_RATIO * before:
            break
        before = worst
        (R,) = columns.leave(norms > rtol, R)
    return columns.finish(stopped), used


class _SeparateSpaces:
    """One cycle with a separate space for each column: A M V = V+ H.

    H is on the host. An iteration reads one column of it from the device.
    """

    def __init__(
        self, backend: Backend, A: Product, M: Product, R: Array, length: int, flexible: bool
    ) -> None:
        self.backend, self.A, self.M = backend, A, M
        n, k = R.shape
        reserve(
            backend,
            n * k * (length + 1) * (2 if flexible else 1),
            f"GMRES with {length} vectors for each of {k} columns",
            "use a smaller restart= of mfdeq.Krylov, 'cg' for a symmetric A, or fewer columns",
        )
        # The basis of a column is contiguous, so that orthogonalization is matrix times vector.
        self.basis = backend.zeros(k, length + 1, n)
        self.preconditioned = backend.zeros(k, length, n) if flexible else None
        self.triangle = backend.zeros(k, length, length)  # (I + L)^-1 of `_orthogonalize`
        self.projected = host.zeros((k, length + 1, length))  # H
        size = backend.column_norms(R)
        backend.kernels.transpose_into(self.basis[:, 0, :], R / size)
        self.size = array_on_host(size)
        self.steps, self.length = 0, length
        self.residual = float("inf")

    def run(self, rtol: float, record: Callable[[float], None]) -> None:
        while self.steps < self.length and self.residual > rtol:
            self._extend()
            H = self.projected[:, : self.steps + 1, : self.steps]
            if not host.isfinite(H).all():
                break
            # The residual is the part of size * e1 that is orthogonal to all columns of H.
            Q = host.linalg.qr(H, mode="complete")[0]
            self.residual = float((self.size * abs(Q[:, 0, -1])).max())
            record(self.residual)

    def _extend(self) -> None:
        xp, j, n = self.backend.xp, self.steps, self.basis.shape[-1]
        V = xp.empty((n, self.size.shape[0]), dtype=self.backend.dtype, device=self.backend.device)
        V[:, :] = self.basis[:, j, :].T
        Z = self.M(V)
        if self.preconditioned is not None:
            self.backend.kernels.transpose_into(self.preconditioned[:, j, :], Z)
        self.backend.kernels.transpose_into(self.basis[:, j + 1, :], self.A(Z))
        self.projected[:, : j + 2, j] = array_on_host(self._orthogonalize(j))
        self.steps = j + 1

    def _orthogonalize(self, j: int) -> Array:
        """Modified Gram-Schmidt by its triangular system, in two passes over the basis.

        The loops of modified Gram-Schmidt would be many and short, and classical Gram-Schmidt with
        reorthogonalization would take four passes. With L the strictly lower triangle of the inner
        products of the basis, each row of (I + L)^-1 follows from those above it.

        References
        ----------
        K. Świrydowicz, J. Langou, S. Ananthan, U. Yang and S. Thomas, Low synchronization
        Gram-Schmidt and generalized minimal residual algorithms, Numer. Linear Algebra Appl. 28
        (2021).
        """
        xp, kernels, m = self.backend.xp, self.backend.kernels, j + 1
        spaces = [self.basis[c, :m, :] for c in range(self.size.shape[0])]
        # The inner products of the last vector and of the new one with the basis, in one pass.
        products = xp.stack(
            [kernels.inner_products(V, self.basis[c, j : m + 1, :].T) for c, V in enumerate(spaces)]
        )
        row, known = products[:, :j, 0], self.triangle[:, :j, :j]
        self.triangle[:, j, :j] = -(row[:, None, :] @ known)[:, 0, :]
        self.triangle[:, j, j] = 1.0
        h = (self.triangle[:, :m, :m] @ products[:, :, 1:])[:, :, 0]
        left_over = []
        for c, V in enumerate(spaces):
            w = self.basis[c, m, :]
            before = xp.linalg.vector_norm(w)
            w = kernels.subtract_combination(w[:, None], V, h[c, :, None])[:, 0]
            below = xp.linalg.vector_norm(w)
            left = below > LOST_FACTOR * self.backend.eps * before
            zero, one = xp.zeros_like(below), xp.ones_like(below)
            self.basis[c, m, :] = w * xp.where(left, one, zero) / xp.where(left, below, one)
            left_over.append(xp.where(left, below, zero))
        return xp.concat([h, xp.stack(left_over)[:, None]], axis=1)

    def correction(self) -> Array:
        j, backend = self.steps, self.backend
        H = self.projected[:, : j + 1, :j]
        finite = bool(host.isfinite(H).all())
        # Columns of H that are zero after a breakdown are ignored. Those that are rounding are not:
        # they make the solution large along a null vector, by which a singular A is recognized.
        y = self.size[:, None] * (
            host.linalg.pinv(H, EMPTY_RTOL)[:, :, 0] if finite else H[:, 0, :]
        )
        weights = backend.coefficients(y)
        space = self.basis if self.preconditioned is None else self.preconditioned
        D = backend.zeros(space.shape[-1], y.shape[0])
        for c in range(y.shape[0]):
            D[:, c] = weights[c, :] @ space[c, :j, :]
        return self.M(D) if self.preconditioned is None else D
