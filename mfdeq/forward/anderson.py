"""Anderson acceleration of the Picard iteration."""

from __future__ import annotations

from ..arrays.backend import Array, Backend
from ..linear import Solver
from ..models.problem import Problem
from .advice import advise_where_undefined
from .convergence import ConvergenceMonitor
from .picard import MIN_DAMPING, residual_preconditioner
from .protocol import ForwardMethod

MAX_DIFFERENCES = 8  # number of past differences in a step
MAX_GROWTH = 10.0  # factor by which M R may grow in one step before the iteration restarts
RANK_ROUNDINGS = 100.0  # singular values below this many rounding units count as zero


class Anderson(ForwardMethod):
    """Anderson acceleration (type II) of h <- h - M R(h), restarted where R jumps.

    Notes
    -----
    Let G = -M R, with M as in `Picard`, and let the columns of dh and dG be the last differences
    of h and G. A step is G - dG γ - dh γ, where γ minimizes ||G - dG γ||, each unknown relative to
    its own size.

    References
    ----------
    D. G. Anderson, Iterative procedures for nonlinear integral equations, J. ACM 12 (1965).

    H. F. Walker and P. Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal.
    49 (2011).
    """

    max_iterations = 500

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> None:
        """Solve R(h) = 0 from h; see `ForwardMethod`."""
        M = residual_preconditioner(problem, h, solver, monitor)
        backend, xp, norm = problem.backend, problem.backend.xp, problem.backend.norm
        R = problem.residual(h)
        monitor.record(h, R)
        G = -M(R)
        dh: list[Array] = []
        dG: list[Array] = []
        damping = 1.0
        sizes = monitor.step_sizes(h, G)
        while not monitor.done:
            step = anderson_step(backend, G, dh, dG, damping, sizes)
            trial = problem.limited(h, h + step)
            trial_R, _ = problem.trial_residual(trial)
            with backend.ignore_overflow():
                trial_G = G if trial_R is None else -M(trial_R)
                reached = xp.maximum(sizes, monitor.step_sizes(trial, trial_G))
                grows = not norm(trial_G / reached) <= MAX_GROWTH * norm(G / reached)
            if trial_R is None or grows:
                if not dh:
                    damping *= 0.5
                    if damping < MIN_DAMPING and not monitor.stalled_by_noise(h, R):
                        if trial_R is None:
                            raise monitor.failure(
                                "stalled: the model has no value under any damping of the step",
                                advise_where_undefined(problem),
                            )
                        raise monitor.failure("diverged: the residual grows under every damping")
                dh, dG = [], []
                continue
            dh = [*dh[1 - MAX_DIFFERENCES :], trial - h]
            dG = [*dG[1 - MAX_DIFFERENCES :], trial_G - G]
            h, R, G, sizes = trial, trial_R, trial_G, reached
            monitor.record(h, R)


def anderson_step(
    backend: Backend,
    G: Array,
    dh: list[Array],
    dG: list[Array],
    damping: float,
    sizes: Array | None = None,
) -> Array:
    """Compute the step damping (G - dG γ) - dh γ, where γ minimizes ||G - dG γ||.

    Parameters
    ----------
    backend : Backend
    G : (N,) array
    dh, dG : lists of (N,) arrays
    damping : float
    sizes : (N,) array, optional
        The sizes of the unknowns, by which the entries of G are divided in the norm.
    """
    if not dh:
        return damping * G
    differences = backend.columns(*dG)
    weights = backend.xp.ones_like(G) if sizes is None else 1.0 / sizes
    # The pseudoinverse ignores differences that have become linearly dependent.
    rtol = RANK_ROUNDINGS * backend.eps
    inverse = backend.xp.linalg.pinv(weights[:, None] * differences, rtol=rtol)
    with backend.ignore_overflow():  # the residual of the trial state shows it
        gamma = inverse @ (weights * G)
        return damping * (G - differences @ gamma) - backend.columns(*dh) @ gamma
