"""The factor of a trajectory's state operator: forward and backward substitution.

Step k of A x = b solves D_k x_k = b_k - L_k x_{k-1}, and the residual of the whole is that of its
steps. Each of them is checked like any solve with a factor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError, SingularStateError
from ..linear import Factor
from ..operators.operator import Operator
from ..report import LinearCounts
from .linearized_steps import FactorsOfSteps, LinearizedSteps


class SubstitutionFactor(Factor):
    """Solves with a block lower bidiagonal A, by a factor of the matrix of each step.

    Factors are set up when they are first needed.

    Parameters
    ----------
    A : BlockBidiagonal, (N, N)
    factors : FactorsOfSteps
    counts : LinearCounts

    Attributes
    ----------
    describe : callable or None
        ``describe(factor, k, error)`` returns the error for a singular matrix of step k, in place
        of that of its factorization.
    """

    describe: Callable[..., Exception] | None = None

    def __init__(self, A: Operator, factors: FactorsOfSteps, counts: LinearCounts) -> None:
        self.factors = factors
        self.linearized: LinearizedSteps = A.linearized  # type: ignore[attr-defined]
        super().__init__(A, None, counts)
        self.counts.add(setups=-1)  # Those of the steps count themselves.
        self.rtol = getattr(factors.solver, "rtol", None) or A.backend.default_rtol

    @property
    def name(self) -> str:  # type: ignore[override]
        """The names of the factors of the steps."""
        return f"substitution with {', '.join(self.factors.names) or self.factors.solver}"

    @property
    def flexible(self) -> bool:  # type: ignore[override]
        """Whether a step is not linear to rounding."""
        return any(factor.flexible for factor in self.factors.current)

    @property
    def iterative(self) -> bool:  # type: ignore[override]
        """Whether a step is solved by iterations."""
        return any(factor.iterative for factor in self.factors.current)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors at hand."""
        return self.factors.nbytes

    def at(self, k: int) -> Factor:
        """Return the factor of the matrix of step k."""
        try:
            return self.factors.of(self.linearized.at(k).D, k)
        except (ConvergenceError, SingularStateError) as error:
            if self.describe is None:
                raise
            raise self.describe(self, k, error) from error

    def counted_in(self, counts: LinearCounts) -> Factor:
        """Return this factor with other counts."""
        other = super().counted_in(counts)
        assert isinstance(other, SubstitutionFactor)
        other.factors = self.factors.counted_in(counts)
        return other

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor of another trajectory, with the factors of equal matrices."""
        if type(A) is not type(self.A) or A.backend != self.backend:
            return None
        linearized: LinearizedSteps = vars(A)["linearized"]
        factors = self.factors.only(linearized.steps.shared_matrices, counts)
        return SubstitutionFactor(A, factors, counts)

    def forget(self) -> None:
        """Discard what the factors of steps would reuse from earlier solves."""
        for factor in self.factors.current:
            factor.forget()

    def _solve_checked(
        self,
        b: Array,
        rtol: float | None = None,
        adjoint: bool = False,
        weights: Array | None = None,
    ) -> Array:
        start, worst = time.perf_counter(), 0.0
        W = None if weights is None else self.linearized.split(weights)
        self.stopped, self._progress.iterations = "", 0

        def solve(factor: Factor, side: Array, k: int) -> Array:
            nonlocal worst
            try:
                x = factor._solve_checked(side, rtol, adjoint, None if W is None else W[k, ...])
            except (ConvergenceError, SingularStateError) as error:
                error.add_note(f"This was the {'adjoint ' if adjoint else ''}solve of step {k}.")
                raise
            worst = max(worst, factor.counts.worst_residual)
            self._progress.iterations += factor.iterations_of_last_solve
            return x

        try:
            return self._substitute(b, adjoint, solve)
        finally:
            self.counts.add_solve(
                adjoint,
                1 if b.ndim == 1 else b.shape[1],
                time.perf_counter() - start,
                rtol is None or rtol <= self.rtol,
                worst,
                self.backend.kernels.peak_bytes(),
            )

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self._substitute(
            b, adjoint, lambda factor, side, k: factor._attempt(side, rtol, adjoint)
        )

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self._substitute(
            r, adjoint, lambda factor, side, k: factor.approximate(side, adjoint=adjoint)
        )

    def _substitute(
        self, b: Array, adjoint: bool, solve: Callable[[Factor, Array, int], Array]
    ) -> Array:
        """Solve with A or its adjoint, given solves with the matrices of the steps."""
        steps = self.linearized
        if 0 in b.shape:
            return self.backend.zeros(*b.shape)
        B, out = steps.split(b), self.backend.zeros(*steps.split(b).shape)
        order: Any = reversed(range(steps.count)) if adjoint else range(steps.count)
        carried: Array | None = None  # L_k x_{k-1}, or the adjoint of L_{k+1} times y_{k+1}
        for k in order:
            step = steps.at(k)
            if not adjoint and k:
                carried = step.L._apply(out[k - 1, ...])
            side = B[k, ...] if carried is None else B[k, ...] - carried
            if self.backend.any(side != 0.0):
                out[k, ...] = solve(self.at(k), side, k)
            if adjoint and k:
                carried = step.L._apply_adjoint(out[k, ...])
        return steps.join(out)
