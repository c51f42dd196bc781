"""`mfdeq.minimize`: parameters that minimize the loss at their equilibrium."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..adapters import as_symmetric
from ..arguments import at_least, count, fraction, one_of
from ..arrays import Array, Backend, array_on_host
from ..equilibrium import Equilibrium
from ..errors import ArgumentError, ConvergenceError, MfdeqError
from ..lagrangian import ShiftedInverse, parts
from ..precision import Precision
from ..spectrum.eigenpairs import Eigenpairs
from ..spectrum.extreme import eigsh
from .bounds import Bounds
from .functional import ReducedFunctional
from .line_search import LBFGS, Direction, ExactNewton, NewtonCG, descents
from .objective import MinimizeReport, Objective, Step, inverse_of
from .trust_region import trust_region

METHODS = ("newton-cg", "gauss-newton", "line-search", "newton", "l-bfgs")
BOUNDED = ("newton-cg", "gauss-newton")
MEMORY = 10  # steps that L-BFGS keeps
INNER = 200  # products of one step
Iteration = tuple[Array, float, Array, Step]


@dataclass
class Minimum:
    """Where a minimization has ended.

    Attributes
    ----------
    params : (P,) array
    value : float
    gradient : (P,) array
    converged : bool
        Whether the norm of the (projected) gradient has reached its target.
    reason : str
        Why it stopped.
    equilibrium : Equilibrium
        At `params`.
    report : MinimizeReport
        What it did and cost.
    """

    params: Array
    value: float
    gradient: Array
    converged: bool
    reason: str
    equilibrium: Equilibrium
    report: MinimizeReport
    _functional: ReducedFunctional

    def __repr__(self) -> str:
        return f"<Minimum {self.value:.8g}: {self.reason}>"

    @functools.cached_property
    def smallest(self) -> Eigenpairs:
        """The smallest eigenvalue of the Hessian at `params`, with its vector and error bound.

        Computed when it is asked for first.
        """
        return eigsh(self.equilibrium.hessian(self._functional.loss), 1, "SA")

    @functools.cached_property
    def definite(self) -> bool | None:
        """Whether the Hessian at `params` is positive definite; None where that is not known.

        False where an eigenvalue is negative beyond its bound. True is claimed only where an
        inertia count of the Lagrangian system shows that no eigenvalue is negative, or where P is
        so small that all have been computed.
        """
        H = self.equilibrium.hessian(self._functional.loss)
        try:
            below = ShiftedInverse(H).below
        except MfdeqError:
            below = None
        if below is not None:
            return below == 0
        value = float(array_on_host(self.smallest.values)[0])
        bound = float(array_on_host(self.smallest.error_bounds)[0])
        if value + bound < 0.0:
            return False
        known = self.smallest.report.method == "dense"  # all of them
        return True if known and value - bound > 0.0 else None


def minimize(
    functional: ReducedFunctional,
    theta0: Array,
    method: str = "newton-cg",
    *,
    bounds: Any = None,
    preconditioner: Any = None,
    gtol: float = 1e-6,
    max_iterations: int = 100,
    radius: float | None = None,
    callback: Callable[[Array, Step], Any] | None = None,
) -> Minimum:
    """Minimize theta -> L(h*(theta), theta).

    Parameters
    ----------
    functional : ReducedFunctional
    theta0 : (P,) array
        The start, where there must be an equilibrium.
    method : {"newton-cg", "gauss-newton", "line-search", "newton", "l-bfgs"}, optional
        "newton-cg" takes steps of Newton's method by conjugate gradients in a trust region;
        "gauss-newton" with the Gauss-Newton part in place of the Hessian; "line-search" searches
        along them instead; "newton" solves for them by a factorization of the Lagrangian system,
        for models whose derivatives are sparse matrices; "l-bfgs" needs gradients only.
    bounds : pair of (P,) arrays or numbers, optional
        (lower, upper), None or infinity for none: of "newton-cg" and "gauss-newton", by projection.
    preconditioner : Precision or LinearOperator, (P, P), optional
        Near H^-1, symmetric and positive definite: `mfdeq.LowRank`, an operator of yours, or a
        `mfdeq.Precision` (of the prior), which is solved with. Trust regions have its shape.
    gtol : float, optional
        Converged means that the norm of the gradient, projected onto the bounds, is gtol times that
        at the start.
    max_iterations : int, optional
    radius : float, optional
        The first of the trust region.
    callback : callable, optional
        Called with theta and the `Step` of every iteration; a true result stops.

    Returns
    -------
    Minimum

    Raises
    ------
    ConvergenceError
        Where that gradient is not reached, with the `Minimum` so far as `best`.

    Notes
    -----
    How accurate a step is (Eisenstat and Walker 1996) sets how accurate its products are, and
    with that the inner solves. A step to where there is no equilibrium, or the loss does not fall,
    is taken back and a shorter one tried.
    """
    one_of(method, METHODS, "method")
    if not isinstance(functional, ReducedFunctional):
        raise ArgumentError(
            f"the functional is a {type(functional).__name__}; an mfdeq.ReducedFunctional was "
            "expected: mfdeq.ReducedFunctional(model, loss)"
        )
    fraction(gtol, "gtol")
    count(max_iterations, "max_iterations")
    if radius is not None and not at_least(0.0, radius, "radius") > 0.0:
        raise ArgumentError("radius is 0; a positive number was expected")
    backend = Backend.of(theta0, name="theta0")
    theta = backend.vector(theta0, functional.model.param_size, "theta0")
    limits = Bounds(backend, theta.shape[0], bounds)
    if not limits.none and method not in BOUNDED:
        raise ArgumentError(f"bounds are for the methods {' and '.join(BOUNDED)}, not {method!r}")
    theta = limits.project(theta)
    objective = Objective(functional, method == "gauss-newton", method)
    eq = functional.equilibrium(theta)  # whose error says more than an infinite loss
    if method == "newton":
        parts(eq.hessian(functional.loss))  # refused before the work
    iterations = _iterations(
        method, objective, theta, limits, preconditioner, radius, lambda size: gtol * size
    )
    return _run(iterations, objective, functional, gtol, max_iterations, callback)


def _iterations(
    method: str,
    objective: Objective,
    theta: Array,
    bounds: Bounds,
    preconditioner: Any,
    radius: float | None,
    target: Callable[[float], float],
) -> Iterator[Iteration]:
    backend, P = bounds.backend, theta.shape[0]
    if preconditioner is not None and not isinstance(preconditioner, Precision):
        preconditioner = as_symmetric(backend, preconditioner, (P, P), "preconditioner")
    precondition = (lambda r: r) if preconditioner is None else inverse_of(preconditioner)
    inner = min(INNER, 2 * P)
    if method in BOUNDED:
        return trust_region(objective, theta, bounds, precondition, radius, inner, target)
    directions: dict[str, Callable[[], Direction]] = {
        "line-search": lambda: NewtonCG(objective, backend, precondition, inner),
        "newton": lambda: ExactNewton(objective, backend),
        "l-bfgs": lambda: LBFGS(backend, precondition, MEMORY),
    }
    return descents(objective, theta, backend, directions[method](), target)


def _run(
    iterations: Iterator[Iteration],
    objective: Objective,
    functional: ReducedFunctional,
    gtol: float,
    most: int,
    callback: Callable[[Array, Step], Any] | None,
) -> Minimum:
    report, target = objective.report, math.inf
    failure: MfdeqError | None = None
    reason = "no step lowers the loss: rounding, or derivatives that are not the loss's"
    try:
        for iteration in iterations:
            theta, value, g, step = iteration
            objective.count()
            step.solves, step.seconds = report.solves, report.seconds
            report.steps.append(step)
            if len(report.steps) == 1:
                target = gtol * step.gradient_norm
            if step.length or len(report.steps) == 1:
                eq = functional.equilibrium(theta)  # the last that was solved for
            if step.gradient_norm <= target:
                reason = f"|gradient| {step.gradient_norm:.2e} <= {target:.2e}"
                break
            if callback is not None and callback(theta, step):
                reason = "the callback said so"
                break
            if len(report.steps) > most:
                reason = f"{most} iterations were not enough"
                break
    except MfdeqError as error:
        if not report.steps:
            raise
        failure, reason = error, f"{type(error).__name__}: {error}"
    objective.count()
    size = report.steps[-1].gradient_norm
    found = Minimum(theta, value, g, size <= target, reason, eq, report, functional)
    if not found.converged:
        raise ConvergenceError(
            f"mfdeq.minimize by {report.method} stopped at |gradient| {size:.2e}, above its target "
            f"{target:.2e}: {reason}. The point so far is in `best`; go on from its params, loosen "
            "gtol, or give a preconditioner",
            best=found,
            report=report,
        ) from failure
    return found
