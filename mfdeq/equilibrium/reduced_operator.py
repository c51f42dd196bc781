"""The interface of Hessians over the parameters, and their products to a given accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array
from ..operators.operator import Operator, SelfAdjoint
from ..report import SolveReport
from .error_estimates import InnerTolerance


class ReducedOperator(SelfAdjoint):
    """Base class of Hessians over the parameters, (P, P), whose products contain solves with A.

    Attributes
    ----------
    params_term : Operator or None, (P, P)
        What is added to `parts`, such as the precision of a prior.
    """

    params_term: Operator | None = None

    @property
    def parts(self) -> Sequence[tuple[float, Any]]:
        """The factors and operators, each a `ReducedCurvature`, of which it is the sum."""
        raise NotImplementedError

    @property
    def prior_terms(self) -> list[tuple[float, Operator]]:
        """The factors and precisions of the Gaussian priors in the loss, which are part of it."""
        terms = [
            (weight * factor, R) for weight, part in self.parts for factor, R in part.prior_terms
        ]
        return terms if self.params_term is None else [*terms, (1.0, self.params_term)]

    @property
    def params(self) -> Array:
        """The parameters theta, (P,)."""
        return self.parts[0][1].params

    @property
    def report(self) -> SolveReport:
        """The report of the equilibrium, of the first one of a sum."""
        return self.parts[0][1].report

    @property
    def iterative(self) -> bool:
        """Whether a product with looser inner solves costs less."""
        return any(part.iterative for _, part in self.parts)

    @property
    def solver_rtol(self) -> float:
        """The tolerance of the inner solves of a product."""
        return min(part.solver_rtol for _, part in self.parts)

    def evaluate_curvature(self) -> None:
        """Evaluate the curvature now rather than at the first product, where it may fail."""
        raise NotImplementedError

    def with_error(self, v: Array, *, rtol: float | None = None) -> tuple[Array, Array]:
        """Compute the product with v, with inner solves to `rtol`, and estimate its error."""
        raise NotImplementedError

    def apply_inexact(self, v: Array, rtol: float) -> Array:
        """Compute the product with v by inner solves to another tolerance."""
        raise NotImplementedError

    def polish(self) -> ReducedOperator:
        """Return the same operator at more accurate states, or `self` if there are none."""
        raise NotImplementedError

    def to_accuracy(self, rtol: float) -> InexactReducedCurvature:
        """Return the same operator with products of a given accuracy.

        Parameters
        ----------
        rtol : float
            The allowed relative error of each column of a product, as estimated. The tolerance of
            the inner solves is as loose as this allows.

        Returns
        -------
        InexactReducedCurvature, (P, P)

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> H = mfdeq.solve(model, np.array([2.0, 10.0])).hessian(loss)
        >>> v = np.ones(2)
        >>> bool(np.linalg.norm(H.to_accuracy(1e-3) @ v - H @ v) <= 1e-3 * np.linalg.norm(H @ v))
        True
        """
        return InexactReducedCurvature(self, rtol)


class InexactReducedCurvature(SelfAdjoint):
    """The operator T' K T with products of a given relative accuracy.

    The error of every product is estimated by `with_error` of the exact operator, and the tolerance
    of the inner solves is adapted to it. The operator is symmetric only to that accuracy.

    Parameters
    ----------
    exact : ReducedOperator
    rtol : float
        The allowed relative error of each column of a product, as estimated.
    """

    def __init__(self, exact: ReducedOperator, rtol: float) -> None:
        super().__init__(exact, exact.shape)
        self.exact, self.rtol = exact, fraction(rtol, "rtol of to_accuracy")
        self.tolerance = InnerTolerance(self.rtol, exact.backend)

    def forget(self) -> None:
        """Drop all that depends on earlier products, including the inner tolerance."""
        self.exact.forget()
        self.tolerance = InnerTolerance(self.rtol, self.backend)

    def _apply(self, x: Array) -> Array:
        def product(operator: ReducedOperator, inner: float) -> tuple[Array, Array]:
            return operator.with_error(x, rtol=inner)

        return self.tolerance.compute(
            product, self.exact, lambda H: H.polish(), "a product", self.exact.report
        )[0]
