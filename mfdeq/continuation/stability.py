"""The eigenvalues that decide whether an equilibrium is stable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..arrays.backend import array_on_host, host
from ..errors import ArgumentError, ConvergenceError
from ..linear.factor import Factor
from ..models.linearization import CheckedLinearization
from .point import Point

MAX_DENSE_SIZE = 200  # unknowns up to which all eigenvalues are computed


def computes_all(n: int, k: int) -> bool:
    """Tell whether all n eigenvalues are computed if k are asked for."""
    return n <= max(2 * k + 2, MAX_DENSE_SIZE)


def withhold_uncertain_counts(points: Sequence[Point], found: Sequence[Point]) -> list[Point]:
    """Return new points of a branch, with `unstable` None where the count may miss one.

    For a residual only the eigenvalues nearest to zero are computed. An unstable one becomes stable
    by passing through zero, at a fold or a crossing, or with its conjugate through the imaginary
    axis. Where a count falls to zero without a fold or a crossing, it may instead have moved so
    far from zero that it is not among the computed ones.
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
    """Compute the eigenvalues that decide on stability.

    Parameters
    ----------
    linearized : CheckedLinearization
    factorize : callable
        Makes a factor of A; it is called only if one is needed.
    k : int
        How many; all are computed where N is small.
    is_map : bool

    Returns
    -------
    array of complex, on the host
        Of the J of a map those largest in magnitude, else of A those nearest to zero; the leading
        ones first.
    """
    A = linearized.A
    n, linalg = A.shape[0], A.backend.sparse_linalg
    if computes_all(n, k):
        dense = array_on_host(A.toarray())
        values = host.linalg.eigvals(host.eye(n) - dense if is_map else dense)
        return values[host.argsort(-abs(values) if is_map else abs(values))]
    if not hasattr(linalg, "eigs"):
        raise ArgumentError(
            f"eigenvalues: expected a model on the host, or at most {MAX_DENSE_SIZE} unknowns, got "
            f"{n} unknowns on a device"
        )
    start = host.random.default_rng(0).standard_normal(n)
    apply = (lambda x: x - A._apply(x)) if is_map else factorize().solve
    operator = linalg.LinearOperator((n, n), matvec=lambda x: apply(x.ravel()), dtype=A.dtype)
    try:
        values = linalg.eigs(operator, k, which="LM", v0=start, return_eigenvectors=False)
    except linalg.ArpackError as error:  # its error of missing convergence among them
        raise ConvergenceError(
            f"the eigenvalues of a point were not found: {error}. Ask for fewer or more"
        ) from error
    values = values if is_map else 1.0 / values
    return values[host.argsort(-abs(values) if is_map else abs(values))]
