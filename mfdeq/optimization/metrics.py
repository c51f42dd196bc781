"""The metric of parameters, in which gradients and steps are measured.

A gradient is a dual vector, with units of the loss over those of each parameter. Its norm in a
metric M is sqrt(g' M^-1 g), which does not depend on the units of the parameters if M is given in
the same units. The precision of a prior is such a metric.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ArgumentError, ConvergenceError, MfdeqError, SingularStateError
from ..models.losses import LossBase
from ..models.quadratic_losses import QuadraticPrior
from ..operators.user_operators import check_home
from ..priors.metric import Euclidean, Metric
from ..priors.precision import Precision

# The largest relative residual of a solve with the precision of a prior, in its own metric. Above
# it the precision is taken as singular.
MAX_SOLVE_RESIDUAL = 1e-6
EUCLIDEAN = "Euclidean"  # the origin of a metric that nothing determines
MAX_SIZE_RATIO = 1e3  # of the parameters, above which their units probably differ


def parameter_metric(
    metric: Any, terms: Sequence[tuple[float, LossBase]], backend: Backend, size: int
) -> tuple[Metric, str]:
    """Return the metric for a minimization, and a word on its origin.

    Parameters
    ----------
    metric : Precision, QuadraticPrior, matrix, operator, array or number, or None
        The user's metric; None selects the precision of the priors in the loss if that has an
        inverse, and otherwise the Euclidean metric.
    terms : sequence of pairs of a float and a LossBase
        The factors and terms of the loss, among them its priors.
    backend : Backend
    size : int
        P on this process.

    Returns
    -------
    Metric
    str
    """
    if metric is not None:
        return _given_metric(metric, backend, size), "given"
    with contextlib.suppress(MfdeqError):
        prior = _prior_metric(terms, backend, size)
        if prior is not None:
            return prior, "the prior's precision"
    return Euclidean(backend), EUCLIDEAN


def units_advice(origin: str, theta: Array, backend: Backend) -> str:
    """Return how to pass the sizes of parameters where the Euclidean norm adds very different ones.

    Parameters
    ----------
    origin : str
        The origin of the metric, as `parameter_metric` returns it.
    theta : (P,) array
        The parameters, whose sizes are those that are not zero.
    backend : Backend
    """
    xp, sizes = backend.xp, abs(theta)
    largest = float(xp.max(sizes))
    least = float(xp.min(xp.where(sizes > 0.0, sizes, largest + sizes)))
    if origin != EUCLIDEAN or not largest > MAX_SIZE_RATIO * least:
        return ""
    return (
        f". The parameters have sizes from {least:.0e} to {largest:.0e}: if their units differ, "
        "pass metric=1 / sizes**2, with an array of their typical sizes"
    )


def _given_metric(metric: Any, backend: Backend, size: int) -> Metric:
    if isinstance(metric, LossBase):
        if not isinstance(metric, QuadraticPrior):
            raise ArgumentError(
                "metric: expected an mfdeq.Precision, a matrix or an mfdeq.QuadraticPrior, got a "
                f"{type(metric).__name__}"
            )
        metric = metric.precision
    if isinstance(metric, (int, float)) and not isinstance(metric, bool):
        if not metric > 0:
            raise ArgumentError(f"metric: expected a positive number, got {metric}")
        metric = float(metric) + backend.zeros(size)
    precision = metric if isinstance(metric, Precision) else Precision(metric)
    check_home(backend, precision, "metric", ArgumentError)
    if precision.shape[0] != size:
        shape = getattr(metric, "shape", precision.shape)
        raise ArgumentError(
            f"metric: expected the shape ({size},) or ({size}, {size}), got {tuple(shape)}"
        )
    return precision


def _prior_metric(
    terms: Sequence[tuple[float, LossBase]], backend: Backend, size: int
) -> Metric | None:
    """Return the precision of the priors in a loss; None if there is none, or it has no inverse."""
    priors = [
        (factor, term)
        for factor, term in terms
        if isinstance(term, QuadraticPrior) and factor > 0.0
    ]
    if not priors:
        return None
    (_, first), *others = priors
    if others:  # the matrices are added, if they are known
        operators = [(factor, term.operator(backend, size)) for factor, term in priors]
        if not all(backend.library.on_host and op.has_entries for _, op in operators):
            return None
        R: Any = sum(factor * op.array for factor, op in operators)
    else:
        R = first.precision
    metric = R if isinstance(R, Precision) else _given_metric(R, backend, size)
    b = backend.random(size, seed=5)
    try:
        residual = metric.apply(metric.solve(b)) - b
    except (ConvergenceError, SingularStateError):
        return None
    norm = GradientNorm(metric)
    return metric if norm(residual) <= MAX_SOLVE_RESIDUAL * norm(b) else None


class GradientNorm:
    """Norms of gradients and lengths of steps in a metric.

    Parameters
    ----------
    metric : Metric
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric

    def __call__(self, g: Array) -> float:
        """Return sqrt(g' M^-1 g) of a gradient, a (P,) array."""
        backend = self.metric.backend
        if self.metric.is_identity:
            return backend.norm(g)
        with backend.ignore_overflow():
            return float(self.metric.dual_norms(g))

    def length(self, step: Array) -> float:
        """Return sqrt(p' M p) of a step, a (P,) array."""
        backend = self.metric.backend
        if self.metric.is_identity:
            return backend.norm(step)
        with backend.ignore_overflow():
            return float(self.metric.norms(step, self.metric.apply(step)))
