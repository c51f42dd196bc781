"""Error estimates of derivatives, and the choice of inner tolerances.

The state, the adjoint and the inner solves are inexact, as are derivatives by finite differences.
To estimate their effect, a result is computed a second time with each of them corrected once (see
`corrections`): the model is linearized again at h* - M R(h*), unless that would change nothing, and
every solution is refined once, where one application M of the factor replaces A^-1. The estimate is
twice the difference. Norm bounds are not used, since they overestimate the error by orders of
magnitude.

The first gradient and the first product of a Hessian at an equilibrium are estimated by default.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..arrays.backend import Array, Backend
from ..errors import AccuracyWarning, ConvergenceError, warn
from ..report import SolveReport
from .corrections import Corrections

# In an experiment the difference alone was 0.93 of the true error. This is the only safety factor:
# error bounds of eigenvalues and error bars add no other.
ESTIMATE_SAFETY_FACTOR = 2.0
MAX_INNER_RTOL = 0.01  # largest relative residual of an inner solve
LOOSENING_SHARE = 0.03  # share of the allowed error below which later inner solves are looser
MIN_ESTIMATE_ROUNDINGS = 100.0  # smallest relative error that is reported, in rounding units
MIN_INNER_RTOL_ROUNDINGS = 100.0  # smallest tolerance of an inner solve, in rounding units
WARNING_ERROR = 1e-3  # estimated relative error above which a result comes with a warning

Point = TypeVar("Point")


def estimate_error(value: Array, corrected: Array) -> Array:
    """Estimate the error of a value by comparison with the value after one correction."""
    return ESTIMATE_SAFETY_FACTOR * (corrected - value)


def relative_error(backend: Backend, error: Array, value: Array) -> float:
    """Return the largest relative error of a column, at least that of rounding."""
    least = MIN_ESTIMATE_ROUNDINGS * backend.eps
    if error.ndim == 1 and error.shape[0]:
        size, of_error = backend.norm(value), backend.norm(error)
        return max(of_error / (size if size > 0 else 1.0), least) if of_error > 0 else least
    xp, norms = backend.xp, backend.column_norms
    sizes, errors = norms(value), norms(error)
    safe = xp.where(sizes > 0, sizes, xp.ones_like(sizes))
    relative = xp.where(errors > 0, errors / safe, xp.zeros_like(errors))
    return max(float(xp.max(relative)), least) if error.size else 0.0


def warn_of_error(name: str, relative: float, order: int, corrections: Corrections) -> None:
    """Warn of a result with few correct digits, and say what to do about it.

    Parameters
    ----------
    name : str
        The name of the result.
    relative : float
        Its estimated relative error; at most `WARNING_ERROR` gives no warning.
    order : int
        The order of the derivatives that it is computed from, 1 or 2.
    corrections : Corrections
        Those that it was compared with.

    Warns
    -----
    AccuracyWarning
    """
    if not relative > WARNING_ERROR:
        return
    causes, factor = [], corrections.factor
    linearization = corrections.linearized.linearization
    if not corrections.derivatives_are_exact(order):
        source = linearization.sources.get("curvature" if order == 2 else "d_params", "")
        computed = f" (computed by {source})" if source else ""
        causes.append(
            f"the derivatives of the model are inexact{computed}: give exact ones, or state the "
            "sizes of the unknowns and parameters to which steps of differences are relative"
        )
    if not corrections.state_is_exact:
        causes.append(
            f"the state has a relative error of about {corrections.state_change:.0e}: pass a "
            "smaller rtol to mfdeq.solve"
        )
    if factor.iterative:
        causes.append("linear solves are iterative: pass a solver with a smaller rtol")
    if not causes:
        causes.append(
            "A is so ill-conditioned that rounding errors are this large: rescale the unknowns and "
            "equations, or move the parameters away from where A is singular; or the loss changes "
            "from call to call: draw no random numbers in it, or pass mfdeq.Loss with derivatives"
        )
    warn(
        f"{name} has an estimated relative error of {relative:.1e}, since "
        f"{'; or '.join(causes)}. error_estimates=False of mfdeq.solve turns this estimate off",
        AccuracyWarning,
    )


class InnerTolerance:
    """The tolerance of inner solves, adapted to the allowed error of their result.

    Parameters
    ----------
    rtol : float
        The allowed relative error, as estimated.
    backend : Backend
        The array library, for norms and the rounding unit.
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
        """Evaluate a function to a relative error of `rtol`.

        Parameters
        ----------
        function : callable
            ``function(point, inner)`` returns a value and the estimate of its error, with inner
            solves to the tolerance ``inner``.
        start : object
            The equilibrium, or an operator there, at which to evaluate the function.
        improve : callable
            ``improve(point)`` returns the equilibrium or operator at a more accurate state, or
            `point` itself if there is none. It is called only when the inner solves no longer
            limit the accuracy.
        name : str
            The name of the value in an error message.
        report : SolveReport
            The report that is attached to an error.

        Returns
        -------
        value : array
        error : float
            The estimated relative error.

        Raises
        ------
        ConvergenceError
            If this accuracy cannot be reached, with the value as `best`.
        """
        point, before = start, float("inf")
        inner = self.inner  # which other threads may change
        while True:
            value, error = function(point, inner)
            worst = relative_error(self.backend, error, value)
            if worst <= self.rtol:
                loosen = worst < LOOSENING_SHARE * self.rtol
                self.inner = min(10.0 * inner, MAX_INNER_RTOL) if loosen else inner
                return value, worst
            tightest = inner <= self.tightest
            if tightest or worst > 0.5 * before:
                better = improve(point)
                if better is not point:
                    point, before = better, float("inf")
                    continue
            if tightest:
                self.inner = inner
                raise ConvergenceError(
                    f"{name} has an estimated relative error of {worst:.1e}, above "
                    f"rtol = {self.rtol:.1e}, with inner solves to {inner:.1e}. It is limited "
                    "by the accuracy of the state or of the derivatives, or by rounding: use a "
                    "larger rtol, or exact derivatives",
                    best=value,
                    report=report,
                )
            before = worst
            inner = max(self.tightest, inner * min(0.3 * self.rtol / worst, 0.1))
