"""`mfdeq.minimize`: parameters that minimize the loss at their equilibrium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import at_least, count, fraction, one_of
from ..arrays.backend import Array, Backend
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.lagrangian_system import solver_for
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..files.checkpoints import digest, open_checkpoint
from ..models.losses import LossBase
from ..operators.user_operators import as_symmetric
from ..priors.precision import Precision
from .bounds import Bounds
from .method import Setting
from .methods import METHODS
from .minimization import Minimization, Stop
from .minimize_report import Step
from .minimum import Minimum
from .objective import Objective
from .reduced_functional import ReducedFunctional

MAX_PRODUCTS_PER_STEP = 200


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
    """Minimize the loss at the equilibrium over the parameters.

    Parameters
    ----------
    functional : ReducedFunctional
        theta -> L(h*(theta), theta).
    theta0 : (P,) array
        The start, where there must be an equilibrium.
    method : {"newton-cg", "gauss-newton", "line-search", "newton", "l-bfgs"}, optional
        - "newton-cg", the default, takes steps by conjugate gradients in a trust region, with the
          Gauss-Newton part as long as that predicts the loss, and then with the Hessian;
        - "gauss-newton" does so with the Gauss-Newton part throughout;
        - "line-search" searches along Newton directions by conjugate gradients;
        - "newton" computes these by a factorization of the Lagrangian system, for models whose
          derivatives are sparse matrices;
        - "l-bfgs", limited-memory BFGS, needs gradients only.
    bounds : pair of (P,) arrays or numbers, optional
        (lower, upper), with None or infinity for none; for "newton-cg" and "gauss-newton", which
        project onto them.
    preconditioner : Precision or LinearOperator, (P, P), optional
        An approximate H^-1, symmetric and positive definite: `mfdeq.LowRank`, an operator of yours,
        or a `mfdeq.Precision` (of the prior), which is solved with. It shapes the trust region.
    gtol : float, optional
        Converged means that the norm of the gradient, projected onto the bounds, is gtol times that
        at the start; 1e-6 by default.
    max_iterations : int, optional
        100 by default.
    radius : float, optional
        The first radius of the trust region, in the norm of the preconditioner's inverse; by
        default ten steps of steepest descent.
    callback : callable, optional
        Called with theta and the `Step` of every iteration; a true result stops.
    checkpoint : str or PathLike, optional
        A file to continue from. Where there is none, the run starts anew and writes it; see Notes.
    checkpoint_every : int, optional
        Iterations from one checkpoint to the next; 1 by default.

    Returns
    -------
    Minimum

    Raises
    ------
    ConvergenceError
        If that gradient is not reached, with the `Minimum` so far as `best`; this is None where
        there is no equilibrium at theta0.
    ModelError
        If the loss at theta0 is not finite.
    ArgumentError
        For an unknown method, or bounds or derivatives that the method is not for.
    CheckpointError
        If the file is of another run, or none can be written there.

    Warns
    -----
    CheckpointWarning
        If a checkpoint could not be written; the run goes on.

    Notes
    -----
    Each step is as accurate as its forcing term (Eisenstat and Walker) asks for, and so are its
    products with the Hessian and their inner solves. A step to where there is no equilibrium, or
    the loss does not fall enough, is rejected and a shorter one tried.

    A run that was killed and is started again with the same file continues from its last
    checkpoint and, on a CPU with as many threads, ends in the same bits; one that had ended
    returns its result at once. So that everything after a checkpoint depends on the file alone,
    the functional drops there everything but the state, at the cost of one more set-up and one
    forward solve that is at its target already. `gtol`, `max_iterations` and `checkpoint_every` may
    differ between starts. The functional and the other arguments must not: their sizes, theta0
    and the loss at the checkpoint are compared.

    References
    ----------
    T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization",
    1983. A. R. Conn, N. I. M. Gould and P. L. Toint, "Trust-Region Methods", 2000. J. E. Dennis,
    D. M. Gay and R. E. Welsch, "An adaptive nonlinear least-squares algorithm", 1981. S. C.
    Eisenstat and H. F. Walker, "Choosing the forcing terms in an inexact Newton method", 1996.
    D. P. Bertsekas, "Projected Newton methods for optimization problems with simple constraints",
    1982. D. C. Liu and J. Nocedal, "On the limited memory BFGS method for large scale
    optimization", 1989. A. S. Lewis and M. L. Overton, "Nonsmooth optimization via quasi-Newton
    methods", 2013. J. Nocedal and S. J. Wright, "Numerical Optimization", 2006.

    Examples
    --------
    h = cos h + theta, and the parameter for which h is 1:

    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> loss = mfdeq.LeastSquares(np.array([0]), np.array([1.0]))
    >>> found = mfdeq.minimize(mfdeq.ReducedFunctional(model, loss), np.zeros(1))
    >>> bool(abs(found.params[0] - (1.0 - np.cos(1.0))) < 1e-6)
    True
    >>> bool(abs(found.equilibrium.state[0] - 1.0) < 1e-6)
    True
    >>> found.report.steps[0].how
    'start'
    """
    entry = METHODS[one_of(method, tuple(METHODS), "method")]
    if not isinstance(functional, ReducedFunctional):
        raise ArgumentError(
            "functional: expected an mfdeq.ReducedFunctional(model, loss), got a "
            f"{type(functional).__name__}"
        )
    fraction(gtol, "gtol")
    count(max_iterations, "max_iterations")
    if radius is not None and not at_least(0.0, radius, "radius") > 0.0:
        raise ArgumentError("radius: expected a positive number, got 0")
    backend = Backend.of(theta0, name="theta0")
    sizes = functional.model.state_size, functional.model.param_size
    N, P = (int(n) if hasattr(n, "__int__") else n for n in map(backend.global_size, sizes))
    theta = backend.vector(theta0, P, "theta0")
    limits = Bounds(backend, theta.shape[0], bounds)
    if not limits.none and not entry.takes_bounds:
        bounded = " and ".join(name for name, other in METHODS.items() if other.takes_bounds)
        raise ArgumentError(
            f"bounds: expected one of the methods {bounded} with them, got {method!r}"
        )
    theta = limits.project(theta)
    precondition = _preconditioning(backend, preconditioner, theta.shape[0])
    file = open_checkpoint(
        checkpoint,
        checkpoint_every,
        "a minimization",
        lambda: {
            "model": functional.model.display_name,
            "N and P": [N, P],
            "theta0": digest(theta),
            "method": method,
            "bounds": digest(limits.lower, limits.upper),
            "preconditioner": type(preconditioner).__name__,
            "radius": None if radius is None else float(radius),
        },
        backend,
    )
    run = Minimization(functional, Objective(functional, method), file)
    if file is not None and file.saved is not None:
        run.restore(backend, file.saved)
    else:
        eq = _first_equilibrium(functional, theta)
        if entry.needs_matrices:
            # Fail before the work where they are not at hand.
            solver_for(eq.backend).assemble_blocks(eq.hessian(functional.loss))
        run.start(theta, limits, radius)
    target = gtol * run.report.steps[0].gradient_norm
    max_products = min(MAX_PRODUCTS_PER_STEP, 2 * theta.shape[0])
    run.method = entry.make(Setting(run.objective, limits, precondition, max_products, target))
    return _minimum(run, run.run(target, max_iterations, callback), target)


def _first_equilibrium(functional: ReducedFunctional, theta: Array) -> Equilibrium:
    try:
        return functional.equilibrium(theta)
    except (ConvergenceError, SingularStateError) as error:
        raise ConvergenceError(
            f"no equilibrium is found at theta0, where the minimization starts: {error}. Start "
            "where there is one, or give mfdeq.ReducedFunctional the start of its solve, h0",
            report=error.report,
        ) from error


def _preconditioning(backend: Backend, preconditioner: Any, size: int) -> Callable[[Array], Array]:
    """The product with an approximate inverse of the Hessian; a precision is solved with."""
    if preconditioner is None:
        return lambda r: r
    if isinstance(preconditioner, Precision):
        return preconditioner.solve
    if isinstance(preconditioner, LossBase):
        raise ArgumentError(
            "preconditioner: expected an mfdeq.Precision, or an operator near the inverse of "
            f"the Hessian, got a {type(preconditioner).__name__}. Pass its precision instead"
        )
    return as_symmetric(backend, preconditioner, (size, size), "preconditioner")._apply


def _minimum(run: Minimization, stop: Stop, target: float) -> Minimum:
    """The result of a run, or a `ConvergenceError` with it as `best`."""
    at, report = run.at, run.report
    minimum = Minimum(
        at.theta,
        at.value,
        at.gradient,
        at.gradient_norm <= target,
        stop.reason,
        run.eq,
        report,
        run.functional,
    )
    if not minimum.converged:
        raise ConvergenceError(
            f"mfdeq.minimize by {report.method} stopped at |gradient| {at.gradient_norm:.2e}, "
            f"above its target {target:.2e}: {stop.reason}. The point so far is in "
            f"`best`{stop.advice}",
            best=minimum,
            report=report,
        ) from stop.failure
    return minimum
