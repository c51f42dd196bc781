"""The methods of the checks: Taylor remainders, in norm and by row, and dot tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array, Backend
from ..errors import DerivativeError
from ..operators.dot_tests import (
    adjoint_mismatch,
    as_self_adjoint,
    balanced_mismatch,
    check_columns,
)
from ..operators.operator import Operator
from .taylor_remainders import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    find_wrong_row,
    finer_steps,
    judge_remainders,
    required_agreement,
    step_ladder,
)

SOLVE_ERROR_FACTOR = 100.0  # mismatches below this many residuals of solves are inconclusive
TERM_ERROR_FACTOR = 10.0  # mismatches below this many errors of finite differences pass

Function = Callable[[Array, Array], "Array | None"]


@dataclass(frozen=True)
class Check:
    """One check of a verification.

    Attributes
    ----------
    name : str
        The derivative, and the property that was checked.
    verdict : {"PASS", "FAIL", "INCONCLUSIVE"}
    figure : float
        The measured slope of Taylor remainders, or relative mismatch.
    threshold : float
        The value that the figure was compared with.
    detail : str
        The explanation.

    Examples
    --------
    >>> from mfdeq.verification import Check
    >>> Check("d_state", "PASS", 2.0, 1.65, "slope 2.00, expected 2").verdict
    'PASS'
    """

    name: str
    verdict: str
    figure: float
    threshold: float
    detail: str


@dataclass(frozen=True)
class Term:
    """A derivative along a direction, to be checked against the change of some entries.

    Attributes
    ----------
    name : str
        The name of the check.
    derivative : (n,) array
        The derivative under test, along the direction.
    size : (n,) array
        The size that the rounding error of each entry is relative to.
    noise : float
        The rounding error in units of `size`.
    scale : float
        The size of the whole quantity; a derivative lost in the noise is compared with it.
    error : float
        The error that the derivative itself may have, as a finite difference.
    entries : slice or None
        The entries of the function's value; None for all.
    """

    name: str
    derivative: Array
    size: Array
    noise: float
    scale: float
    error: float = 0.0
    entries: slice | None = None


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
    worst_residual : float
        The largest relative residual of a linear solve.
    """

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend, self.seed = backend, seed
        self.checks: list[Check] = []
        self.worst_residual = 0.0
        self.steps = step_ladder(backend.eps)
        self.agreement_needed = required_agreement(backend.eps)

    def _add(self, name: str, verdict: str, figure: float, threshold: float, detail: str) -> None:
        self.checks.append(Check(name, verdict, figure, threshold, detail))

    def _add_error(self, name: str, verdict: str, error: Exception) -> None:
        self._add(name, verdict, math.nan, math.nan, str(error))

    def _add_worst(self, checks: list[Check]) -> None:
        """Add the first of the worst checks along several directions."""
        ranks = [PASS, INCONCLUSIVE, FAIL]
        self.checks.append(max(checks, key=lambda check: ranks.index(check.verdict)))

    def _check_taylor(
        self, function: Function, dtheta: Array, dh: Array, terms: list[Term]
    ) -> list[Check]:
        """Compare the change of a function along (dtheta, dh) with each term.

        A term that does not pass is checked again with smaller steps. If the function curves on a
        smaller scale than the direction, a correct derivative looks wrong until then.
        """
        base = function(0.0 * dtheta, 0.0 * dh)
        steps, changes = self._changes(function, base, dtheta, dh, self.steps)
        checks = [self._judge(term, steps, changes)[0] for term in terms]
        if any(check.verdict != PASS for check in checks):
            fine, fine_changes = self._changes(function, base, dtheta, dh, finer_steps(self.steps))
            for k, term in enumerate(terms):
                if checks[k].verdict != PASS:
                    again, is_row = self._judge(term, steps + fine, changes + fine_changes)
                    # At small steps a slope may be due to noise. A wrong row is not: its error
                    # per step is the same at four steps.
                    if again.verdict == PASS or is_row:
                        checks[k] = again
        return checks

    def _changes(
        self,
        function: Function,
        base: Array | None,
        dtheta: Array,
        dh: Array,
        ladder: list[float],
    ) -> tuple[list[float], list[Array]]:
        """Return the steps at which the function is defined, and its changes there."""
        steps, changes = [], []
        for step in ladder:
            value = function(step * dtheta, step * dh)
            if value is not None and base is not None:
                steps.append(step)
                changes.append(value - base)
        return steps, changes

    def _judge(self, term: Term, steps: list[float], changes: list[Array]) -> tuple[Check, bool]:
        """Judge the norm of the remainder over all entries, then every entry by itself.

        Return the check, and whether it fails because of a single row.
        """
        norm, derivative = self.backend.norm, term.derivative
        own = [change[term.entries or slice(None)] for change in changes]
        remainders = [c - t * derivative for c, t in zip(own, steps, strict=True)]
        noise = term.noise * norm(term.size)
        judgement = judge_remainders(
            2,
            steps,
            [norm(r) for r in remainders],
            [t * norm(derivative) for t in steps],
            [noise + t * term.error for t in steps],
            term.scale,
            self.agreement_needed,
        )
        row = None
        if judgement[0] != FAIL:
            with self.backend.ignore_overflow():
                row = find_wrong_row(
                    self.backend, steps, remainders, own, term.noise * term.size, term.error
                )
        return Check(term.name, *(row or judgement)), row is not None

    def _check_blocks_of_columns(self, name: str, op: Operator) -> None:
        """Add a failure if the product with a block differs from those with its columns."""
        for product, size in ((op._apply, op.shape[1]), (op._apply_adjoint, op.shape[0])):
            try:
                check_columns(self.backend, product, size, f"a product of {name}")
            except DerivativeError as error:
                self._add_error(f"{name}: of blocks", FAIL, error)
                return

    def _check_adjoint(self, name: str, op: Operator, error: float = 0.0) -> None:
        """Check an adjoint by a random pair, and by one that weights rows and columns equally."""
        pairs = adjoint_mismatch(op, self.seed), balanced_mismatch(op, self.seed + 2)
        worst = max(pairs, key=lambda pair: _relative(*pair))
        self._check_mismatch(name, *worst, TERM_ERROR_FACTOR * error)

    def _check_symmetry(self, name: str, op: Operator, error: float = 0.0) -> None:
        self._check_adjoint(name, as_self_adjoint(op), error)

    def _check_mismatch(
        self, name: str, mismatch: float, scale: float, tolerance: float = 0.0
    ) -> None:
        """Compare a mismatch relative to `scale` with sqrt(eps), or with a larger tolerance."""
        threshold = max(self.backend.eps**0.5, tolerance)
        relative = _relative(mismatch, scale)
        if relative <= threshold:
            self._add(name, PASS, relative, threshold, "relative mismatch")
        elif relative <= SOLVE_ERROR_FACTOR * self.worst_residual:
            detail = f"mismatch within the error of solves to {self.worst_residual:.0e}"
            self._add(name, INCONCLUSIVE, relative, threshold, detail)
        else:
            self._add(name, FAIL, relative, threshold, "relative mismatch")


def _relative(mismatch: float, scale: float) -> float:
    return mismatch / scale if scale > 0 else 0.0
