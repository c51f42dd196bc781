"""Error estimates of derivatives, and inner tolerances that follow from them.

The state, the adjoint and the inner solves are inexact, and so are derivatives by finite
differences. To estimate their effect, a result is computed a second time with each of them
corrected once: the model is linearized again at h* - M R(h*), and every residual there is put
through one application M of the factor in place of A^-1. Twice the difference is the estimate.
Bounds by norms are not used, since they overestimate by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..arrays.backend import Array, Backend
from ..errors import ConvergenceError
from ..report import SolveReport

# The difference alone was 0.93 of the true error in a trial. This is the only safety factor: what
# uses an estimate (bounds of eigenvalues, error bars) takes it as it is.
ESTIMATE_SAFETY_FACTOR = 2.0
MAX_INNER_RTOL = 0.01  # relative residual of inner solves, however rough a product may be
LOOSEN_BELOW = 0.03  # of the allowed error: with an estimate below it, later solves are looser
MIN_ESTIMATE_ROUNDINGS = 30.0  # in rounding units: no estimate is reported below it
MIN_INNER_RTOL_ROUNDINGS = 100.0  # in rounding units: no inner solve is tighter

Point = TypeVar("Point")


def estimate_error(value: Array, corrected: Array) -> Array:
    """Estimate the error of a value from the value with every inexact part corrected once."""
    return ESTIMATE_SAFETY_FACTOR * (corrected - value)


def relative_error(backend: Backend, error: Array, value: Array) -> float:
    """Return the largest relative error of a column, and no less than rounding."""
    xp, norms = backend.xp, backend.column_norms
    sizes, errors = norms(value), norms(error)
    safe = xp.where(sizes > 0, sizes, xp.ones_like(sizes))
    relative = xp.where(errors > 0, errors / safe, xp.zeros_like(errors))
    return max(float(xp.max(relative)), MIN_ESTIMATE_ROUNDINGS * backend.eps) if error.size else 0.0


class InnerTolerance:
    """The tolerance of inner solves, adapted to the error that their result may have.

    Parameters
    ----------
    rtol : float
        The relative error that is allowed, as estimated.
    backend : Backend
        Gives the rounding unit and the norms.
    """

    def __init__(self, rtol: float, backend: Backend) -> None:
        self.rtol, self.backend = rtol, backend
        self.tightest = min(MIN_INNER_RTOL_ROUNDINGS * backend.eps, 0.1 * rtol)
        self.inner = 0.1 * rtol

    def compute(
        self,
        function: Callable[[Point, float], tuple[Array, Array]],
        start: Point,
        improve: Callable[[Point], Point],
        name: str,
        report: SolveReport,
    ) -> tuple[Array, float]:
        """Evaluate a function to the accuracy asked for.

        Parameters
        ----------
        function : callable
            ``function(point, inner)`` returns a value and the estimate of its error, by inner
            solves to the tolerance ``inner``.
        start : object
            The equilibrium (or an operator there) to evaluate at.
        improve : callable
            Returns the same at a more accurate state, or its argument where there is none. It is
            called only when the inner solves no longer limit the accuracy.
        name : str
            What the value is called in an error.
        report : SolveReport
            What an error carries.

        Returns
        -------
        value : array
        error : float
            The estimate of its relative error.

        Raises
        ------
        ConvergenceError
            If the accuracy is out of reach, with the value as `best`.
        """
        point, before = start, float("inf")
        while True:
            value, error = function(point, self.inner)
            worst = relative_error(self.backend, error, value)
            if worst <= self.rtol:
                if worst < LOOSEN_BELOW * self.rtol:
                    self.inner = min(10.0 * self.inner, MAX_INNER_RTOL)
                return value, worst
            tightest = self.inner <= self.tightest
            if tightest or worst > 0.5 * before:
                better = improve(point)
                if better is not point:
                    point, before = better, float("inf")
                    continue
            if tightest:
                raise ConvergenceError(
                    f"{name} has an estimated relative error of {worst:.1e}, above the "
                    f"{self.rtol:.1e} asked for, with inner solves to {self.inner:.1e}. The "
                    "accuracy of the state or of the derivatives limits it, or rounding: ask "
                    "for less, or give exact derivatives",
                    best=value,
                    report=report,
                )
            before = worst
            self.inner = max(self.tightest, self.inner * min(0.3 * self.rtol / worst, 0.1))
