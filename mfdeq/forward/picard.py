"""Damped Picard iteration, h <- h - d M R(h)."""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array
from ..linear import Solver
from ..models.linearization import Problem
from .convergence import ConvergenceMonitor
from .protocol import ForwardMethod

MIN_DAMPING = 1e-3  # smallest damping factor d
MIN_DECREASE = 1e-6  # relative decrease of ||R|| for which a step is accepted


class Picard(ForwardMethod):
    """Fixed-point iteration h <- h - d M R(h) with damping d, halved whenever ||R|| grows.

    Notes
    -----
    For a map, M is the identity and an undamped step is h <- f(h), which converges if f is a
    contraction. For a residual, M is one application of a factor of A at the start, without which
    the iteration would diverge for a discretized PDE.

    References
    ----------
    J. M. Ortega and W. C. Rheinboldt, Iterative Solution of Nonlinear Equations in Several
    Variables, Academic Press (1970), chapter 12.
    """

    max_iterations = 5000

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> Array:
        """Solve R(h) = 0 from h; see `ForwardMethod`."""
        M = residual_preconditioner(problem, h, solver, monitor)
        damping = 1.0
        R = problem.residual(h)
        norm = problem.backend.norm(R)
        monitor.record(h, norm)
        while not monitor.done:
            trial = h - damping * M(R)
            trial_R, trial_norm = problem.trial_residual(trial)
            if trial_R is None or trial_norm > (1.0 - MIN_DECREASE) * norm:
                damping *= 0.5
                if damping < MIN_DAMPING:
                    raise monitor.failure(
                        "diverged: ||R|| grows under every damping down to "
                        f"{MIN_DAMPING}: the map is no contraction here"
                    )
                continue
            h, R, norm = trial, trial_R, trial_norm
            monitor.record(h, norm)
        return h


def residual_preconditioner(
    problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
) -> Callable[[Array], Array]:
    """Make M of h <- h - M R(h): the identity for a map, a factor of A at h for a residual."""
    if problem.is_map:
        return lambda R: R
    A = problem.linearize(h).A
    monitor.set_floor(A, h)
    return solver.setup(A, monitor.report.forward).approximate
