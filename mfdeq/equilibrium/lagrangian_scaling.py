"""The scaling of the Lagrangian system, which does not depend on units.

The matrix [[K, C'], [C, 0]] of the unknowns (theta, h; nu) is multiplied by a diagonal D from both
sides, which preserves its inertia. The scale of nu is that of the equations, and the size of K,
which is the unit of the loss, is independent of that of C = [-B, A].
"""

from __future__ import annotations

from typing import Any

import scipy.sparse as sparse
from scipy.sparse.linalg import lsqr

from ..arrays.backend import host
from ..linear.direct.symmetric import balancing, largest_entry, power_of_two
from ..linear.equilibration import is_balanced

MAX_STEPS, LOG_RTOL = 300, 1e-6  # of the least-squares problem for the logarithms
MAX_LOG = 300.0  # of a scale, so that products of two do not overflow


def system_scaling(A: Any, B: Any, pp: Any, sp: Any, ss: Any) -> Any:
    """Return the diagonal of D, (P + 2N,), for sparse matrices on the host.

    Parameters
    ----------
    A, B : (N, N) and (N, P) sparse matrices
    pp, sp, ss : (P, P), (N, P) and (N, N) sparse matrices
        The blocks of K, with the shift.

    Notes
    -----
    In the units of h and nu, the rows and columns of A are of similar size. Each column of B has a
    largest entry of one, unless its parameter then has a larger curvature than the state. K and nu
    are divided by the size of K.
    """
    rows, columns = balancing(A) if is_balanced(A) else _units_of_state(A, B, sp, ss)
    influence = abs(sparse.diags(rows) @ B).max(axis=0).toarray()[0]
    own = abs(pp.diagonal())
    params = 1.0 / host.where(influence > 0.0, influence, 1.0)
    size = largest_entry(ss, columns, columns) or float((own * params**2).max(initial=0.0))
    size = size or largest_entry(sp, columns, params) or 1.0
    from_own = (size / host.where(own > 0.0, own, size)) ** 0.5
    small = (own > 0.0) & ((influence == 0.0) | (own * params**2 > size))
    params = host.where(small, from_own, params)
    D = host.concatenate([params * size**-0.5, columns * size**-0.5, rows * size**0.5])
    return power_of_two(D)


def _units_of_state(A: Any, B: Any, sp: Any, ss: Any) -> tuple[Any, Any]:
    """Return the scales of nu and of h such that the scaled entries are about one.

    The logarithms of the entries of A, B and, up to a common factor, of K are the sums of two
    unknowns each, in the sense of least squares. A alone does not determine them well: along a
    chain of steps whose couplings are small they would grow geometrically.
    """
    N, P = B.shape
    blocks = ((A, 0, N, 0), (B, 0, 2 * N, 0), (ss, N, N, 1), (sp, N, 2 * N, 1))
    first, second, factor, logs = [], [], [], []
    for block, row, column, of_K in blocks:
        entries = block.tocoo()
        present = entries.data != 0.0
        first.append(row + entries.row[present])
        second.append(column + entries.col[present])
        factor.append(host.full(int(present.sum()), float(of_K)))
        logs.append(host.log(abs(entries.data[present])))
    i, j, k, b = (host.concatenate(parts) for parts in (first, second, factor, logs))
    equations, n = host.arange(b.shape[0]), 2 * N + P
    place = (host.tile(equations, 3), host.concatenate([i, j, host.full(b.shape[0], n)]))
    values = host.concatenate([host.ones(2 * b.shape[0]), k])
    E = sparse.coo_matrix((values, place), shape=(b.shape[0], n + 1)).tocsr()
    x = lsqr(E, -b, atol=LOG_RTOL, btol=LOG_RTOL, iter_lim=MAX_STEPS)[0]
    scales = host.exp(host.clip(x, -MAX_LOG, MAX_LOG))
    return scales[:N], scales[N : 2 * N]
