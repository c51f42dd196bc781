"""The solvers that "auto" considers, with what is known of their costs.

The cost of a candidate that has not been examined is a lower bound. Examining it costs something as
well, so it is done only if the bound is below the cost of all others (`choice`). The fill of an LU
is estimated (`direct.fill`). A preconditioner is set up and tried on one right-hand side, for a few
iterations to a loose tolerance, from which the iterations of a full solve follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..operators.dot_tests import is_symmetric
from ..operators.operator import Operator
from .costs import (
    air_setup_cost,
    amg_setup_cost,
    estimate_cost,
    machine_of,
)
from .direct.direct import Direct
from .direct.fill import estimate_fill
from .direct.registry import PACKAGES, package_costs
from .factor import Factor
from .krylov.krylov import Krylov
from .preconditioners.amg import AMG
from .preconditioners.hierarchies import air_complexity
from .preconditioners.ilu import ILU
from .preconditioners.jacobi import Jacobi
from .protocols import Solver
from .scaling import MAX_BALANCED_RATIO, Scaling

TRIAL_ITERATIONS = 40
TRIAL_ITERATIONS_OF_GMRES_WITH_JACOBI = 20
# The first trial costs at most this share of the estimate of an LU, but takes some iterations.
FIRST_TRIAL_SHARE, MIN_FIRST_TRIAL_ITERATIONS = 0.15, 12
SLOWDOWN = 1.8  # of later iterations, over those of a trial with Jacobi or without convergence
RESTART_SLOWDOWN = 3.0  # of GMRES with Jacobi, where a solve takes more than one cycle
# Of the digits of a full solve, those to which a trial converges. One with Jacobi must not cost
# much beside a single solve.
TRIAL_DIGITS_SHARE, TRIAL_DIGITS_SHARE_WITH_JACOBI = 0.25, 0.15
# A solver that is not tried before its only solve is expected to cost so much more than at least.
UNTRIED_RATIO = {"cg": 4.0, "gmres": 8.0}
UNTRIED_SHARE = 0.5  # of the cost of the best alternative, at which an untried solver gives up
KRYLOV_BLOCK_SHARE = 0.5  # cost of a column in a wide block, over that of a single solve
MAX_ITERATIONS = 1_000  # of a solve, above which a candidate is not expected to converge
ITERATIONS_MARGIN = 4  # limit on the iterations of a solve with Jacobi, over those expected
GOOD_ITERATIONS = 25  # after a trial with fewer, no other preconditioner is tried
MAX_AIR_COMPLEXITY = 12.0  # entries of the levels of AMG("air") over those of A; more is not tried
LAST_RESORT_COST = 1e290  # of what is tried only if nothing else is possible
TRIAL_SEED = 3


@dataclass(frozen=True, eq=False)
class Candidate:
    """A solver whose costs are known, as far as they can be without using it.

    Attributes
    ----------
    solver : Solver or None
        None if nothing can be set up before the candidate has been examined.
    setup, solve : float
        Nanoseconds of a set-up and of one solve to the full tolerance, or infinity.
    summary : str
        The costs in words, for the report.
    block_share : float
        The cost of a column in a wide block of right-hand sides, over that of a single one.
    """

    solver: Solver | None
    setup: float
    solve: float
    summary: str = ""
    block_share: float = KRYLOV_BLOCK_SHARE
    known = True  # whether the costs are estimates, not lower bounds

    def total(self, solves: float, is_set_up: bool = False, in_blocks: bool = False) -> float:
        """Return the cost of some solves, with the set-up unless it has been done."""
        return (0.0 if is_set_up else self.setup) + solves * self.solve_cost(in_blocks)

    def solve_cost(self, in_blocks: bool) -> float:
        """Return the cost of a solve, or of a column if solves come in wide blocks."""
        return self.block_share * self.solve if in_blocks else self.solve

    def examine(self, A: Operator, solves: float, budget: float) -> Examined:
        """Find out the costs.

        Parameters
        ----------
        A : Operator, (N, N)
        solves : float
            The number of solves that are expected.
        budget : float
            The cost of the best alternative known for as many solves.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Examined:
    """What an examination has found.

    Attributes
    ----------
    candidates : list of Candidate
        The candidates in place of the one that was examined, among them others to be examined.
    factor : Factor or None
        The factor of the first of them, if one was set up.
    notes : list of str
        The outcome in words.
    """

    candidates: list[Candidate]
    factor: Factor | None = None
    notes: list[str] = field(default_factory=list)


def sparse_candidates(A: Operator) -> list[Candidate]:
    """Return the candidates for a sparse A that is not small."""
    symmetric = is_symmetric(A)
    setup = 0.0 if symmetric else machine_of(A).scaling(A.array.nnz)
    jacobi = Krylov("cg" if symmetric else "gmres", preconditioner=Jacobi())
    estimate = _Estimate.of(A)
    trial_budget = FIRST_TRIAL_SHARE * estimate.setup
    return [_Trial(jacobi, setup, 0.0, trial_budget=trial_budget), estimate]


