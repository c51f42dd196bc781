"""`mfdeq.minimize`: minimization of the reduced functional over the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import at_least, count, fraction, one_of
from ..arrays.backend import Array, Backend
from ..arrays.collective import collective
from ..equilibrium.lagrangian_system import solver_for
from ..errors import (
    AccuracyWarning,
    ArgumentError,
    ConvergenceError,
    SingularStateError,
    warn,
)
from ..files.checkpoints import digest, open_checkpoint
from ..models.losses import LossBase
from ..models.vectors import flatten_params
from ..operators.user_operators import as_symmetric
from ..priors.metric import Metric
from ..priors.precision import Precision
from ..progress import ProgressBar
from .bounds import Bounds
from .functional import Functional
from .method import Setting
from .methods import METHODS
from .metrics import GradientNorm, parameter_metric, units_advice
from .minimization import Minimization, Stop
from .minimize_report import Step
from .minimum import Minimum
from .objective import Objective

MAX_PRODUCTS_PER_STEP = 200


@collective
def minimize(
    functional: Functional,
    theta0: Array,
    method: str = "newton-cg",
    *,
    bounds: Any = None,
    metric: Any = None,
    preconditioner: Any = None,
    gtol: float = 1e-6,
    max_iterations: int = 100,
    radius: float | None = None,
    callback: Callable[[Array, Step], Any] | None = None,
    checkpoint: Any = None,
    checkpoint_every: int = 1,
    progress: bool = False,
) -> Minimum:
    """Minimize the loss at the equilibrium over the parameters.

    Parameters
    ----------
    functional : ReducedFunctional or SumFunctional
        The functional theta -> L(h*(theta), theta).
    theta0 : (P,) array
        The start, which must have an equilibrium.
    method : {"newton-cg", "gauss-newton", "line-search", "newton", "l-bfgs"}, optional
        - "newton-cg", the default, takes steps by conjugate gradients in a trust region. The
          quadratic model uses the Gauss-Newton part while that predicts the loss well, and then the
          Hessian.
        - "gauss-newton" always uses the Gauss-Newton part.
        - "line-search" searches along Newton directions, computed by conjugate gradients.
        - "newton" computes Newton directions by a factorization of the Lagrangian system, for
          models whose derivatives are sparse matrices.
        - "l-bfgs" (limited-memory BFGS) uses gradients only.
    bounds : pair of (P,) arrays or numbers, optional
        The pair (lower, upper), where None or infinity means no bound. For models with pytrees of
        parameters each may be such a pytree. Supported by the methods "newton-cg" and
        "gauss-newton", which project onto the bounds.
    metric : Precision, QuadraticPrior, matrix, (P,) array or number, optional
        The metric M of the parameters, symmetric and positive definite: gradients are measured by
        sqrt(g' M^-1 g), and steps by sqrt(p' M p). An array is the diagonal of M, such as
        ``1 / sizes**2`` for parameters of those sizes. By default it is the precision of the priors
        in the loss, if that has an inverse, and otherwise the identity, for which all parameters
        should have the same size.
    preconditioner : Precision or LinearOperator, (P, P), optional
        An approximate H^-1, symmetric and positive definite, such as `mfdeq.LowRank` or an operator
        of your own; or an `mfdeq.Precision`, whose inverse is used; by default M^-1. It determines
        the shape of the trust region.
    gtol : float, optional
        The tolerance of the norm of the gradient (projected onto the bounds), 1e-6 by default. It
        is relative to the norm at the start; or to the smaller of its two terms there, the gradient
        with respect to the parameters themselves and that by way of the state, if they cancel.
    max_iterations : int, optional
        The limit on iterations, 100 by default.
    radius : float, optional
        The first radius of the trust region, in the norm of the inverse of the preconditioner; by
        default ten steps of steepest descent.
    callback : callable, optional
        ``callback(theta, step)`` is called with the `Step` of every iteration. If it returns True,
        the minimization stops.
    checkpoint : str or PathLike, optional
        A file to resume from, if it exists, and to write checkpoints to; see Notes.
    checkpoint_every : int, optional
        The number of iterations between checkpoints, 1 by default.
    progress : bool, optional
        Show a progress bar of the iterations in a terminal or a notebook.

    Returns
    -------
    Minimum

    Raises
    ------
    ConvergenceError
        If the gradient does not reach its target, with the `Minimum` so far as `best`, which is
        None if no equilibrium is found at theta0.
    ModelError
        If the loss at theta0 is not finite.
    ArgumentError
        If the method is unknown, or does not support the bounds or the derivatives.
    CheckpointError
        If the file is of another run, or cannot be written.

    Warns
    -----
    CheckpointWarning
        If a checkpoint could not be written; the run continues.
    AccuracyWarning
        If the gradient is limited by its error, before it has reached `gtol`.

    Notes
    -----
    The accuracy of a step follows from its forcing term (Eisenstat and Walker), and so does that of
    products with the Hessian and of their inner solves. If there is no equilibrium at the end of a
    step, or the loss does not decrease enough, the step is rejected and a shorter one is tried. The
    same holds where a function of the model or the loss raises an exception or returns NaN at the
    end of a step: ``report.failures`` counts these points and ``report.last_failure`` says why. An
    exception at theta0, or one that is a mistake (see `mfdeq.DomainError`), is raised.

    In a metric whose units are those of the parameters, neither the iterates nor the verdict depend
    on units. Where no step improves the gradient, its error is measured, by another solve at a
    neighbouring point. A gradient that is no larger than its error counts as converged, with
    ``report.limited_by`` "rounding"; there is an `AccuracyWarning` if the gradient has not
    decreased by `gtol` from a start where it was larger than that.

    An interrupted run that is started again with the same file resumes from its last checkpoint
    and, on a CPU with the same number of threads, gives identical results; a run that had ended
    returns its result at once. At each checkpoint the functional drops everything but the state,
    so that later iterates depend on the file alone. This costs one set-up and one forward solve
    that has already converged. `gtol`, `max_iterations` and `checkpoint_every` may differ when a
    run is resumed. The functional and all other arguments must be the same: their sizes, theta0 and
    the loss at the checkpoint are compared.

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
    The parameter for which the solution of h = cos h + theta is 1:

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
    if not isinstance(functional, Functional):
        raise ArgumentError(
            "functional: expected an mfdeq.ReducedFunctional(model, loss), got a "
            f"{type(functional).__name__}"
        )
    fraction(gtol, "gtol")
    count(max_iterations, "max_iterations")
    if radius is not None and not at_least(0.0, radius, "radius") > 0.0:
        raise ArgumentError("radius: expected a positive number, got 0")
    theta0 = flatten_params(functional.model, theta0, "theta0")
    backend = Backend.of(theta0, name="theta0")
    sizes = functional.sizes
    N, P = (int(n) if hasattr(n, "__int__") else n for n in map(backend.global_size, sizes))
    theta = backend.vector(theta0, P, "theta0")
    limits = Bounds(backend, theta.shape[0], bounds, functional.model)
    if not limits.unbounded and not entry.takes_bounds:
        bounded = " and ".join(name for name, other in METHODS.items() if other.takes_bounds)
        raise ArgumentError(
            f"bounds: expected None or one of the methods {bounded}, got {method!r}"
        )
    given, theta = theta, limits.project(theta)
    in_metric, origin = parameter_metric(metric, functional.priors, backend, theta.shape[0])
    precondition = _preconditioning(backend, preconditioner, theta.shape[0], in_metric)
    file = open_checkpoint(
        checkpoint,
        checkpoint_every,
        "a minimization",
        lambda: {
            "model": functional.name,
            "N and P": [N, P],
            "theta0": digest(theta),
            "method": method,
            "bounds": digest(limits.lower, limits.upper),
            "preconditioner": type(preconditioner).__name__,
            "metric": [origin, type(in_metric).__name__],
            "radius": None if radius is None else float(radius),
        },
        backend,
        functional.processes,
    )
    norm = GradientNorm(in_metric)
    accuracy = None
    if backend.library.distributed:  # the same steps on any number of processes
        accuracy = gtol if functional.accuracy is None else functional.accuracy
    run = Minimization(functional, Objective(functional, method, accuracy), limits, norm, file)
    with ProgressBar("minimize", "iterations", progress) as bar:
        if file is not None and file.saved is not None:
            run.restore(backend, file.saved)
            bar.continue_from(len(run.report.steps) - 1)
        else:
            projected = backend.any(theta != given)
            eq = _first_equilibrium(functional, theta, projected)
            if entry.needs_matrices:
                # Raise an error early if the derivatives are not sparse matrices.
                solver_for(backend).assemble_blocks(functional.hessian_at(eq))
            run.start(theta, radius)
            run.report.metric = origin
        target = gtol * run.scale
        max_products = min(MAX_PRODUCTS_PER_STEP, 2 * theta.shape[0])
        run.method = entry.make(
            Setting(
                run.objective,
                limits,
                norm,
                precondition,
                max_products,
                target,
                run.scale,
                run.at_rounding,
            )
        )
        stop = run.run(target, max_iterations, callback, bar)
    return _minimum(run, stop, target)


