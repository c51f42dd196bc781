"""GMRES on blocks, in one space for all columns.

Directions that become linearly dependent leave the space, so that zero, repeated and easy columns
need no special cases. The restarts are those of `gmres`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ...arrays.backend import Array, Backend, host
from .columns import (
    Product,
    Solved,
    gram_basis,
    orthonormal,
    read_together,
    remaining,
    reorthonormalize,
    reorthonormalize_in,
    times,
)
from .gmres import Cycle, restarted
from .recycling import Recycled


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

    def cycle(R: Array, steps: int) -> Cycle:
        return _SharedSpace(backend, A, M, R, min(length, steps), flexible, space)

    solved, used = restarted(cycle, backend, A, B, rtol, max_iterations, record)
    if recycled is not None and space is not None and before is not None:
        if B.shape[1] == 1:
            space.judge(used, rtol)
        recycled.adopt(space, before)
    return solved


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
