"""Damped Picard iteration, h <- h - d M R(h)."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..arrays.backend import Array
from ..linear import Solver
from ..models.problem import Problem
from .advice import advise_where_undefined
from .convergence import ConvergenceMonitor
from .protocol import ForwardMethod

MIN_DAMPING = 1e-3  # smallest damping factor d
MIN_DECREASE = 1e-6  # relative decrease of the next step for which a step is accepted
MAX_OSCILLATION = 0.02  # of a step and the next, relative to the step, whose sum nearly vanishes
SMALL_STEP = 1e-2  # relative to the unknowns, of which this is looked for
RECENT_STEPS = 4  # below the largest of which the next step must be


class Picard(ForwardMethod):
    """Fixed-point iteration h <- h - d M R(h) with a damping factor d.

    Notes
    -----
    d is halved whenever the next step M R is larger than the last four, in units of the largest
    values of the unknowns so far.

    For a map, M is the identity and an undamped step is h <- f(h), which converges if f is a
    contraction. For a residual, M is one application of a factor of A at the start, without which
    the iteration would diverge for a discretized PDE.

    References
    ----------
    L. Grippo, F. Lampariello and S. Lucidi, A nonmonotone line search technique for Newton's
    method, SIAM J. Numer. Anal. 23 (1986).

    J. M. Ortega and W. C. Rheinboldt, Iterative Solution of Nonlinear Equations in Several
    Variables, Academic Press (1970), chapter 12.
    """

    max_iterations = 5000

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> None:
        """Solve R(h) = 0 from h; see `ForwardMethod`."""
        M = residual_preconditioner(problem, h, solver, monitor)
        xp, norm = problem.backend.xp, problem.backend.norm
        damping = 1.0
        R = problem.residual(h)
        monitor.record(h, R)
        step = -M(R)
        sizes, recent = monitor.step_sizes(h, step), [(R, step)]
        while not monitor.done:
            trial = problem.limited(h, h + damping * step)
            trial_R, _ = problem.trial_residual(trial)
            trial_step = step if trial_R is None else -M(trial_R)
            reached = xp.maximum(sizes, monitor.step_sizes(trial, trial_step))
            grows = trial_R is not None and all(
                measure(trial_x) > (1.0 - MIN_DECREASE) * max(map(measure, earlier))
                for measure, trial_x, earlier in (
                    (lambda x, u=reached: norm(x / u), trial_step, [x for _, x in recent]),
                    (monitor.level(h, R, step), trial_R, [x for x, _ in recent]),
                )
            )
            # A step that is taken back forever: with half the damping it is not.
            left = norm((trial_step + step) / reached) if trial_R is not None else math.inf
            size = norm(step / reached)
            oscillates = size <= SMALL_STEP and left < MAX_OSCILLATION * size
            if trial_R is None or grows or oscillates:
                damping *= 0.5
                if damping < MIN_DAMPING and not monitor.stalled_by_noise(h, R):
                    if trial_R is None:
                        raise monitor.failure(
                            "stalled: the model has no value under any damping of the step",
                            advise_where_undefined(problem),
                        )
                    raise monitor.failure(
                        "diverged: the residual grows under every damping down to "
                        f"{MIN_DAMPING}: the map is no contraction here"
                    )
                continue
            h, R, step, sizes = trial, trial_R, trial_step, reached
            recent = [*recent[1 - RECENT_STEPS :], (R, step)]
            monitor.record(h, R)


def residual_preconditioner(
    problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
) -> Callable[[Array], Array]:
    """Make M of h <- h - M R(h): the identity for a map, a factor of A at h for a residual."""
    if problem.is_map:
        return lambda R: R
    A = problem.linearize(h).A
    return solver.setup_for_equilibrium(A, monitor.report.forward).approximate
