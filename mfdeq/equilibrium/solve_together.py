"""Equilibria of several models that are linear in their state and have the same A.

One Newton step solves a linear model. The right-hand sides of all models with the same A are solved
as one block, and so are the corrections by which the states are judged. A state that does not meet
the criteria of `mfdeq.solve` is not returned: its model is not linear, and is solved by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..forward import ConvergenceMonitor
from ..forward.newton_loop import CHORD_RTOL
from ..linear import Factor, Reused
from ..linear.operands import have_equal_entries
from ..models.constrained import ConstrainedModel
from ..models.model import Model
from ..models.problem import Problem
from ..operators.operator import Operator
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
    """A model at its start, and after one Newton step."""

    request: Request
    problem: Problem
    h: Array
    residual: Array
    A: Operator
    monitor: ConvergenceMonitor = field(init=False)

    def __post_init__(self) -> None:
        options, solver = self.request.options, self.request.solver
        report = SolveReport(method="newton", solver=solver.description)
        self.monitor = ConvergenceMonitor(self.problem, solver, options.get("rtol"), 1, report)
        worst = self.monitor.worst_residual(self.h, self.residual, self.A)
        report.residuals.append(worst)


def solve_together(requests: Sequence[Request]) -> list[Equilibrium | None]:
    """Solve models that are linear in their state and share A with another one.

    Parameters
    ----------
    requests : sequence of Request

    Returns
    -------
    list of Equilibrium or None
        None for a model that `mfdeq.solve` has to solve by itself, for whatever reason.
    """
    found: list[Equilibrium | None] = [None] * len(requests)
    trials = [(i, trial) for i, r in enumerate(requests) if (trial := _begin(r)) is not None]
    groups = group_equal(
        [trial.A for _, trial in trials], [trial.request.solver.description for _, trial in trials]
    )
    for group in groups:
        if len(group) > 1:
            members = [trials[j] for j in group]
            solved = _solve_group([trial for _, trial in members])
            for (i, _), eq in zip(members, solved, strict=True):
                found[i] = eq
    return found


def _begin(request: Request) -> _Trial | None:
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
        A = problem.linearize(h).A
        if A.array is None:
            return None
        return _Trial(request, problem, h, problem.residual(h), A)
    except Exception:  # the solve by itself raises it again
        return None


def _solve_group(trials: Sequence[_Trial]) -> list[Equilibrium | None]:
    """Take one Newton step for all models, which have the same A."""
    first = trials[0]
    A, backend, solver = first.A, first.problem.backend, first.request.solver
    none: list[Equilibrium | None] = [None] * len(trials)
    counts = first.monitor.report.forward
    try:
        factor = solver.setup_for_equilibrium(A, counts)
        steps = factor.solve(backend.columns(*(trial.residual for trial in trials)))
        kept = [j for j, trial in enumerate(trials) if _step(trial, steps[:, j], A)]
        if not kept:
            return none
        residuals = backend.columns(*(trials[j].residual for j in kept))
        corrections = factor.solve(residuals, rtol=CHORD_RTOL)
    except (ConvergenceError, SingularStateError):
        return none
    judged: Equilibrium | None = None

    for k, j in enumerate(kept):
        eq = _equilibrium(trials[j], corrections[:, k], A, factor, solver, len(kept))
        if eq is None:
            continue
        if judged is None:
            try:
                eq.judge_uniqueness()
            except SingularStateError:  # which the solve of each explains
                return none
            judged = eq
        eq.report.uniqueness = judged.report.uniqueness
        none[j] = eq
    return none


def _step(trial: _Trial, step: Array, A: Operator) -> bool:
    """Take a Newton step, and return whether A is the same there."""
    problem = trial.problem
    h = problem.limited(trial.h, trial.h - step)
    residual, _ = problem.trial_residual(h)
    if residual is None or (linearized := problem.linearize_trial(h)) is None:
        return False
    if not have_equal_entries(linearized.A, A):
        return False
    linearized.A = A  # so that its entries are in memory once
    problem.keep_linearization(h, linearized)
    trial.h, trial.residual = h, residual
    return True


def _equilibrium(
    trial: _Trial, correction: Array, A: Operator, factor: Factor, solver: Reused, together: int
) -> Equilibrium | None:
    """Return the equilibrium, if its state meets the criteria of `mfdeq.solve`."""
    monitor = trial.monitor
    try:
        if not monitor.accepts_after(trial.h, trial.residual, correction, A, factor):
            return None
        monitor.check_rtol()
    except ConvergenceError:
        return None
    report = monitor.report
    report.choices.append(
        "method: newton, because the model is linear in its state, for "
        f"{together} experiments with the same A at once"
    )
    eq = converged_equilibrium(trial.problem, monitor.state, solver, report)
    eq.error_estimates = trial.request.options.get("error_estimates", True)
    return eq
