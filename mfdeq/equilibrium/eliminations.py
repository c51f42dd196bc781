"""What takes the place of redundant equations: unit vectors of some of them, or W."""

from __future__ import annotations

import math
from typing import Any

from ..arrays.backend import array_on_host, host, is_sparse
from ..models.elimination import Elimination
from ..operators.operator import Operator
from .null_spaces import NullSpaces, pivotal_rows
from .null_vectors import scaling_of

MIN_PINNED = 0.1  # singular value of typical entries of null vectors, which a symmetric A keeps
MAX_PAIRED_CONDITION = 1e3  # of C U, for constraints that are conserved totals


def eliminate(
    A: Operator,
    basis: Any,
    C: Any,
    spaces: NullSpaces | None,
    rate: float = 1.0,
    replaces: bool = True,
) -> Elimination:
    """Return what takes the place of redundant equations.

    Parameters
    ----------
    A : Operator, (N, N)
    basis : (N, m) array, on the host
        W, with W'A = 0.
    C : (m, N) array, on the host
        The derivative of the constraints.
    spaces : NullSpaces or None
        The null spaces of A, if they are known.
    rate : float, optional
        At which violated constraints decay in dh/dt, if A is not sparse. Its sign is that of what
        is stable.
    replaces : bool, optional
        Whether equations of a sparse A may be dropped. Otherwise they are combined with others.
    """
    n, m = basis.shape
    scales: tuple[Any, ...]
    if spaces is not None and A.array is not None:
        scales = spaces.rows, spaces.columns
    else:
        scaling = scaling_of(A)
        scales = tuple(
            host.ones(n) if x is None else array_on_host(x).astype("float64")
            for x in (scaling.rows, scaling.columns)
        )
    sizes, units = 1.0 / scales[0], scales[1]  # of equations, and of unknowns
    lengths = host.linalg.norm(C * units, axis=1)
    pinned = A.array is None and (A.has_single_entries or A.declared_null_spaces is not None)
    if is_sparse(A.array) or pinned:
        rows = pivotal_rows(basis, 1.0 / sizes)
        columns = host.zeros((n, m))
        columns[rows, host.arange(m)] = 1.0
        row_sizes = array_on_host(A.abs_apply(A.backend.from_host(units, n)))[rows]
        gains = host.where(row_sizes > 0.0, row_sizes, 1.0) / lengths
        known = spaces is not None and spaces.right.shape[1] == m
        right = spaces.right if spaces is not None and known else None
        pins = _pins(rows, spaces)
        dual = columns if replaces else basis @ host.linalg.inv(basis[rows])
        return Elimination(
            basis, columns, dual, host.diag(gains), rows, pins, right, replaces=replaces
        )
    q = host.linalg.qr(sizes[:, None] * basis)[0]
    columns, dual = sizes[:, None] * q, q / sizes[:, None]
    gains = host.diag(1.0 / lengths)
    if (sizes == 1.0).all() and (units == 1.0).all():
        # One unit for all: conserved totals then decay at the rate of the model, and a map keeps
        # those of the start.
        paired = C @ columns
        if host.linalg.cond(paired) <= MAX_PAIRED_CONDITION:
            gains = rate * host.linalg.inv(paired)
    return Elimination(basis, columns, dual, gains)


def _pins(rows: list[int], spaces: NullSpaces | None) -> list[int]:
    """Return unknowns in which the null vectors of A are independent: those of the rows if so."""
    if spaces is None or spaces.right.shape[1] != len(rows):
        return rows
    scaled = spaces.right / spaces.columns[:, None]
    scaled = scaled / host.linalg.norm(scaled, axis=0) * math.sqrt(scaled.shape[0])
    independent = host.linalg.svd(scaled[rows], compute_uv=False)[-1] > MIN_PINNED
    return rows if independent else pivotal_rows(scaled, host.ones(scaled.shape[0]))


def rate_of(A: Any) -> float:
    """Return the root mean square of the norms of the columns of A, to a power of two."""
    x = A.backend.random(A.shape[1], seed=43)
    size = A.backend.norm(A._apply(x)) / A.backend.norm(x)
    return 2.0 ** round(math.log2(size)) if size > 0.0 else 1.0
