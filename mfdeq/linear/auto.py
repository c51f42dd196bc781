"""Choose a solver from A, revise the choice as solves are done, and fall back before giving up.

`candidates` has the solvers and their estimated costs, `product_candidates` those for an A without
entries, and `choice` the decision. Nothing is timed (`costs`), so that the same A and the same
right-hand sides give the same choices.
"""

from __future__ import annotations

from typing import Any

from ..arguments import count
from ..arrays.backend import Array, is_sparse
from ..arrays.memory import translate_memory_errors
from ..errors import ConvergenceError, SingularStateError
from ..locks import lock_of
from ..operators.operator import Operator
from ..report import LinearCounts
from .candidates import Candidate, iteration_cost, sparse_candidates
from .choice import WIDE_BLOCK, Choice
from .delegating_factor import DelegatingFactor
from .direct.dense_blocks import DenseBlocks
from .direct.direct import Direct
from .direct.registry import fastest_package
from .extreme_entries import ExtremeFactor, extreme_exponent
from .factor import Factor
from .operands import operator_of
from .product_candidates import DEFAULT_SOLVES, product_candidates
from .protocols import Solver

MAX_LU_SIZE = 5_000  # unknowns up to which an LU is chosen without an estimate
SETUP_ERRORS = (ConvergenceError, SingularStateError, ValueError, MemoryError)


