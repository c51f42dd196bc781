"""Recycling of a Krylov space from solve to solve: the directions that A M shrinks most (GCRO-DR).

Y and C are stored, with A M Y = C and orthonormal C. A solve starts from the best element of that
space and searches orthogonally to C. After each cycle the space is updated: it is spanned by the y
with the smallest ||A M y|| / ||y|| in the old space and the Krylov space together. These singular
vectors, unlike harmonic Ritz vectors, are real for any A.

References
----------
M. L. Parks, E. de Sturler, G. Mackey, D. D. Johnson and S. Maiti, Recycling Krylov subspaces for
sequences of linear systems, SIAM J. Sci. Comput. 28 (2006).
"""

from __future__ import annotations

import copy
import math
from typing import Any

from ...arrays.backend import Array, Backend, host
from ...locks import lock_of
from .columns import read_together

TRIAL_SOLVES = 4  # solves with a space after which it is dropped unless it saves iterations
MAX_ITERATIONS_RATIO = 0.8  # iterations with a space, over those without, up to which it is kept
MIN_CYCLE_RATIO = 1.2  # least length of a cycle that updates a space, over the size of the space
MAX_SHRINKAGE_RATIO = 0.9  # shrinkage of a new space, over the old one's, up to which it is adopted
SINGULAR_RTOL = 1e-12  # relative ||A M y|| / ||y|| below which A M is singular on y
DEPENDENT_RTOL = 1e-10  # relative eigenvalue of a Gram matrix below which vectors are dependent


