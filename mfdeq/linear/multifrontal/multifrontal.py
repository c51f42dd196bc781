"""Multifrontal factorization, with solves that are dense products of many fronts at once.

Nested dissection splits the unknowns into fronts (`dissection`, `fronts`). With index 1 for a
front's own unknowns and 2 for those of its ancestors that it updates, eliminating the front is

    D = F21 F11⁻¹,   E = F11⁻¹ F12,   F22 - D F12 is added to the parent's front,

and a solve with A goes over the fronts from the leaves to the roots and back [1]_:

    y2 -= D y1,   then   x1 = F11⁻¹ y1 - E x2.

Fronts of one height are independent: those of similar size are padded to one size and form one
batched product, on any array library. The set-up runs on the host. Rows are exchanged only within
F11; the true residual shows the loss of accuracy.

References
----------
.. [1] I. S. Duff and J. K. Reid, "The multifrontal solution of indefinite sparse symmetric linear
       equations", ACM Transactions on Mathematical Software 9(3), 302-325, 1983.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host, host
from ...arrays.memory import reserve
from ...arrays.sparse import sparse_on_host, to_canonical_format
from ...locks import cached_property
from .elimination import eliminate
from .fronts import Fronts, cached_fronts

MAX_COLUMNS = 32  # right-hand sides that are solved for at once
# Relative size of an eigenvalue of a front, in units of eps, below which its sign is unknown.
SIGN_ROUNDING_FACTOR = 100.0


@dataclass(frozen=True)
class Batch:
    """The factors of fronts of one height, padded to k own unknowns and m updated ones.

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
    incoming : sparse product, (own unknowns, updates sent from the levels below), or None
        Adds the updates from the descendants.
    above : (updates of this level,) array of int
        Places of the ancestors' unknowns that each update goes to.
    batches : list of Batch
    """

    own: slice
    incoming: Any
    above: Array
    batches: list[Batch]


class Multifrontal:
    """Multifrontal factors of a sparse matrix.

    Parameters
    ----------
    A : sparse matrix, (N, N)
        Of scipy or cupyx.
    backend : Backend
        The array library and device that solves run on.
    symmetric : bool
        Whether A' = A. Half of the factors is then a view of the other half.
    max_operations : float
        Number of operations above which the factorization is not worth its cost.

    Raises
    ------
    ArithmeticError
        If the graph has no small separators, or the factorization takes too many operations.
    ZeroDivisionError
        If a front is singular, although A may be regular. This is an ArithmeticError, too.
    OutOfMemoryError
        If the factors cannot fit in memory.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from mfdeq.arrays.backend import Backend
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(60, 60)).tocsr()
    >>> factors = Multifrontal(A, Backend.of(A.data), symmetric=True)
    >>> b = np.ones(60)
    >>> np.allclose(A @ factors.solve(b), b)
    True
    >>> factors.negative_pivots()
    0
    >>> round(float(np.exp(factors.log_determinant())), 6)
    61.0
    """

    solves_adjoint = True

    def __init__(
        self, A: Any, backend: Backend, symmetric: bool, max_operations: float = math.inf
    ) -> None:
        self.backend, self.symmetric = backend, symmetric
        matrix = to_canonical_format(sparse_on_host(A))
        fronts = cached_fronts(matrix, max_operations)
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
        self._fronts = fronts
        self._work: list[Array] = []  # the work array of the last solve, for the next one
        try:
            self.levels = list(_factorize(matrix, fronts, backend, symmetric))
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
        """Count the negative eigenvalues of a symmetric A; None if a front is nearly singular.

        By Sylvester's law of inertia, the blocks F11 have the same number of them in total.
        """
        count, eps = 0, self.backend.eps
        for level in self.levels:
            for batch in level.batches:
                inverse = array_on_host(batch.inverse)
                values = host.linalg.eigvalsh(0.5 * (inverse + inverse.transpose(0, 2, 1)))
                size = abs(values).max(axis=1, keepdims=True)
                near_zero = abs(values) <= SIGN_ROUNDING_FACTOR * eps * size
                if bool((near_zero & (values != 0.0)).any()):  # exact zeros are padding
                    return None
                count += int((values < 0.0).sum())
        return count

    def log_determinant(self) -> float:
        """Return log |det A| of a regular A, the sum over the blocks F11."""
        return -sum(
            float(host.linalg.slogdet(_with_padding_one(array_on_host(batch.inverse)))[1].sum())
            for level in self.levels
            for batch in level.batches
        )

    def apply_inverse_root(self, white: Array) -> Array:
        """Return G w for (N,) or (N, c) arrays w, where G G' = A⁻¹ and A is positive definite.

        For white noise w, the result has the covariance A⁻¹. From the roots to the leaves,
        x1 = chol(F11⁻¹) w1 - E x2, which is half of a solve.
        """
        xp, c = self.backend.xp, math.prod(white.shape[1:])
        x = xp.take(xp.reshape(white, (-1, c)), self.order, axis=0)
        for level, roots in zip(reversed(self.levels), reversed(self._inverse_roots), strict=True):
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

    @cached_property
    def _inverse_roots(self) -> list[list[Array]]:
        """The Cholesky factors of all F11⁻¹, by level and batch."""
        cholesky = self.backend.xp.linalg.cholesky
        backend = self.backend
        return [
            [
                cholesky(backend.from_host(_with_padding_one(array_on_host(b.inverse))))
                for b in level.batches
            ]
            for level in self.levels
        ]

    def inverse_diagonal(self) -> Array:
        """Return the diagonal of A⁻¹ of a symmetric A, (N,), exactly.

        With Z = A⁻¹, from the roots to the leaves: Z12 = -E Z22 and Z11 = F11⁻¹ + E Z22 E', where
        Z22 consists of rows and columns of the parent's Z (K. Takahashi, J. Fagan and M.-S. Chen,
        "Formation of a sparse bus impedance matrix and its application to short circuit study",
        Power Industry Computer Applications Conference, 1973).
        """
        fronts, backend = self._fronts, self.backend
        diagonal = host.zeros(self.order.shape[0], dtype=backend.dtype)
        # Z over all unknowns of a front, by its number, until its last child has used it.
        Z_of: dict[int, Any] = {}
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
                    Z[i, k : k + len(at), k : k + len(at)] = Z_of[parent][at[:, None], at]
                    waiting[parent] -= 1
                    if not waiting[parent]:
                        del Z_of[parent]
                Z[:, :k, k:] = -E @ Z[:, k:, k:]
                Z[:, k:, :k] = Z[:, :k, k:].transpose(0, 2, 1)
                Z[:, :k, :k] = inverse - Z[:, :k, k:] @ E.transpose(0, 2, 1)
                Z_of |= {first + i: Z[i] for i in range(f) if waiting[first + i]}
                own = host.diagonal(Z[:, :k, :k], axis1=1, axis2=2)
                diagonal[start : start + f * k] = own.ravel()
                start += f * k
        return backend.xp.take(backend.from_host(diagonal), self.position, axis=0)

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b, or A⁻ᵀ b if `adjoint`, for (N,) and (N, c) arrays b."""
        xp = self.backend.xp
        if b.ndim == 1:
            return self._solve(b[:, None], adjoint)[:, 0]
        if b.shape[1] <= MAX_COLUMNS:
            return self._solve(b, adjoint)
        starts = range(0, b.shape[1], MAX_COLUMNS)
        return xp.concat([self._solve(b[:, j : j + MAX_COLUMNS], adjoint) for j in starts], axis=1)

    def _solve(self, b: Array, adjoint: bool) -> Array:
        xp, (n, c) = self.backend.xp, b.shape
        levels = self.levels if self.symmetric or not adjoint else self._transposed()
        places = self.order.shape[0]
        # The work array is reused, because allocating memory costs more than computing in it. It is
        # removed from the list meanwhile, so that another thread allocates its own.
        try:
            work = self._work.pop()
        except IndexError:
            work = self.backend.zeros(0)
        if work.shape[0] < (needed := (n + places + self.updates) * c):
            work = self.backend.zeros(needed)
        rhs = xp.reshape(work[: n * c], (n, c))
        x = xp.reshape(work[n * c : (n + places) * c], (places, c))
        sent = xp.reshape(work[(n + places) * c : needed], (self.updates, c))
        rhs[:, :] = b  # contiguous, whatever the strides of b
        end = 0
        for level in levels:
            x[level.own, :] = xp.take(rhs, self.order[level.own], axis=0)
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
        self._work[:] = [work]
        return x

    def _transposed(self) -> list[Level]:
        """Return the levels of the factors of A'."""
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


