"""The functional with counts of its evaluations, for the methods of `minimize`."""

from __future__ import annotations

import math
import time

from ..arrays.backend import Array
from ..equilibrium.reduced_hessian import ReducedCurvature, ReducedHessian
from ..errors import ConvergenceError, ModelError, SingularStateError
from .minimize_report import MinimizeReport
from .reduced_functional import ReducedFunctional

# Relative residuals of the inner solves of a product: one tenth of the accuracy of the step.
INNER_RTOL_PER_FORCING, MIN_INNER_RTOL, MAX_INNER_RTOL = 0.1, 1e-10, 1e-2


class Objective:
    """The loss, its gradient and its Hessian at the points of a minimization.

    Parameters
    ----------
    functional : ReducedFunctional
    method : str

    Attributes
    ----------
    report : MinimizeReport
        The counts so far.
    """

    def __init__(self, functional: ReducedFunctional, method: str) -> None:
        self.functional = functional
        self.report = MinimizeReport(method)
        self._counts_before = functional.solves, functional.linear_solves
        self._started = time.perf_counter()

    def continue_from(self, report: MinimizeReport) -> None:
        """Continue the counts and times of an earlier process."""
        self.report = report
        self.functional.add_counts(report.equilibria, report.solves)
        self._started -= report.seconds

    def value(self, theta: Array) -> float:
        """Return the loss, or infinity if it is not finite or there is no equilibrium."""
        try:
            value = self.functional.value(theta)
        except (ConvergenceError, SingularStateError, ModelError):
            value = math.inf
        self.update_report()
        return value if math.isfinite(value) else math.inf

    def gradient(self, theta: Array) -> Array:
        """Return the gradient, (P,), at a point with an equilibrium."""
        self.report.gradients += 1
        gradient = self.functional.gradient(theta)
        self.update_report()
        return gradient

    def hessian(self, theta: Array) -> ReducedHessian:
        """Return the Hessian at theta, which remains valid at later points."""
        return self.functional.hessian(theta)

    def product(self, H: ReducedCurvature, v: Array, accuracy: float) -> Array:
        """Return H v to a relative accuracy, with the inner tolerance chosen accordingly."""
        self.report.products += 1
        rtol = max(MIN_INNER_RTOL, INNER_RTOL_PER_FORCING * accuracy)
        return H.apply_inexact(v, min(MAX_INNER_RTOL, rtol))

    def update_report(self) -> None:
        """Update the counts and times of the report."""
        equilibria, solves = self._counts_before
        self.report.equilibria = self.functional.solves - equilibria
        self.report.solves = self.functional.linear_solves - solves
        self.report.seconds = time.perf_counter() - self._started
