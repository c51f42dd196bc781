"""From a model and its parameters to the equilibrium: which method, and when it is done."""

from __future__ import annotations

from typing import Any

from ..arguments import one_of
from ..arrays.backend import Array
from ..arrays.memory import translate_memory_errors
from ..errors import ConvergenceError, SingularStateError
from ..forward import MAX_ITERATIONS, METHODS, Monitor
from ..linear import Auto, Reused
from ..linear.factor import check_solver
from ..models.linearization import Problem
from ..models.model import Model
from ..report import SolveReport
from .equilibrium import Equilibrium

NO_DIGITS = 1e-2  # floor over scale, from where a residual at the floor says little


@translate_memory_errors
def solve(
    model: Model,
    theta: Array,
    h0: Array | None = None,
    *,
    method: str = "auto",
    solver: Any = "auto",
    rtol: float | None = None,
    max_iterations: int | None = None,
    progress: bool = False,
) -> Equilibrium:
    """Solve h = f(h, theta), or R(h, theta) = 0, for the equilibrium h*.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
        Its library and dtype (float32 or float64) are those of everything after.
    h0 : (N,) array, optional
        The start; by default the model's.
    method : {"auto", "newton", "anderson", "picard"}, optional
        "auto" takes Newton; for a map that gives only products of its Jacobian, Anderson
        first. It falls back on the other before it gives up.
    solver : "auto" or description, optional
        `mfdeq.Direct()`, `mfdeq.Krylov(...)` or `mfdeq.Neumann()`.
    rtol : float, optional
        Converged means ||R|| <= max(rtol s, floor); see Notes. None is 1e-10 in float64 and
        the floor in float32.
    max_iterations : int, optional
        Of the forward method: 100 for Newton, 500 for Anderson, 5000 for Picard.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Equilibrium

    Raises
    ------
    ConvergenceError
        With the best state as `best` and the history in `report`.
    SingularStateError
        Where A is singular along the way.
    ModelError
        Where a function of the model returns what it should not.

    Notes
    -----
    s is the model's `residual_scale`, by default ||R|| at the model's default start.
    floor = 10 eps || |A||h| || is what rounding leaves of R. An explicit rtol below the
    floor is an error.
    """
    problem = Problem(model, theta, h0)
    one_of(method, ("auto", *METHODS), "method")
    linear = reused_solver(solver)
    start = problem.start(h0)
    report = SolveReport()
    first_error: ConvergenceError | SingularStateError | None = None
    for name, why in _candidates(problem, method, start):
        # What a method that failed has cost stays on the account.
        report = SolveReport(
            method=name,
            solver=_described(linear),
            choices=[*report.choices],
            forward=report.forward,
        )
        if method == "auto":
            report.choices.append(f"method: {name}, because {why}")
        limit = MAX_ITERATIONS[name] if max_iterations is None else max_iterations
        monitor = Monitor(problem, rtol, limit, report, progress)
        try:
            monitor.set_scale(start)
            h = METHODS[name](problem, start, linear, monitor)
        except (ConvergenceError, SingularStateError) as error:
            report.choices.append(f"method: {name} failed: {error}")
            if first_error is None:
                first_error = error
            else:
                first_error.add_note(f"Then {name} was tried: {error}")
            continue
        finally:
            monitor.close()
        return _equilibrium(problem, h, linear, report, monitor)
    assert first_error is not None
    raise first_error


@translate_memory_errors
def equilibrium_at(
    model: Model, theta: Array, state: Array, *, solver: Any = "auto"
) -> Equilibrium:
    """The equilibrium at a state that was solved for elsewhere; its residual is checked.

    Parameters
    ----------
    model, theta, solver
        As in `solve`.
    state : (N,) array

    Raises
    ------
    ConvergenceError
        If ||R|| there is above what `solve` asks for by default.
    """
    problem = Problem(model, theta, state, "state")
    h = problem.backend.vector(state, problem.state_size, "state")
    advice = "Pass it as h0 to mfdeq.solve"
    return ended_at(problem, h, solver, "none (state given)", "is not an equilibrium", advice)


def ended_at(
    problem: Problem, h: Array, solver: Any, method: str, failing: str, advice: str
) -> Equilibrium:
    """The equilibrium at a state that a `method` says it is; an error says how that `failing`."""
    linear = reused_solver(solver)
    report = SolveReport(method=method, solver=_described(linear))
    monitor = Monitor(problem, None, 1, report)
    monitor.set_scale(h)
    monitor.record(h, problem.backend.norm(problem.residual(h)))
    if not monitor.done:
        raise monitor.failure(failing, advice)
    return _equilibrium(problem, h, linear, report, monitor)


def _equilibrium(
    problem: Problem, h: Array, linear: Reused, report: SolveReport, monitor: Monitor
) -> Equilibrium:
    linearized = problem.linearize(h)
    monitor.set_floor(linearized.A, h)
    monitor.check_rtol()
    report.converged = True
    report.evaluations = problem.evaluations
    report.derivatives = dict(linearized.given.sources)
    report.reason = (
        f"||R|| {report.residual:.2e} <= {report.target:.2e}, "
        + ("the rounding floor" if report.limited_by == "floor" else "rtol times the scale")
        + f" ({report.digits:.1f} digits)"
    )
    eq = Equilibrium(problem, h, linearized, linear, report)
    if report.floor > NO_DIGITS * report.scale:
        # Rounding is as large as the residual of the start: either that was the solution, or
        # the state has run away along a null vector of A, where any R is within rounding.
        _ = eq.factor
    return eq


def _candidates(problem: Problem, method: str, start: Array) -> list[tuple[str, str]]:
    if method != "auto":
        return [(method, "it was asked for")]
    if problem.is_map and not problem.linearize(start).A.has_entries:
        return [
            ("anderson", "the model is a map that gives only products of its Jacobian"),
            ("newton", "Anderson acceleration did not converge"),
        ]
    return [
        ("newton", "the model gives the matrix of its Jacobian or is a residual"),
        ("anderson", "Newton did not converge"),
    ]


def reused_solver(solver: Any) -> Reused:
    """What `solver` says, with its factor kept along a path."""
    if isinstance(solver, Reused):
        return solver
    if isinstance(solver, str) and solver == "auto":
        return Reused(Auto())
    check_solver(solver)
    return Reused(solver)


def _described(linear: Reused) -> str:
    chosen_later = isinstance(linear.solver, Auto)
    return "solver chosen at the first solve" if chosen_later else f"{linear.solver}"
