"""A space kept from solve to solve: the directions that A M shrinks most (GCRO-DR).

Kept are Y and C with A M Y = C, C orthonormal. A solve starts from the best of that space and
searches orthogonally to C (Parks et al. 2006); the space is chosen anew after each cycle as the y
with the smallest ||A M y|| / ||y|| in it and the Krylov space together: real arithmetic for any A.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays import Array, Backend

TRIALS = 4  # solves with a space, after which it must have paid
WORTH = 0.8  # of the iterations without it, that a solve with it may take at most
LONG = 1.2  # of the size of the space, that a cycle must be for its choice to be worth it
SETTLED = 0.9  # a new space whose shrinkage is not below this part of the old one's is not taken
SINGULAR = 1e-12  # of the largest ||A M y|| / ||y||, below which A M is singular on y
COMMON = 1e-10  # of the largest eigenvalue of a Gram matrix, below which vectors are dependent


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
        if len(self._rates) == 1 + TRIALS and min(self._rates[1:]) > WORTH * self._rates[0]:
            self.Y = self.C = None
            self.size = 0

    def project(self, R: Array) -> tuple[Array, Array | None]:
        """R without its part in C, and the coefficients of that part."""
        if self.C is None:
            return R, None
        a = self.C.T @ R
        return R - self.C @ a, a

    def orthogonalize(self, W: Array) -> Array | None:
        """Take the part in C out of W, in place; its coefficients."""
        if self.C is None:
            return None
        c = self.C.T @ W
        W -= self.C @ c
        return c

    def correction(
        self, start: Array | None, coupling: list[Array], y: list[Array]
    ) -> Array | float:
        """Y times what the solution has in it: the start, less what V y brings into C."""
        if self.Y is None or start is None:
            return 0.0
        return self.Y @ (start - sum(c @ part for c, part in zip(coupling, y, strict=False)))

    def harvest(self, basis: list[Array], coupling: list[Array], raw: list[list[Array]]) -> None:
        """Choose the space anew from itself and a cycle's A M V = C coupling + V+ H."""
        if len(raw) < LONG * self.size or self.size == 0:
            return  # there is little to save
        backend = self.backend
        xp, linalg = backend.xp, backend.xp.linalg
        V = basis[: len(raw)]
        if self.size + sum(v.shape[1] for v in basis) > V[0].shape[0]:
            return  # the space is exhausted, and its last vectors are rounding
        H = _dense(backend, raw, basis)
        inner = xp.astype(backend.eye(H.shape[1], H.shape[1]), backend.dtype)
        G = H
        if self.Y is not None and self.C is not None:
            k = self.Y.shape[1]
            mixed = xp.concat([self.Y.T @ v for v in V], axis=1)
            inner = _blocks(xp, self.Y.T @ self.Y, mixed, mixed.T, inner)
            zeros = backend.zeros(H.shape[0], k)
            G = _blocks(xp, backend.eye(k, k), xp.concat(coupling, axis=1), zeros, H)
        # Coordinates in which ||y|| is the norm; what Y and V have in common counts once.
        lengths = xp.sqrt(linalg.diagonal(inner))
        values, U = linalg.eigh(inner / lengths / lengths[:, None])
        common = int(xp.sum(xp.astype(values <= COMMON * values[-1], xp.int64)))  # eigh sorts
        unit = U[:, common:] / lengths[:, None] / xp.sqrt(values[common:])
        _, sizes, rows = linalg.svd(G @ unit, full_matrices=False)
        last = int(xp.sum(xp.astype(sizes > SINGULAR * sizes[0], xp.int64)))  # svd sorts
        kept = min(self.size, last)
        smallest = rows[last - kept : last, :].T
        shrinkage = float(xp.sum(sizes[last - kept : last]))
        grown = self.Y is None or kept > self.Y.shape[1]
        if not (grown or shrinkage < SETTLED * self.shrinkage):
            return
        P = unit @ smallest
        Q, R = linalg.qr(G @ P)
        P = linalg.solve(R.T, P.T).T  # P R^-1
        held = [] if self.Y is None else [self.Y]
        range_ = [] if self.C is None else [self.C]
        Y, C = _combination(held + V, P), _combination(range_ + basis, Q)
        self.C, T = linalg.qr(C)  # of what was C before, rounding adds up
        self.Y = linalg.solve(T.T, Y.T).T  # Y T^-1
        self.shrinkage = shrinkage


def _combination(blocks: list[Array], P: Array) -> Array:
    total, row = 0.0, 0
    for block in blocks:
        rows = block.shape[1]
        if rows:
            total = total + block @ P[row : row + rows, :]
        row += rows
    return total


def _dense(backend: Backend, raw: list[list[Array]], basis: list[Array]) -> Array:
    """The block upper Hessenberg matrix of its columns."""
    xp = backend.xp
    rows = sum(v.shape[1] for v in basis[: len(raw) + 1])
    columns = []
    for column in raw:
        stacked = xp.concat(column, axis=0)
        below = backend.zeros(rows - stacked.shape[0], stacked.shape[1])
        columns.append(xp.concat([stacked, below], axis=0))
    return xp.concat(columns, axis=1)


def _blocks(xp: Any, a: Array, b: Array, c: Array, d: Array) -> Array:
    return xp.concat([xp.concat([a, b], axis=1), xp.concat([c, d], axis=1)], axis=0)
