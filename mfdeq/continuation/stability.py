"""The eigenvalues that determine the stability of an equilibrium."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..arrays.backend import array_on_host, host
from ..errors import ArgumentError, ConvergenceError
from ..linear.factor import Factor
from ..models.problem import CheckedLinearization
from .point import Point

MAX_DENSE_SIZE = 200  # unknowns up to which all eigenvalues are computed


def computes_all(n: int, k: int) -> bool:
    """Return whether all n eigenvalues are computed if k are requested."""
    return n <= max(2 * k + 2, MAX_DENSE_SIZE)


def withhold_uncertain_counts(points: Sequence[Point], found: Sequence[Point]) -> list[Point]:
    """Return new points of a branch, with `unstable` None where the count may be too small.

    For a residual only the eigenvalues nearest to zero are computed. An unstable eigenvalue becomes
    stable by passing through zero, at a fold or a crossing, or through the imaginary axis together
    with its conjugate. If a count falls to zero without a fold or a crossing, the eigenvalue may
    instead have moved so far from zero that it is no longer computed.
    """
    ordinary = max(i for i, point in enumerate(points) if not point.kind)
    last, passed_special = points[ordinary].unstable, ordinary < len(points) - 1
    checked = []
    for point in found:
        if point.kind:
            passed_special = True
        else:
            if point.unstable == 0 and last != 0 and not passed_special:
                point = replace(point, unstable=None)
            last, passed_special = point.unstable, False
        checked.append(point)
    return checked


def leading_eigenvalues(
    linearized: CheckedLinearization, factorize: Callable[[], Factor], k: int, is_map: bool
) -> Any:
    """Compute the eigenvalues that determine stability.

    Parameters
    ----------
    linearized : CheckedLinearization
    factorize : callable
        Returns a factor of A; it is called only if one is needed.
    k : int
        The number of eigenvalues; all are computed if N is small.
    is_map : bool

    Returns
    -------
    array of complex, on the host
        For a map, the eigenvalues of J by decreasing magnitude; otherwise those of A by increasing
        magnitude.
    """
    A = linearized.A
    n, linalg = A.shape[0], A.backend.sparse_linalg
    if computes_all(n, k):
        dense = array_on_host(A.toarray())
        values = host.linalg.eigvals(host.eye(n) - dense if is_map else dense)
        return values[host.argsort(-abs(values) if is_map else abs(values))]
    if not A.backend.library.on_host:
        raise ArgumentError(
            f"eigenvalues: expected a model on the host, or at most {MAX_DENSE_SIZE} unknowns, got "
            f"{n} unknowns with arrays of {A.backend.library_name}"
        )
    start = host.random.default_rng(0).standard_normal(n)
    apply = (lambda x: x - A._apply(x)) if is_map else factorize().solve
    operator = linalg.LinearOperator((n, n), matvec=lambda x: apply(x.ravel()), dtype=A.dtype)
    try:
        values = linalg.eigs(operator, k, which="LM", v0=start, return_eigenvectors=False)
    except linalg.ArpackError as error:  # includes ArpackNoConvergence
        raise ConvergenceError(
            f"the eigenvalues at a point did not converge: {error}. Try another number of them"
        ) from error
    values = values if is_map else 1.0 / values
    return values[host.argsort(-abs(values) if is_map else abs(values))]
