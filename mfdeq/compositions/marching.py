"""The forward method of trajectories: one step after the other, each by Newton's method.

A step first tries the factor of the last matrix, as long as every iteration leaves a tenth of the
residual; where steps share their matrix that is Newton's method. Steps for which whole Newton steps
do not converge are solved by `mfdeq.solve`, with its line search and its errors.
"""

from __future__ import annotations

import math
from typing import Any

from ..arrays.backend import Array
from ..equilibrium.solve import solve
from ..errors import ConvergenceError, SingularStateError, is_evaluation_failure
from ..forward import ConvergenceMonitor, ModelMethod
from ..forward.sizes import FLOOR_ROUNDINGS
from ..linear import Reused, Solver
from ..models.linearization import Linearization
from ..models.model import ResidualModel
from ..models.problem import Problem
from ..operators.operator import Operator
from .checked_steps import CheckedStep, CheckedSteps
from .linearized_steps import FactorsOfSteps
from .substitution import SubstitutionFactor

MAX_CHORD_CONTRACTION = 0.1  # of the residual by an iteration with the factor of another matrix
MAX_NEWTON_CONTRACTION = 0.5  # by one with the own factor, above which a line search is needed
MAX_STEPS = 30  # of Newton's method, for one time step
SOLVES_OF_CHANGING_MATRICES = 4  # state, adjoint and one Hessian product


class Marching(ModelMethod):
    """Solve one step after the other."""

    name = "substitution"
    reason = "each step depends on the one before alone"

    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> None:
        """Solve R(h) = 0 step by step; see `ForwardMethod`."""
        assert isinstance(solver, Reused)
        march = _March(problem, h, solver, monitor)
        count = march.steps.count
        with monitor.report.forward.add_time():
            for k in range(count):
                march.advance(k)
                monitor.show_progress(f"step {k + 1} of {count}", (k + 1) / count)
        march.finish()


