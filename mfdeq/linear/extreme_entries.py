"""Solves with matrices whose entries are so small or large that squares of them are out of range.

A power of two times such a matrix, with entries near one, is factorized in its place.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from ..arrays.backend import Array, host, is_dense
from ..arrays.powers_of_two import times_power
from ..errors import ConvergenceError
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from ..report import LinearCounts
from .checked_solve import check_finite
from .delegating_factor import DelegatingFactor
from .factor import Factor
from .scaling import ScaledOperator

RANGE_SHARE = 0.4  # of the range of exponents, in which entries are left as they are


def extreme_exponent(A: Operator) -> int:
    """Return e such that the largest entry of 2^e A is near one; 0 if that of A is not extreme.

    Of an operator without entries, the size of a product is taken in place of the largest entry.
    """
    size = A.product_size if A.array is None else _largest(A)
    if not (size and math.isfinite(size)):
        return 0
    exponent = math.frexp(size)[1]
    return 0 if abs(exponent) <= _largest_exponent(A.backend.smallest_normal) else -exponent


@functools.cache
def _largest_exponent(smallest_normal: float) -> float:
    return -RANGE_SHARE * math.log2(smallest_normal)


def _largest(A: Operator) -> float:
    found = vars(A).get("_largest_entry")
    if found is None:
        sizes = A.sizes if isinstance(A, Matrix) else None
        if type(sizes) is host.ndarray and sizes.size:
            found = float(host.maximum.reduce(sizes, axis=None))
        else:
            values = A.array if is_dense(A.array) else A.array.data
            found = 0.0 if 0 in values.shape else max(float(values.max()), -float(values.min()))
        vars(A)["_largest_entry"] = found  # one solver may set up another
    return found


def times_power_of(A: Operator, exponent: int) -> Operator:
    """Return 2^e A."""
    backend = A.backend
    if A.array is None:
        half = times_power(backend, backend.zeros(A.shape[0]) + 1.0, exponent // 2)
        rest = times_power(backend, backend.zeros(A.shape[1]) + 1.0, exponent - exponent // 2)
        scaled: Operator = ScaledOperator(A, half, rest)
    elif is_dense(A.array):
        scaled = Matrix(backend, times_power(backend, A.array, exponent))
    else:
        array = A.array.copy()
        array.data = times_power(backend, array.data, exponent)
        scaled = Matrix(backend, array)
    if A.scales is not None:
        equations, unknowns = A.scales
        if equations is not None:
            equations = times_power(backend, equations, exponent)
        scaled.scales = equations, unknowns
    return scaled


class ExtremeFactor(DelegatingFactor):
    """A factor of A by one of 2^e A.

    Parameters
    ----------
    A : Operator, (N, N)
    exponent : int
        e.
    factor : Factor
        The factor of 2^e A.
    counts : LinearCounts
    """

    def __init__(self, A: Operator, exponent: int, factor: Factor, counts: LinearCounts) -> None:
        super().__init__(A, counts)
        self.exponent = exponent
        self.adopt(factor)

    @classmethod
    def set_up(
        cls,
        setup: Callable[[Operator, LinearCounts], Factor],
        A: Operator,
        exponent: int,
        counts: LinearCounts,
    ) -> ExtremeFactor:
        """Set up a solver for 2^e A in place of A."""
        return cls(A, exponent, setup(times_power_of(A, exponent), counts), counts)

    def _solve_checked(
        self,
        b: Array,
        rtol: float | None = None,
        adjoint: bool = False,
        weights: Array | None = None,
    ) -> Array:
        try:
            x = self.current._solve_checked(b, rtol, adjoint, weights)
        except ConvergenceError as error:
            if error.best is not None:
                error.best = self._times_power(error.best)
            raise
        return check_finite(self.backend, self._times_power(x))

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """Apply the approximate inverse."""
        return self._times_power(super().approximate(r, adjoint=adjoint))

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self._times_power(super()._attempt(b, rtol, adjoint))

    def _attempt_weighted(
        self, b: Array, rtol: float, adjoint: bool, weights: Array | None
    ) -> Array:
        return self._times_power(super()._attempt_weighted(b, rtol, adjoint, weights))

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self._times_power(super()._approximate(r, adjoint))

    def _times_power(self, x: Array) -> Array:
        return times_power(self.backend, x, self.exponent)

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        """Return a factor for a nearby matrix, preconditioned by this one."""
        nearby = times_power_of(A, self.exponent)
        return self._of(A, self.current.preconditioned_factor(nearby, counts, max_iterations))

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor for a nearby matrix, preconditioned by this one, for many solves."""
        nearby = times_power_of(A, self.exponent)
        return self._of(A, self.current.factor_for_equilibrium(nearby, counts))

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor of A, made by updating the current factor's preconditioner."""
        return self._of(A, self.current.refactorize(times_power_of(A, self.exponent), counts))

    def _of(self, A: Operator, factor: Factor | None) -> Factor | None:
        return None if factor is None else ExtremeFactor(A, self.exponent, factor, factor.counts)