def _first_equilibrium(functional: Functional, theta: Array, projected: bool) -> Any:
    place = "theta0, projected onto the bounds," if projected else "theta0,"
    try:
        return functional.equilibrium(theta)
    except (ConvergenceError, SingularStateError) as error:
        raise ConvergenceError(
            f"no equilibrium was found at {place} the start of the minimization: {error}. Use "
            "another theta0, or pass a start h0 to mfdeq.ReducedFunctional",
            report=error.report,
        ) from error
    except Exception as error:
        error.add_note(f"mfdeq: at {place} the start of mfdeq.minimize")
        raise


def _preconditioning(
    backend: Backend, preconditioner: Any, size: int, metric: Metric
) -> Callable[[Array], Array]:
    """Return the product with an approximate inverse of the Hessian."""
    if preconditioner is None:
        return metric.solve
    if isinstance(preconditioner, Precision):
        return preconditioner.solve
    if isinstance(preconditioner, LossBase):
        raise ArgumentError(
            "preconditioner: expected an mfdeq.Precision or an approximate inverse of the Hessian, "
            f"got a {type(preconditioner).__name__}. Pass its precision instead"
        )
    return as_symmetric(backend, preconditioner, (size, size), "preconditioner")._apply


def _minimum(run: Minimization, stop: Stop, target: float) -> Minimum:
    """Return the result of a run, or raise a `ConvergenceError` with it as `best`."""
    at, report = run.at, run.report
    report.limited_by = stop.limited_by
    minimum = Minimum(
        at.theta,
        at.value,
        at.gradient,
        bool(stop.limited_by),
        stop.reason,
        run.eq,
        report,
        run.functional,
    )
    if not minimum.converged:
        units = units_advice(report.metric, at.theta, run.norm.metric.backend)
        raise ConvergenceError(
            f"mfdeq.minimize by {report.method} stopped at |gradient| {at.gradient_norm:.2e}, "
            f"above its target {target:.2e}: {stop.reason}. The point so far is in "
            f"`best`{stop.advice}{units}",
            best=minimum,
            report=report,
        ) from stop.failure
    # A start at the minimum is no reason to warn.
    first = report.steps[0].gradient_norm
    if stop.limited_by == "rounding" and first > 10.0 * run.gradient_error:
        warn(
            f"minimize: expected |gradient| {target:.2e} by gtol, got {at.gradient_norm:.2e}, "
            "which is its error. Use a larger gtol, or a smaller rtol of mfdeq.ReducedFunctional",
            AccuracyWarning,
        )
    return minimum
