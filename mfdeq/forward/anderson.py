"""Damped Picard iteration and Anderson acceleration of h <- h - M R(h).

For a map, M is the identity and this is h <- f(h). For a residual, M is a factor of A at the
start: without one the iteration diverges on the scales of a PDE.
"""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array, Backend
from ..linear import Solver
from ..models.linearization import Problem
from .convergence import Monitor

DEPTH = 8  # past differences that Anderson acceleration combines
SMALLEST_DAMPING = 1e-3


def picard(problem: Problem, h: Array, solver: Solver, monitor: Monitor) -> Array:
    """h <- h - d M R(h), the damping d halved whenever ||R|| grows."""
    M = _preconditioner(problem, h, solver, monitor)
    damping = 1.0
    R = problem.residual(h)
    size = problem.backend.norm(R)
    monitor.record(h, size)
    while not monitor.done:
        trial = h - damping * M(R)
        trial_R, trial_size = problem.trial_residual(trial)
        if trial_R is None or trial_size > (1.0 - 1e-6) * size:
            damping *= 0.5
            if damping < SMALLEST_DAMPING:
                raise monitor.failure(
                    "diverged: ||R|| grows under every damping down to "
                    f"{SMALLEST_DAMPING}: the map does not contract here"
                )
            continue
        h, R, size = trial, trial_R, trial_size
        monitor.record(h, size)
    return h


def anderson(problem: Problem, h: Array, solver: Solver, monitor: Monitor) -> Array:
    """Anderson acceleration (type II; Walker and Ni 2011), restarted where ||R|| jumps."""
    M = _preconditioner(problem, h, solver, monitor)
    backend = problem.backend
    R = problem.residual(h)
    size = backend.norm(R)
    monitor.record(h, size)
    G = -M(R)
    dh: list[Array] = []
    dG: list[Array] = []
    damping = 1.0
    while not monitor.done:
        step = anderson_step(backend, G, dh, dG, damping)
        trial_R, trial_size = problem.trial_residual(h + step)
        if trial_R is None or trial_size > 10.0 * size:
            if not dh:
                damping *= 0.5
                if damping < SMALLEST_DAMPING:
                    raise monitor.failure("diverged: ||R|| grows under every damping")
            dh, dG = [], []
            continue
        trial_G = -M(trial_R)
        dh, dG = [*dh[1 - DEPTH :], step], [*dG[1 - DEPTH :], trial_G - G]
        h, R, size, G = h + step, trial_R, trial_size, trial_G
        monitor.record(h, size)
    return h


def anderson_step(
    backend: Backend, G: Array, dh: list[Array], dG: list[Array], damping: float
) -> Array:
    """The step damping (G - dG γ) - dh γ with γ least-squares: G is combined away from dG."""
    if not dh:
        return damping * G
    xp = backend.xp
    differences = xp.stack(dG, axis=1)
    # The pseudoinverse drops differences that have become dependent.
    gamma = xp.linalg.pinv(differences, rtol=100 * backend.eps) @ G
    return damping * (G - differences @ gamma) - xp.stack(dh, axis=1) @ gamma


def _preconditioner(
    problem: Problem, h: Array, solver: Solver, monitor: Monitor
) -> Callable[[Array], Array]:
    if problem.is_map:
        return lambda R: R
    A = problem.linearize(h).A
    monitor.set_floor(A, h)
    return solver.setup(A, monitor.report.forward).approximate
