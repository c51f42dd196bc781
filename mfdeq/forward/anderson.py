"""Anderson acceleration of the Picard iteration."""

from __future__ import annotations

from ..arrays.backend import Array, Backend
from ..linear import Solver
from ..models.linearization import Problem
from .convergence import ConvergenceMonitor
from .picard import MIN_DAMPING, residual_preconditioner
from .protocol import ForwardMethod

MAX_DIFFERENCES = 8  # number of past differences in a step
MAX_RESIDUAL_GROWTH = (
    10.0  # factor by which ||R|| may grow in one step before the iteration restarts
)
RANK_ROUNDINGS = 100.0  # singular values below this many rounding units count as zero


class Anderson(ForwardMethod):
    """Anderson acceleration (type II) of h <- h - M R(h), restarted where ||R|| jumps.

    Notes
    -----
    Let G = -M R, with M as in `Picard`, and let the columns of dh and dG be the last differences
    of h and G. A step is G - dG γ - dh γ, where γ minimizes ||G - dG γ||.

    References
    ----------
    D. G. Anderson, Iterative procedures for nonlinear integral equations, J. ACM 12 (1965).

    H. F. Walker and P. Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal.
    49 (2011).
    """

    max_iterations = 500

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> Array:
        """Solve R(h) = 0 from h; see `ForwardMethod`."""
        M = residual_preconditioner(problem, h, solver, monitor)
        backend = problem.backend
        R = problem.residual(h)
        norm = backend.norm(R)
        monitor.record(h, norm)
        G = -M(R)
        dh: list[Array] = []
        dG: list[Array] = []
        damping = 1.0
        while not monitor.done:
            step = anderson_step(backend, G, dh, dG, damping)
            trial_R, trial_norm = problem.trial_residual(h + step)
            if trial_R is None or trial_norm > MAX_RESIDUAL_GROWTH * norm:
                if not dh:
                    damping *= 0.5
                    if damping < MIN_DAMPING:
                        raise monitor.failure("diverged: ||R|| grows under every damping")
                dh, dG = [], []
                continue
            trial_G = -M(trial_R)
            dh, dG = [*dh[1 - MAX_DIFFERENCES :], step], [*dG[1 - MAX_DIFFERENCES :], trial_G - G]
            h, norm, G = h + step, trial_norm, trial_G
            monitor.record(h, norm)
        return h


def anderson_step(
    backend: Backend, G: Array, dh: list[Array], dG: list[Array], damping: float
) -> Array:
    """Compute the step damping (G - dG γ) - dh γ, where γ minimizes ||G - dG γ||."""
    if not dh:
        return damping * G
    xp = backend.xp
    differences = xp.stack(dG, axis=1)
    # The pseudoinverse ignores differences that have become linearly dependent.
    gamma = xp.linalg.pinv(differences, rtol=RANK_ROUNDINGS * backend.eps) @ G
    return damping * (G - differences @ gamma) - xp.stack(dh, axis=1) @ gamma