def _factorize(matrix: Any, fronts: Fronts, backend: Backend, symmetric: bool) -> Iterator[Level]:
    """Yield the factors level by level, from the leaves to the roots."""
    flip = backend.xp.matrix_transpose
    eliminated = eliminate(matrix, fronts, symmetric)
    for level in fronts.levels:
        batches = []
        for inverse, lower, upper in itertools.islice(eliminated, len(level.batches)):
            inverse, upper = backend.from_host(inverse), backend.from_host(upper)
            lower = flip(upper) if symmetric else backend.from_host(lower)
            batches.append(Batch(inverse, lower, upper))
        incoming = level.incoming
        if incoming is not None:
            on_device = backend.sparse.csr_matrix(incoming.astype(matrix.dtype))
            incoming = backend.kernels.products(on_device)
        yield Level(level.own, incoming, _indices(backend, level.above), batches)


def _with_padding_one(inverse: Any) -> Any:
    """Return a copy of inverses of F11, with 1 on the diagonal of padding."""
    own = inverse.copy()
    front, row = host.nonzero(host.diagonal(own, axis1=1, axis2=2) == 0.0)
    own[front, row, row] = 1.0
    return own


def _indices(backend: Backend, host_indices: Any) -> Array:
    return backend.xp.asarray(host_indices, device=backend.device)


def _size(x: Array) -> int:
    return math.prod(x.shape)
