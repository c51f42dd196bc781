"""`mfdeq.solve` and `mfdeq.equilibrium_at`: the equilibrium of a model and its parameters."""

from __future__ import annotations

from typing import Any

from ..arguments import one_of
from ..arrays.backend import Array
from ..arrays.collective import collective
from ..arrays.memory import translate_memory_errors
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..forward import METHODS, ConvergenceMonitor, ForwardMethod
from ..linear import Auto, Reused
from ..linear.protocols import check_solver
from ..models.model import Model
from ..models.problem import Problem
from ..report import SolveReport
from .constrained_equilibrium import bind, equilibrium_of
from .equilibrium import Equilibrium
from .uniqueness import explain_failure

ON_FAILURE_VALUES = ("raise", "mask")
# Linear solves that a state takes at least: of two Newton steps, and of the last correction. "auto"
# chooses a solver for as many.
SOLVES_OF_A_STATE = 3


@collective
@translate_memory_errors
def solve(
    model: Model,
    theta: Array,
    h0: Array | float | None = None,
    *,
    method: str = "auto",
    solver: Any = "auto",
    rtol: float | None = None,
    max_iterations: int | None = None,
    lower: Any = None,
    upper: Any = None,
    progress: bool = False,
    error_estimates: bool = True,
    on_failure: str = "raise",
) -> Equilibrium:
    """Solve h = f(h, theta) or R(h, theta) = 0 for the equilibrium h*.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
        The parameters. All results have their array library and dtype (float32 or float64).
    h0 : float or (N,) array, optional
        The start, a number for all unknowns or an array; by default the model's
        ``initial_state(theta)``.
    method : {"auto", "newton", "anderson", "picard", "transient"} or str, optional
        The forward method, or the name of one added with `mfdeq.forward.register`. "auto" tries
        Newton's method and then Anderson acceleration, in the reverse order for a map whose
        Jacobian is known only by its products, and at last pseudo-transient continuation for a map
        or a residual with a `time_sign`.
    solver : "auto" or description, optional
        The linear solver: `mfdeq.Direct()`, `mfdeq.Krylov(...)`, `mfdeq.Neumann()` or an
        `mfdeq.linear.Solver` of your own. Pass one `mfdeq.linear.Reused` to several calls with
        nearby parameters if they are to share a factor (`mfdeq.ReducedFunctional` does). "auto" is
        `mfdeq.Auto` for the three solves that a state takes at least.
    rtol : float, optional
        The relative accuracy of every equation and of every unknown; see Notes. By default 1e-10 in
        float64; in float32 rounding is the target.
    max_iterations : int, optional
        Limit on the iterations of the forward method; by default 100 for Newton's method, 500 for
        Anderson acceleration and pseudo-transient continuation, and 5000 for Picard iteration.
    lower, upper : float or (N,) array, optional
        Bounds that no iterate crosses, as for a concentration, a temperature or a voltage. A step
        goes at most nine tenths of the way to a bound.
    progress : bool, optional
        Show a progress bar in a terminal or a notebook.
    error_estimates : bool, optional
        Estimate the error of the first gradient and of the first product with a Hessian at the
        equilibrium, ``report.gradient_error`` and ``report.product_error``, and warn if it is
        above 1e-3.
    on_failure : {"raise", "mask"}, optional
        For a batch: whether a sample without an equilibrium is an error, which names it (the
        default), or is left out, with weight zero in losses and sensitivities.
        ``report.samples`` says which, and counts them. If no sample has an equilibrium, that is an
        error in any case.

    Returns
    -------
    Equilibrium

    Raises
    ------
    ConvergenceError
        If no method converges, with the best state as `best` and the history in `report`.
    SingularStateError
        If A is singular at an iterate, or by its structure at the equilibrium.
    ModelError
        If a function of the model returns a wrong shape or dtype, or NaN at the start.

    Warns
    -----
    NearSingularWarning
        If the equilibrium is at a fold, where derivatives do not exist.

    See Also
    --------
    equilibrium_at : the equilibrium at a known state.

    Notes
    -----
    An iteration has converged if, with Newton's correction d = A^-1 R,

        |R_i| <= rtol (|A||h|)_i  for every equation,  |d_j| <= rtol |h_j|  for every unknown,

    each or down to rounding, which is measured where the state stalls above 10 eps (|A||h|)_i. The
    model may give other sizes: `residual_scale` for (|A||h|)_i, `state_scale` for |h_j|. Neither
    depends on the units of equations and unknowns, nor on the start. If rounding leaves fewer
    digits than an explicit rtol asks for, that is an error.

    A model may raise an exception or return NaN at a trial state, to say that it has no value there
    (see `DomainError`): the step is shortened, and the report counts the failures. At the start the
    exception propagates, as do mistakes such as a `NameError` anywhere.

    References
    ----------
    S. C. Eisenstat and H. F. Walker, Choosing the forcing terms in an inexact Newton method, SIAM
    J. Sci. Comput. 17 (1996).

    H. F. Walker and P. Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal.
    49 (2011).

    P. Deuflhard, Newton Methods for Nonlinear Problems, Springer (2004).

    C. T. Kelley and D. E. Keyes, Convergence analysis of pseudo-transient continuation, SIAM J.
    Numer. Anal. 35 (1998).

    Examples
    --------
    The fixed point of h = cos(h) + theta, and its derivative 1 / (1 + sin h):

    >>> import mfdeq, numpy as np
    >>> class Cosine(mfdeq.FixedPointModel):
    ...     state_size = param_size = 1
    ...
    ...     def map(self, h, theta):
    ...         return np.cos(h) + theta
    ...
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(d_state=-np.diag(np.sin(h)), d_params=np.eye(1))
    >>> eq = mfdeq.solve(Cosine(), np.zeros(1))
    >>> print(eq.state.round(4), (eq.sensitivity @ np.ones(1)).round(4))
    [0.7391] [0.5975]
    >>> eq.report.converged, eq.report.method
    (True, 'newton')
    """
    one_of(on_failure, ON_FAILURE_VALUES, "on_failure")
    if on_failure == "mask":
        model = model.tolerating_failures()
    problem = Problem(model, theta, h0, lower=lower, upper=upper)
    methods = _methods_of(problem)
    one_of(method, ("auto", *methods), "method")
    linear = reused_solver(solver)
    start = bind(problem, problem.initial_state(h0))
    report = SolveReport()
    first_error: ConvergenceError | SingularStateError | None = None
    for name, why in _candidates(problem, method, start):
        # The counts include the cost of a method that has failed.
        report = SolveReport(
            method=name,
            solver=linear.description,
            choices=[*report.choices],
            forward=report.forward,
        )
        if method == "auto":
            report.choices.append(f"method: {name}, because {why}")
        forward = methods[name]
        limit = forward.max_iterations if max_iterations is None else max_iterations
        monitor = ConvergenceMonitor(problem, linear, rtol, limit, report, progress)
        try:
            forward.iterate(problem, start, linear, monitor)
            monitor.check_rtol()
        except (ConvergenceError, SingularStateError) as error:
            if (singular := explain_failure(problem, error, linear, report, start)) is not None:
                raise singular from error
            report.choices.append(f"method: {name} failed: {error}")
            if first_error is None:
                first_error = error
            else:
                first_error.add_note(f"Then {name} was tried: {error}")
            continue
        except ArgumentError as error:  # of a solver that does not suit A, as if it is singular
            if (singular := explain_failure(problem, error, linear, report, start)) is not None:
                raise singular from error
            raise
        finally:
            monitor.close()
            if linear.held is not None:
                report.record_solver(linear.held.name, linear.choices)
        eq = converged_equilibrium(problem, monitor.state, linear, report)
        eq.judge_uniqueness()
        eq.error_estimates = error_estimates
        return eq
    assert first_error is not None
    raise first_error


