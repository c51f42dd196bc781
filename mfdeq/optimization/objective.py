"""The functional with counts of its evaluations, for the methods of `minimize`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..arrays.backend import Array
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import ConvergenceError, SingularStateError, is_evaluation_failure
from .functional import Functional
from .minimize_report import MinimizeReport

# Relative residuals of the inner solves of a product: one tenth of the accuracy of the step.
INNER_RTOL_PER_FORCING, MIN_INNER_RTOL, MAX_INNER_RTOL = 0.1, 1e-10, 1e-2


Result = TypeVar("Result")


class Objective:
    """The loss, its gradient and its Hessian at the points of a minimization.

    Parameters
    ----------
    functional : Functional
    method : str
    accuracy : float, optional
        A relative accuracy that products have in any case. On several processes preconditioners
        depend on their number: where products are rough, so do the steps.

    Attributes
    ----------
    report : MinimizeReport
        The counts so far.
    failure : str
        The message of the failure in the last call of `attempt`, or an empty string.
    """

    def __init__(self, functional: Functional, method: str, accuracy: float | None = None) -> None:
        self.functional, self.accuracy = functional, accuracy
        self.report = MinimizeReport(method)
        self.failure = ""
        self._counts_before = functional.solves, functional.linear_solves
        self._started = time.perf_counter()

    def continue_from(self, report: MinimizeReport) -> None:
        """Continue the counts and times of an earlier process."""
        self.report = report
        self.functional.add_counts(report.equilibria, report.solves)
        self._started -= report.seconds

    def attempt(self, function: Callable[..., Result], *args: Any) -> Result | None:
        """Evaluate a function at a trial point, or return None and count the failure."""
        self.failure = ""
        try:
            return function(*args)
        except Exception as error:
            if not is_evaluation_failure(error):
                error.add_note(f"mfdeq: after {len(self.report.steps)} points of mfdeq.minimize")
                raise
            solver_failed = isinstance(error, (ConvergenceError, SingularStateError))
            message = f"{type(error).__name__}: {error}"
            self.failure = "no equilibrium" if solver_failed else message
            self.report.failures += 1
            self.report.last_failure = message
            return None
        finally:
            self.update_report()

    def value(self, theta: Array) -> float:
        """Return the loss, or infinity where it has no finite value or there is no equilibrium."""
        value = self.attempt(self.functional.evaluate, theta)
        if value is not None and not math.isfinite(value):
            self.failure = self.report.last_failure = f"the loss is {value}"
            self.report.failures += 1
        return value if value is not None and math.isfinite(value) else math.inf

    def gradient(self, theta: Array) -> Array | None:
        """Return the gradient, (P,), at a point with a finite loss; None where it fails."""
        self.report.gradients += 1
        return self.attempt(self.functional.evaluate_gradient, theta)

    def hessian(self, theta: Array) -> Any:
        """Return the Hessian at theta, which remains valid at later points; None where it fails."""
        return self.attempt(self.functional.hessian, theta)

    def product(self, H: ReducedOperator, v: Array, accuracy: float) -> Array:
        """Return H v to a relative accuracy, with the inner tolerance chosen accordingly."""
        self.report.products += 1
        if self.accuracy is not None:
            accuracy = min(accuracy, self.accuracy)
        rtol = max(MIN_INNER_RTOL, INNER_RTOL_PER_FORCING * accuracy)
        return H.apply_inexact(v, min(MAX_INNER_RTOL, rtol))

    def update_report(self) -> None:
        """Update the counts and times of the report."""
        equilibria, solves = self._counts_before
        self.report.equilibria = self.functional.solves - equilibria
        self.report.solves = self.functional.linear_solves - solves
        self.report.seconds = time.perf_counter() - self._started