@dataclass(frozen=True, eq=False)
class _Estimate(Candidate):
    """The factorizations, before their fill is estimated, and preconditioners that need a set-up.

    Whether the graph of A is compact, on which the costs of multigrid depend, shows with the fill.
    """

    known = False

    @classmethod
    def of(cls, A: Operator) -> _Estimate:
        return cls(None, estimate_cost(A.shape[0]), 0.0)

    def examine(self, A: Operator, solves: float, budget: float) -> Examined:
        fill = estimate_fill(A.array)
        costs = package_costs(A, fill)
        direct: list[Candidate] = [
            Candidate(
                Direct(package=name),
                setup,
                solve,
                _summary(PACKAGES[name].title, setup, solve),
                column / solve if 0.0 < solve < math.inf else 1.0,
            )
            for name, (setup, solve, column) in costs.items()
        ]
        nnz = A.array.nnz
        least = machine_of(A).least_with_amg(nnz, fill.compact)
        method = "cg" if is_symmetric(A) else "gmres"
        fits = any(candidate.setup < math.inf for candidate in direct)
        solver = Krylov(method, preconditioner=AMG())
        amg = _Trial(solver, amg_setup_cost(nnz, fill.compact), least, has_alternative=fits)
        notes = [candidate.summary for candidate in direct if candidate.solve < math.inf]
        return Examined(
            [*direct, amg], None, notes or ["the factors of an LU do not fit in memory"]
        )


