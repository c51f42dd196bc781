"""How a check is judged: remainders by their slope and row by row, adjoints by dot tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array, Backend
from ..errors import DerivativeError
from ..operators.dot_tests import adjoint_mismatch, balanced_mismatch, check_columns, self_applied
from ..operators.operator import Operator
from .taylor import FAIL, INCONCLUSIVE, PASS, agreement_of, finer, judge, ladder, worst_row


@dataclass(frozen=True)
class Check:
    """One check: its name, verdict, the figure and the threshold that it was held against."""

    name: str
    verdict: str
    figure: float
    threshold: float
    detail: str


@dataclass(frozen=True)
class Part:
    """Some entries of a change, and what they should change by per step.

    Attributes
    ----------
    name : str
    term : array
        The derivative along the direction: what is under test.
    size : array
        What rounding in each entry is relative to.
    noise : float
        In units of `size`.
    scale : float
        What a term lost in the noise is held against.
    off : array or float
        The error that the term itself may have.
    entries : slice
    """

    name: str
    term: Array
    size: Array
    noise: float
    scale: float
    off: float = 0.0
    entries: slice | None = None


class Judge:
    """The checks so far, and the ways to make one more."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend, self.seed = backend, seed
        self.checks: list[Check] = []
        self.loosest = 0.0  # relative residual of a solve
        self.steps, self.enough = ladder(backend.eps), agreement_of(backend.eps)

    def _put(self, name: str, verdict: str, figure: float, threshold: float, detail: str) -> None:
        self.checks.append(Check(name, verdict, figure, threshold, detail))

    def _taylor(
        self,
        function: Callable[[Array, Array], Array | None],
        dtheta: Array,
        dh: Array,
        parts: list[Part],
    ) -> list[Check]:
        """Judge what the function changes by along (dtheta, dh), part by part.

        What does not pass is looked at again with smaller steps: a function that is curved on a
        smaller scale than the direction's looks like a wrong derivative until they get there.
        """
        base = function(0.0 * dtheta, 0.0 * dh)
        steps, changes = self._changes(function, base, dtheta, dh, self.steps)
        found = [self._judged(part, steps, changes) for part in parts]
        if any(check.verdict != PASS for check in found):
            fine, smaller = self._changes(function, base, dtheta, dh, finer(self.steps))
            for k, part in enumerate(parts):
                again = self._judged(part, steps + fine, changes + smaller)
                # A slope down there may be the noise's: it takes a row that is wrong at four steps.
                if found[k].verdict != PASS and (
                    again.verdict == PASS or again.detail[:3] == "row"
                ):
                    found[k] = again
        return found

    def _put_worst(self, checks: list[Check]) -> None:
        """One line for the same along several directions: the first of those that are worst."""
        ranks = [PASS, INCONCLUSIVE, FAIL]
        self.checks.append(max(checks, key=lambda check: ranks.index(check.verdict)))

    def _changes(
        self,
        function: Callable[[Array, Array], Array | None],
        base: Array | None,
        dtheta: Array,
        dh: Array,
        ladder: list[float],
    ) -> tuple[list[float], list[Array]]:
        """The steps at which the function exists, and what it changes by."""
        steps, changes = [], []
        for step in ladder:
            value = function(step * dtheta, step * dh)
            if value is not None and base is not None:
                steps.append(step)
                changes.append(value - base)
        return steps, changes

    def _judged(self, part: Part, steps: list[float], changes: list[Array]) -> Check:
        """By the norm over all entries; and no entry by itself may be off."""
        norm, term = self.backend.norm, part.term
        cut = [change[part.entries or slice(None)] for change in changes]
        left = [c - t * term for c, t in zip(cut, steps, strict=True)]
        noise = part.noise * norm(part.size)
        noises, sizes = [noise + t * part.off for t in steps], [t * norm(term) for t in steps]
        verdict = judge(2, steps, [norm(r) for r in left], sizes, noises, part.scale, self.enough)
        if verdict[0] != FAIL:
            with self.backend.ignore_overflow():
                row = worst_row(self.backend, steps, left, cut, part.noise * part.size, part.off)
            if row is not None:
                verdict = row
        return Check(part.name, *verdict)

    def _columns(self, name: str, op: Operator) -> None:
        """Products with a block are those with its columns."""
        for product, size in ((op._apply, op.shape[1]), (op._apply_adjoint, op.shape[0])):
            try:
                check_columns(self.backend, product, size, f"a product of {name}")
            except DerivativeError as error:
                self._put(f"{name}: of blocks", FAIL, math.nan, math.nan, str(error))
                return

    def _dot_test(self, name: str, op: Operator, off: float = 0.0) -> None:
        """One random pair, and one that gives every row and column the same weight."""
        pairs = adjoint_mismatch(op, self.seed), balanced_mismatch(op, self.seed + 2)
        self._compare(name, *max(pairs, key=lambda pair: _relative(*pair)), 10 * off)

    def _symmetry(self, name: str, op: Operator, off: float = 0.0) -> None:
        self._dot_test(name, self_applied(op), off)

    def _compare(self, name: str, mismatch: float, scale: float, off: float = 0.0) -> None:
        threshold = max(self.backend.eps**0.5, off)
        relative = _relative(mismatch, scale)
        if relative <= threshold:
            self._put(name, PASS, relative, threshold, "relative mismatch")
        elif relative <= 100 * self.loosest:
            detail = f"mismatch of solves to {self.loosest:.0e}"
            self._put(name, INCONCLUSIVE, relative, threshold, detail)
        else:
            self._put(name, FAIL, relative, threshold, "relative mismatch")


def _relative(mismatch: float, scale: float) -> float:
    return mismatch / scale if scale > 0 else 0.0
