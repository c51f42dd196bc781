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

from ..arrays.backend import Array, Backend, array_on_host, host
from ..operators.operator import Matrix, Operator


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

    def balanced(self, b: Array) -> Array:
        """Return b without its part along W, so that A x = b has a solution."""
        W = self.left
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