class _March:
    """The states found so far, with the factor in use.

    Attributes
    ----------
    worst, correction : float
        The largest residual of an equation relative to its terms, and the largest correction of
        an unknown relative to its size.
    history : list of float
        The worst residual of all steps after each number of iterations.
    """

    def __init__(
        self, problem: Problem, h: Array, solver: Reused, monitor: ConvergenceMonitor
    ) -> None:
        self.problem, self.solver, self.monitor = problem, solver, monitor
        self.backend = backend = problem.backend
        model: Any = problem.model
        self.steps: CheckedSteps = model.at(problem.theta)
        self.steps.evaluations = 0
        self.states = backend.zeros(self.steps.count, self.steps.size)
        given = backend.xp.reshape(h, self.states.shape)
        # A start that is not the default one is that of an earlier solve.
        self.guesses = None if backend.all(given == self.steps.start) else given
        self.state_scale = model.step.state_scale(backend.to_user(problem.theta))
        self.residual_scale = model.step.residual_scale(backend.to_user(problem.theta))
        counts, held = monitor.report.forward, solver.held
        solver.held = None
        if isinstance(held, SubstitutionFactor) and held.backend == backend:
            self.factors = held.factors.only(self.steps.shared_matrices, counts)
            self.factors.borrowed = 0
        else:
            self.factors = FactorsOfSteps(self._solver_of_steps(), counts, model.checkpoints)
        self.limit = model.checkpoints
        self.linearized: CheckedStep | None = None  # the latest
        # |L||previous| of the latest L and previous.
        self._before: tuple[Operator, Array, Array] | None = None
        self.passing: CheckedStep | None = None  # at an iterate that was no solution
        self.worst = self.correction = 0.0
        self.history: list[float] = []

    def _solver_of_steps(self) -> Solver:
        """Return the solver, which may have to know how many solves a matrix has."""
        steps = self.steps
        first = steps.linearize(0, steps.start, steps.start)
        last = steps.linearize(steps.count - 1, steps.start, steps.start)
        shared = steps.count if first.D is last.D else SOLVES_OF_CHANGING_MATRICES
        return self.solver.solver.for_solves(shared)

    def advance(self, k: int) -> None:
        """Solve step k."""
        self.current = k
        previous = self.states[k - 1, :] if k else self.steps.start
        guess = self.steps.guess(k, previous) if self.guesses is None else self.guesses[k, :]
        residual = self.steps.residual(k, guess, previous) if k == 0 else None
        try:
            h = self._newton(k, guess, previous, residual)
        except (ConvergenceError, SingularStateError):
            h = None
        except Exception as error:
            if not is_evaluation_failure(error):
                raise
            h = None
        self.states[k, :] = self._solved_alone(k, guess, previous) if h is None else h

    def _newton(self, k: int, h: Array, previous: Array, residual: Array | None) -> Array | None:
        """Solve step k by whole Newton steps; None where they do not converge."""
        steps, backend = self.steps, self.backend
        problem = self.problem
        residual = steps.residual(k, h, previous) if residual is None else residual
        fresh = self.linearized is None or not self.factors.holds(self.linearized.D)
        if fresh:
            self.linearized = steps.linearize(k, h, previous)
        for taken in range(1, MAX_STEPS + 1):
            assert self.linearized is not None
            first_use = k == 0 or not self.factors.holds(self.linearized.D)
            self._drop_passing()
            factor = self.factors.of(self.linearized.D, k)
            correction = (
                factor.solve(residual)
                if factor.iterative
                else factor._attempt(residual, factor.rtol, False)
            )
            trial = h - correction
            if problem.lower is not None or problem.upper is not None:
                trial = self._limited(k, h, trial)
            with backend.ignore_overflow():
                after = steps.residual(k, trial, previous, finite=False)
                level, reached = self._levels(trial, previous, residual, after)
            if taken == 1:
                self._record(0, level)
            if reached <= 1.0 or (taken > 1 and self._settled(trial, correction, after, previous)):
                self._record(taken, reached)
                change = factor._attempt(after, factor.rtol, False) if first_use else None
                if change is None and reached > 1.0:  # as one more iteration would contract
                    change = (reached / level) * correction
                self._judge(trial, after, change)
                if fresh:
                    self._linearize_solution(k, trial, previous)
                else:
                    self.factors.borrowed += 1
                return trial
            limit = MAX_NEWTON_CONTRACTION if fresh else MAX_CHORD_CONTRACTION
            if reached <= limit * level:
                h, residual = trial, after
                self._record(taken, reached)
                if not fresh:
                    continue
            elif fresh:
                return None
            if fresh:
                self._drop_passing()
                self.passing = self.linearized
            self.linearized, fresh = steps.linearize(k, h, previous), True
        return None

    def _drop_passing(self) -> None:
        """Drop the factor of an iterate that was no solution, if another one is in use."""
        if self.passing is not None and self.passing.D is not self.linearized.D:  # type: ignore[union-attr]
            self.factors.drop(self.passing.D)
            self.passing = None

    def _linearize_solution(self, k: int, h: Array, previous: Array) -> None:
        """Linearize at the solution of a step with a matrix of its own, for the derivatives."""
        step = self.steps.linearize(k, h, previous)
        self.steps.keep(k, h, previous, step, self.limit)
        assert self.linearized is not None
        if step.D is not self.linearized.D:
            self.passing = self.linearized

    def _limited(self, k: int, h: Array, trial: Array) -> Array:
        """Return a trial state within the bounds of the step."""
        problem, n = self.problem, self.steps.size
        xp, part = self.backend.xp, slice(k * n, (k + 1) * n)
        if problem.lower is not None:
            trial = xp.maximum(trial, h + 0.9 * (problem.lower[part] - h))
        if problem.upper is not None:
            trial = xp.minimum(trial, h + 0.9 * (problem.upper[part] - h))
        return trial

    # The criteria.

    def _levels(self, h: Array, previous: Array, *residuals: Array) -> list[float]:
        """Return the largest |R_i| of residuals near h in units of its rounding error.

        That is relative to the terms of each equation, |D||h| + |L||previous|.
        """
        xp, backend, step = self.backend.xp, self.backend, self.linearized
        assert step is not None
        if self._before is None or self._before[0] is not step.L or self._before[1] is not previous:
            self._before = step.L, previous, step.L.abs_apply(previous)
        self._latest_terms = step.D.abs_apply(h) + self._before[2]
        floor = (FLOOR_ROUNDINGS * backend.eps) * self._latest_terms
        floor = xp.maximum(floor, backend.smallest_normal + 0.0 * floor[:1])
        levels = [float(xp.max(xp.abs(residual) / floor)) for residual in residuals]
        return [math.inf if level != level else level for level in levels]

    def _settled(self, h: Array, correction: Array, residual: Array, previous: Array) -> bool:
        """Return whether the equations and the last correction are within rtol."""
        xp, rtol = self.backend.xp, self.monitor.rtol
        sizes = self._latest_terms if self.residual_scale is None else self.residual_scale
        unknowns = xp.abs(h) if self.state_scale is None else self.state_scale
        return self.backend.all(xp.abs(residual) <= rtol * sizes) and self.backend.all(
            xp.abs(correction) <= rtol * unknowns
        )

    def _record(self, iteration: int, level: float) -> None:
        """Record the worst residual of a step after so many iterations."""
        worst = FLOOR_ROUNDINGS * self.backend.eps * level
        if iteration == len(self.history):
            self.history.append(worst)
        self.history[iteration] = max(self.history[iteration], worst)

    def _judge(self, h: Array, residual: Array, change: Array | None) -> None:
        """Keep the worst residual and correction of all steps.

        What one more iteration would change, `change`, is measured at the first step of each
        factor, and estimated at others whose residual is more than rounding.
        """
        xp, backend = self.backend.xp, self.backend
        terms = self._latest_terms
        sizes = terms if self.residual_scale is None else self.residual_scale + 0.0 * terms
        counted = xp.maximum(sizes, xp.abs(residual))
        ratio = xp.abs(residual) / xp.where(counted > 0.0, counted, 1.0 + 0.0 * counted)
        worst = float(xp.max(ratio))
        if worst >= self.worst:
            self.worst = worst
            self.monitor.report.worst_equation = self._name(h, ratio, "equation")
        if change is None:
            return
        unknowns = xp.abs(h) if self.state_scale is None else self.state_scale + 0.0 * h
        # An unknown that is zero to rounding has no relative error.
        rounding = backend.eps * float(xp.max(unknowns))
        unknowns = xp.maximum(unknowns, rounding + backend.smallest_normal)
        ratio = xp.abs(change) / unknowns
        if (largest := float(xp.max(ratio))) >= self.correction:
            self.correction = largest
            self.monitor.report.worst_unknown = self._name(h, ratio, "unknown")

    def _name(self, h: Array, ratio: Array, kind: str) -> str:
        i = self.current * self.steps.size + self.backend.argmax(ratio)
        problem = self.problem
        return problem.unknown_name(i) if kind == "unknown" else problem.equation_name(i)

    # A step for which whole Newton steps fail.

    def _solved_alone(self, k: int, guess: Array, previous: Array) -> Array:
        """Solve step k as a model of its own, with everything that `mfdeq.solve` can do."""
        problem, n = self.problem, self.steps.size
        part = slice(k * n, (k + 1) * n)
        lower, upper = (
            None if bound is None else bound[part] for bound in (problem.lower, problem.upper)
        )
        step = _SingleStep(self.steps, k, previous)
        rtol = self.monitor.rtol if self.monitor.explicit else None
        try:
            eq = solve(
                step,
                problem.theta,
                guess,
                solver=self.factors.solver,
                lower=lower,
                upper=upper,
                rtol=rtol,
                error_estimates=False,
            )
        except (ConvergenceError, SingularStateError) as error:
            self._failed(k, error)
            raise
        report = eq.report
        for i, worst in enumerate(report.residuals):
            self._record(i, worst / (FLOOR_ROUNDINGS * self.backend.eps))
        self.worst = max(self.worst, report.residual)
        self.correction = max(self.correction, report.correction)
        self.linearized = None
        return eq.state

    def _failed(self, k: int, error: Any) -> None:
        """Complete the error of a step with the trajectory up to it."""
        for later in range(k, self.steps.count):
            self.states[later, :] = self.states[k - 1, :] if k else self.steps.start
        report = self.monitor.report
        report.converged, report.residuals[:] = False, self.history
        report.reason = f"step {k} of {self.steps.count} did not converge: {error}"
        error.args = (f"{self.problem.name}: step {k} of {self.steps.count}: {error.args[0]}",)
        error.best, error.report = self.backend.xp.reshape(self.states, (-1,)), report

    def finish(self) -> None:
        """Hand over the states, and the factors for the derivatives."""
        problem, monitor, eps = self.problem, self.monitor, self.backend.eps
        h = self.backend.xp.reshape(self.states, (-1,))
        problem.evaluations += self.steps.evaluations
        substitutions = len(self.history) - 1  # each iteration of all steps together is one
        monitor.report.forward.add(solves=substitutions, columns=substitutions)
        A = problem.linearize(h).A
        self.solver.held = SubstitutionFactor(A, self.factors, monitor.report.forward)
        monitor.report.residuals[:] = self.history
        limited = "rtol" if max(self.worst, self.correction, eps) <= monitor.rtol else "rounding"
        monitor.finish(h, self.worst, self.correction, limited)


class _SingleStep(ResidualModel):
    """One step of a trajectory as a model of its own."""

    def __init__(self, steps: CheckedSteps, k: int, previous: Array) -> None:
        self.steps, self.k, self.previous = steps, k, previous
        self.state_size, self.param_size = steps.size, steps.param_size
        self.state_names = steps.step.state_names
        self.equation_names = steps.step.equation_names

    @property
    def display_name(self) -> str:
        """The name of the step."""
        return self.steps.name

    def _defines(self, method: str) -> bool:
        return self.steps.step._defines(method)

    def residual(self, h: Array, theta: Array) -> Array:
        """Return R_k."""
        return self.steps.residual(self.k, h, self.previous, finite=False)

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the derivatives with respect to the state of the step and to theta."""
        step = self.steps.linearize(self.k, h, self.previous)
        return Linearization(d_state=step.D, d_params=step.B)

    def state_scale(self, theta: Array) -> Any:
        """Return the scale of the step."""
        return self.steps.step.state_scale(theta)

    def residual_scale(self, h: Array, theta: Array) -> Any:
        """Return the scale of the step."""
        return self.steps.step.residual_scale(theta)
