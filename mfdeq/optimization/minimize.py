"""`mfdeq.minimize`: parameters that minimize the loss at their equilibrium."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arguments import at_least, count, fraction, one_of
from ..arrays.backend import Array, Backend, array_on_host
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.lagrangian_system import solver_for
from ..errors import ArgumentError, ConvergenceError, MfdeqError, SingularStateError
from ..files.checkpoints import digest, opened
from ..models.losses import LossBase
from ..operators.user_operators import as_symmetric
from ..priors.precision import Precision
from ..spectrum.eigenpairs import Eigenpairs
from ..spectrum.extreme import eigsh
from .bounds import Bounds
from .functional import ReducedFunctional
from .line_search import LBFGS, Direction, ExactNewton, LineSearch, NewtonCG
from .objective import Method, MinimizeReport, Objective, Step, inverse_of
from .run import Run, Stop
from .trust_region import TrustRegion

METHODS = ("newton-cg", "gauss-newton", "line-search", "newton", "l-bfgs")
BOUNDED = ("newton-cg", "gauss-newton")
MEMORY = 10  # steps that L-BFGS keeps
INNER = 200  # products of one step


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
            below = solver_for(H.backend).shifted_inverse(H).below
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
    checkpoint: Any = None,
    checkpoint_every: int = 1,
) -> Minimum:
    """Minimize theta -> L(h*(theta), theta).

    Parameters
    ----------
    functional : ReducedFunctional
    theta0 : (P,) array
        The start, where there must be an equilibrium.
    method : {"newton-cg", "gauss-newton", "line-search", "newton", "l-bfgs"}, optional
        "newton-cg" takes steps by conjugate gradients in a trust region, of the Gauss-Newton part
        as long as that foretells the loss, and then of the Hessian; "gauss-newton" of that part
        throughout; "line-search" searches along those of the Hessian; "newton" solves for them by
        a factorization of the Lagrangian system, for models whose derivatives are sparse
        matrices; "l-bfgs" needs gradients only.
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
    checkpoint : str or PathLike, optional
        A file to continue from. Where there is none, the run starts anew and writes it; see Notes.
    checkpoint_every : int, optional
        Iterations from one checkpoint to the next.

    Returns
    -------
    Minimum

    Raises
    ------
    ConvergenceError
        Where that gradient is not reached, with the `Minimum` so far as `best`; None where there
        is no equilibrium at theta0.
    ModelError
        Where the loss at theta0 is not finite.
    CheckpointError
        Where the file is none of this run, or none can be written there.

    Warns
    -----
    CheckpointWarning
        Where a checkpoint could not be written; the run goes on.

    Notes
    -----
    How accurate a step is (Eisenstat and Walker 1996) sets how accurate its products are, and
    with that the inner solves. A step to where there is no equilibrium, or the loss does not fall,
    is taken back and a shorter one tried.

    A run that was killed and is started again with the same file continues from its last
    checkpoint and, on a CPU with as many threads, ends in the same bits; one that had ended
    returns its result at once. So that what follows depends on the file alone, the functional
    drops at each checkpoint what it has beside the state: one set-up more, and one forward solve
    that is at its target already. `gtol`, `max_iterations` and `checkpoint_every` may differ from
    one start to the next; the functional and the rest must not, of which sizes, theta0 and the
    loss at the checkpoint are looked at.
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
    sizes = functional.model.state_size, functional.model.param_size
    states, params = (
        int(n) if hasattr(n, "__int__") else n for n in map(backend.global_size, sizes)
    )
    theta = backend.vector(theta0, params, "theta0")
    limits = Bounds(backend, theta.shape[0], bounds)
    if not limits.none and method not in BOUNDED:
        raise ArgumentError(f"bounds are for the methods {' and '.join(BOUNDED)}, not {method!r}")
    theta = limits.project(theta)
    precondition = _precondition(backend, preconditioner, theta.shape[0])
    file = opened(
        checkpoint,
        checkpoint_every,
        "a minimization",
        lambda: {
            "model": functional.model.described,
            "N and P": [states, params],
            "theta0": digest(theta),
            "method": method,
            "bounds": digest(limits.lower, limits.upper),
            "preconditioner": type(preconditioner).__name__,
            "radius": None if radius is None else float(radius),
        },
        backend,
    )
    run = Run(functional, Objective(functional, method), file)
    if file is not None and file.saved is not None:
        run.go_on(backend, file.saved)
    else:
        eq = _at_the_start(functional, theta)
        if method == "newton":
            solver_for(eq.backend).assemble_blocks(
                eq.hessian(functional.loss)
            )  # refused before the work
        run.start(theta, limits, radius)
    target = gtol * run.report.steps[0].gradient_norm
    inner = min(INNER, 2 * theta.shape[0])
    run.method = _method(method, run.objective, limits, precondition, inner, target)
    return _ended(run, run.to_the_end(target, max_iterations, callback), target)


def _at_the_start(functional: ReducedFunctional, theta: Array) -> Equilibrium:
    try:
        return functional.equilibrium(theta)
    except (ConvergenceError, SingularStateError) as error:
        raise ConvergenceError(
            f"no equilibrium is found at theta0, where the minimization starts: {error}. Start "
            "where there is one, or give mfdeq.ReducedFunctional the start of its solve, h0",
            report=error.report,
        ) from error


def _precondition(backend: Backend, given: Any, size: int) -> Callable[[Array], Array]:
    if given is None:
        return lambda r: r
    if isinstance(given, LossBase):
        raise ArgumentError(
            f"preconditioner is a {type(given).__name__}; the precision of it was expected, an "
            "mfdeq.Precision, or another operator near the inverse of the Hessian"
        )
    if not isinstance(given, Precision):
        given = as_symmetric(backend, given, (size, size), "preconditioner")
    return inverse_of(given)


def _method(
    name: str,
    objective: Objective,
    bounds: Bounds,
    precondition: Callable[[Array], Array],
    inner: int,
    target: float,
) -> Method:
    backend = bounds.backend
    if name in BOUNDED:
        return TrustRegion(objective, bounds, precondition, inner, target, name == "gauss-newton")
    directions: dict[str, Callable[[], Direction]] = {
        "line-search": lambda: NewtonCG(objective, backend, precondition, inner),
        "newton": lambda: ExactNewton(objective, backend),
        "l-bfgs": lambda: LBFGS(backend, precondition, MEMORY),
    }
    return LineSearch(objective, backend, directions[name](), target)


def _ended(run: Run, stop: Stop, target: float) -> Minimum:
    at, report = run.at, run.report
    found = Minimum(
        at.theta,
        at.value,
        at.gradient,
        at.size <= target,
        stop.reason,
        run.eq,
        report,
        run.functional,
    )
    if not found.converged:
        raise ConvergenceError(
            f"mfdeq.minimize by {report.method} stopped at |gradient| {at.size:.2e}, above its "
            f"target {target:.2e}: {stop.reason}. The point so far is in `best`{stop.advice}",
            best=found,
            report=report,
        ) from stop.failure
    return found
