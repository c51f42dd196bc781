"""Newton's method with inexact solves, a line search and a final chord step."""

from __future__ import annotations

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..linear import Factor, Solver
from ..models.linearization import Problem
from ..operators.operator import Operator
from .convergence import ConvergenceMonitor
from .newton_loop import Iterate, chord_steps, newton_loop
from .protocol import ForwardMethod

MAX_FORCING = 0.1  # largest relative residual of a linear solve; that of the first step
FORCING_FACTOR = 0.9  # gamma of Eisenstat and Walker's choice 2
SUFFICIENT_DECREASE = 1e-4  # constant of the Armijo condition on ||R||
MAX_HALVINGS = 30  # of one step in the line search


class Newton(ForwardMethod):
    """Newton's method for R(h) = 0, globalized by a line search on ||R||.

    Notes
    -----
    A step solves A s = R to a relative residual of 0.9 (||R_k|| / ||R_{k-1}||)² (Eisenstat and
    Walker, choice 2), but at most 0.1, and no smaller than a last step to the target requires. The
    step is halved until ||R|| satisfies the Armijo condition. A final chord step with the last
    factor reduces the error of the state well below its tolerance. These factors are used for the
    iteration only; derivatives set up their own.

    References
    ----------
    S. C. Eisenstat and H. F. Walker, Choosing the forcing terms in an inexact Newton method, SIAM
    J. Sci. Comput. 17 (1996).

    P. Deuflhard, Newton Methods for Nonlinear Problems, Springer (2004).
    """

    max_iterations = 100

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> Array:
        """Solve R(h) = 0 from h; see `ForwardMethod`."""
        residual = problem.residual(h)
        start = Iterate(h, residual, problem.backend.norm(residual))
        monitor.record(start.h, start.norm)
        steps = _InexactSteps(problem, solver, monitor, start.norm)
        end, _ = newton_loop(
            start,
            steps.solve,
            steps.advance,
            lambda iterate, taken: monitor.done,
            monitor.max_iterations,
        )
        if steps.factor is None:
            return end.h
        polished, accepted = chord_steps(
            problem,
            end,
            steps.factor,
            max_steps=1,
            accept=lambda trial: monitor.reached(trial.h, trial.norm),
        )
        if accepted:
            monitor.record(polished.h, polished.norm)
            monitor.report.polished = True
        return polished.h


class _InexactSteps:
    """Inexact Newton steps with a line search."""

    def __init__(
        self, problem: Problem, solver: Solver, monitor: ConvergenceMonitor, norm: float
    ) -> None:
        self.problem, self.solver, self.monitor = problem, solver, monitor
        self.A: Operator | None = None
        self.factor: Factor | None = None
        self.forcing, self.previous_norm = MAX_FORCING, norm

    def solve(self, iterate: Iterate) -> Array:
        """Solve A s = R inexactly for the step, with A at the iterate."""
        problem, monitor = self.problem, self.monitor
        self.A = problem.linearize(iterate.h).A
        monitor.set_floor(self.A, iterate.h)
        try:
            self.factor = self.solver.setup(self.A, monitor.report.forward)
            self.forcing = _forcing(
                self.forcing, iterate.norm, self.previous_norm, monitor.report.target
            )
            return self.factor.solve(iterate.residual, rtol=self.forcing)
        except (ConvergenceError, SingularStateError) as error:
            error.best, error.report = monitor.best, monitor.report
            monitor.report.reason = f"a Newton step could not be computed: {error}"
            raise

    def advance(self, iterate: Iterate, step: Array) -> Iterate:
        """Search along the step for a decrease of ||R||, and record the new iterate."""
        self.previous_norm = iterate.norm
        following = self._line_search(iterate, step)
        # Update the floor to the new state: far from the solution it can be much larger.
        assert self.A is not None
        self.monitor.set_floor(self.A, following.h)
        self.monitor.record(following.h, following.norm)
        return following

    def _line_search(self, iterate: Iterate, step: Array) -> Iterate:
        length, undefined = 1.0, 0
        for _ in range(MAX_HALVINGS):
            h = iterate.h - length * step
            residual, norm = self.problem.trial_residual(h)
            if residual is not None and norm <= (1.0 - SUFFICIENT_DECREASE * length) * iterate.norm:
                return Iterate(h, residual, norm)
            undefined += residual is None
            length *= 0.5
        where = f"{self.problem.name}.{self.problem.model.function_name}"
        counted = f"{undefined} of {MAX_HALVINGS} trial steps gave NaN in {where}; "
        raise self.monitor.failure(
            "stalled: no decrease of ||R|| along the Newton step ("
            + (counted if undefined else "")
            + "a fold, no solution for these parameters, or a wrong d_state)"
        )


def _forcing(last: float, norm: float, previous_norm: float, target: float) -> float:
    """Choose the relative residual of the next linear solve (Eisenstat and Walker, choice 2)."""
    falling = norm < previous_norm
    forcing = FORCING_FACTOR * (norm / previous_norm) ** 2 if falling else MAX_FORCING
    if FORCING_FACTOR * last**2 > 0.1:  # the safeguard against a sudden drop
        forcing = max(forcing, FORCING_FACTOR * last**2)
    # The last step need not be more accurate than the target requires.
    return min(MAX_FORCING, max(forcing, 0.1 * target / norm))
