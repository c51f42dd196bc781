"""Choose a solver from A, and fall back to the next one before giving up.

The solver chosen is the cheapest for a set-up and `SOLVES_PER_SETUP` solves. The cost of an LU is
estimated before it is computed (`direct.fill`). Unless no iterative method is likely to beat it,
preconditioners are tried on one right-hand side and their iterations are counted. Nothing is timed
(`costs`), so that the same A gives the same choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array, is_sparse
from ..arrays.memory import translate_memory_errors
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..operators.dot_tests import is_symmetric
from ..operators.operator import Operator
from ..report import LinearCounts
from ..threads import lock_of
from .costs import CORE, DEVICE, SOLVES_PER_SETUP, Machine, assembly_cost
from .delegating_factor import DelegatingFactor
from .direct.costs import Fill
from .direct.dense_blocks import DenseBlocks
from .direct.direct import Direct
from .direct.fill import estimate_fill
from .direct.registry import rank_packages
from .extreme_entries import ExtremeFactor, extreme_exponent
from .factor import Factor
from .krylov.krylov import Krylov
from .krylov.neumann import Neumann
from .operands import MAX_ASSEMBLED_SIZE, operator_of
from .preconditioners.amg import AMG
from .preconditioners.ilu import ILU
from .protocols import Solver

MAX_LU_SIZE = 5_000  # unknowns up to which an LU is chosen without an estimate
TRIAL_RTOL = 1e-8
TRIAL_ITERATIONS = 120
GOOD_TRIAL_ITERATIONS = 25  # after a trial with fewer, no other preconditioner is tried
MIN_TRIAL_ITERATIONS = 5  # iterations that no trial solve undercuts
NEUMANN_RATIO = 1.25  # iterations of Neumann per iteration of GMRES up to which it is cheaper
CG_RATIO = 1.1  # iterations of Neumann per iteration of CG
_UNKNOWN_COST = 1e300


class Auto(Solver):
    """Choose a solver from A, and fall back to the next one before giving up.

    Notes
    -----
    A dense A, or one of dense blocks on its diagonal, is factorized. If only products with A are
    available, Neumann, CG (for a symmetric A) and GMRES with recycling are tried on one right-hand
    side. Up to 2,000 unknowns, A is assembled by products and factorized if that is cheaper for ten
    solves than the best of them, or if none converges. A sparse A is factorized up to 5,000
    unknowns. Above, the choice is the cheapest for 50 Hessian products among LU (by its estimated
    fill, if it fits in memory), CG and GMRES with AMG, for a nonsymmetric A also with AMG("air"),
    and GMRES with ILU and recycling.
    Iterative methods are tried on one right-hand side unless LU is clearly cheaper. A choice is
    kept for later matrices of the same kind and size; if it fails, the next best replaces it.

    Attributes
    ----------
    choices : list of str
        The choices made so far, with their reasons.
    remaining : list of (Solver, str)
        The candidates that have not failed, the current one first, with the reason.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.linear import Auto
    >>> solver = Auto()
    >>> x = solver.setup(np.diag([1.0, 2.0, 4.0])).solve(np.ones(3))
    >>> print(x)
    [1.   0.5  0.25]
    >>> print(solver.choices[0])
    solver: Direct (dense LU), because A is dense
    """

    def __init__(self) -> None:
        self.remaining: list[tuple[Solver, str]] = []
        self._choices: list[str] = []
        self._kind: tuple[Any, ...] | None = None

    @property
    def description(self) -> str:
        """The name in reports before the first choice."""
        return "solver chosen at the first solve"

    @property
    def choices(self) -> list[str]:
        """The choices made so far, with their reasons."""
        return self._choices

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Return the factor of the first candidate that can be set up."""
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        if (library_solver := A.backend.library.default_solver()) is not None:
            return library_solver.setup(A, counts)
        if exponent := extreme_exponent(A):
            return ExtremeFactor.set_up(self.setup, A, exponent, counts)
        factors: dict[int, Factor] = {}
        with lock_of(self):
            if (kind := _kind(A)) != self._kind:
                with counts.add_time():
                    candidates = self.candidates(A)
                self._kind, self.remaining = kind, [(solver, why) for solver, why, _ in candidates]
                factors = {
                    id(solver): factor for solver, _, factor in candidates if factor is not None
                }
            remaining = self.remaining
        return _AutoFactor(A, self, remaining, factors, counts)

    def candidates(self, A: Operator) -> list[tuple[Solver, str, Factor | None]]:
        """Return the solvers to try in turn, with the reason and any factor from a trial."""
        array = A.array
        if array is None:
            trials = _trials_by_products(A)
            return _ranked(trials, trials[0].summary)
        if not is_sparse(array):
            return [(Direct(), "A is dense", None)]
        n = A.shape[0]
        if n <= MAX_LU_SIZE:
            return [(Direct(), f"N = {n} is at most {MAX_LU_SIZE}", None)]
        if DenseBlocks.of(array, A.backend) is not None:
            return [(Direct(), "A is dense blocks on its diagonal", None)]
        factorizations = _factorizations(A, estimate_fill(array))
        cheapest = factorizations[0]
        if cheapest.cost <= _machine(A).least_with_amg(array.nnz):
            return _ranked(
                factorizations,
                f"{cheapest.summary}, which no iterative method is likely to beat",
            )
        trials = _iterative_trials(A, cheapest.cost)
        why = "; ".join([cheapest.summary, *(trial.summary for trial in trials)])
        # A failed trial is not tried again; an LU, however expensive, is the last resort.
        converged = [trial for trial in trials if trial.cost < math.inf]
        return _ranked([*factorizations, *converged], why)

    def forget(self) -> None:
        """Discard the choice, so that the next A gets a new one."""
        self._kind = None

    def record(self, text: str) -> None:
        """Add a choice to `choices` unless it is there already."""
        with lock_of(self):
            if text not in self._choices:
                self._choices.append(text)


