"""A list of checks, and dot tests that add to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from ..arrays.backend import Array, Backend
from ..errors import DerivativeError
from ..operators.dot_tests import (
    adjoint_mismatch,
    as_self_adjoint,
    balanced_pair,
    columns_mismatch,
    mismatch_along,
)
from ..operators.operator import Operator
from .checks import Check, worst_of
from .taylor_checks import TaylorChecker
from .taylor_remainders import FAIL, INCONCLUSIVE, PASS

SOLVE_ERROR_FACTOR = 100.0  # mismatches below this many residuals of solves are inconclusive
TERM_ERROR_FACTOR = 10.0  # mismatches below this many errors of finite differences pass
MAX_TOLERANCE = 0.1  # of mismatches, above which differences have too few digits to judge
BLOCKS = (
    "the product with a block differs from those with its columns: check the code for (n, k) "
    "arrays, or support only (n,) arrays (without matmat or blocks=True)"
)

HIDDEN = "zero to the error of differences, relative to the first derivatives"


class Natural(NamedTuple):
    """Directions that change the equations by their sizes, and the size of the products.

    Attributes
    ----------
    y, x : arrays
        Directions in the rows and in the columns of a block.
    scale : float
        The size of the terms of <y, K x>, if second derivatives were as large as first ones.
    """

    y: Array
    x: Array
    scale: float


# The relative error that derivatives by differences may have, as far as it is known: that of second
# derivatives is measured while they are computed.
Error = Callable[[], float]


def exact() -> float:
    """Return the error of exact derivatives."""
    return 0.0


class Checker:
    """A list of checks, and the methods that add to it.

    Parameters
    ----------
    backend : Backend
    seed : int
        The seed of the random directions.

    Attributes
    ----------
    checks : list of Check
    taylor : TaylorChecker
    worst_residual : float
        The largest relative residual of a linear solve.
    """

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend, self.seed = backend, seed
        self.checks: list[Check] = []
        self.worst_residual = 0.0
        self.taylor = TaylorChecker(backend)

    def _random(self, n: int, seed: int) -> Array:
        """Return random numbers whose root mean square is one."""
        y = self.backend.random(n, seed=seed)
        return y * (n**0.5 / (self.backend.norm(y) or 1.0))

    def _add(self, name: str, verdict: str, figure: float, threshold: float, detail: str) -> None:
        self.checks.append(Check(name, verdict, figure, threshold, detail))

    def _add_error(self, name: str, verdict: str, error: Exception) -> None:
        self._add(name, verdict, math.nan, math.nan, str(error))

    def _add_worst(self, checks: list[Check]) -> None:
        """Add the first of the worst checks along several directions."""
        self.checks.append(worst_of(checks))

    def _check_blocks_of_columns(self, name: str, op: Operator, error: Error = exact) -> None:
        """Add a check if the product with a block differs from those with its columns."""
        for product, size in ((op._apply, op.shape[1]), (op._apply_adjoint, op.shape[0])):
            try:
                mismatch, scale = columns_mismatch(self.backend, product, size)
            except DerivativeError as caught:
                self._add_error(f"{name}: of blocks", FAIL, caught)
                return
            tolerance = TERM_ERROR_FACTOR * error()
            relative = _relative(mismatch, scale)
            if not relative <= max(self.backend.eps**0.5, tolerance):
                self._check_mismatch(f"{name}: of blocks", mismatch, scale, tolerance, BLOCKS)
                return

    def _check_adjoint(
        self,
        name: str,
        op: Operator,
        error: Error = exact,
        other: Operator | None = None,
        natural: Natural | None = None,
    ) -> None:
        """Check an adjoint by a random pair, and by one that weights rows and columns equally.

        Parameters
        ----------
        name : str
        op : Operator
        error : callable, optional
            The relative error that all products of differences may have.
        other : Operator, optional
            The same operator with other errors of differences. A block may be no more than these,
            as one that is zero is.
        natural : Natural, optional
            A pair of directions, for a block that is hidden by the errors of differences.
        """
        y, x = balanced_pair(op, self.seed + 2)
        pairs = adjoint_mismatch(op, self.seed), mismatch_along(op, y, x)
        tolerances = [TERM_ERROR_FACTOR * error()] * len(pairs)
        if other is not None and other is not op:
            noise = op - other
            noises = adjoint_mismatch(noise, self.seed), mismatch_along(noise, y, x)
            for k, ((_, size), (_, scale)) in enumerate(zip(noises, pairs, strict=True)):
                tolerances[k] = max(tolerances[k], TERM_ERROR_FACTOR * _relative(size, scale))
            hides = max(tolerances) > MAX_TOLERANCE
            if hides and natural is not None and natural.scale > 0.0:
                hidden = TERM_ERROR_FACTOR * sum(mismatch_along(noise, natural.y, natural.x))
                relative = (mismatch_along(op, natural.y, natural.x)[0] + hidden) / natural.scale
                needed = self.taylor.agreement_needed
                if relative <= needed:
                    self._add(name, PASS, relative, needed, HIDDEN)
                    return
        k = max(range(len(pairs)), key=lambda k: _relative(*pairs[k]))
        self._check_mismatch(name, *pairs[k], tolerances[k])

    def _check_symmetry(
        self,
        name: str,
        op: Operator,
        error: Error = exact,
        other: Operator | None = None,
        natural: Natural | None = None,
    ) -> None:
        same = None if other is None else as_self_adjoint(other)
        self._check_adjoint(name, as_self_adjoint(op), error, same, natural)

    def _check_mismatch(
        self,
        name: str,
        mismatch: float,
        scale: float,
        tolerance: float = 0.0,
        detail: str = "relative mismatch",
    ) -> None:
        """Compare a mismatch relative to `scale` with sqrt(eps), or with a larger tolerance.

        The tolerance is a multiple of the error that derivatives by differences may have.
        """
        threshold = max(self.backend.eps**0.5, tolerance)
        relative = _relative(mismatch, scale)
        if relative <= min(threshold, self.taylor.agreement_needed):
            self._add(name, PASS, relative, threshold, detail)
        elif not math.isfinite(relative):
            detail = "the products are not finite: there is no value to judge"
            self._add(name, INCONCLUSIVE, relative, threshold, detail)
        elif tolerance > MAX_TOLERANCE:
            error = tolerance / TERM_ERROR_FACTOR
            detail = (
                f"derivatives by differences with a relative error of about {error:.0e} have too "
                "few digits to judge"
            )
            self._add(name, INCONCLUSIVE, relative, threshold, detail)
        elif relative <= threshold:
            self._add(name, PASS, relative, threshold, detail)
        elif relative <= SOLVE_ERROR_FACTOR * self.worst_residual:
            detail = f"mismatch within the error of solves to {self.worst_residual:.0e}"
            self._add(name, INCONCLUSIVE, relative, threshold, detail)
        else:
            self._add(name, FAIL, relative, threshold, detail)


def _relative(mismatch: float, scale: float) -> float:
    return mismatch / scale if scale > 0 else 0.0
