"""Solves with a large sparse matrix in which constraints replace equations that depend on others.

A row C of the constraint may be dense, and the matrix with it is not symmetric where A is: both
ruin its factorization and its multigrid. With A singular, W'A = 0, this factor solves with

    A_p = A + E D F',

instead, in which m entries of A have grown: E and F are the unit vectors of the equations that are
replaced and of as many unknowns. It has the pattern of A, and is symmetric and definite where A is.
If W'b = 0, the solution of A_p x = b has F'x = 0, and so A x = b. Krylov methods solve A x = b with
A itself (`null_space`). Right-hand sides are made so by changing b in the replaced equations; what
the constraints ask for is then added along the null vectors V of A. Unless these are known, they
are V0 + X for any V0, with A X = -A V0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..models.combined_equations import ReplacedEquations
from ..operators.operator import Operator
from ..report import LinearCounts
from .factor import Factor
from .null_space import NullSpace, PinnedMatrix, are_null
from .part_counts import PartCounts
from .protocols import Solver
from .scaling import Scaling

# Of a tolerance, which leaves the rest to the null vectors, if they are solved for and if not.
RTOL_SHARE, RTOL_SHARE_IF_KNOWN = 0.7, 0.95
MIN_RTOL_ROUNDINGS = 100.0  # of solves with A_p
MAX_RTOL_RATIO = 30.0  # of the tolerances of columns, up to which they are solved for together


def set_up(solver: Solver, A: Operator, counts: LinearCounts) -> Factor:
    """Set up a factor of A by a solver, of its parts if it is composed of some."""
    if (composed := A.factor_of_parts(solver, counts)) is not None:
        return composed
    if isinstance(A, ReplacedEquations) and are_null(A.base.H, A.projection.basis):  # type: ignore[attr-defined]
        try:
            return PinnedFactor.set_up(solver, A, counts)
        except (ArgumentError, ConvergenceError, SingularStateError):
            if A.array is None:
                raise
            # The matrix with its replaced rows shows what is wrong.
    return solver.setup(A, counts)


def _null_vectors(A: ReplacedEquations) -> Array | None:
    """Return the null vectors of A without constraints, if they are known or are those of A'."""
    for V in (A.projection.right, A.projection.basis):
        if V is not None and are_null(A.base, V):
            return V
    return None


def _pinned(A: ReplacedEquations) -> Operator:
    """Return A_p, with the singular matrix and its null vectors."""
    A.base.null_space = NullSpace(A.projection.basis, _null_vectors(A))
    pinned = A.pinned
    return pinned if pinned.array is None else PinnedMatrix(A.backend, pinned.array, A.base)