def _kind(A: Operator) -> tuple[Any, ...]:
    """Return what matrices must have in common for a choice to be kept."""
    array = A.array
    return (A.shape, type(array), getattr(array, "nnz", None))


@dataclass(frozen=True)
class _Trial:
    """The estimated cost of `SOLVES_PER_SETUP` solves, and the factor if one was set up.

    Attributes
    ----------
    cost : float
        Nanoseconds; infinity after a failure.
    summary : str
        The cost in words, for the report.
    """

    cost: float
    summary: str
    solver: Solver
    factor: Factor | None = None
    iterations: int = 0


def _ranked(trials: list[_Trial], why: str) -> list[tuple[Solver, str, Factor | None]]:
    """Sort the candidates by cost, the cheapest first."""
    cheapest = sorted(trials, key=lambda trial: trial.cost)
    return [(trial.solver, why, trial.factor) for trial in cheapest]


def _machine(A: Operator) -> Machine:
    return CORE if A.backend.library.on_host else DEVICE


def _factorizations(A: Operator, fill: Fill) -> list[_Trial]:
    """Rank the packages, the cheapest first; the last one pivots, and takes any A."""
    ranked = rank_packages(A, fill, SOLVES_PER_SETUP)
    seconds = 1e-9 * ranked[0][1]
    summary = f"{SOLVES_PER_SETUP} solves by LU are estimated at {seconds:.2g} s"
    return [_Trial(cost, summary, Direct(package=name)) for name, cost in ranked]