@collective
@translate_memory_errors
def equilibrium_at(
    model: Model, theta: Array, state: Array, *, solver: Any = "auto"
) -> Equilibrium:
    """Return the equilibrium at a known state, whose residual is checked.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
    state : (N,) array
        h*.
    solver : "auto" or description, optional
        The linear solver for the derivatives, as in `solve`.

    Returns
    -------
    Equilibrium

    Raises
    ------
    ConvergenceError
        If the state does not meet the criteria of `solve` for the default rtol.
    ModelError
        If a function of the model returns a wrong shape or dtype, or NaN.

    Notes
    -----
    A state on which `solve` has converged is accepted. An unknown that Newton's corrections take to
    zero is compared with the other unknowns, in units in which the columns of A are of similar
    size, since the iterates that show its size in `solve` are not known here.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    >>> eq = mfdeq.equilibrium_at(model, np.array([2.0, 10.0]), np.array([1.0, 2.0]))
    >>> print((eq.sensitivity @ np.ones(2)).round(3))
    [0.25  0.077]
    """
    problem = Problem(model, theta, state, "state")
    h = bind(problem, problem.checked_state(state, "state"), project=False)
    return equilibrium_of_state(
        problem,
        h,
        solver,
        "none (state given)",
        failure="is not an equilibrium",
        advice="Pass it as h0 to mfdeq.solve",
        subject="the state",
    )