class PinnedFactor(Factor):
    """A factor of A with constraints in place of equations, by solves with A_p.

    Parameters
    ----------
    A : ReplacedEquations, (N, N)
    inner : Factor
        A factor of A_p, with `PartCounts` of `counts`.
    counts : LinearCounts
    """

    def __init__(self, A: ReplacedEquations, inner: Factor, counts: LinearCounts) -> None:
        self.inner = inner
        super().__init__(A, inner.rtol, counts)
        self.counts.add(setups=-1)  # The inner factor counts its own set-up.
        self.counts.raise_to(bytes=inner.nbytes)
        self.matrix: ReplacedEquations = A
        rows, backend = A.projection.rows, A.backend
        assert rows is not None
        self.rows = rows
        W = array_on_host(A.projection.basis)
        inverse = host.linalg.inv(W[rows].astype("float64"))
        self.weights = backend.coefficients(inverse.astype(W.dtype))
        # V is multiplied by what the constraints lack, which may be large: solve to rounding.
        self._least_rtol = MIN_RTOL_ROUNDINGS * backend.eps
        right = A.base.null_space.right
        self.null = self._solve_for_null_vectors() if right is None else right
        self._rtol_share = RTOL_SHARE if right is None else RTOL_SHARE_IF_KNOWN
        # (S C V)^-1.
        product = array_on_host(A.constraints(self.null)).astype("float64")
        self.small = backend.coefficients(host.linalg.inv(product).astype(W.dtype))

    @classmethod
    def set_up(cls, solver: Solver, A: ReplacedEquations, counts: LinearCounts) -> PinnedFactor:
        """Set up a factor of A_p by a solver."""
        with counts.add_time():
            inner = solver.setup(_pinned(A), PartCounts(counts))
            return cls(A, inner, counts)

    # What "auto" may change with its factor.

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the inner factor."""
        return self.inner.name

    @property
    def flexible(self) -> bool:  # type: ignore[override]
        """Whether the inner factor is not linear to rounding."""
        return self.inner.flexible

    @property
    def iterative(self) -> bool:  # type: ignore[override]
        """Whether the inner factor iterates."""
        return self.inner.iterative

    @property
    def advice(self) -> str:  # type: ignore[override]
        """The advice of the inner factor."""
        return self.inner.advice

    @property
    def M(self) -> Any:
        """The preconditioner of the inner factor; None if it has none."""
        return getattr(self.inner.working, "M", self)

    @property
    def scaling(self) -> Scaling:
        """The scaling of the inner factor, by which residuals are judged."""
        return self.inner.working.scaling

    # Its solutions are judged as those of the inner factor are. A method whose norm has units would
    # otherwise solve again, for residuals in no units that it does not minimize.

    @property
    def _rtol_factor_in_units(self) -> float:  # type: ignore[override]
        return self.inner.working._rtol_factor_in_units

    @property
    def _least_rtol_in_no_units(self) -> float:  # type: ignore[override]
        return self.inner.working._least_rtol_in_no_units

    def counted_in(self, counts: LinearCounts) -> Factor:
        """Return this factor with other counts, and an inner one that shares them."""
        other = super().counted_in(counts)
        assert isinstance(other, PinnedFactor)
        other.inner = self.inner.counted_in(PartCounts(counts))
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of the inner factor."""
        return self.inner.nbytes

    def forget(self) -> None:
        """Discard what the inner factor would reuse from earlier solves."""
        self.inner.forget()

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        sizes = self.backend.column_norms(b)

        def solve(inner: Array) -> Array:
            # What is added to b must not hide the rest of it.
            shares = array_on_host(sizes / self.backend.column_norms(inner))
            shares = host.where((shares > 0.0) & (shares < 1.0), shares, 1.0)
            rtols = host.maximum(self._rtol_share * rtol * shares, self._least_rtol)
            if b.ndim == 1 or not self.iterative or rtols.max() <= MAX_RTOL_RATIO * rtols.min():
                return self._inner(inner, float(rtols.min()), adjoint)
            solved = [
                self._inner(inner[:, k], float(rtols[k]), adjoint) for k in range(rtols.shape[0])
            ]
            return self.backend.columns(*solved)

        with self.backend.ignore_overflow():
            return self._composed(b, adjoint, solve)

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """Apply the approximate inverse of the inner factor."""
        return self._approximate_by(self.inner.approximate, r, adjoint=adjoint)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        # One application of the preconditioner, as with other factors.
        return self._approximate_by(self.inner.working._approximate, r, adjoint=adjoint)

    def _approximate_by(self, approximate: Any, r: Array, adjoint: bool) -> Array:
        def solve(b: Array) -> Array:
            # It may be an array of the user's preconditioner.
            return self.backend.copied(approximate(b, adjoint=adjoint))

        return self._composed(r, adjoint, solve)

    def _solve_for_null_vectors(self) -> Array:
        """Return V from V0, which is W except for the identity in the pinned unknowns."""
        base, pins = self.matrix.base, self.matrix.projection.pins
        start = self.backend.xp.asarray(self.matrix.projection.basis, copy=True)
        for k, j in enumerate(pins or ()):
            start[j, :] = 0.0
            start[j, k] = 1.0
        side = base._apply(start)
        with contextlib.suppress(ConvergenceError):
            return start - self.inner.solve(side, rtol=self._least_rtol)
        try:
            return start - self.inner.solve(side)  # refinements correct what it lacks
        except ConvergenceError as error:
            error.best = None  # which is no state
            raise

    def _inner(self, b: Array, rtol: float, adjoint: bool) -> Array:
        try:
            return self.inner._solve_unchecked(b, rtol, adjoint)  # The residual with A is checked.
        except ConvergenceError as error:
            if error.best is None:
                raise
            self.stopped = self.inner.stopped or "the inner solve stopped"
            return error.best
        finally:
            self._progress.iterations += self.inner.iterations_of_last_solve

    def _composed(self, b: Array, adjoint: bool, solve: Any) -> Array:
        """Solve with A, or with A', given solves with A_p, or with A_p', in new arrays."""
        A, backend = self.matrix, self.backend
        if not adjoint:
            totals = A.projection.combined_values(b)
            x = solve(self._balanced(b))
            missing = self.small @ (totals - A.constraints(x))
            return backend.subtract_columns(x, self.null, -missing)
        totals = self.small.T @ backend.inner_products(self.null, b)
        b = A.subtract_constraints_adjoint(backend.copied(b), totals)
        y = self._balanced_adjoint(solve(b))
        return A.projection.add_combinations(y, totals)

    def _balanced(self, b: Array) -> Array:
        """Return b with other entries in the replaced equations, so that W'b = 0."""
        projection = self.matrix.projection
        b = projection.clear(b)
        values = self.weights.T @ self.backend.inner_products(projection.basis, b)
        for k, i in enumerate(self.rows):
            b[i, ...] = -values[k, ...]
        return b

    def _balanced_adjoint(self, y: Array) -> Array:
        """Apply the adjoint of `_balanced`, but for replaced equations, to an array of our own."""
        projection = self.matrix.projection
        values = self.weights @ projection.at_rows(y)
        return self.backend.subtract_columns(y, projection.basis, values)

    # Factors for other matrices.

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        """Return a factor whose inner one is preconditioned by that of this factor."""

        def reuse(pinned: Operator, counts: LinearCounts) -> Factor | None:
            return self.inner.preconditioned_factor(pinned, counts, max_iterations)

        return self._for_other(A, counts, reuse)

    def iterations_per_setup(self, columns: int) -> float:
        """Return the estimate of the inner factor."""
        return self.inner.iterations_per_setup(columns)

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor whose inner one is preconditioned by that of this factor."""
        return self._for_other(A, counts, self.inner.factor_for_equilibrium)

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor whose inner one is a refreshed one of this factor."""
        return self._for_other(A, counts, self.inner.refactorize)

    def _for_other(
        self,
        A: Operator,
        counts: LinearCounts,
        reuse: Callable[[Operator, LinearCounts], Factor | None],
    ) -> Factor | None:
        """Return a factor of another matrix, with an inner one that reuses this factor's."""
        if not (isinstance(A, ReplacedEquations) and _is_like(A, self.matrix)):
            return None
        try:
            inner = reuse(_pinned(A), PartCounts(counts))
            return None if inner is None else PinnedFactor(A, inner, counts)
        except (ConvergenceError, SingularStateError):
            return None  # too old to solve for the null vectors: a new one is set up


def _is_like(A: ReplacedEquations, other: ReplacedEquations) -> bool:
    """Return whether a matrix has the same replaced equations, and null vectors."""
    same = A.shape == other.shape and A.projection.rows == other.projection.rows
    return same and are_null(A.base.H, A.projection.basis)  # type: ignore[attr-defined]