def _trials_by_products(A: Operator) -> list[_Trial]:
    """Compare iterative methods on a trial solve with each other, and with assembling A.

    The costs are in products with A. CG is tried first if A is symmetric; whether A is definite
    shows in its trial.
    """
    n, why = A.shape[0], "A is known by its products only"
    dense = _Trial(math.inf, why, Direct())
    if n <= MAX_ASSEMBLED_SIZE:
        dense = replace(dense, cost=assembly_cost(n))
    if dense.cost <= MIN_TRIAL_ITERATIONS:
        return [replace(dense, summary=f"{why}, and N = {n} is small enough to assemble it")]
    symmetric = is_symmetric(A)
    tried = [
        ("Neumann", 1.0, Neumann(max_iterations=TRIAL_ITERATIONS), Neumann()),
        ("CG", CG_RATIO, Krylov("cg", max_iterations=TRIAL_ITERATIONS), Krylov("cg")),
        ("GMRES", NEUMANN_RATIO, Krylov("gmres"), Krylov("gmres", recycle=20)),
    ]
    trials: list[_Trial] = []
    notes: list[str] = []
    for name, ratio, trial, solver in tried:
        if name == "CG" and not symmetric:
            continue
        if name == "GMRES" and notes and "CG" in notes[-1]:
            continue  # GMRES takes as many iterations for a definite matrix
        iterations = _trial_iterations(A, trial)
        if iterations is None:
            continue
        notes.append(f"{iterations} iterations by {name}")
        trials.append(_Trial(ratio * iterations, why, solver))
    if not trials:
        last = _Trial(_UNKNOWN_COST, why, Krylov("gmres", recycle=20))
        return [dense, last] if dense.cost < math.inf else [last]
    summary = f"{why}; on a trial {', '.join(notes)}"
    if dense.cost < math.inf:
        summary += f"; assembled by products it costs as much as {dense.cost:.0f} per solve"
        trials.append(dense)
    return [replace(trial, summary=summary) for trial in trials]


def _trial_iterations(A: Operator, solver: Solver) -> int | None:
    """Return the number of iterations of a trial solve; None if it does not converge."""
    b = A.backend.random(A.shape[0], seed=3)
    try:
        factor = solver.setup(A)
        factor.solve(b, rtol=max(TRIAL_RTOL, factor.rtol))
    except (ConvergenceError, SingularStateError):
        return None
    return factor.counts.iterations


def _iterative_trials(A: Operator, cost_of_lu: float) -> list[_Trial]:
    """Try iterative solvers on one right-hand side, as long as the next may be the cheapest."""
    cg, gmres = (Krylov(method, preconditioner=AMG()) for method in ("cg", "gmres"))
    air = Krylov("gmres", preconditioner=AMG("air"))
    ilu = Krylov("gmres", preconditioner=ILU(), recycle=20)
    attempts = [cg, gmres, ilu] if is_symmetric(A) else [gmres, air, ilu]
    trials: list[_Trial] = []
    for solver in attempts:
        best = min([cost_of_lu, *(trial.cost for trial in trials)])
        if solver is ilu and best < math.inf:
            break
        trials.append(_trial(A, solver, best))
        good = solver is cg or trials[-1].iterations <= GOOD_TRIAL_ITERATIONS
        if good and trials[-1].cost < math.inf:
            break
    return trials


