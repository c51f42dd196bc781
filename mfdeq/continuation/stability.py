"""The eigenvalues that decide whether an equilibrium is stable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..arrays.backend import array_on_host, host
from ..errors import ArgumentError, ConvergenceError
from ..linear.factor import Factor
from ..models.linearization import Linearized

if TYPE_CHECKING:
    from .curve import Point

SMALL_STATE = 200  # unknowns of which all eigenvalues are computed


def seen_all(n: int, k: int) -> bool:
    """Whether all eigenvalues are computed where k are asked for."""
    return n <= max(2 * k + 2, SMALL_STATE)


def believed(points: Sequence[Point], found: Sequence[Point]) -> list[Point]:
    """New points of a branch, `unstable` None where one that grew may only be out of sight.

    Of a residual those nearest to zero are seen. One that grows decays again by passing through
    zero, at a fold or crossing, or as a pair across the imaginary axis; or it has gone too far off.
    """
    ordinary = max(i for i, point in enumerate(points) if not point.kind)
    last, passed = points[ordinary].unstable, ordinary < len(points) - 1
    kept = []
    for point in found:
        if point.kind:
            passed = True
        else:
            if point.unstable == 0 and last != 0 and not passed:
                point = replace(point, unstable=None)
            last, passed = point.unstable, False
        kept.append(point)
    return kept


def leading_eigenvalues(
    linearized: Linearized, settle: Callable[[], Factor], k: int, is_map: bool
) -> Any:
    """Of the J of a map the largest in magnitude, else of A those nearest to zero; complex.

    k of them, or all where N is small; `settle` gives a factor of A, where one is needed.
    """
    A = linearized.A
    n, linalg = A.shape[0], A.backend.sparse_linalg
    if seen_all(n, k):
        dense = array_on_host(A.toarray())
        values = host.linalg.eigvals(host.eye(n) - dense if is_map else dense)
        return values[host.argsort(-abs(values) if is_map else abs(values))]
    if not hasattr(linalg, "eigs"):
        raise ArgumentError("eigenvalues of a branch are for models on the host")
    start = host.random.default_rng(0).standard_normal(n)
    apply = (lambda x: x - A._apply(x)) if is_map else settle().solve
    operator = linalg.LinearOperator((n, n), matvec=lambda x: apply(x.ravel()), dtype=A.dtype)
    try:
        values = linalg.eigs(operator, k, which="LM", v0=start, return_eigenvectors=False)
    except linalg.ArpackError as error:  # that of missing convergence among them
        raise ConvergenceError(
            f"the eigenvalues of a point were not found: {error}. Ask for fewer or more"
        ) from error
    values = values if is_map else 1.0 / values
    return values[host.argsort(-abs(values) if is_map else abs(values))]