class Recycled:
    """The recycled space of one matrix and preconditioner.

    A solve uses and updates a copy of its own, from `snapshot`, which `adopt` makes the space of
    later solves. Solves of several threads thus never see a space that changes.

    Parameters
    ----------
    backend : Backend
    size : int
        Number of vectors of Y and of C.

    Attributes
    ----------
    Y, C : (n, size) array or None
        None before the first update, and after the space was dropped.
    shrinkage : float
        Sum of ||A M y|| / ||y|| over an orthonormal basis of Y.
    """

    def __init__(self, backend: Backend, size: int) -> None:
        self.backend, self.size = backend, size
        self.Y: Array | None = None
        self.C: Array | None = None
        self.shrinkage = float("inf")
        self._rates: list[float] = []

    def snapshot(self) -> Recycled:
        """Return a copy for one solve."""
        with lock_of(self):
            return copy.copy(self)

    def adopt(self, used: Recycled, before: Recycled) -> None:
        """Replace this space by that of a solve.

        Parameters
        ----------
        used, before : Recycled
            The space of the solve at its end and at its start. If other solves have ended in
            between, the space that A M shrinks more is kept, and the solve is not judged.
        """
        with lock_of(self):
            if self.Y is before.Y and self.size == before.size:
                self._rates = used._rates
            elif self.size == 0 or not used.shrinkage < self.shrinkage:
                return
            self.Y, self.C, self.shrinkage, self.size = used.Y, used.C, used.shrinkage, used.size

    def judge(self, iterations: int, rtol: float) -> None:
        """Record a solve of one column; drop the space for good if it saves too few iterations."""
        if iterations <= self.size:
            return  # The right-hand side is too easy to tell.
        self._rates = [*self._rates, iterations / math.log(1.0 / rtol)]
        if (
            len(self._rates) == 1 + TRIAL_SOLVES
            and min(self._rates[1:]) > MAX_ITERATIONS_RATIO * self._rates[0]
        ):
            self.Y = self.C = None
            self.size = 0

    def project(self, R: Array) -> tuple[Array, Any]:
        """Return R without its part in C, and the coefficients of that part."""
        if self.C is None:
            return R, None
        a = self.C.T @ R
        return R - self.C @ a, read_together(self.backend, a)[0]

    def orthogonalize(self, W: Array) -> tuple[Array, list[Array]]:
        """Return W without its part in C, and the coefficients of this, [] without a C."""
        if self.C is None:
            return W, []
        c = self.C.T @ W
        return W - self.C @ c, [c]

    def correction(self, start: Any, coupling: list[Any], y: list[Any]) -> Array | float:
        """Return the part of the solution in Y: the start, less the part of A M V y in C."""
        if self.Y is None or start is None:
            return 0.0
        within = start - sum(c @ part for c, part in zip(coupling, y, strict=False))
        return self.Y @ self.backend.coefficients(within)

    def harvest(self, basis: list[Array], coupling: list[Any], raw: list[list[Any]]) -> None:
        """Update the space from itself and the Krylov space of a cycle.

        Parameters
        ----------
        basis : list of (n, k) arrays
            The blocks of V+, where A M V = C coupling + V+ H.
        coupling : list of arrays, on the host
            The block columns of the coupling.
        raw : list of lists of arrays, on the host
            The blocks of H, column by column.
        """
        if len(raw) < MIN_CYCLE_RATIO * self.size or self.size == 0:
            return  # A cycle this short leaves little to save.
        backend, linalg = self.backend, host.linalg
        V = basis[: len(raw)]
        if self.size + sum(v.shape[1] for v in basis) > V[0].shape[0]:
            return  # The Krylov space is exhausted, and its last vectors are rounding.
        H = _dense(raw, basis)
        inner, G = host.eye(H.shape[1]), H
        if self.Y is not None and self.C is not None:
            k = self.Y.shape[1]
            own, *parts = read_together(backend, self.Y.T @ self.Y, *(v.T @ self.Y for v in V))
            mixed = host.concatenate(parts, axis=0)
            inner = host.block([[own, mixed.T], [mixed, inner]])
            across = host.concatenate(coupling, axis=1)
            G = host.block([[host.eye(k), across], [host.zeros((H.shape[0], k)), H]])
        # Coordinates in which the norm is ||y||; directions common to Y and V count once.
        lengths = host.sqrt(host.diagonal(inner))
        values, U = linalg.eigh(inner / lengths / lengths[:, None])
        rounding = inner.shape[0] * backend.eps
        independent = values > max(DEPENDENT_RTOL, rounding) * values[-1]
        unit = U[:, independent] / lengths[:, None] / host.sqrt(values[independent])
        _, sizes, rows = linalg.svd(G @ unit, full_matrices=False)
        last = int((sizes > SINGULAR_RTOL * sizes[0]).sum())  # They are sorted.
        size = min(self.size, last)
        smallest = rows[last - size : last, :].T
        shrinkage = float(sizes[last - size : last].sum())
        grown = self.Y is None or size > self.Y.shape[1]
        if not (grown or shrinkage < MAX_SHRINKAGE_RATIO * self.shrinkage):
            return
        P = unit @ smallest
        Q, R = linalg.qr(G @ P)
        P = linalg.solve(R.T, P.T).T  # P R^-1
        old_Y = [] if self.Y is None else [self.Y]
        old_C = [] if self.C is None else [self.C]
        Y = _combination(backend, old_Y + V, P)
        C = _combination(backend, old_C + basis, Q)
        self.C, T = backend.xp.linalg.qr(C)  # Rounding errors of the old C would add up.
        self.Y = backend.xp.linalg.solve(T.T, Y.T).T  # Y T^-1
        self.shrinkage = shrinkage


def _combination(backend: Backend, blocks: list[Array], P: Any) -> Array:
    """Multiply the blocks, side by side, by P."""
    total, row = 0.0, 0
    for block in blocks:
        rows = block.shape[1]
        if rows:
            total = total + block @ backend.coefficients(P[row : row + rows, :])
        row += rows
    return total


def _dense(raw: list[list[Any]], basis: list[Array]) -> Any:
    """Assemble the block upper Hessenberg matrix from its columns."""
    rows = sum(v.shape[1] for v in basis[: len(raw) + 1])
    columns = []
    for column in raw:
        stacked = host.concatenate(column, axis=0)
        below = host.zeros((rows - stacked.shape[0], stacked.shape[1]))
        columns.append(host.concatenate([stacked, below], axis=0))
    return host.concatenate(columns, axis=1)
