"""Newton's method with the linear layer, a line search and Eisenstat-Walker forcing."""

from __future__ import annotations

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..linear import Factor, Solver
from ..models.linearization import Problem
from .convergence import Monitor

LOOSEST = 0.1  # inner tolerance of the first step
DECREASE = 1e-4  # of the Armijo condition on ||R||
HALVINGS = 30
POLISH = 1e-3  # inner tolerance of the last, chord step


def newton(problem: Problem, h: Array, solver: Solver, monitor: Monitor) -> Array:
    """Solve R(h) = 0 from h.

    Inner solves are only as accurate as their step deserves (Eisenstat and Walker 1996,
    choice 2). Their factors are not used for anything after: derivatives have their own.
    """
    norm = problem.backend.norm
    R = problem.residual(h)
    size = previous = norm(R)
    monitor.record(h, size)
    forcing = LOOSEST
    factor: Factor | None = None
    while not monitor.done:
        linearized = problem.linearize(h)
        monitor.set_floor(linearized.A, h)
        try:
            factor = solver.setup(linearized.A, monitor.report.forward)
            forcing = _forcing(forcing, size, previous, monitor.report.target)
            step = factor.solve(R, rtol=forcing)
        except (ConvergenceError, SingularStateError) as error:
            error.best, error.report = monitor.best, monitor.report
            monitor.report.reason = f"a Newton step could not be computed: {error}"
            raise
        previous = size
        h, R, size = _line_search(problem, h, step, size, monitor)
        monitor.set_floor(linearized.A, h)  # of this h: a far start had another
        monitor.record(h, size)
    return h if factor is None else _polished(problem, h, R, size, factor, monitor)


def _forcing(last: float, size: float, previous: float, target: float) -> float:
    wanted = 0.9 * (size / previous) ** 2 if size < previous else LOOSEST
    if 0.9 * last**2 > 0.1:
        wanted = max(wanted, 0.9 * last**2)
    # Not more accurate than the last step to the target needs.
    return min(LOOSEST, max(wanted, 0.1 * target / size))


def _line_search(
    problem: Problem, h: Array, step: Array, size: float, monitor: Monitor
) -> tuple[Array, Array, float]:
    t, nonexistent = 1.0, 0
    for _ in range(HALVINGS):
        trial = h - t * step
        R, trial_size = problem.trial_residual(trial)
        if R is not None and trial_size <= (1.0 - DECREASE * t) * size:
            return trial, R, trial_size
        nonexistent += R is None
        t *= 0.5
    where = f"{problem.name}.{problem.model.written}"
    raise monitor.failure(
        "stalled: no decrease of ||R|| along the Newton step ("
        + (f"{nonexistent} of {HALVINGS} trial steps gave NaN in {where}; " if nonexistent else "")
        + "a fold, no solution for these parameters, or a d_state that is not the derivative)"
    )


def _polished(
    problem: Problem, h: Array, R: Array, size: float, factor: Factor, monitor: Monitor
) -> Array:
    """One chord step with the last factor: the state error falls well below its tolerance."""
    try:
        better = h - factor.solve(R, rtol=POLISH)
    except ConvergenceError:
        return h
    _, better_size = problem.trial_residual(better)
    if not better_size < size or not monitor.reached(better, better_size):
        return h
    monitor.record(better, better_size)
    monitor.report.polished = True
    return better
