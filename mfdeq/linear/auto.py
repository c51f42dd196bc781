"""Which solver: from what an LU would cost and what multigrid is seen to take, with a way back.

A solver is chosen for `SOLVES` solves (50 Hessian products), its set-up included. An LU's cost is
estimated before it is computed (`fill`). If that is not plainly less than any iteration's, the
preconditioners are tried on one right-hand side and their iterations counted. All is counted in
entries and operations, nothing is timed: the same A gives the same choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from ..arrays.backend import Array, is_sparse
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..operators.dot_tests import is_symmetric
from ..operators.operator import Operator
from ..report import LinearCounts
from .direct.costs import Fill
from .direct.dense_blocks import DenseBlocks
from .direct.direct import Direct
from .direct.fill import estimate_fill
from .direct.registry import rank_packages
from .factor import Factor, Solver, operator_of
from .krylov.krylov import Krylov
from .krylov.neumann import Neumann
from .preconditioners.amg import AMG
from .preconditioners.ilu import ILU

SOLVES = 100  # solves that a set-up is for: 50 Hessian products
SMALL = 5_000  # unknowns up to which an LU is not worth a thought
HARDLY_MORE = 1.25  # iterations of Neumann than of GMRES
LEAST = 80  # products with A that a solve with AMG costs at best
FEWEST = 8  # iterations of it
TRIAL_RTOL = 1e-8
TRIAL_ITERATIONS = 120
GOOD = 25  # iterations of a trial after which nothing else is tried
BYTES_PER_ENTRY = 10  # with its index, in float32 or float64


@dataclass(frozen=True)
class Machine:
    """What things cost where the arrays are, in nanoseconds of which only the ratios matter."""

    entry: float  # of a sparse product
    vector_entry: float  # and iteration: CG's updates and inner products
    basis_entry: float  # of GMRES, and vector kept
    iteration: float  # however small
    ilu_entry: float  # of an incomplete LU, and solve

    def least(self, nnz: int) -> float:
        """Of `SOLVES` solves with AMG, at best."""
        return SOLVES * (LEAST * self.entry * nnz + FEWEST * self.iteration)


CORE = Machine(  # one core in 2026
    entry=1.1, vector_entry=8.0, basis_entry=1.5, iteration=0.0, ilu_entry=2.8
)
# A device of 3 TB/s that takes 5 microseconds for a launch, by what is read and launched: not
# measured.
DEVICE = Machine(
    entry=0.004, vector_entry=0.035, basis_entry=0.008, iteration=250_000.0, ilu_entry=0.05
)


@dataclass
class Auto:
    """Pick a solver from A, and fall back before giving up.

    Notes
    -----
    Dense A, or dense blocks on its diagonal: LU. Products only: GMRES that recycles. Sparse A: LU
    up to 5,000 unknowns; above, the cheapest for 50 Hessian products of LU (by its estimated
    fill, if it fits in memory), CG or GMRES with AMG, for nonsymmetric A also AMG("air"), and
    GMRES with ILU that recycles. The latter are tried on one right-hand side, if LU is not
    plainly cheaper. A choice holds for later matrices of the same size; one that fails is
    replaced by the next.

    Attributes
    ----------
    choices : list of str
        What was picked and why, in words.
    """

    choices: list[str] = field(default_factory=list)
    remaining: list[tuple[Solver, str]] = field(default_factory=list)
    _kind: tuple[Any, ...] | None = None

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """The factor of the first candidate that can be set up."""
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        if (theirs := A.backend.library.default_solver()) is not None:
            return theirs.setup(A, counts)
        tried: dict[int, Factor] = {}
        if (kind := _kind(A)) != self._kind:
            with counts.timed():
                found = self.candidates(A)
            self._kind, self.remaining = kind, [(solver, why) for solver, why, _ in found]
            tried = {id(solver): factor for solver, _, factor in found if factor is not None}
        return _AutoFactor(A, self, tried, counts)

    def candidates(self, A: Operator) -> list[tuple[Solver, str, Factor | None]]:
        """Solvers in the order in which they are taken, with the reason and what is set up."""
        array = A.array
        if array is None:
            found = _by_products(A)
            return _ranked(found, found[0].said)
        if not is_sparse(array):
            return [(Direct(), "A is dense", None)]
        n = A.shape[0]
        if n <= SMALL:
            return [(Direct(), f"N = {n} is at most {SMALL}", None)]
        if DenseBlocks.of(array, A.backend) is not None:
            return [(Direct(), "A is dense blocks on its diagonal", None)]
        fill = estimate_fill(array)
        direct_ones = _direct(A, fill)
        direct, said = direct_ones[0].cost, direct_ones[0].said
        if direct <= _machine(A).least(array.nnz):
            return _ranked(direct_ones, f"{said}, which an iteration hardly reaches")
        tried = _tried(A, direct)
        text = "; ".join([said, *(trial.said for trial in tried)])
        # A failed trial is not tried again; LU, however dear, is what is left at the end.
        taken = [t for t in tried if t.cost < math.inf]
        return _ranked([*direct_ones, *taken], text)

    def forget(self) -> None:
        """Choose anew at the next A."""
        self._kind = None

    def say(self, text: str) -> None:
        """Put a choice on record, once."""
        if text not in self.choices:
            self.choices.append(text)


def _kind(A: Operator) -> tuple[Any, ...]:
    array = A.array
    return (A.shape, type(array), getattr(array, "nnz", None))


@dataclass(frozen=True)
class _Trial:
    """The cost of `SOLVES` solves in nanoseconds, in words too, and the factor if it was set up."""

    cost: float
    said: str
    solver: Solver
    factor: Factor | None = None
    iterations: int = 0


def _ranked(trials: list[_Trial], why: str) -> list[tuple[Solver, str, Factor | None]]:
    """The cheapest first."""
    cheapest = sorted(trials, key=lambda trial: trial.cost)
    return [(trial.solver, why, trial.factor) for trial in cheapest]


def _machine(A: Operator) -> Machine:
    return CORE if A.backend.library.on_host else DEVICE


def _direct(A: Operator, fill: Fill) -> list[_Trial]:
    """Factorizations, the cheapest first; those with pivots for any A are left to the end."""
    ranked = rank_packages(A, fill, SOLVES)
    said = f"{SOLVES} solves by LU are estimated at {1e-9 * ranked[0][1]:.2g} s"
    return [_Trial(cost, said, Direct(package=name)) for name, cost in ranked]


def _by_products(A: Operator) -> list[_Trial]:
    """GMRES; before it the Neumann iteration, cheaper a step, where it hardly takes more."""
    gmres, why = Krylov("gmres", recycle=20), "A is known by its products only"
    b, taken = A.backend.random(A.shape[0], seed=3), []
    trials: tuple[Solver, ...] = (Neumann(max_iterations=TRIAL_ITERATIONS), Krylov("gmres"))
    try:
        for solver in trials:
            factor = solver.setup(A)
            factor.solve(b, rtol=max(TRIAL_RTOL, factor.rtol))
            taken.append(factor.counts.iterations)
    except ConvergenceError:
        return [_Trial(0.0, why, gmres)]
    why = f"{why}; on a trial {taken[0]} iterations by Neumann, {taken[1]} by GMRES"
    return [_Trial(taken[0], why, Neumann()), _Trial(HARDLY_MORE * taken[1], why, gmres)]


def _tried(A: Operator, direct: float) -> list[_Trial]:
    """Iterative solvers on one right-hand side, as long as the next may be worth its trial."""
    cg, gmres = (Krylov(method, preconditioner=AMG()) for method in ("cg", "gmres"))
    air = Krylov("gmres", preconditioner=AMG("air"))
    ilu = Krylov("gmres", preconditioner=ILU(), recycle=20)
    attempts = [cg, gmres, ilu] if is_symmetric(A) else [gmres, air, ilu]
    found: list[_Trial] = []
    for solver in attempts:
        best = min([direct, *(trial.cost for trial in found)])
        if solver is ilu and best < math.inf:
            break
        found.append(_trial(A, solver, best))
        if found[-1].cost < math.inf and (solver is cg or found[-1].iterations <= GOOD):
            break
    return found


def _trial(A: Operator, solver: Krylov, best: float) -> _Trial:
    name = f"{solver.method} with {_described(solver.preconditioner)}"
    most = TRIAL_ITERATIONS
    try:
        factor: Any = solver.setup(A)
        worthwhile = best / (SOLVES * _iteration(A, factor, TRIAL_ITERATIONS // 2))
        most = int(min(most, 1 + worthwhile))
        factor.solver = replace(solver, max_iterations=most)
        factor.solve(A.backend.random(A.shape[0], seed=3), rtol=max(TRIAL_RTOL, factor.rtol))
    except (ArgumentError, ConvergenceError, SingularStateError, ValueError) as error:
        stopped = "not converged" if isinstance(error, ConvergenceError) else "not possible"
        took = f" in {most} iterations" if isinstance(error, ConvergenceError) else ""
        return _Trial(math.inf, f"{name}: {stopped}{took} on a trial", solver)
    factor.solver = solver
    iterations = factor.counts.iterations
    cost = SOLVES * iterations * _iteration(A, factor, iterations)
    said = f"by {name} at {1e-9 * cost:.2g} s ({iterations} iterations on a trial)"
    return _Trial(cost, said, solver, factor, iterations)


def _iteration(A: Any, factor: Any, iterations: int) -> float:
    """Nanoseconds of one iteration."""
    n, of_lu, machine = A.shape[0], isinstance(factor.solver.preconditioner, ILU), _machine(A)
    per_entry = machine.ilu_entry if of_lu else machine.entry
    preconditioner = per_entry * factor.nbytes / BYTES_PER_ENTRY
    per_vector = machine.vector_entry
    if factor.solver.method == "gmres":
        per_vector = machine.basis_entry * min(iterations, factor.solver.restart)
    return machine.iteration + machine.entry * A.array.nnz + preconditioner + per_vector * n


def _described(preconditioner: Any) -> str:
    method = getattr(preconditioner, "method", None)
    return f"{type(preconditioner).__name__}" + (f" ({method})" if method else "")


class _AutoFactor(Factor):
    """The factor of the current candidate; a failing one is replaced for good."""

    def __init__(
        self,
        A: Operator,
        auto: Auto,
        tried: dict[int, Factor],
        counts: LinearCounts,
    ) -> None:
        super().__init__(A, None, counts)
        self.counts.setups -= 1  # the candidate counts its own
        self.auto, self.tried = auto, tried
        self.candidates = list(auto.remaining)
        self._next()

    def forget(self) -> None:
        if len(self.auto.remaining) < len(self.candidates):  # some have failed since
            self.auto.remaining[:] = self.candidates
            self.tried = {}
            self._next()
        self.current.forget()

    def _next(self) -> None:
        solver, why = self.auto.remaining[0]
        try:
            self.current = self._factor(solver)
        except (ConvergenceError, SingularStateError, ValueError, MemoryError) as error:
            self._give_up_on(solver, error)
            return
        self.name = self.current.name
        self.rtol = self.current.rtol
        self.iterative = self.current.iterative
        self.auto.say(f"solver: {self.name}, because {why}")

    def _factor(self, solver: Solver) -> Factor:
        factor = self.tried.get(id(solver))
        if factor is None:
            return solver.setup(self.A, self.counts)
        self.counts.setups += 1
        factor.counts = self.counts
        return factor

    def _give_up_on(self, solver: Any, error: Exception) -> None:
        if len(self.auto.remaining) == 1:
            raise error
        self.auto.remaining.pop(0)
        self.auto.say(f"solver: {solver} failed: {error}")
        self._next()

    @property
    def nbytes(self) -> int:
        return self.current.nbytes

    def nearby(self, A: Operator, counts: LinearCounts, max_iterations: int) -> Factor | None:
        return self.current.nearby(A, counts, max_iterations)

    def kept_for(self, A: Operator, counts: LinearCounts) -> Factor | None:
        return self.current.kept_for(A, counts)

    def refreshed(self, A: Operator, counts: LinearCounts) -> Factor | None:
        return self.current.refreshed(A, counts)

    def _solve(self, b: Array, rtol: float | None, adjoint: bool) -> Array:
        while True:
            try:
                return self.current._solve(b, rtol, adjoint)
            except ConvergenceError as error:
                self._give_up_on(self.current.name, error)

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        return self.current.approximate(r, adjoint=adjoint)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self.current._approximate(r, adjoint)
