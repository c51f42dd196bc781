"""Multifrontal factorization whose solves are dense products of many fronts at once.

Nested dissection (`dissection`) splits the unknowns into fronts. With 1 a front's own unknowns and
2 those of its ancestors that it touches, eliminating it is

    D = F21 F11⁻¹,   E = F11⁻¹ F12,   F22 - D F12 is added to the ancestors' fronts,

and a solve with A is, over the fronts from the leaves to the roots and back,

    y2 -= D y1,   then   x1 = F11⁻¹ y1 - E x2.

(Duff and Reid, The multifrontal solution of indefinite sparse linear equations, 1983.) Fronts of
one height do not depend on each other: those of like size are padded to one size and are one
batched product, on any array library. The set-up is on the host. Pivots are sought inside F11
only; what that costs in accuracy, the true residual shows.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host, host
from ...arrays.memory import reserve
from ...arrays.sparse import canonical, sparse_on_host
from .fronts import Fronts, fronts_of

WIDEST = 32  # columns that are solved for at once
UNSURE = 100.0  # times rounding, below which the sign of an eigenvalue of a front is not known
ROWS = 256  # of an update that are added at once


@dataclass(frozen=True)
class Batch:
    """Like fronts of one height, padded to k own unknowns and m of their ancestors.

    Attributes
    ----------
    inverse, lower, upper : (fronts, k, k), (fronts, m, k) and (fronts, k, m) arrays
        F11⁻¹, D and E.
    """

    inverse: Array
    lower: Array
    upper: Array


@dataclass(frozen=True)
class Level:
    """The fronts of one height.

    Attributes
    ----------
    own : slice
        Places of their own unknowns, batch after batch and front after front.
    incoming : what multiplies by a sparse matrix, (own, updates sent from below), or None
        Adds up what descendants send.
    above : (updates of this level,) array of int
        Places of the ancestors' unknowns that each update is for.
    batches : list of Batch
    """

    own: slice
    incoming: Any
    above: Array
    batches: list[Batch]


class Multifrontal:
    """Factors of a sparse matrix.

    Parameters
    ----------
    A : sparse matrix, (N, N)
    backend : Backend
        Where the solves are to be.
    symmetric : bool
        Whether A' = A: half of the factors is then a view of the other.
    most : float
        Operations of the factorization that are worth it.

    Raises
    ------
    ArithmeticError
        If the graph has no small separators.
    ZeroDivisionError
        Which is one, if a front is singular (A may be regular nevertheless).
    """

    solves_adjoint = True

    def __init__(self, A: Any, backend: Backend, symmetric: bool, most: float = math.inf) -> None:
        self.backend, self.symmetric = backend, symmetric
        matrix = canonical(sparse_on_host(A))
        fronts = fronts_of(matrix, most)
        sides = 1 if symmetric else 2
        reserve(
            backend,
            sum(f * k * (k + sides * m) for _, f, k, m in fronts.shapes),
            "a multifrontal factorization",
            "use an iterative solver, mfdeq.Krylov(preconditioner=mfdeq.AMG())",
        )
        self.order = _indices(backend, fronts.order)
        self.position = _indices(backend, fronts.position)
        self.updates = fronts.updates
        self._fronts = replace(fronts, entries=[])  # of all, those take the most memory
        self._spare: list[Array] = []
        try:
            self.levels = list(_factorized(matrix, fronts, backend, symmetric))
        except host.linalg.LinAlgError as error:
            raise ZeroDivisionError("a front is singular") from error

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        sides = 1 if self.symmetric else 2
        batches = [batch for level in self.levels for batch in level.batches]
        entries = sum(_size(batch.inverse) + sides * _size(batch.lower) for batch in batches)
        return self.backend.itemsize * entries

    def negative_pivots(self) -> int | None:
        """Negative eigenvalues of a symmetric A; None where a front is too near to singular.

        Those of the pivots F11 together, by Sylvester's law.
        """
        count, eps = 0, self.backend.eps
        for level in self.levels:
            for batch in level.batches:
                inverse = array_on_host(batch.inverse)
                values = host.linalg.eigvalsh(0.5 * (inverse + inverse.transpose(0, 2, 1)))
                size = abs(values).max(axis=1, keepdims=True)
                unsure = (abs(values) <= UNSURE * eps * size) & (values != 0.0)  # 0 is padding
                if bool(unsure.any()):
                    return None
                count += int((values < 0.0).sum())
        return count

    def log_determinant(self) -> float:
        """log |det A| of a regular A: that of the pivots F11 together."""
        return -sum(
            float(host.linalg.slogdet(_unpadded(array_on_host(batch.inverse)))[1].sum())
            for level in self.levels
            for batch in level.batches
        )

    def root(self, white: Array) -> Array:
        """G w of (N,) and (N, c), G G' = A⁻¹ of a definite A: w white noise, of covariance A⁻¹.

        From the roots to the leaves, x1 = chol(F11⁻¹) w1 - E x2: half of a solve.
        """
        xp, c = self.backend.xp, math.prod(white.shape[1:])
        x = xp.take(xp.reshape(white, (-1, c)), self.order, axis=0)
        for level, roots in zip(reversed(self.levels), reversed(self._roots), strict=True):
            start, end = level.own.start, 0
            for batch, root in zip(level.batches, roots, strict=True):
                f, m, k = batch.lower.shape
                here = slice(start, start + f * k)
                above = xp.take(x, level.above[end : end + f * m], axis=0)
                own = root @ xp.reshape(x[here, :], (f, k, c))
                own -= batch.upper @ xp.reshape(above, (f, m, c))
                x[here, :] = xp.reshape(own, (f * k, c))
                start, end = here.stop, end + f * m
        return xp.reshape(xp.take(x, self.position, axis=0), white.shape)

    @functools.cached_property
    def _roots(self) -> list[list[Array]]:
        cholesky = self.backend.xp.linalg.cholesky
        backend = self.backend
        return [
            [
                cholesky(backend.from_host(_unpadded(array_on_host(b.inverse))))
                for b in level.batches
            ]
            for level in self.levels
        ]

    def inverse_diagonal(self) -> Array:
        """The diagonal of A⁻¹ of a symmetric A, (N,), exactly.

        With Z = A⁻¹, from the roots to the leaves: Z12 = -E Z22 and Z11 = F11⁻¹ + E Z22 E', Z22
        being rows and columns of what the parent has (Takahashi, Fagan and Chen 1973).
        """
        fronts, backend = self._fronts, self.backend
        found = host.zeros(self.order.shape[0], dtype=backend.dtype)
        known: dict[int, Any] = {}  # Z over all unknowns of a front, by its number
        waiting = host.bincount([p for p in fronts.parent if p >= 0], minlength=len(fronts.parent))
        for level, pattern in zip(reversed(self.levels), reversed(fronts.levels), strict=True):
            start = level.own.start
            for batch, b in zip(level.batches, pattern.batches, strict=True):
                first, f, k, m = fronts.shapes[b]
                inverse, E = array_on_host(batch.inverse), array_on_host(batch.upper)
                Z = host.zeros((f, k + m, k + m), dtype=backend.dtype)
                for i in range(f):
                    at, parent = fronts.in_parent[first + i], fronts.parent[first + i]
                    if parent < 0:
                        continue
                    Z[i, k : k + len(at), k : k + len(at)] = known[parent][at[:, None], at]
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        del known[parent]
                Z[:, :k, k:] = -E @ Z[:, k:, k:]
                Z[:, k:, :k] = Z[:, :k, k:].transpose(0, 2, 1)
                Z[:, :k, :k] = inverse - Z[:, :k, k:] @ E.transpose(0, 2, 1)
                known |= {first + i: Z[i] for i in range(f) if waiting[first + i]}
                found[start : start + f * k] = host.diagonal(Z[:, :k, :k], axis1=1, axis2=2).ravel()
                start += f * k
        return backend.xp.take(backend.from_host(found), self.position, axis=0)

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """A⁻¹ b or A⁻ᵀ b, of (N,) and (N, c)."""
        xp = self.backend.xp
        if b.ndim == 1:
            return self._solve(b[:, None], adjoint)[:, 0]
        if b.shape[1] <= WIDEST:
            return self._solve(b, adjoint)
        starts = range(0, b.shape[1], WIDEST)
        return xp.concat([self._solve(b[:, j : j + WIDEST], adjoint) for j in starts], axis=1)

    def _solve(self, b: Array, adjoint: bool) -> Array:
        xp, (n, c) = self.backend.xp, b.shape
        levels = self.levels if self.symmetric or not adjoint else self._transposed()
        places = self.order.shape[0]
        # Kept for the next solve: fresh memory costs more than what is computed in it. Taken out
        # meanwhile, so that another thread takes its own.
        spare = self._spare.pop() if self._spare else self.backend.zeros(0)
        if spare.shape[0] < (needed := (n + places + self.updates) * c):
            spare = self.backend.zeros(needed)
        given = xp.reshape(spare[: n * c], (n, c))
        x = xp.reshape(spare[n * c : (n + places) * c], (places, c))
        sent = xp.reshape(spare[(n + places) * c : needed], (self.updates, c))
        given[:, :] = b  # whatever its strides
        end = 0
        for level in levels:
            x[level.own, :] = xp.take(given, self.order[level.own], axis=0)
            if level.incoming is not None:
                x[level.own, :] -= level.incoming @ sent[:end, :]
            start = level.own.start
            for batch in level.batches:
                f, m, k = batch.lower.shape
                own = xp.reshape(x[start : start + f * k, :], (f, k, c))
                sent[end : end + f * m, :] = xp.reshape(batch.lower @ own, (f * m, c))
                start, end = start + f * k, end + f * m
        for level in reversed(levels):
            start, end = level.own.start, 0
            for batch in level.batches:
                f, m, k = batch.lower.shape
                here = slice(start, start + f * k)
                above = xp.take(x, level.above[end : end + f * m], axis=0)
                own = batch.inverse @ xp.reshape(x[here, :], (f, k, c))
                own -= batch.upper @ xp.reshape(above, (f, m, c))
                x[here, :] = xp.reshape(own, (f * k, c))
                start, end = here.stop, end + f * m
        x = xp.take(x, self.position, axis=0)
        self._spare[:] = [spare]
        return x

    def _transposed(self) -> list[Level]:
        flip = self.backend.xp.matrix_transpose
        return [
            replace(
                level,
                batches=[
                    Batch(flip(batch.inverse), flip(batch.upper), flip(batch.lower))
                    for batch in level.batches
                ],
            )
            for level in self.levels
        ]


def _factorized(matrix: Any, fronts: Fronts, backend: Backend, symmetric: bool) -> Any:
    """The levels, from the leaves to the roots."""
    heap = _Assembly(fronts, matrix)
    transposed = backend.xp.matrix_transpose
    for level in fronts.levels:
        batches = []
        for b in level.batches:
            _, _, k, m = fronts.shapes[b]
            F = heap.pop(b)
            inverse = host.linalg.inv(F[:, :k, :k])
            front, row = fronts.padding(b)
            inverse[front, row, row] = 0.0
            upper = inverse @ F[:, :k, k:]
            if m:
                heap.send(b, F[:, k:, k:] - F[:, k:, :k] @ upper)
            lower = None if symmetric else backend.from_host(F[:, k:, :k] @ inverse)
            upper = backend.from_host(upper)
            lower = transposed(upper) if symmetric else lower
            batches.append(Batch(backend.from_host(inverse), lower, upper))
        incoming = level.incoming
        if incoming is not None:
            there = backend.sparse.csr_matrix(incoming.astype(matrix.dtype))
            incoming = backend.kernels.products(there)
        yield Level(level.own, incoming, _indices(backend, level.above), batches)


class _Assembly:
    """Fronts that entries of A and updates of descendants are added up in."""

    def __init__(self, fronts: Fronts, matrix: Any) -> None:
        self.fronts, self.data = fronts, matrix.data
        self.waiting: dict[int, Any] = {}

    def pop(self, b: int) -> Any:
        """The assembled fronts of a batch; the diagonal of padding is 1."""
        F = self._of(b)
        del self.waiting[b]
        entries, places = self.fronts.entries[b]
        F.reshape(-1)[places] += self.data[entries]
        front, row = self.fronts.padding(b)
        F[front, row, row] = 1.0
        return F

    def send(self, b: int, updates: Any) -> None:
        """Add the updates of a batch to the parents' fronts."""
        fronts = self.fronts
        for child, update in enumerate(updates, fronts.shapes[b][0]):
            parent, at = fronts.parent[child], fronts.in_parent[child]
            if parent < 0:
                continue
            F = self._of(fronts.batch[parent])[fronts.number[parent]]
            side, m = F.shape[0], at.shape[0]
            for i in range(0, m, ROWS):  # the indices of all rows would take as much as F
                rows = at[i : i + ROWS, None] * side + at
                host.add.at(
                    F.reshape(-1), rows.reshape(-1), update[i : min(i + ROWS, m), :m].reshape(-1)
                )

    def _of(self, b: int) -> Any:
        if b not in self.waiting:
            _, f, k, m = self.fronts.shapes[b]
            self.waiting[b] = host.zeros((f, k + m, k + m), dtype=self.data.dtype)
        return self.waiting[b]


def _unpadded(inverse: Any) -> Any:
    """Inverses of pivots with 1 on the diagonal of padding."""
    own = inverse.copy()
    front, row = host.nonzero(host.diagonal(own, axis1=1, axis2=2) == 0.0)
    own[front, row, row] = 1.0
    return own


def _indices(backend: Backend, of_host: Any) -> Array:
    return backend.xp.asarray(of_host, device=backend.device)


def _size(x: Array) -> int:
    return math.prod(x.shape)
