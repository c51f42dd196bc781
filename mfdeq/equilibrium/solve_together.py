"""Equilibria of several models that are linear in their state and have the same A.

One Newton step solves a linear model. The right-hand sides of all models with the same A are solved
as one block, and so are the corrections by which the states are judged. A state that does not meet
the criteria of `mfdeq.solve` is not returned: its model is not linear, and is solved by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..forward import ConvergenceMonitor
from ..forward.newton_loop import CHORD_RTOL
from ..linear import Factor, Reused
from ..linear.operands import have_equal_entries
from ..models.checked_linearization import CheckedLinearization
from ..models.constrained import ConstrainedModel
from ..models.model import Model
from ..models.problem import Problem
from ..report import SolveReport
from .equilibrium import Equilibrium
from .shared_factor import group_equal
from .solve import converged_equilibrium

METHODS = ("auto", "newton")  # of which a Newton step is the first
OPTIONS = ("lower", "upper")  # of a `Problem`


@dataclass
class Request:
    """A model to solve at theta.

    Attributes
    ----------
    model : Model
    theta : (P,) array
    start : (N,) array or None
    solver : Reused
    options : mapping of str to object
        Options of `mfdeq.solve`.
    """

    model: Model
    theta: Array
    start: Array | None
    solver: Reused
    options: dict[str, Any]


@dataclass
class _Trial:
    """A model at its start, or after one Newton step."""

    index: int
    request: Request
    problem: Problem
    h: Array
    residual: Array

    def report(self) -> SolveReport:
        """Return a new report."""
        return SolveReport(method="newton", solver=self.request.solver.description)


def solve_together(requests: Sequence[Request]) -> list[Equilibrium | None]:
    """Solve models that are linear in their state and share A with another one.

    Parameters
    ----------
    requests : sequence of Request

    Returns
    -------
    list of Equilibrium or None
        None for a model that `mfdeq.solve` has to solve by itself, for whatever reason.

    Notes
    -----
    A step is taken with the A of one model for all that may have the same, those of the same class
    and size. Where the residual is not zero after it, A is another one or the model is not linear.
    If that holds for all others, the matrices of the rest are compared at the starts.
    """
    found: list[Equilibrium | None] = [None] * len(requests)
    kinds: dict[Any, list[_Trial]] = {}
    for i, request in enumerate(requests):
        if (trial := _begin(i, request)) is not None:
            backend, size = trial.problem.backend, trial.problem.state_size
            kind = type(request.model), size, request.solver.description, backend.library_name
            kinds.setdefault((*kind, str(backend.dtype)), []).append(trial)
    for trials in kinds.values():
        while len(trials) > 1:
            solved = _solve_group(trials)
            for i, eq in solved.items():
                found[i] = eq
            trials = [trial for trial in trials[1:] if trial.index not in solved]
            if len(solved) <= 1 < len(trials):
                for group in _groups(trials):
                    for i, eq in _solve_group(group).items():
                        found[i] = eq
                break
    return found


def _begin(index: int, request: Request) -> _Trial | None:
    """Evaluate a model at its start; None if `mfdeq.solve` has to find out what is wrong."""
    model, options = request.model, request.options
    if options.get("method", "auto") not in METHODS or model.forward_method is not None:
        return None
    if isinstance(model, ConstrainedModel):
        return None
    bounds = {name: options[name] for name in OPTIONS if name in options}
    try:
        problem = Problem(model, request.theta, request.start, **bounds)
        h = problem.initial_state(request.start)
        return _Trial(index, request, problem, h, problem.residual(h))
    except Exception:  # the solve by itself raises it again
        return None


def _groups(trials: Sequence[_Trial]) -> list[list[_Trial]]:
    """Return the models that have the same A at their starts, in groups of at least two."""
    known = []
    for trial in trials:
        linearized = trial.problem.linearize_trial(trial.h)
        if linearized is not None and linearized.A.array is not None:
            known.append((trial, linearized.A))
    solvers = [trial.request.solver.description for trial, _ in known]
    groups = group_equal([A for _, A in known], solvers)
    return [[known[j][0] for j in group] for group in groups if len(group) > 1]


def _solve_group(trials: Sequence[_Trial]) -> dict[int, Equilibrium]:
    """Take one Newton step for all models, with the A of the first one.

    Returns
    -------
    dict of int to Equilibrium
        The equilibria of those that have this A and are linear, by their indices.
    """
    first = trials[0]
    backend, solver = first.problem.backend, first.request.solver
    if (linearized := first.problem.linearize_trial(first.h)) is None:
        return {}
    if linearized.A.array is None:
        return {}
    A, reports = linearized.A, [trial.report() for trial in trials]
    try:
        factor = solver.setup_for_equilibrium(A, reports[0].forward)
        steps = factor.solve(backend.columns(*(trial.residual for trial in trials)))
        stepped = [
            (after, report)
            for j, (trial, report) in enumerate(zip(trials, reports, strict=True))
            if (after := _step(trial, steps[:, j], linearized, report, j == 0)) is not None
        ]
        if len(stepped) < 2:
            return {}
        residuals = backend.columns(*(after.residual for after, _ in stepped))
        corrections = factor.solve(residuals, rtol=CHORD_RTOL)
    except (ConvergenceError, SingularStateError):
        return {}
    found: dict[int, Equilibrium] = {}
    judged: Equilibrium | None = None
    for k, (after, report) in enumerate(stepped):
        eq = _equilibrium(after, report, corrections[:, k], factor, solver, len(stepped))
        if eq is None:
            continue
        if judged is None:
            try:
                eq.judge_uniqueness()
            except SingularStateError:  # which the solve of each explains
                return {}
            judged = eq
        eq.report.uniqueness = judged.report.uniqueness
        found[after.index] = eq
    return found


def _monitor(trial: _Trial, report: SolveReport) -> ConvergenceMonitor:
    rtol = trial.request.options.get("rtol")
    return ConvergenceMonitor(trial.problem, trial.request.solver, rtol, 1, report)


def _step(
    trial: _Trial, step: Array, like: CheckedLinearization, report: SolveReport, is_first: bool
) -> _Trial | None:
    """Take a Newton step; None where A is another one, or the model is not linear."""
    problem, A = trial.problem, like.A
    h = problem.limited(trial.h, trial.h - step)
    residual, _ = problem.trial_residual(h)
    if residual is None:
        return None
    monitor = _monitor(trial, report)
    report.residuals.append(monitor.worst_residual(trial.h, trial.residual, A))
    if not monitor.equations_are_satisfied(h, residual, A):
        return None
    problem.like = None if is_first else like
    linearized = problem.linearize_trial(h)
    if linearized is None or not have_equal_entries(linearized.A, A):
        problem.like = None
        return None
    linearized.A = A  # so that its entries are in memory once
    problem.keep_linearization(h, linearized)
    return replace(trial, h=h, residual=residual)


def _equilibrium(
    trial: _Trial,
    report: SolveReport,
    correction: Array,
    factor: Factor,
    solver: Reused,
    together: int,
) -> Equilibrium | None:
    """Return the equilibrium, if its state meets the criteria of `mfdeq.solve`."""
    monitor = _monitor(trial, report)
    A = trial.problem.linearize(trial.h).A
    try:
        if not monitor.accepts_after(trial.h, trial.residual, correction, A, factor):
            return None
        monitor.check_rtol()
    except ConvergenceError:
        return None
    report.choices.append(
        "method: newton, because the model is linear in its state, for "
        f"{together} experiments with the same A at once"
    )
    eq = converged_equilibrium(trial.problem, monitor.state, solver, report)
    eq.error_estimates = trial.request.options.get("error_estimates", True)
    return eq
