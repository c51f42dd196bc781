"""Eigenpairs nearest to a shift, and how many there are below one, by the Lagrangian system.

Of (H - sigma I)^-1 the largest are those of H nearest to sigma, a few Lanczos steps away. What was
found is judged by H itself. Inertia counts: below(b) - below(a) eigenvalues of H lie in (a, b).
"""

from __future__ import annotations

from typing import Any

from ..arrays import Array, array_on_host, is_sparse, sparse_on_host
from ..errors import ArgumentError, SingularStateError
from ..lagrangian import ShiftedInverse
from ..precision import Metric

ROUNDING = 1e-10  # of ||H||, the same
MARGIN = 1e-6  # of the largest magnitude found, beyond the outermost values, where counts are taken


def entries(metric: Metric | None) -> Any:
    """The sparse matrix of M, on the host; None of the identity."""
    if metric is None or metric.trivial:
        return None
    if not is_sparse(found := getattr(metric, "array", None)):
        raise ArgumentError("sigma and certify of mfdeq.eigsh need an M that is a sparse matrix")
    return sparse_on_host(found)


def refined(S: ShiftedInverse, vectors: Array, metric: Metric) -> Array:
    """Once more through the inverse: what is far from sigma falls away."""
    return S._apply(metric.apply(vectors))


def missed(H: Any, pairs: Any, S: ShiftedInverse | None) -> int | None:
    """Eigenvalues of H between the outermost found (and sigma) that are not among those found.

    None where the counts cannot be believed.
    """
    M = entries(pairs.precision)
    values, bounds = array_on_host(pairs.values), array_on_host(pairs.error_bounds)
    margin = MARGIN * float(abs(values).max()) + 2.0 * float(bounds.max())
    margin += ROUNDING * pairs.report.norm
    ends = [float(values.min()) - margin, float(values.max()) + margin]
    counts = []
    for outer, end in zip((min, max), ends, strict=True):
        beyond = S is not None and outer(S.sigma, end) == S.sigma
        try:
            at = S if beyond and S is not None else ShiftedInverse(H, end, M)
        except (SingularStateError, ArgumentError):  # on an eigenvalue, or of no use: no count
            return None
        if at.below is None:
            return None
        counts.append(at.below)
    return counts[1] - counts[0] - values.shape[0]
