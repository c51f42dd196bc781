"""The symmetric form of a matrix that is symmetric in other units, and its inertia.

If D A is symmetric for a positive diagonal D, the eigenvalues of A are those of the symmetric
D^1/2 A D^-1/2, and by Sylvester's law of inertia D A has as many negative ones. That holds for
symmetric matrices whose rows and columns are in any units, and for finite volumes of different
sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scipy.sparse import csgraph

from ..arrays.backend import Backend, host
from ..arrays.sparse import sparse_on_host
from ..linear.multifrontal.multifrontal import Multifrontal

SYMMETRY_RTOL = 1e-8  # of D A, relative to its rows and columns
BALANCING_SWEEPS = 10  # each takes the square root of the ratio of the rows
MAX_OPERATIONS = 2e10  # of a factorization that only counts


@dataclass(frozen=True)
class Symmetrized:
    """A symmetric form of a matrix A.

    Attributes
    ----------
    roots : (N,) array of the host
        The diagonal of D^1/2.
    balanced : (N, N) sparse matrix of the host
        E D A E with a diagonal E that makes its rows similar in size, which has the inertia of D A.
    """

    roots: Any
    balanced: Any

    def negative(self) -> int | None:
        """Count the negative eigenvalues of A by a factorization; None if that is not possible."""
        backend = Backend.of(self.balanced.data)
        try:
            factors = Multifrontal(self.balanced, backend, True, MAX_OPERATIONS)
        except (ArithmeticError, MemoryError):
            return None
        return factors.negative_pivots()


def symmetrize(matrix: Any) -> Symmetrized | None:
    """Find a symmetric form of a sparse or dense matrix; None if it has none."""
    A = sparse_on_host(matrix).astype("float64").tocsr()
    A.eliminate_zeros()
    logarithms = _log_weights(A)
    if logarithms is None:
        return None
    with host.errstate(over="ignore", under="ignore", invalid="ignore"):
        K = _scaled(A, host.exp(logarithms), host.ones(A.shape[0]))
        scale = host.ones(A.shape[0])
        for _ in range(BALANCING_SWEEPS):
            largest = abs(_scaled(K, scale, scale)).max(axis=1).toarray().ravel()
            scale = scale / host.sqrt(host.where(largest > 0.0, largest, 1.0))
        K = _scaled(K, scale, scale)
    if not host.isfinite(K.data).all() or abs(K - K.T).max() > SYMMETRY_RTOL:
        return None
    return Symmetrized(host.exp(0.5 * logarithms), (0.5 * (K + K.T)).tocsr())


def _scaled(A: Any, rows: Any, columns: Any) -> Any:
    """Return diag(rows) A diag(columns), in CSR format."""
    A = A.copy()
    A.data *= host.repeat(rows, host.diff(A.indptr)) * columns[A.indices]
    return A


def _log_weights(A: Any) -> Any:
    """Return log D with D A symmetric if there is such a D, from the entries of a spanning forest.

    None if the signs of the entries show that there is none.
    """
    n = A.shape[0]
    T = A.T.tocsr()
    A.sort_indices()
    T.sort_indices()
    if host.array_equal(A.indptr, T.indptr) and host.array_equal(A.indices, T.indices):
        if abs(A.data - T.data).max(initial=0.0) == 0.0:
            return host.zeros(n)
        if (A.data * T.data <= 0.0).any():
            return None
    else:
        return host.zeros(n)  # which entries are zero in one triangle only may be due to rounding
    # d_i a_ij = d_j a_ji, so that log d_j = log d_i + log (a_ij / a_ji).
    ratios = A.copy()
    ratios.data = host.log(A.data / T.data)
    logarithms = host.zeros(n)
    count, labels = csgraph.connected_components(A, directed=False)
    starts = host.full(count, -1)
    starts[labels[::-1]] = host.arange(n)[::-1]
    for start in starts:
        order, before = csgraph.breadth_first_order(A, start, directed=False)
        order = order[1:]
        if not order.size:
            continue
        steps = host.asarray(ratios[before[order], order]).ravel()
        for node, step in zip(order.tolist(), steps.tolist(), strict=True):
            logarithms[node] = logarithms[before[node]] + step
    return logarithms - logarithms.mean()