def equilibrium_of_state(
    problem: Problem,
    h: Array,
    solver: Any,
    method: str,
    failure: str,
    advice: str,
    subject: str = "",
) -> Equilibrium:
    """Return the equilibrium at a known state, if its residual is small enough for `solve`.

    Parameters
    ----------
    problem : Problem
    h : (N,) array
    solver : "auto" or description
    method : str
        The origin of the state, for the report.
    failure, advice : str
        The reason and the advice in the error if the residual is too large.
    subject : str, optional
        What is no equilibrium, in the error; by default the method.
    """
    linear = reused_solver(solver)
    report = SolveReport(method=method, solver=linear.description)
    monitor = ConvergenceMonitor(problem, linear, None, 1, report)
    if not monitor.accepts(h, problem.residual(h)):
        raise monitor.failure(failure, advice, subject)
    return converged_equilibrium(problem, h, linear, report)


def converged_equilibrium(
    problem: Problem, h: Array, linear: Reused, report: SolveReport
) -> Equilibrium:
    """Return the equilibrium at a converged state, and complete the report."""
    linearized = problem.linearize(h)
    report.converged = True
    report.evaluations = problem.evaluations
    report.derivatives = dict(linearized.linearization.sources)
    eq = equilibrium_of(problem, h, linearized, linear, report)
    eq.check_state()
    return eq


def _methods_of(problem: Problem) -> dict[str, ForwardMethod]:
    """Return the forward methods by name, with the model's own."""
    own = problem.model.forward_method
    return METHODS if own is None else {**METHODS, own.name: own}


def _candidates(problem: Problem, method: str, start: Array) -> list[tuple[str, str]]:
    """List the forward methods to try in turn, with the reason for each."""
    if method != "auto":
        return [(method, "it was requested")]
    if (own := problem.model.forward_method) is not None:
        return [(own.name, own.reason)]
    if problem.is_map and not problem.linearize(start).A.has_entries:
        candidates = [
            ("anderson", "the model is a map whose Jacobian is known by its products only"),
            ("newton", "Anderson acceleration did not converge"),
        ]
    else:
        candidates = [
            ("newton", "the model is a residual, or a map with the matrix of its Jacobian"),
            ("anderson", "Newton did not converge"),
        ]
    if problem.is_map or problem.model.time_sign is not None:
        candidates.append(("transient", "neither Newton nor Anderson acceleration converged"))
    return candidates


def reused_solver(solver: Any) -> Reused:
    """Return the described solver, which reuses its factor for nearby matrices."""
    if isinstance(solver, Reused):
        return solver
    if isinstance(solver, str) and solver == "auto":
        return Reused(Auto().for_solves(SOLVES_OF_A_STATE))
    check_solver(solver)
    return Reused(solver)
