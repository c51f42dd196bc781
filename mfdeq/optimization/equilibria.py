"""Equilibria at one parameter vector after another, each found from the last."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..equilibrium.constrained_equilibrium import bind, equilibrium_of
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.solve import reused_solver, solve
from ..errors import ConvergenceError, SingularStateError, is_evaluation_failure
from ..locks import lock_of, state_to_pickle
from ..models.model import Model
from ..models.problem import Problem
from ..models.vectors import are_equal
from ..report import LinearCounts, SolveReport

# Number of stored reports, whose counts may still increase: products with a Hessian continue while
# steps from its point are tried.
MAX_REPORTS = 100


class Equilibria:
    """The equilibria of a model at one parameter vector after another, each found from the last.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    h0 : (N,) array or None
        The start of the first solve; by default the model's own start.
    solve_options : mapping of str to object
        Options of `mfdeq.solve`.

    Attributes
    ----------
    solves : int
        The number of forward solves so far, including failed ones.
    """

    def __init__(self, model: Model, h0: Array | None, solve_options: dict[str, Any]) -> None:
        self.model = model
        # Use one solver for all points: the factor at one theta preconditions the next.
        self.solver = reused_solver(solve_options.get("solver", "auto"))
        self.solve_options = {**solve_options, "solver": self.solver}
        self.solves = 0
        self._h0 = self._start = h0
        self._reports: list[Any] = []  # of the last forward solves, including failed ones
        self._earlier_linear_solves = 0  # of forward solves whose reports have been dropped
        self._last: Equilibrium | None = None
        self._failure: tuple[Array, Exception] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the equilibrium, whose factor cannot be pickled, and the failure."""
        return {**state_to_pickle(self), "_last": None, "_failure": None}

    def forget(self, start: Array) -> None:
        """Drop everything but a start for the next solve."""
        with lock_of(self):
            self._last, self._failure, self._start = None, None, start
            self.solver.forget()

    def at(self, theta: Array) -> Equilibrium:
        """Solve for the equilibrium at theta, unless it is that of the last call.

        A failure of the last call is raised again, too.
        """
        with lock_of(self):
            if self._last is not None and are_equal(theta, self._last.params):
                return self._last
            if self._failure is not None and are_equal(theta, self._failure[0]):
                raise self._failure[1]
            try:
                eq = self._solve(theta)
            except Exception as error:
                if is_evaluation_failure(error):
                    self._failure = (theta, error)
                raise
            self._last, self._start = eq, eq.state
            return eq

    def knows(self, theta: Array) -> bool:
        """Return whether the equilibrium at theta, or its failure, is that of the last call."""
        with lock_of(self):
            last = self._last is not None and are_equal(theta, self._last.params)
            return last or (self._failure is not None and are_equal(theta, self._failure[0]))

    def adopt(self, eq: Equilibrium) -> None:
        """Take an equilibrium that was found together with others as that of the last call."""
        with lock_of(self):
            self.solves += 1
            self._add_report(eq.report)
            self._last, self._start = eq, eq.state

    @property
    def start(self) -> Array | None:
        """The start of the next solve, None for that of the model."""
        return self._start

    def _solve(self, theta: Array) -> Equilibrium:
        """Solve from the last state; where that fails, from `h0` and from the model's start."""
        self.solves += 1
        at_first = self._start is self._h0
        starts = [self._start] if at_first else [self._start, self._h0]
        if starts[-1] is not None:
            starts.append(None)
        first_error: Exception | None = None
        for start in starts:
            try:
                return self._solve_from(theta, start)
            except Exception as error:
                iteration_failed = isinstance(error, (ConvergenceError, SingularStateError))
                # An exception of the user's function at the very first start is not a trial's.
                if not is_evaluation_failure(error) or (at_first and not iteration_failed):
                    raise
                if first_error is None:
                    first_error = error
                else:
                    name = "the model's start" if start is None else "h0"
                    first_error.add_note(f"Then {name} was tried: {error}")
        assert first_error is not None
        raise first_error

    def _solve_from(self, theta: Array, start: Array | None) -> Equilibrium:
        try:
            eq = solve(self.model, theta, start, **self.solve_options)
        except (ConvergenceError, SingularStateError) as error:
            self._reports.append(error.report)
            raise
        self._add_report(eq.report)
        return eq

    def _add_report(self, report: SolveReport) -> None:
        self._reports.append(report)
        if len(self._reports) > MAX_REPORTS:
            self._earlier_linear_solves += _right_hand_sides(self._reports.pop(0))

    def with_state(self, theta: Array, state: Array) -> Equilibrium:
        """Return an equilibrium at theta whose state is given, leaving all others as they are."""
        problem = Problem(self.model, theta, state)
        state = bind(problem, state, project=False)
        linearized = problem.linearize(state)
        eq = equilibrium_of(problem, state, linearized, self.solver, SolveReport())
        with lock_of(self):
            self._reports.append(eq.report)
        return eq

    @property
    def linear_solves(self) -> int:
        """The number of right-hand sides of linear solves so far."""
        with lock_of(self):
            return self._earlier_linear_solves + sum(map(_right_hand_sides, self._reports))

    def add_counts(self, solves: int, linear_solves: int) -> None:
        """Add the counts of an earlier process."""
        self.solves += solves
        self._earlier_linear_solves += linear_solves


def _right_hand_sides(report: Any) -> int:
    """Count the right-hand sides in the report of a forward solve."""
    if isinstance(report, SolveReport):
        return report.forward.columns + report.linear.columns
    return report.columns if isinstance(report, LinearCounts) else 0
