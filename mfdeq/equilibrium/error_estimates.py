"""How wrong a derivative is, and solves no tighter than the accuracy asked for needs.

What is inexact is the state, the adjoint, the inner solves, and derivatives that are differences.
A result is computed once more with each of them corrected: the model linearized again at
h* - M R(h*), every residual there put through one application M of the factor in place of A^-1.
Twice the difference is the estimate; norms are not used, they overestimate by orders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..arrays.backend import Array, Backend
from ..errors import ConvergenceError
from ..models.losses import LossBase

if TYPE_CHECKING:
    from .equilibrium import Equilibrium

SAFETY = 2.0  # times the difference; alone it was 0.93 of the true error in a trial
LOOSEST = 0.01  # relative residual of an inner solve, however rough a product may be
LOOSEN_BELOW = 0.03  # of the error allowed, under which the next solves are looser
ROUNDING = 30.0  # times the rounding unit, under which no estimate is believed
TIGHTEST = 100.0  # times the rounding unit


def relative_error(backend: Backend, error: Array, value: Array) -> float:
    """The largest of the columns' errors, relative to the columns and no less than rounding."""
    xp, norms = backend.xp, backend.column_norms
    sizes, errors = norms(value), norms(error)
    safe = xp.where(sizes > 0, sizes, xp.ones_like(sizes))
    relative = xp.where(errors > 0, errors / safe, xp.zeros_like(errors))
    return max(float(xp.max(relative)), ROUNDING * backend.eps) if error.size else 0.0


def gradient_with_error(
    eq: Equilibrium, loss: LossBase, rtol: float | None = None
) -> tuple[Array, Array]:
    """g = dL/dtheta + B' lam, and twice what it lacks of the corrected one."""
    d_params, d_state = eq.loss_gradients(loss)
    lam = eq.adjoint(loss) if rtol is None else eq.factor.solve_adjoint(d_state, rtol=rtol)
    gradient = d_params + eq.param_operator._apply_adjoint(lam)
    d_params, d_state = loss.gradients(eq.corrected_state, eq.params)
    A, B = eq.corrected.A, eq.corrected.B
    lam = lam + eq.factor.approximate(d_state - A._apply_adjoint(lam), adjoint=True)
    return gradient, SAFETY * (d_params + B._apply_adjoint(lam) - gradient)


class Tolerance:
    """A tolerance of inner solves that follows from the error of what they are for.

    Parameters
    ----------
    rtol : float
        The relative error allowed, as estimated.
    eps : float
        Rounding unit.
    """

    def __init__(self, rtol: float, eps: float) -> None:
        self.rtol, self.tightest = rtol, min(TIGHTEST * eps, 0.1 * rtol)
        self.inner = 0.1 * rtol

    def reached(
        self,
        eq: Equilibrium,
        compute: Callable[[Equilibrium, float], tuple[Array, Array]],
        name: str,
    ) -> tuple[Array, float]:
        """The value to that accuracy and its estimated error, of `compute(eq, inner)`.

        At the state that was solved for or, where that is what limits it, at one polished.
        """
        before = float("inf")
        while True:
            value, error = compute(eq, self.inner)
            worst = relative_error(eq.backend, error, value)
            if worst <= self.rtol:
                if worst < LOOSEN_BELOW * self.rtol:
                    self.inner = min(10.0 * self.inner, LOOSEST)
                return value, worst
            tightest = self.inner <= self.tightest
            if (tightest or worst > 0.5 * before) and eq.polished is not eq:
                eq, before = eq.polished, float("inf")
                continue
            if tightest:
                raise ConvergenceError(
                    f"{name} has an estimated relative error of {worst:.1e}, above the "
                    f"{self.rtol:.1e} asked for, with inner solves to {self.inner:.1e}: the "
                    "accuracy of the state or of the derivatives limits it, or rounding",
                    best=value,
                    report=eq.report,
                )
            before = worst
            self.inner = max(self.tightest, self.inner * min(0.3 * self.rtol / worst, 0.1))
