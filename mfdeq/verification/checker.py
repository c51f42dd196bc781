"""A list of checks, and dot tests that add to it."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..arrays.backend import Backend
from ..errors import DerivativeError
from ..operators.dot_tests import (
    adjoint_mismatch,
    as_self_adjoint,
    balanced_mismatch,
    columns_mismatch,
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

    def _check_adjoint(self, name: str, op: Operator, error: Error = exact) -> None:
        """Check an adjoint by a random pair, and by one that weights rows and columns equally."""
        pairs = adjoint_mismatch(op, self.seed), balanced_mismatch(op, self.seed + 2)
        worst = max(pairs, key=lambda pair: _relative(*pair))
        self._check_mismatch(name, *worst, TERM_ERROR_FACTOR * error())

    def _check_symmetry(self, name: str, op: Operator, error: Error = exact) -> None:
        self._check_adjoint(name, as_self_adjoint(op), error)

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
