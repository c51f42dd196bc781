"""Singular matrices whose null vectors are known, and the regular matrices next to them.

Where A is singular, W'A = 0 and A V = 0, systems A x = b with W'b = 0 have solutions, which differ
by multiples of V. A factorization needs a regular matrix: `PinnedMatrix` differs from A in a few
entries, and its solution is one of them. Krylov methods find one with A itself [1]_, and multigrid
then has the null vectors on all levels: in place of the inverse of the coarsest matrix, which is
singular as well, it has a pseudo-inverse. Nothing is projected in an iteration.

References
----------
.. [1] E. F. Kaasschieter, Preconditioned conjugate gradients for solving singular systems,
   J. Comput. Appl. Math. 24 (1988).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import scipy.linalg

from ..arrays.backend import Array, Backend, array_on_host, host, is_dense
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator

MAX_DEFECT_ROUNDINGS = 1e4  # |A V| beside |A| |V|, in rounding units, where V is a null space


@dataclass(frozen=True)
class NullSpace:
    """Null vectors of a singular matrix and of its adjoint.

    Attributes
    ----------
    left : (N, m) array
        W, with W'A = 0.
    right : (N, m) array or None
        V, with A V = 0; None if it is not known.
    """

    left: Array
    right: Array | None

    def balanced(self, b: Array, adjoint: bool = False) -> Array:
        """Return b without its part along W, so that A x = b has a solution; or along V."""
        W = self.right if adjoint else self.left
        if W is None:
            return b
        inner = array_on_host(W.T @ W).astype("float64")
        small = Backend.of(W).coefficients(host.linalg.inv(inner).astype(array_on_host(W).dtype))
        return b - W @ (small @ (W.T @ b))

    def candidates(self) -> Array | None:
        """Return vectors that coarse levels must represent, (N,) or (N, m); None for constants.

        Null vectors of different unknowns, such as one for each connected component, are added, so
        that there is one vector. Unknowns in none of them get the mean of the others.
        """
        V = self.right
        if V is None:
            return None
        xp = Backend.of(V).xp
        size = xp.abs(V)
        if bool(xp.any(xp.sum(xp.astype(size > 0.0, V.dtype), axis=1) > 1.0)):
            return V
        lengths = xp.max(size, axis=0)
        vector = xp.sum(V / lengths, axis=1)
        covered = vector != 0.0
        typical = xp.sum(xp.abs(vector)) / xp.sum(xp.astype(covered, V.dtype))
        vector = xp.where(covered, vector, typical)
        return None if bool(xp.all(vector == vector[0])) else vector


def are_null(A: Operator, X: Array) -> bool:
    """Return whether the columns of X are null vectors of A, up to rounding in each equation."""
    xp, limit = A.backend.xp, MAX_DEFECT_ROUNDINGS * A.backend.eps
    return all(
        bool(xp.all(xp.abs(A._apply(x)) <= limit * A.abs_apply(x)))
        for x in (X[:, k] for k in range(X.shape[1]))
    )


def pivots(basis: Any) -> list[int]:
    """Return as many rows of an (N, m) array on the host as it has columns, which are independent.

    They have large entries.
    """
    columns = basis / host.linalg.norm(basis, axis=0)
    _, _, order = scipy.linalg.qr(columns.T, mode="economic", pivoting=True)
    return [int(i) for i in order[: basis.shape[1]]]


class PinnedMatrix(Matrix):
    """A regular matrix that differs from a singular one in a few entries.

    Parameters
    ----------
    backend : Backend
    array : sparse matrix, (N, N)
        The regular matrix.
    singular : Operator, (N, N)
        The singular one, with its `null_space`.
    """

    def __init__(self, backend: Backend, array: Any, singular: Operator) -> None:
        super().__init__(backend, array)
        self.singular, self.scales = singular, singular.scales

    @classmethod
    def of(cls, A: Operator, left: Array, right: Array) -> PinnedMatrix:
        """Pin a sparse matrix, or a dense one, with these null vectors."""
        backend, n = A.backend, A.shape[0]
        A.null_space = NullSpace(left, right)
        rows, columns = (pivots(array_on_host(x).astype("float64")) for x in (left, right))
        sums = array_on_host(A.abs_apply(backend.zeros(n) + 1.0))
        sizes = [float(sums[i]) or 1.0 for i in rows]
        update = host.zeros((n, n)) if is_dense(A.array) else None
        if update is not None:
            update[rows, columns] = sizes
            return cls(backend, A.array + backend.from_host(update), A)
        sizes, rows, columns = (
            backend.xp.asarray(x, device=backend.device) for x in (sizes, rows, columns)
        )
        pins = backend.sparse.csr_matrix(
            (backend.xp.asarray(sizes, dtype=backend.dtype), (rows, columns)), shape=(n, n)
        )
        return cls(backend, (A.array + pins).tocsr(), A)
