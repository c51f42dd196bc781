"""A space kept from solve to solve: the directions that A M shrinks most (GCRO-DR).

Kept are Y and C with A M Y = C, C orthonormal. A solve starts from the best of that space and
searches orthogonally to C (Parks et al. 2006); the space is chosen anew after each cycle as the y
with the smallest ||A M y|| / ||y|| in it and the Krylov space together: real arithmetic for any A.
"""

from __future__ import annotations

import math
from typing import Any

from ...arrays.backend import Array, Backend, host
from .columns import read_together

TRIAL_SOLVES = 4  # solves with a space, after which it must have paid
MAX_ITERATIONS_RATIO = 0.8  # of iterations with a space to those without, for it to have paid
MIN_CYCLE_RATIO = 1.2  # of the length of a cycle to the size of the space that it may change
MAX_SHRINKAGE_RATIO = 0.9  # of the shrinkage of a new space to the old one's, to replace it
SINGULAR_RTOL = 1e-12  # of the largest ||A M y|| / ||y||: below, A M is singular on y
DEPENDENT_RTOL = 1e-10  # of the largest eigenvalue of a Gram matrix: below, vectors are dependent


class Recycled:
    """The recycled space of one matrix and preconditioner.

    Parameters
    ----------
    backend : Backend
    size : int
        Vectors kept; twice as many are stored.
    """

    def __init__(self, backend: Backend, size: int) -> None:
        self.backend, self.size = backend, size
        self.Y: Array | None = None
        self.C: Array | None = None
        self.shrinkage = float("inf")
        self._rates: list[float] = []

    def judge(self, iterations: int, rtol: float) -> None:
        """Take note of a solve of one column; give the space up for good where it does not pay."""
        if iterations <= self.size:
            return  # too easy a right-hand side to say anything
        self._rates.append(iterations / math.log(1.0 / rtol))
        if (
            len(self._rates) == 1 + TRIAL_SOLVES
            and min(self._rates[1:]) > MAX_ITERATIONS_RATIO * self._rates[0]
        ):
            self.Y = self.C = None
            self.size = 0

    def project(self, R: Array) -> tuple[Array, Any]:
        """R without its part in C, and the coefficients of that part."""
        if self.C is None:
            return R, None
        a = self.C.T @ R
        return R - self.C @ a, read_together(self.backend, a)[0]

    def orthogonalize(self, W: Array) -> list[Array]:
        """Take the part in C out of W, in place; its coefficients, if there is a C."""
        if self.C is None:
            return []
        c = self.C.T @ W
        W -= self.C @ c
        return [c]

    def correction(self, start: Any, coupling: list[Any], y: list[Any]) -> Array | float:
        """Y times what the solution has in it: the start, less what V y brings into C."""
        if self.Y is None or start is None:
            return 0.0
        within = start - sum(c @ part for c, part in zip(coupling, y, strict=False))
        return self.Y @ self.backend.coefficients(within)

    def harvest(self, basis: list[Array], coupling: list[Any], raw: list[list[Any]]) -> None:
        """Choose the space anew from itself and a cycle's A M V = C coupling + V+ H."""
        if len(raw) < MIN_CYCLE_RATIO * self.size or self.size == 0:
            return  # there is little to save
        backend, linalg = self.backend, host.linalg
        V = basis[: len(raw)]
        if self.size + sum(v.shape[1] for v in basis) > V[0].shape[0]:
            return  # the space is exhausted, and its last vectors are rounding
        H = _dense(raw, basis)
        inner, G = host.eye(H.shape[1]), H
        if self.Y is not None and self.C is not None:
            k = self.Y.shape[1]
            own, *parts = read_together(backend, self.Y.T @ self.Y, *(v.T @ self.Y for v in V))
            mixed = host.concatenate(parts, axis=0)
            inner = host.block([[own, mixed.T], [mixed, inner]])
            across = host.concatenate(coupling, axis=1)
            G = host.block([[host.eye(k), across], [host.zeros((H.shape[0], k)), H]])
        # Coordinates in which ||y|| is the norm; what Y and V have in common counts once.
        lengths = host.sqrt(host.diagonal(inner))
        values, U = linalg.eigh(inner / lengths / lengths[:, None])
        kept = values > DEPENDENT_RTOL * values[-1]
        unit = U[:, kept] / lengths[:, None] / host.sqrt(values[kept])
        _, sizes, rows = linalg.svd(G @ unit, full_matrices=False)
        last = int((sizes > SINGULAR_RTOL * sizes[0]).sum())  # svd sorts
        found = min(self.size, last)
        smallest = rows[last - found : last, :].T
        shrinkage = float(sizes[last - found : last].sum())
        grown = self.Y is None or found > self.Y.shape[1]
        if not (grown or shrinkage < MAX_SHRINKAGE_RATIO * self.shrinkage):
            return
        P = unit @ smallest
        Q, R = linalg.qr(G @ P)
        P = linalg.solve(R.T, P.T).T  # P R^-1
        held = [] if self.Y is None else [self.Y]
        range_ = [] if self.C is None else [self.C]
        Y = _combination(backend, held + V, P)
        C = _combination(backend, range_ + basis, Q)
        self.C, T = backend.xp.linalg.qr(C)  # of what was C before, rounding adds up
        self.Y = backend.xp.linalg.solve(T.T, Y.T).T  # Y T^-1
        self.shrinkage = shrinkage


def _combination(backend: Backend, blocks: list[Array], P: Any) -> Array:
    total, row = 0.0, 0
    for block in blocks:
        rows = block.shape[1]
        if rows:
            total = total + block @ backend.coefficients(P[row : row + rows, :])
        row += rows
    return total


def _dense(raw: list[list[Any]], basis: list[Array]) -> Any:
    """The block upper Hessenberg matrix of its columns."""
    rows = sum(v.shape[1] for v in basis[: len(raw) + 1])
    columns = []
    for column in raw:
        stacked = host.concatenate(column, axis=0)
        below = host.zeros((rows - stacked.shape[0], stacked.shape[1]))
        columns.append(host.concatenate([stacked, below], axis=0))
    return host.concatenate(columns, axis=1)
