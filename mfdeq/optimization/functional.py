"""The loss as a function of the parameters alone, for optimizers."""

from __future__ import annotations

import inspect
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array, Backend
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.reduced_hessian import InexactReducedCurvature, ReducedHessian
from ..equilibrium.solve import reused_solver, solve
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..models.losses import LossBase, check_loss
from ..models.model import Model
from ..operators.operator import Operator
from ..report import LinearCounts, SolveReport

SOLVED = ("_equilibrium", "_hessian", "_inexact", "_failed")  # what is solved for when asked for
KEPT = 100  # reports that may still grow: of points a Hessian is kept of while steps are tried


class ReducedFunctional:
    """theta -> L(h*(theta), theta), with gradient and exact Hessian.

    One equilibrium and one factor serve all calls at the same theta (compared by value, kept
    by copy); the next solve starts from the last state.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    loss : Loss
    h0 : (N,) array, optional
        Where the first solve starts.
    on_failure : {"raise", "inf"}, optional
        What an equilibrium that cannot be solved for does: raise, or give the value inf and a
        gradient of NaN, which line searches step back from.
    accuracy : float, optional
        Relative error, as estimated, that gradients and products with the Hessian may have: no
        solve is tighter than that needs. By default they are to the solver's own tolerance.
    **solve_options
        For `mfdeq.solve`: method, solver, rtol, max_iterations.

    Examples
    --------
    ``scipy.optimize.minimize(F.value, theta0, jac=F.gradient, hessp=F.hessp,
    method="trust-krylov")``
    """

    def __init__(
        self,
        model: Model,
        loss: LossBase,
        h0: Array | None = None,
        *,
        on_failure: str = "raise",
        accuracy: float | None = None,
        **solve_options: Any,
    ) -> None:
        if on_failure not in ("raise", "inf"):
            raise ArgumentError(f"on_failure is {on_failure!r}; 'raise' or 'inf' was expected")
        if not isinstance(model, Model):
            raise ArgumentError(
                f"the model is {model!r}; an instance of an mfdeq.FixedPointModel or "
                "mfdeq.ResidualModel was expected"
            )
        check_loss(loss, model)
        unknown = set(solve_options) - set(inspect.signature(solve).parameters)
        if unknown:
            raise ArgumentError(f"mfdeq.solve has no {', '.join(sorted(unknown))}")
        self.model, self.loss = model, loss
        self.on_failure = on_failure
        self.accuracy = None if accuracy is None else fraction(accuracy, "accuracy")
        # One for all solves: what was set up at one theta preconditions the next.
        linear = reused_solver(solve_options.get("solver", "auto"))
        self.solve_options = {**solve_options, "solver": linear}
        self.solves = 0
        self._start = None if h0 is None else _copy(h0, "h0")
        self._reports: list[Any] = []  # of the last solves, those that failed among them
        self._spent = 0  # linear solves of those before
        self._equilibrium: Equilibrium | None = None
        self._hessian: ReducedHessian | None = None
        self._inexact: InexactReducedCurvature | None = None
        self._failed: tuple[Array, Exception] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All but what is solved for again: factors cannot be pickled."""
        return {**self.__dict__, **dict.fromkeys(SOLVED)}

    def forget(self, start: Array) -> None:
        """Drop all but a start: what follows depends on that and on theta alone."""
        self.__dict__.update(dict.fromkeys(SOLVED), _start=start)
        self.solve_options["solver"].forget()

    def equilibrium(self, theta: Array) -> Equilibrium:
        """The equilibrium at theta; solved for once."""
        theta = _copy(theta)
        if self._equilibrium is not None and _same(theta, self._equilibrium.params):
            return self._equilibrium
        if self._failed is not None and _same(theta, self._failed[0]):
            raise self._failed[1]
        try:
            found = self._solve(theta)
        except (ConvergenceError, SingularStateError) as error:
            self._failed = (theta, error)
            raise
        self._equilibrium, self._hessian = found, None
        self._start = found.state
        return found

    def _solve(self, theta: Array) -> Equilibrium:
        self.solves += 1
        if self._start is not None:
            try:
                return self._solve_from(theta, self._start)
            except (ConvergenceError, SingularStateError):
                pass  # far from the last state, the model's own start may do
        return self._solve_from(theta, None)

    def _solve_from(self, theta: Array, start: Array | None) -> Equilibrium:
        try:
            found = solve(self.model, theta, start, **self.solve_options)
        except (ConvergenceError, SingularStateError) as error:
            self._reports.append(error.report)
            raise
        self._reports.append(found.report)
        if len(self._reports) > KEPT:
            self._spent += _columns(self._reports.pop(0))
        return found

    @property
    def linear_solves(self) -> int:
        """Linear solves so far: right-hand sides, of forward iterations, adjoints and products.

        Of a forward solve that failed, as far as its report tells.
        """
        return self._spent + sum(map(_columns, self._reports))

    def count_on(self, equilibria: int, linear: int) -> None:
        """Add what an earlier process has solved."""
        self.solves += equilibria
        self._spent += linear

    def value(self, theta: Array) -> float:
        """L(h*(theta), theta)."""
        try:
            eq = self.equilibrium(theta)
        except (ConvergenceError, SingularStateError):
            if self.on_failure == "raise":
                raise
            return float("inf")
        return self.loss.value(eq.state, eq.params)

    def gradient(self, theta: Array) -> Array:
        """dL/dtheta, (P,)."""
        try:
            return self.equilibrium(theta).gradient(self.loss, rtol=self.accuracy)
        except (ConvergenceError, SingularStateError):
            if self.on_failure == "raise":
                raise
            return float("nan") * _copy(theta)

    def hessian(self, theta: Array) -> ReducedHessian:
        """H at theta, (P, P)."""
        eq = self.equilibrium(theta)
        if self._hessian is None:
            self._hessian = eq.hessian(self.loss)
        return self._hessian

    def hessp(self, theta: Array, v: Array) -> Array:
        """H @ v at theta, (P,)."""
        return self.products(theta) @ v

    def products(self, theta: Array) -> Operator:
        """H at theta, its products as accurate as `accuracy` says."""
        H = self.hessian(theta)
        if self.accuracy is None:
            return H
        if self._inexact is None or self._inexact.exact is not H:
            self._inexact = H.to_accuracy(self.accuracy)
        return self._inexact


def _columns(report: Any) -> int:
    """Right-hand sides in the report of an equilibrium, or of a failed solve for one."""
    if isinstance(report, SolveReport):
        return report.forward.columns + report.linear.columns
    return report.columns if isinstance(report, LinearCounts) else 0


def _same(theta: Array, kept: Array) -> bool:
    xp = Backend.of(kept).xp
    return theta.shape == kept.shape and bool(xp.all(theta == kept))


def _copy(x: Array, name: str = "params") -> Array:
    return Backend.of(x, name=name).checked(x, None, name)