class Auto(Solver):
    """Choose a solver from A and the number of solves, and fall back to others before giving up.

    Parameters
    ----------
    solves : int, optional
        The number of solves with one matrix for which the solver is chosen: a gradient takes one, a
        Hessian product two. By default, as many are expected as there have been, and at least one.
    columns : int, optional
        The number of right-hand sides in each of them, which decides between solvers of which some
        gain more from blocks than others. Wide blocks that are solved for count without it, too.

    Notes
    -----
    A dense A, a sparse one of up to 5,000 unknowns, a tridiagonal one, or one of dense blocks on
    its diagonal, is factorized. For a larger sparse A the choice is the cheapest, for the solves
    expected, among the packages of `mfdeq.Direct`, CG or GMRES with Jacobi, CG and GMRES with AMG,
    for a nonsymmetric A also with AMG("air"), and as a last resort GMRES with ILU. The cost of an
    LU is estimated from its fill. A preconditioner is tried on one right-hand side, unless its
    set-up and its fewest iterations would cost more than the best alternative known.

    By default, a solver with a cheap set-up comes first. It is replaced for good by a factorization
    when the solves so far have cost as much as that would have, so that the total is at most about
    twice the least possible. If you know that many solves will follow, `solves` avoids this.

    If only products with A are available, Neumann, CG (for a symmetric A) and GMRES with recycling
    are tried on one right-hand side. Up to 2,000 unknowns, A is assembled by products and
    factorized if that is cheaper for `solves`, by default ten, or if none of them converges.

    A choice is kept for later matrices of the same kind and size; if it fails, the next best
    replaces it.

    Attributes
    ----------
    choices : list of str
        The choices made so far, with their reasons.

    Raises
    ------
    ArgumentError
        If `solves` or `columns` is not a positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> solver = mfdeq.Auto()
    >>> x = solver.setup(np.diag([1.0, 2.0, 4.0])).solve(np.ones(3))
    >>> print(x)
    [1.   0.5  0.25]
    >>> print(solver.choices[0])
    solver: Direct (dense LU), because A is dense

    A convection-diffusion problem for which an LU pays only if many solves share it:

    >>> import scipy.sparse as sp
    >>> T = sp.diags_array([-1.5, 2.0, -0.5], offsets=[-1, 0, 1], shape=(20, 20))
    >>> A = sp.csr_array(sp.kronsum(sp.kronsum(T, T), T))
    >>> mfdeq.Auto(solves=1).setup(A).name
    'Krylov gmres with AMG'
    >>> mfdeq.Auto(solves=1000).setup(A).name
    'Direct (multifrontal)'
    """

    def __init__(self, solves: int | None = None, columns: int = 1) -> None:
        self.solves = None if solves is None else count(solves, "solves of mfdeq.Auto")
        self.columns = count(columns, "columns of mfdeq.Auto")
        self._is_hint = solves is not None  # of the user
        self._choices: list[str] = []
        self._kind: tuple[Any, ...] | None = None
        self._choice: Choice | None = None

    @property
    def description(self) -> str:
        """The name in reports before the first choice."""
        return "solver chosen at the first solve"

    @property
    def choices(self) -> list[str]:
        """The choices made so far, with their reasons."""
        return self._choices

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Return the factor of the candidate that is the cheapest for the solves expected."""
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        if (composed := A.factor_of_parts(self, counts)) is not None:
            return composed
        if (library_solver := A.backend.library.default_solver()) is not None:
            return library_solver.setup(A, counts)
        if exponent := extreme_exponent(A):
            return ExtremeFactor.set_up(self.setup, A, exponent, counts)
        factor = None
        with lock_of(self):
            if self._choice is None or _kind(A) != self._kind:
                with counts.add_time():
                    self._choice = self._choice_for(A)
                    factor = self._choice.decide(A, in_use=False)
                self._kind = _kind(A)
            choice = self._choice
        if choice.final and A.array is not None:
            assert choice.current.solver is not None
            only = choice.current.solver.setup(A, counts)
            self.record(f"solver: {only.name}, because {choice.reason}")
            return only
        return _AutoFactor(A, self, choice, counts).starting_with(factor)

    def _choice_for(self, A: Operator) -> Choice:
        """Return the candidates for A, and the reason if there is but one."""
        array, n = A.array, A.shape[0]
        if array is None:
            solves = None if self.solves is None else self.solves * self.columns
            if solves is not None and not self._is_hint:
                solves = max(solves, DEFAULT_SOLVES)
            candidates, why = product_candidates(A, solves)
            return Choice(candidates, self.solves, self.columns, why)
        if not is_sparse(array):
            why = "A is dense"
        elif n <= MAX_LU_SIZE:
            why = f"N = {n} is at most {MAX_LU_SIZE}"
        elif DenseBlocks.of(array, A.backend) is not None:
            why = "A is dense blocks on its diagonal"
        elif (package := fastest_package(A)) is not None:
            why = f"nothing is faster for this A than a {package.title}"
        else:
            return Choice(sparse_candidates(A), self.solves, self.columns)
        return Choice([Candidate(Direct(), 0.0, 0.0)], self.solves, self.columns, why)

    def for_solves(self, solves: int) -> Auto:
        """Return an "auto" that expects so many solves, unless the user has said how many."""
        if self._is_hint:
            return self
        other = Auto(solves, self.columns)
        other._choices, other._is_hint = self._choices, False
        return other

    def forget(self) -> None:
        """Discard the choice, so that the next A gets a new one."""
        with lock_of(self):
            self._kind = self._choice = None

    def record(self, text: str) -> None:
        """Add a choice to `choices` unless it is there already."""
        with lock_of(self):
            if text not in self._choices:
                self._choices.append(text)


def _columns(b: Array) -> int:
    return 1 if b.ndim == 1 else b.shape[1]


def _kind(A: Operator) -> tuple[Any, ...]:
    """Return what matrices must have in common for a choice to be kept."""
    array = A.array
    return (A.shape, type(array), getattr(array, "nnz", None))


class _AutoFactor(DelegatingFactor):
    """The factor of the candidate in use, which is replaced when another one has become cheaper.

    A factor of an earlier matrix may take its place at first, as a preconditioner.
    """

    def __init__(self, A: Operator, auto: Auto, choice: Choice, counts: LinearCounts) -> None:
        super().__init__(A, counts)
        self.auto, self.choice = auto, choice
        self.at_first = choice.state()
        self.solver: Solver | None = None
        # Of A, by solver: copies that count elsewhere share them. The solvers are kept with their
        # factors because their identities are the keys.
        self.factors: dict[int, tuple[Solver, Factor]] = {}
        self.replaced = False
        self.aged = False  # whether the current factor is one of a nearby matrix

    def starting_with(self, factor: Factor | None) -> _AutoFactor:
        """Adopt the candidate in use, for which a factor may have been set up in a trial."""
        with lock_of(self.choice):
            self._adopt_candidate(factor)
        return self

    def _adopt_candidate(self, tried: Factor | None = None) -> None:
        solver = self.choice.current.solver
        assert solver is not None
        try:
            factor = self._factor(solver, tried)
        except SETUP_ERRORS as error:
            self._drop(solver, str(solver), error)
            return
        self.replaced = self.solver is not None
        self.solver, self.aged = solver, False
        self.factors[id(solver)] = solver, factor
        self.adopt(factor)
        self.auto.record(f"solver: {self.name}, because {self.choice.reason}")

    def _factor(self, solver: Solver, tried: Factor | None) -> Factor:
        if tried is not None:
            self.counts.add(setups=1)
            return tried.counted_in(self.counts)
        if id(solver) in self.factors:
            return self.factors[id(solver)][1].counted_in(self.counts)
        return solver.setup(self.A, self.counts)

    def _drop(self, solver: Solver, name: str, error: Exception) -> None:
        """Adopt another candidate in place of one that has failed."""
        tried = None
        if self.choice.current.solver is solver:  # Otherwise it has failed for another factor, too.
            self.choice.drop(error)
            self.auto.record(f"solver: {name} failed: {error}")
            with self.counts.add_time():
                tried = self.choice.decide(self.A)
        self._adopt_candidate(tried)

    def _revise(self, columns: int) -> None:
        """Adopt another candidate if that is cheaper for the solves to come."""
        with lock_of(self.choice):
            tried = None
            if not self.choice.keeps(self.choice.current.solver, columns):
                with self.counts.add_time():
                    tried = self.choice.decide(self.A, columns)
            if self.choice.current.solver is not self.solver:
                self._adopt_candidate(tried)

    # Every Hessian product takes two solves, so these calls go straight to the current factor.

    @translate_memory_errors
    def solve(self, b: Array, *, rtol: float | None = None, weights: Array | None = None) -> Array:
        b, current = self._checked(b), self.current
        if not self.choice.keeps(self.solver, _columns(b)):
            return self._solve_checked(b, rtol, weights=weights)
        try:
            return current._solve_checked(b, rtol, weights=weights)
        except ConvergenceError as error:
            self._replace_failed(current, error)
        return self._solve_checked(b, rtol, weights=weights)

    @translate_memory_errors
    def solve_adjoint(self, b: Array, *, rtol: float | None = None) -> Array:
        b, current = self._checked(b), self.current
        if not self.choice.keeps(self.solver, _columns(b)):
            return self._solve_checked(b, rtol, adjoint=True)
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
        columns = _columns(b)
        settled, current = self._settled(columns), self.current
        try:
            x = current._solve_checked(b, rtol, adjoint, weights)
        except ConvergenceError as error:
            self._replace_failed(current, error)
            return self._solve_checked(b, rtol, adjoint, weights)
        if not settled:
            self._charge(columns)
        return x

    def _solve_unchecked(self, b: Array, rtol: float, adjoint: bool) -> Array:
        columns = _columns(b)
        settled, current = self._settled(columns), self.current
        x = current._solve_unchecked(b, rtol, adjoint)
        if current.stopped:
            return super()._solve_unchecked(b, rtol, adjoint)
        if not settled:
            self._charge(columns)
        return x

    def _settled(self, columns: int) -> bool:
        """Return whether the candidate in use is kept; if it is not, another one may be adopted."""
        settled = self.choice.keeps(self.solver, columns)
        if not settled:
            self._revise(columns)
        return settled

    def _replace_failed(self, failed: Factor, error: ConvergenceError) -> None:
        """Adopt another candidate, unless another thread has already replaced this one.

        The error is raised if a factor of a nearby matrix has failed: `Reused` replaces it by one
        of the same solver.
        """
        if self.aged and self.current is failed:
            raise error
        with lock_of(self.choice):
            if self.current is failed:
                assert self.solver is not None
                self._drop(self.solver, failed.name, error)

    def _charge(self, columns: int) -> None:
        current: Any = self.current
        if columns == 0:
            return
        cost = None
        if current.iterative:
            iterations = current.iterations_of_last_solve
            cost = columns * iterations * iteration_cost(self.A, current, iterations)
        with lock_of(self.choice):
            if self.choice.current.solver is self.solver:
                self.choice.charge(cost, columns)

    def forget(self) -> None:
        """Return to the choice that this factor began with."""
        with lock_of(self.choice):
            self.choice.restore(self.at_first)
            if self.choice.current.solver is not self.solver:
                self._adopt_candidate()
        self.current.forget()

    # Factors for other matrices. A choice may have been revised since this factor was set up, and
    # a set-up that costs nothing is not worth reusing.

    def _outdated(self) -> bool:
        current = self.choice.current
        free = current.setup == 0.0 and not self.choice.why
        return free or self.replaced or current.solver is not self.solver

    def _for_other(
        self, A: Operator, factor: Factor | None, counts: LinearCounts, aged: bool = False
    ) -> Factor | None:
        """Return a factor that revises the choice, with a factor for another matrix at first."""
        if factor is None or self.choice.keeps(self.solver, WIDE_BLOCK):
            return factor
        other = _AutoFactor(A, self.auto, self.choice, counts)
        other.solver, other.aged = self.solver, aged
        other.adopt(factor)
        return other

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        """Return a factor preconditioned by the current one, unless it is better to set one up."""
        if self._outdated():
            return None
        factor = self.current.preconditioned_factor(A, counts, max_iterations)
        return self._for_other(A, factor, counts, aged=True)

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor preconditioned by the current one, unless it is better to set one up."""
        if self._outdated():
            return None
        return self._for_other(A, self.current.factor_for_equilibrium(A, counts), counts)

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor with a refreshed preconditioner, unless it is better to set one up."""
        if self._outdated():
            return None
        return self._for_other(A, self.current.refactorize(A, counts), counts)
