"""Multifrontal factorization of symmetric indefinite matrices, with pivots that are delayed.

As in `multifrontal`, nested dissection splits the unknowns into fronts. With the spectral
decomposition F11 = Q Λ Q' of a front's own block, the new unknowns y = Q' x1 have the pivots Λ and
the couplings C = F21 Q with the unknowns of the ancestors. Eliminating y_j adds -c_j c_j' / λ_j to
F22. Where λ_j is small beside c_j that would destroy F22: such a y_j becomes an unknown of the
parent's front instead, where it meets what it is coupled with [1]_. The matrix may thus be singular
on the unknowns of a front. By Sylvester's law the pivots have the signs of the eigenvalues.

References
----------
.. [1] I. S. Duff and J. K. Reid, "The multifrontal solution of indefinite sparse symmetric linear
       equations", ACM Transactions on Mathematical Software 9(3), 302-325, 1983.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arrays.backend import Array, Backend, array_on_host, host
from ...arrays.memory import reserve
from ...arrays.sparse import sparse_on_host, to_canonical_format
from .fronts import cut_into_fronts

MAX_LEAF_SIZE = 64  # unknowns of a part that is not cut further
MAX_FRONT_SIZE = 4_000  # unknowns whose spectral decomposition takes less than a minute
MIN_PIVOT_RATIO = 0.01  # least |λ_j|, over the largest entry of c_j
# Pivots below this multiple of eps times the largest entry of A or of their front are delayed; in a
# root, their signs are unknown.
SIGN_ROUNDING_FACTOR = 100.0


@dataclass(frozen=True)
class Front:
    """The factors of one front.

    Attributes
    ----------
    own, border : arrays of int
        The unknowns of the front, and those of its ancestors that it updates.
    children : list of int
        The fronts whose delayed unknowns follow the own ones, in this order.
    basis, delayed : (unknowns, pivots) and (unknowns, delayed pivots) arrays
        The columns of Q that are eliminated and those that are delayed.
    pivots : (pivots,) array
    lower : (border, pivots) array
        C / Λ.
    """

    own: Any
    border: Any
    children: list[int]
    basis: Any
    delayed: Any
    pivots: Any
    lower: Any


class PivotedFronts:
    """Factors of a sparse symmetric matrix, which may be indefinite, on the host.

    They are computed in float64, whatever the dtype of the matrix.

    Parameters
    ----------
    A : sparse matrix, (N, N)
        Of scipy or cupyx, scaled such that its rows are of similar size.
    backend : Backend
        The array library and device of right-hand sides.

    Raises
    ------
    ArithmeticError
        If the graph has no small separators.
    ZeroDivisionError
        If A is singular. This is an ArithmeticError, too.
    OutOfMemoryError
        If the factors cannot fit in memory.

    Examples
    --------
    A matrix of zeros on the diagonal:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from mfdeq.arrays.backend import Backend
    >>> A = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(300, 300)).tocsr()
    >>> factors = PivotedFronts(A, Backend.of(A.data))
    >>> b = np.ones(300)
    >>> np.allclose(A @ factors.solve(b), b)
    True
    >>> factors.negative_pivots()
    150
    """

    solves_adjoint = True

    def __init__(self, A: Any, backend: Backend) -> None:
        self.backend = backend
        matrix = to_canonical_format(sparse_on_host(A).astype("float64"))
        layout = cut_into_fronts(matrix, MAX_LEAF_SIZE, MAX_FRONT_SIZE)
        k, m = layout.sizes, layout.updated_sizes
        # The basis has k² entries, and the parents hold m² until the children are added.
        reserve(
            backend,
            float((k * (k + m)).sum() + (k + m).max() ** 2),
            "a multifrontal factorization",
            "use an iterative solver, mfdeq.Krylov(preconditioner=mfdeq.AMG())",
        )
        self.certain = True  # whether the signs of all pivots are known
        self.fronts: list[Front] = []
        self._factorize(matrix, layout)

    def _factorize(self, matrix: Any, layout: Any) -> None:
        """Eliminate the fronts from the leaves to the roots."""
        fronts, eps = len(layout.sizes), float(host.finfo("float64").eps)
        largest = float(abs(matrix).max())
        found: list[Any] = [None] * fronts
        children: list[list[int]] = [[] for _ in range(fronts)]
        updates: dict[int, Any] = {}  # of each front whose parent has not been reached
        place = host.empty(matrix.shape[0], dtype=host.int64)
        for f in range(fronts - 1, -1, -1):  # parents come before their children
            own, border = layout.own[f], layout.updated[f]
            delayed = [found[child].delayed.shape[1] for child in children[f]]
            k, m = own.shape[0] + sum(delayed), border.shape[0]
            if k > MAX_FRONT_SIZE:
                raise ArithmeticError(f"{k} pivots of a front have to be exchanged together")
            place[own], place[border] = host.arange(own.shape[0]), k + host.arange(m)
            F = _assemble(matrix, own, place, layout.front, f, k + m)
            start = own.shape[0]
            for child, count in zip(children[f], delayed, strict=True):
                at = host.concatenate(
                    [start + host.arange(count), place[found[child].border]]
                ).astype(host.int64)
                F[host.ix_(at, at)] += updates.pop(child)
                start += count
            values, Q = host.linalg.eigh(F[:k, :k])
            C = F[k:, :k] @ Q
            coupling = abs(C).max(axis=0, initial=0.0)
            rounding = SIGN_ROUNDING_FACTOR * eps * abs(F).max(initial=largest)
            parent = layout.parent[f]
            good = (abs(values) >= MIN_PIVOT_RATIO * coupling) & (abs(values) > rounding)
            if parent < 0:
                self.certain &= bool(good.all())
                good[:] = True
                if not values.all():
                    raise ZeroDivisionError("a pivot is zero")
            lower = C[:, good] / values[good]
            found[f] = Front(own, border, children[f], Q[:, good], Q[:, ~good], values[good], lower)
            if parent >= 0:
                children[parent].append(f)
                kept = C[:, ~good]
                F22 = F[k:, k:] - lower @ C[:, good].T
                updates[f] = host.block([[host.diag(values[~good]), kept.T], [kept, F22]])
        self.fronts = found

    def negative_pivots(self) -> int | None:
        """Count the negative eigenvalues of A; None if A is nearly singular."""
        if not self.certain:
            return None
        return sum(int((front.pivots < 0.0).sum()) for front in self.fronts)

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b for (N,) and (N, c) arrays b."""
        x = array_on_host(b).astype("float64")
        x = self._solve(x[:, None])[:, 0] if b.ndim == 1 else self._solve(x)
        return self.backend.from_host(x)

    def _solve(self, x: Any) -> Any:
        """Solve for a block that is overwritten."""
        count = len(self.fronts)
        reduced: list[Any] = [None] * count  # right-hand sides of the pivots
        passed: list[Any] = [None] * count  # of the delayed unknowns; then their solutions
        for f in range(count - 1, -1, -1):
            front = self.fronts[f]
            own = host.concatenate([x[front.own], *(passed[child] for child in front.children)])
            reduced[f], passed[f] = front.basis.T @ own, front.delayed.T @ own
            x[front.border] -= front.lower @ reduced[f]
        for f, front in enumerate(self.fronts):
            y = reduced[f] / front.pivots[:, None] - front.lower.T @ x[front.border]
            own = front.basis @ y
            if front.delayed.shape[1]:
                own += front.delayed @ passed[f]
            start = front.own.shape[0]
            x[front.own] = own[:start]
            for child in front.children:
                end = start + passed[child].shape[0]
                passed[child], start = own[start:end], end
        return x


def _assemble(matrix: Any, own: Any, place: Any, front: Any, f: int, size: int) -> Any:
    """Return the entries of A between the own unknowns and those of the front, (size, size)."""
    F = host.zeros((size, size))
    rows = matrix[own].tocoo()
    upward = front[rows.col] <= f  # the others are in the fronts of descendants
    i, j, values = rows.row[upward], place[rows.col[upward]], rows.data[upward]
    F[i, j] = values
    F[j, i] = values
    return F
