"""GMRES on blocks: one Krylov space serves all columns.

Columns that have converged leave the block between cycles, and directions that have become
linearly dependent leave the space, so that neither a zero, a repeated nor an easy column is a
special case. One column is the plain method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..arrays import Array, Backend
from .columns import Columns, Solved, orthonormal, times
from .recycling import Recycled

PROGRESS = 0.999  # of the residual before a cycle, above which it stagnates
Product = Callable[[Array], Array]


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
    """Restarted GMRES, preconditioned from the right.

    Parameters
    ----------
    backend, A, M, B, rtol, max_iterations, record
        As in `cg.cg`; A and M may be any.
    length : int
        Vectors per column that are kept: iterations of one cycle.
    flexible : bool
        Keep M V too (half as many iterations a cycle then), for an M that is not linear.
    recycled : Recycled, optional
        A space from earlier solves with this A and M, and for later ones. Not with `flexible`.
    """
    columns = Columns(backend, B)
    R = backend.xp.asarray(B, copy=True)
    (R,) = columns.leave(backend.column_norms(R) > rtol, R)
    length = max(length // 2, 1) if flexible else length
    used, before, stopped = 0, float("inf"), ""
    while R.shape[1]:
        if used >= max_iterations:
            stopped = "it ran out of iterations"
            break
        cycle = _Cycle(backend, A, M, R, flexible, recycled)
        cycle.run(rtol, min(length, max_iterations - used), record)
        used += cycle.steps
        D = cycle.correction()
        columns.X += D
        if recycled is not None:
            recycled.harvest(cycle.basis, cycle.coupling, cycle.raw)
        if cycle.residual <= rtol:
            break
        R -= A(D)
        norms = backend.column_norms(R)
        worst = float(backend.xp.max(norms))
        if not worst < PROGRESS * before:
            break
        before = worst
        (R,) = columns.leave(norms > rtol, R)
    if recycled is not None and B.shape[1] == 1:
        recycled.judge(used, rtol)
    return columns.finish(stopped)


class _Cycle:
    """One cycle of GMRES: A M V = [C, V+] [coupling; H] by block Arnoldi, H = Q (triangle)."""

    def __init__(
        self,
        backend: Backend,
        A: Product,
        M: Product,
        R: Array,
        flexible: bool,
        recycled: Recycled | None,
    ) -> None:
        self.backend, self.A, self.M = backend, A, M
        self.preconditioned: list[Array] | None = [] if flexible else None
        self.recycled = recycled
        self.start = None
        size = backend.column_norms(R)
        if recycled is not None:
            R, self.start = recycled.project(R)
        V, rhs = orthonormal(backend, R, size)
        self.basis = [V]
        self.rhs = [rhs]  # of the least-squares problem, rotated, in blocks of rows
        self.rotations: list[Array] = []
        self.triangle: list[list[Array]] = []  # its columns, in blocks of rows
        self.raw: list[list[Array]] = []  # the same before the rotations
        self.coupling: list[Array] = []
        self.residual = float("inf") if V.shape[1] else 0.0  # all of R was in the recycled space

    @property
    def steps(self) -> int:
        """Products with A M so far."""
        return len(self.triangle)

    def run(self, rtol: float, length: int, record: Callable[[float], None]) -> None:
        """Extend the space until the residual of every column is below rtol."""
        while self.steps < length and self.basis[-1].shape[1]:
            self._extend()
            self.residual = float(self.backend.xp.max(self.backend.column_norms(self.rhs[-1])))
            record(self.residual)
            if self.residual <= rtol:
                break

    def _extend(self) -> None:
        Z = self.M(self.basis[-1])
        if self.preconditioned is not None:
            self.preconditioned.append(Z)
        W = self.A(Z)
        size = self.backend.column_norms(W)
        if self.recycled is not None:
            self.coupling.append(self.recycled.orthogonalize(W))
        column = []
        for V in self.basis:
            h = V.T @ W
            W -= times(V, h)
            column.append(h)
        V, below = orthonormal(self.backend, W, size)
        self.basis.append(V)
        column.append(below)
        self.raw.append(list(column))
        for i, Q in enumerate(self.rotations):
            column[i : i + 2] = self._rotated(Q, column[i : i + 2])
        self._rotate_away(column)

    def _rotate_away(self, column: list[Array]) -> None:
        xp = self.backend.xp
        Q, R = xp.linalg.qr(xp.concat(column[-2:], axis=0), mode="complete")
        rows = column[-2].shape[0]
        self.rotations.append(Q)
        self.triangle.append([*column[:-2], R[:rows, :]])
        k = self.rhs[-1].shape[1]
        new = self.backend.zeros(column[-1].shape[0], k)
        self.rhs[-1:] = self._rotated(Q, [self.rhs[-1], new])

    def _rotated(self, Q: Array, pair: list[Array]) -> list[Array]:
        rows = pair[0].shape[0]
        both = Q.T @ self.backend.xp.concat(pair, axis=0)
        return [both[:rows, :], both[rows:, :]]

    def correction(self) -> Array:
        """The element of the space with the smallest residual, column by column."""
        blocks = _block_triangular_solve(self.backend, self.triangle, self.rhs)
        zeros = self.backend.zeros(self.basis[0].shape[0], self.rhs[0].shape[1])
        if self.preconditioned is not None:
            return _sum(
                zeros, (times(Z, y) for Z, y in zip(self.preconditioned, blocks, strict=True))
            )
        combined = _sum(zeros, (times(V, y) for V, y in zip(self.basis, blocks, strict=False)))
        if self.recycled is not None:
            combined += self.recycled.correction(self.start, self.coupling, blocks)
        return self.M(combined)


def _block_triangular_solve(
    backend: Backend, triangle: list[list[Array]], rhs: list[Array]
) -> list[Array]:
    """y, in blocks, of a block upper triangular system given by columns."""
    left = list(rhs)
    found: list[Array] = []
    for j in range(len(triangle) - 1, -1, -1):
        R = triangle[j][j]
        diagonal = backend.xp.abs(backend.xp.linalg.diagonal(R))
        small = backend.eps * R.shape[0] * backend.xp.max(diagonal)
        regular = bool(backend.xp.all(diagonal > small))
        # A singular block: A M is singular on the space, and the shortest y serves.
        linalg = backend.xp.linalg
        y = linalg.solve(R, left[j]) if regular else linalg.pinv(R) @ left[j]
        found.insert(0, y)
        for i in range(j):
            left[i] = left[i] - triangle[j][i] @ y
    return found


def _sum(total: Array, terms: Iterator[Array]) -> Array:
    for term in terms:
        total += term
    return total