@dataclass(frozen=True, eq=False)
class _Trial(Candidate):
    """A preconditioner that has not been tried.

    Attributes
    ----------
    has_alternative : bool
        Whether an LU is there if this fails, so that the first solve may be the trial.
    trial_budget : float
        The cost up to which a trial takes more than `MIN_FIRST_TRIAL_ITERATIONS`.
    """

    known = False
    has_alternative: bool = False
    trial_budget: float = math.inf

    def total(self, solves: float, is_set_up: bool = False, in_blocks: bool = False) -> float:
        """Return a lower bound on the cost; for a single solve, an estimate."""
        ratio = 1.0
        if solves == 1 and self.has_alternative:
            assert isinstance(self.solver, Krylov)
            ratio = UNTRIED_RATIO[self.solver.method]
        return super().total(solves * ratio, is_set_up, in_blocks)

    def examine(self, A: Operator, solves: float, budget: float) -> Examined:
        solver = self.solver
        assert isinstance(solver, Krylov)
        name = f"{solver.method} with {solver.preconditioner.description}"
        factor: Any = None
        try:
            if solver.preconditioner == AMG("air"):
                complexity = air_complexity(A)
                if complexity > MAX_AIR_COMPLEXITY:
                    note = f"{name}: its levels would have {complexity:.0f} times the entries of A"
                    return Examined([], None, [note])
            # The scaling of GMRES costs more than a trial with Jacobi, which hardly depends on it.
            short = _is_short(solver)
            factor = solver.setup(A, scaling=Scaling.of_operator(A) if short else None)
            if solves == 1 and self.has_alternative:
                return self._untried(A, name, factor, budget)
            iterations = _iterations(A, factor, solves, budget, self.trial_budget)
        except (ArgumentError, SingularStateError, ValueError, MemoryError):
            return Examined(self._others(A, None, math.inf), None, [f"{name}: not possible"])
        if iterations > MAX_ITERATIONS:
            note = f"{name}: not converged on a trial"
            return Examined(self._others(A, factor, iterations), None, [note])
        solve = iterations * iteration_cost(A, factor, int(iterations))
        if isinstance(solver.preconditioner, Jacobi):
            limit = int(ITERATIONS_MARGIN * iterations) + TRIAL_ITERATIONS
            factor.solver = replace(solver, max_iterations=min(MAX_ITERATIONS, limit))
        note = _summary(f"{name} (about {iterations:.0f} iterations)", self.setup, solve)
        candidate = Candidate(factor.solver, self.setup, solve, note)
        others = self._others(A, factor, iterations)
        return Examined([candidate, *others], None if short else factor, [note])

    def _untried(self, A: Operator, name: str, factor: Any, budget: float) -> Examined:
        """Return a candidate for a single solve, which is as expensive as a trial.

        It gives up at a share of the cost of the best alternative.
        """
        one = iteration_cost(A, factor, TRIAL_ITERATIONS // 2)
        limit = min(MAX_ITERATIONS, TRIAL_ITERATIONS + int(UNTRIED_SHARE * budget / one))
        factor.solver = replace(factor.solver, max_iterations=limit)
        note = _summary(f"{name} (not tried)", self.setup, self.solve)
        return Examined([Candidate(factor.solver, self.setup, self.solve, note)], factor, [note])

    def _others(self, A: Operator, factor: Any, iterations: float) -> list[Candidate]:
        """Return what to try in addition if this preconditioner is not good."""
        solver = self.solver
        assert isinstance(solver, Krylov)
        if solver.preconditioner != AMG() or iterations <= GOOD_ITERATIONS:
            return []
        if solver.method == "cg":
            if iterations <= MAX_ITERATIONS:
                return []
            return [replace(self, solver=Krylov("gmres", preconditioner=AMG()))]
        ilu = Krylov("gmres", preconditioner=ILU(), recycle=20)
        others: list[Candidate] = [_Trial(ilu, LAST_RESORT_COST, 0.0)]
        if factor is not None and not is_symmetric(A):
            setup = air_setup_cost(A.shape[0], A.array.nnz, factor.M.row_growth)
            others.append(_Trial(Krylov("gmres", preconditioner=AMG("air")), setup, self.solve))
        return others


def _is_short(solver: Krylov) -> bool:
    """Return whether a trial is kept short, since nothing is set up that could pay."""
    return isinstance(solver.preconditioner, Jacobi) and solver.method == "gmres"


def _iterations(
    A: Operator, factor: Any, solves: float, budget: float, trial_budget: float = math.inf
) -> float:
    """Estimate the iterations of a full solve by a trial.

    The trial takes no more iterations than would cost, in every solve, as much as the best
    alternative, and about as many as `trial_budget` pays for.
    """
    solver, digits = factor.solver, -math.log10(factor.rtol)
    limit = TRIAL_ITERATIONS_OF_GMRES_WITH_JACOBI if _is_short(solver) else TRIAL_ITERATIONS
    one = iteration_cost(A, factor, limit // 2)
    if trial_budget < math.inf:
        limit = min(limit, max(MIN_FIRST_TRIAL_ITERATIONS, int(trial_budget / one)))
    if budget < math.inf:
        limit = int(min(limit, 2 + budget / (solves * one)))
    jacobi = isinstance(solver.preconditioner, Jacobi)
    share = TRIAL_DIGITS_SHARE_WITH_JACOBI if jacobi else TRIAL_DIGITS_SHARE
    factor.solver = replace(solver, max_iterations=limit)
    scaling = _cheap_scaling(A) if jacobi and "scaling" not in vars(factor) else None
    if scaling:  # Equilibration costs as much as the trial, and a direct solver may not need it.
        factor.scaling = scaling
    b, null_space = A.backend.random(A.shape[0], seed=TRIAL_SEED), factor.A.null_space
    try:
        if null_space is not None:
            b = null_space.balanced(b)
        factor.solve(b, rtol=10.0 ** (-share * digits))
        converged = True
    except ConvergenceError:
        converged = False
    factor.solver = solver
    if scaling:
        del factor.scaling
    iterations, history = factor.iterations_of_last_solve, factor.counts.history
    gained = -math.log10(max(min(history, default=1.0), 1e-300))
    if gained <= 0.0:
        return math.inf
    expected = max(iterations, 1) * max(digits / gained, 1.0)
    if _is_short(solver) and expected > solver.cycle_length:
        expected *= RESTART_SLOWDOWN
    return SLOWDOWN * expected if jacobi or not converged else expected


def _cheap_scaling(A: Operator) -> Scaling | None:
    """Return a scaling by the diagonal of A, none where its entries are of similar size.

    None if it may differ much from an equilibration: unless A is symmetric, without zeros on its
    diagonal.
    """
    xp, diagonal = A.backend.xp, A.backend.xp.abs(A.array.diagonal())
    least = float(xp.min(diagonal))
    if least == 0.0:
        return None
    if float(xp.max(diagonal)) <= MAX_BALANCED_RATIO * least:
        return Scaling()
    if not is_symmetric(A):
        return None
    scales = diagonal**-0.5
    return Scaling(scales, scales)


def iteration_cost(A: Any, factor: Any, iterations: int) -> float:
    """Estimate the nanoseconds of one iteration of a solve that takes `iterations`."""
    n, machine = A.shape[0], machine_of(A)
    entry = machine.product_entry
    preconditioner = factor.M.application_cost(entry, machine.triangular_entry)
    overhead, per_unknown = machine.iteration, machine.cg_entry
    if factor.solver.method == "gmres":
        overhead = machine.gmres_iteration
        per_unknown = machine.gmres_entry * min(iterations, factor.solver.cycle_length)
    return overhead + entry * A.array.nnz + preconditioner + per_unknown * n


def _summary(name: str, setup: float, solve: float) -> str:
    return f"{name} at {1e-9 * setup:.2g} s and {1e-9 * solve:.2g} s per solve"