def _trial(A: Operator, solver: Krylov, best: float) -> _Trial:
    """Try one solver, for no more iterations than would cost as much as the best one so far."""
    name = f"{solver.method} with {solver.preconditioner.description}"
    limit = TRIAL_ITERATIONS
    try:
        factor: Any = solver.setup(A)
        iteration = _iteration_cost(A, factor, TRIAL_ITERATIONS // 2)
        limit = int(min(limit, 1 + best / (SOLVES_PER_SETUP * iteration)))
        factor.solver = replace(solver, max_iterations=limit)
        factor.solve(A.backend.random(A.shape[0], seed=3), rtol=max(TRIAL_RTOL, factor.rtol))
    except (ArgumentError, ConvergenceError, SingularStateError, ValueError) as error:
        stopped = "not converged" if isinstance(error, ConvergenceError) else "not possible"
        took = f" in {limit} iterations" if isinstance(error, ConvergenceError) else ""
        return _Trial(math.inf, f"{name}: {stopped}{took} on a trial", solver)
    factor.solver = solver
    iterations = factor.counts.iterations
    cost = SOLVES_PER_SETUP * iterations * _iteration_cost(A, factor, iterations)
    summary = f"by {name} at {1e-9 * cost:.2g} s ({iterations} iterations on a trial)"
    return _Trial(cost, summary, solver, factor, iterations)


def _iteration_cost(A: Any, factor: Any, iterations: int) -> float:
    """Estimate the nanoseconds of one iteration of a solve that takes `iterations`."""
    n, machine = A.shape[0], _machine(A)
    entry = machine.product_entry
    preconditioner = factor.M.application_cost(entry, machine.triangular_entry)
    per_unknown = machine.cg_entry
    if factor.solver.method == "gmres":
        per_unknown = machine.gmres_entry * min(iterations, factor.solver.cycle_length)
    return machine.iteration + entry * A.array.nnz + preconditioner + per_unknown * n


class _AutoFactor(DelegatingFactor):
    """The factor of the first remaining candidate, which is replaced for good if it fails."""

    def __init__(
        self,
        A: Operator,
        auto: Auto,
        remaining: list[tuple[Solver, str]],
        factors: dict[int, Factor],
        counts: LinearCounts,
    ) -> None:
        super().__init__(A, counts)
        self.auto, self.remaining, self.factors = auto, remaining, factors
        self.candidates = list(remaining)
        self._adopt_first()

    def forget(self) -> None:
        with lock_of(self.auto):
            if len(self.remaining) < len(self.candidates):  # Some have failed since.
                self.remaining[:] = self.candidates
                self.factors = {}
                self._adopt_first()
        self.current.forget()

    def _adopt_first(self) -> None:
        solver, why = self.remaining[0]
        try:
            self.adopt(self._factor(solver))
        except (ConvergenceError, SingularStateError, ValueError, MemoryError) as error:
            self._replace(solver, solver, error)
            return
        self.solver = solver
        self.auto.record(f"solver: {self.name}, because {why}")

    def _factor(self, solver: Solver) -> Factor:
        factor = self.factors.get(id(solver))
        if factor is None:
            return solver.setup(self.A, self.counts)
        self.counts.add(setups=1)
        factor.counts = self.counts
        return factor

    def _replace(self, solver: Solver, name: Any, error: Exception) -> None:
        """Set up the next candidate in place of a solver that has failed."""
        if self.remaining[0][0] is solver:  # Otherwise it has failed for another factor, too.
            if len(self.remaining) == 1:
                raise error
            self.remaining.pop(0)
            self.auto.record(f"solver: {name} failed: {error}")
        self._adopt_first()

    # Every Hessian product takes two solves, so these calls go straight to the current candidate.

    @translate_memory_errors
    def solve(self, b: Array, *, rtol: float | None = None, weights: Array | None = None) -> Array:
        b, current = self._checked(b), self.current
        try:
            return current._solve_checked(b, rtol, weights=weights)
        except ConvergenceError as error:
            self._replace_failed(current, error)
        return self._solve_checked(b, rtol, weights=weights)

    @translate_memory_errors
    def solve_adjoint(self, b: Array, *, rtol: float | None = None) -> Array:
        b, current = self._checked(b), self.current
        try:
            return current._solve_checked(b, rtol, adjoint=True)
        except ConvergenceError as error:
            self._replace_failed(current, error)
        return self._solve_checked(b, rtol, adjoint=True)

    def _solve_checked(
        self,
        b: Array,
        rtol: float | None = None,
        adjoint: bool = False,
        weights: Array | None = None,
    ) -> Array:
        current = self.current
        try:
            return current._solve_checked(b, rtol, adjoint, weights)
        except ConvergenceError as error:
            self._replace_failed(current, error)
        return self._solve_checked(b, rtol, adjoint, weights)

    def _replace_failed(self, failed: Factor, error: ConvergenceError) -> None:
        """Adopt the next candidate, unless another thread has already replaced this one."""
        with lock_of(self.auto):
            if self.current is failed:
                self._replace(self.solver, failed.name, error)
