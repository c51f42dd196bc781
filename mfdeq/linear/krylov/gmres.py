"""GMRES on blocks: each column in its own space, or all in one space.

Columns that have converged leave the block between cycles. In one space for all columns, directions
that become linearly dependent leave it, so that zero, repeated and easy columns need no special
cases.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

from ...arrays.backend import Array, Backend, array_on_host, host
from ...arrays.memory import reserve
from .columns import (
    LOST_FACTOR,
    OUT_OF_ITERATIONS,
    Columns,
    Solved,
    gram_basis,
    orthonormal,
    read_together,
    remaining,
    reorthonormalize,
    reorthonormalize_in,
    times,
)
from .recycling import Recycled

STAGNATION_RATIO = 0.999  # reduction of the residual by a cycle above which it has stagnated
EMPTY_RTOL = 1e-24  # relative singular value of an empty column of H, unlike one that is rounding
Product = Callable[[Array], Array]


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

    def cycle(R: Array, steps: int) -> _Cycle:
        return _SeparateSpaces(backend, A, M, R, min(length, steps), flexible)

    return _restarted(cycle, backend, A, B, rtol, max_iterations, record)[0]


def block_gmres(
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
    recycled: Recycled | None = None,
) -> Solved:
    """Restarted GMRES, preconditioned from the right, in one space for all columns.

    Parameters
    ----------
    backend, A, M, B, rtol, max_iterations, record, length, flexible
        As in `gmres`.
    recycled : Recycled, optional
        A space from earlier solves with this A and M, which is updated for later ones. Not with
        `flexible`.

    References
    ----------
    M. H. Gutknecht, Block Krylov space methods for linear systems with multiple right-hand sides:
    an introduction, in: Modern Mathematical Models, Methods and Algorithms for Real World Systems,
    Anamaya (2007).
    """
    length = max(length // 2, 1) if flexible else length
    space = None if recycled is None else recycled.snapshot()
    before = copy.copy(space)

    def cycle(R: Array, steps: int) -> _Cycle:
        return _SharedSpace(backend, A, M, R, min(length, steps), flexible, space)

    solved, used = _restarted(cycle, backend, A, B, rtol, max_iterations, record)
    if recycled is not None and space is not None and before is not None:
        if B.shape[1] == 1:
            space.judge(used, rtol)
        recycled.adopt(space, before)
    return solved


class _Cycle(Protocol):
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


def _restarted(
    cycle_of: Callable[[Array, int], _Cycle],
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
        # Columns of H that are zero after a breakdown are ignored, but not those of a singular A.
        y = self.size[:, None] * (
            host.linalg.pinv(H, EMPTY_RTOL)[:, :, 0] if finite else H[:, 0, :]
        )
        weights = backend.coefficients(y)
        space = self.basis if self.preconditioned is None else self.preconditioned
        D = backend.zeros(space.shape[-1], y.shape[0])
        for c in range(y.shape[0]):
            D[:, c] = weights[c, :] @ space[c, :j, :]
        return self.M(D) if self.preconditioned is None else D


class _SharedSpace:
    """One cycle with one space for all columns: A M V = [C, V+] [coupling; H], H = Q (triangle).

    It is a block Arnoldi process. Everything except V, C and M V is on the host.
    """

    def __init__(
        self,
        backend: Backend,
        A: Product,
        M: Product,
        R: Array,
        length: int,
        flexible: bool,
        recycled: Recycled | None,
    ) -> None:
        self.backend, self.A, self.M, self.length = backend, A, M, length
        self.preconditioned: list[Array] | None = [] if flexible else None
        self.recycled = recycled
        self.start = None
        size = backend.column_norms(R)
        if recycled is not None:
            R, self.start = recycled.project(R)
        V, rhs = orthonormal(backend, R, size)
        self.basis = [V]
        self.rhs = [rhs]  # of the least-squares problem, rotated, in blocks of rows
        self.rotations: list[Any] = []
        self.triangle: list[list[Any]] = []  # columns, in blocks of rows
        self.raw: list[list[Any]] = []  # columns of H, before the rotations
        self.coupling: list[Any] = []
        # Bounds on the inner products of blocks of C and V, each a row, with those before.
        blocks = 1 if recycled is None or recycled.C is None else 2
        self.lost = host.zeros((blocks, blocks))
        self.lost[-1, :-1] = backend.eps
        self.residual = float("inf") if V.shape[1] else 0.0  # 0: all of R is in the recycled space

    @property
    def steps(self) -> int:
        return len(self.triangle)

    def run(self, rtol: float, record: Callable[[float], None]) -> None:
        while self.steps < self.length and self.basis[-1].shape[1]:
            self._extend()
            self.residual = float(host.linalg.norm(self.rhs[-1], axis=0).max())
            record(self.residual)
            if self.residual <= rtol:
                break

    def _extend(self) -> None:
        backend = self.backend
        Z = self.M(self.basis[-1])
        if self.preconditioned is not None:
            self.preconditioned.append(Z)
        W = self.A(Z)
        size = backend.column_norms(W)
        W, found = self._project_out(W)
        *column, gram, sizes = read_together(backend, *found, W.T @ W, size[None, :])
        C, S = gram_basis(backend.eps, gram, sizes[0, :])
        V, below = reorthonormalize(backend, times(backend, W, C), S)
        if V.shape[1] < W.shape[1]:
            # Without the directions that W'W hides, A M V would not be what H says.
            V = backend.xp.concat([V, remaining(backend, W, V, size)], axis=1)
            (below,) = read_together(backend, V.T @ W)
        lost = self._lost(below, sizes[0, :], column)
        while lost.max() > backend.eps**0.5:
            V, found = self._project_out(V)
            again = read_together(backend, *found)
            column = [h + more @ below for h, more in zip(column, again, strict=True)]
            V, _, S = reorthonormalize_in(backend, V, V)  # Drops what was rounding.
            below = S @ below
            lost = self._lost(S, host.ones(S.shape[1]), again)
        self.lost = host.pad(self.lost, (0, 1))
        self.lost[-1, :-1] = lost
        from_c = len(column) - len(self.basis)
        self.coupling += column[:from_c]
        self.basis.append(V)
        column = [*column[from_c:], below]
        self.raw.append(list(column))
        for i, Q in enumerate(self.rotations):
            column[i : i + 2] = _rotate(Q, column[i : i + 2])
        self._rotate_away(column)

    def _project_out(self, W: Array) -> tuple[Array, list[Array]]:
        """Return W without its parts in C and in V, and their coefficients."""
        W, found = (W, []) if self.recycled is None else self.recycled.orthogonalize(W)
        for V in self.basis:
            h = V.T @ W
            W = W - (V * h[0, 0] if h.shape == (1, 1) else V @ h)
            found.append(h)
        return W, found

    def _lost(self, below: Any, sizes: Any, column: list[Any]) -> Any:
        """Bound the inner products of new vectors with C and V, after an orthogonalization.

        Columns of the lengths `sizes` had the coefficients `column` in C and V, and what was left
        of them was V+ `below`. Inner products are the rounding of that, and those of a block with
        the later ones that were subtracted. They grow as V+ is scaled to length one. Those of
        single vectors need no bound: modified Gram-Schmidt loses them no faster than the residual
        of GMRES falls [1]_.

        References
        ----------
        .. [1] C. C. Paige, M. Rozložník and Z. Strakoš, Modified Gram-Schmidt (MGS), least squares,
           and backward stability of MGS-GMRES, SIAM J. Matrix Anal. Appl. 28 (2006).
        """
        if self.basis[0].shape[1] == 1 or below.shape[0] == 0:
            return host.zeros(len(column))
        inverse = host.linalg.pinv(below)
        growth = host.linalg.norm(sizes[:, None] * inverse)
        first = host.cumsum([0, *(h.shape[0] for h in column[:-1])])
        squares = ((host.concatenate(column, axis=0) @ inverse) ** 2).sum(axis=1)
        shares = host.sqrt(host.add.reduceat(squares, first))
        return self.backend.eps * growth + self.lost.T @ shares

    def _rotate_away(self, column: list[Any]) -> None:
        Q, R = host.linalg.qr(host.concatenate(column[-2:], axis=0), mode="complete")
        rows = column[-2].shape[0]
        self.rotations.append(Q)
        self.triangle.append([*column[:-2], R[:rows, :]])
        new = host.zeros((column[-1].shape[0], self.rhs[-1].shape[1]))
        self.rhs[-1:] = _rotate(Q, [self.rhs[-1], new])

    def correction(self) -> Array:
        D = self._correction()
        if self.recycled is not None:
            self.recycled.harvest(self.basis, self.coupling, self.raw)
        return D

    def _correction(self) -> Array:
        backend = self.backend
        blocks = _block_triangular_solve(backend.eps, self.triangle, self.rhs)
        space = self.basis if self.preconditioned is None else self.preconditioned
        total = backend.zeros(self.basis[0].shape[0], self.rhs[0].shape[1])
        for V, y in zip(space, blocks, strict=False):
            total += times(backend, V, y)
        if self.preconditioned is not None:
            return total
        if self.recycled is not None:
            total += self.recycled.correction(self.start, self.coupling, blocks)
        return self.M(total)


def _rotate(Q: Any, pair: list[Any]) -> list[Any]:
    rows = pair[0].shape[0]
    both = Q.T @ host.concatenate(pair, axis=0)
    return [both[:rows, :], both[rows:, :]]


def _block_triangular_solve(eps: float, triangle: list[list[Any]], rhs: list[Any]) -> list[Any]:
    """Solve a block upper triangular system that is stored by columns; return y in blocks."""
    left = list(rhs)
    found: list[Any] = []
    for j in range(len(triangle) - 1, -1, -1):
        R = triangle[j][j]
        diagonal = abs(host.diagonal(R))
        regular = bool((diagonal > eps * R.shape[0] * diagonal.max()).all())
        # A singular block means that A M is singular on the space: take the shortest y.
        y = host.linalg.solve(R, left[j]) if regular else host.linalg.pinv(R) @ left[j]
        found.insert(0, y)
        for i in range(j):
            left[i] = left[i] - triangle[j][i] @ y
    return found
