"""Derivatives along a direction, checked by the Taylor remainders of a function.

Remainders are judged on both sides of the point. Where the function has a kink, its derivatives to
the two sides differ from each other, and the verdict is not that of a wrong derivative.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..arrays.backend import Array, Backend
from .checks import RANKS, Check, worst_of
from .noise import Noise
from .taylor_remainders import (
    FAIL,
    INCONCLUSIVE,
    KINK_MARGIN,
    NO_VALUE,
    NOT_SMOOTH,
    NOT_SMOOTH_NEARBY,
    PASS,
    constant_rates,
    find_wrong_row,
    finer_steps,
    halves_of_sides,
    judge_one_sided,
    judge_remainders,
    least_error,
    required_agreement,
    step_ladder,
    two_sided_errors,
)

EQUAL_SIDES = 1e-3  # derivatives to two sides that differ by less, in gaps of a kink, are equal

Function = Callable[[Array, Array], "Array | None"]


@dataclass(frozen=True)
class Term:
    """A derivative along a direction, to be checked against the change of some entries.

    Attributes
    ----------
    name : str
        The name of the check.
    derivative : (n,) array
        The derivative under test, along the direction.
    unit : (n,) array
        The sizes of the entries, in which all of them are compared.
    noise : (n,) array
        The noise of each entry of the function.
    scale : float
        The size of the whole quantity, in units of `unit`; a derivative lost in the noise is
        compared with it.
    error : (n,) array
        The error that the derivative itself may have, as a finite difference.
    entries : slice
        The entries of the function's value.
    """

    name: str
    derivative: Array
    unit: Array
    noise: Array
    scale: float
    error: Array
    entries: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class _Side:
    """The changes of a function at the points x + sign step d where it has a value."""

    sign: float
    steps: list[float]
    changes: list[Array]

    def of(self, term: Term) -> tuple[list[Array], list[Array]]:
        """Return the changes and the remainders of the entries of a term."""
        own = [change[term.entries] for change in self.changes]
        slope = self.sign * term.derivative
        return own, [c - t * slope for c, t in zip(own, self.steps, strict=True)]

    def up_to(self, longest: float) -> _Side:
        """Return the points whose step is not longer."""
        kept = [(t, c) for t, c in zip(self.steps, self.changes, strict=True) if t <= longest]
        return _Side(self.sign, [t for t, _ in kept], [c for _, c in kept])


class TaylorChecker:
    """Checks of derivatives by the changes of a function along a direction.

    Parameters
    ----------
    backend : Backend

    Attributes
    ----------
    steps : list of float
        The steps along a direction, descending.
    agreement_needed : float
        The relative agreement that passes without a slope.
    negligible : float
        The relative error that passes.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.steps = step_ladder(backend.eps)
        self.agreement_needed = required_agreement(backend.eps)
        self.negligible = least_error(backend.eps)

    def check(self, function: Function, dtheta: Array, dh: Array, terms: list[Term]) -> list[Check]:
        """Compare the change of a function along ±(dtheta, dh) with each term.

        A term that does not pass is checked again with the noise measured along the direction and
        with smaller steps. If the function curves on a smaller scale than the direction, a correct
        derivative looks wrong until then.
        """

        def along(t: float) -> Array | None:
            return function(t * dtheta, t * dh)

        base = along(0.0)
        if base is None:
            detail = "the function has no value at the point itself"
            return [Check(term.name, INCONCLUSIVE, math.nan, math.nan, detail) for term in terms]
        sides = [self._side(along, base, sign, self.steps) for sign in (1.0, -1.0)]
        checks = [self._judge(term, sides)[0] for term in terms]
        if all(check.verdict == PASS for check in checks):
            return checks
        fine = finer_steps(self.steps)
        sides = [_extend(side, self._side(along, base, side.sign, fine)) for side in sides]
        noise = self._noise_of_both_sides(along, base, sides)
        for k, term in enumerate(terms):
            if checks[k].verdict != PASS:
                checks[k] = self._judge_again(term, sides, noise, checks[k])
        return checks

    def _noise_of_both_sides(
        self, along: Callable[[float], Array | None], base: Array, sides: list[_Side]
    ) -> tuple[Array, Array]:
        """Measure the noise along a direction, near the point and on any scale.

        It is the smaller one of those on the two sides: that beyond a kink is no noise.
        """

        def change(t: float) -> Array | None:
            value = along(t)
            return None if value is None else value - base

        measured = []
        for side in sides:
            noise = Noise(self.backend, 0.0 * base)
            noise.measure(functools.partial(_times, change, side.sign))
            noise.add_values([*side.changes, noise.base])
            if side.steps:
                measured.append((noise.size, noise.largest))
        pairs = zip(*measured, strict=True) if measured else ((0.0 * base,), (0.0 * base,))
        near, largest = (functools.reduce(self.backend.xp.minimum, pair) for pair in pairs)
        return near, largest

    def _judge_again(
        self, term: Term, sides: list[_Side], noise: tuple[Array, Array], before: Check
    ) -> Check:
        """Judge a term that did not pass with smaller steps and with measured noise.

        Noise that is larger on a larger scale may be that of an inner iteration, or may come from a
        function that curves on this scale. A check that either of the two explains does not fail.
        """
        size, largest = (x[term.entries] for x in noise)
        near = self._judge_finely(self._with_noise(term, size), sides, before)
        if near.verdict == PASS:
            return near
        far = self._judge_finely(self._with_noise(term, largest), sides, before)
        if far.verdict == PASS:
            return far
        return min(near, far, key=lambda check: RANKS.index(check.verdict))

    def _judge_finely(self, term: Term, sides: list[_Side], before: Check) -> Check:
        again, is_row = self._judge(term, sides)
        # At small steps a slope may be due to noise. A wrong row is not: its error per step is the
        # same at four steps. A failure by larger steps does not count if smaller ones refute it.
        refuted = before.verdict == FAIL and not self._two_sided_errors(term, sides)[0]
        check = again if again.verdict == PASS or is_row or refuted else before
        return check if check.verdict == PASS else self._judge_kink(term, sides) or check

    def _with_noise(self, term: Term, noise: Array) -> Term:
        """Return a term with at least a measured noise, and no unit hidden by it."""
        xp = self.backend.xp
        size = xp.maximum(term.noise, noise)
        return replace(term, noise=size, unit=xp.maximum(term.unit, size / self.backend.eps**0.5))

    def _side(
        self, along: Callable[[float], Array | None], base: Array, sign: float, ladder: list[float]
    ) -> _Side:
        """Evaluate the changes of a function on one side of the point."""
        steps, changes = [], []
        for step in ladder:
            value = along(sign * step)
            if value is not None:
                steps.append(step)
                changes.append(value - base)
        return _Side(sign, steps, changes)

    def _judge(self, term: Term, sides: list[_Side]) -> tuple[Check, bool]:
        """Judge the norm of the remainder over all entries, then every entry by itself.

        Return the worst check of the sides on which the function has a value, and whether a single
        row decides it.
        """
        errors = self._two_sided_errors(term, sides)
        judged = [self._judge_side(term, side, *errors) for side in sides if side.steps]
        if not judged:
            detail = NO_VALUE
            return Check(term.name, INCONCLUSIVE, math.nan, self.agreement_needed, detail), False
        return max(judged, key=lambda pair: RANKS.index(pair[0].verdict))

    def _judge_side(
        self, term: Term, side: _Side, is_wrong: bool, wrong_rows: Array
    ) -> tuple[Check, bool]:
        """Judge the remainders to one side, given the errors that both sides have in common."""

        def norm(x: Array) -> float:
            return self.backend.norm(x / term.unit)

        own, remainders = side.of(term)
        with self.backend.ignore_overflow():
            size, noise, error = norm(term.derivative), norm(term.noise), norm(term.error)
            sizes = (
                side.steps,
                [norm(r) for r in remainders],
                [t * size for t in side.steps],
                [noise + t * error for t in side.steps],
                term.scale,
                self.agreement_needed,
            )
            judgement = judge_remainders(2, *sizes, self.negligible)
            if judgement[0] == FAIL and not is_wrong:
                judgement = judge_one_sided(*sizes)
            row = None
            if judgement[0] != FAIL and term.unit.shape[0] > 0:
                row = find_wrong_row(
                    self.backend,
                    side.steps,
                    remainders,
                    own,
                    term.noise,
                    term.error,
                    self.negligible,
                    wrong_rows,
                )
        if row is not None and RANKS.index(row[0]) < RANKS.index(judgement[0]):
            row = None
        return Check(term.name, *(row or judgement)), row is not None

    def _two_sided_errors(self, term: Term, sides: list[_Side]) -> tuple[bool, Array]:
        """Return whether both sides show the same error, in norm and in every row.

        At steps where only one side has a value the other is not compared.
        """
        xp, asarray = self.backend.xp, self.backend.asarray
        right, left = (dict(zip(side.steps, side.of(term)[1], strict=True)) for side in sides)
        steps = sorted({*right, *left}, reverse=True)
        if not steps:
            return False, term.noise < 0
        odd, even = halves_of_sides(steps, right, left)

        def norms(xs: list[Array]) -> list[Array]:
            return [asarray([self.backend.norm(x / term.unit)]) for x in xs]

        with self.backend.ignore_overflow():
            rows = two_sided_errors(self.backend, steps, odd, even, term.noise, term.error)
            of_norm = two_sided_errors(
                self.backend, steps, norms(odd), norms(even), *norms([term.noise, term.error])
            )
        return bool(xp.any(of_norm > 0)), rows > 0

    def _judge_kink(self, term: Term, sides: list[_Side]) -> Check | None:
        """Return the check of a term whose function has a kink here; None if it has none.

        At a kink the changes to both sides do not cancel, per step, however small the step. The
        derivative is not wrong there if it is between those to the two sides. If they do from some
        step on, the kink is nearby, and the derivative is judged by smaller steps. It fails if it
        is wrong in other rows.
        """
        xp, (right, left) = self.backend.xp, sides
        common = [t for t in right.steps if t in left.steps]
        ahead, behind = (
            [side.of(term)[0][side.steps.index(t)] for t in common] for side in (right, left)
        )
        if not common:
            return None
        with self.backend.ignore_overflow():
            gap = [(a + b) / 2 for a, b in zip(ahead, behind, strict=True)]
            gaps = constant_rates(
                self.backend, common, gap, term.noise, 0.0 * term.error, until_hidden=True
            )
            middle = [(a - b) / 2 for a, b in zip(ahead, behind, strict=True)]
            off = functools.reduce(
                xp.minimum,
                [
                    xp.abs(m / t - term.derivative) + 2 * term.noise / t
                    for m, t in zip(middle, common, strict=True)
                ],
            )
            size = xp.abs(term.derivative) + gaps
            kinks = gaps > self.negligible * size
            between = kinks & (off <= KINK_MARGIN * gaps + term.error)
        if not bool(xp.any(between)):
            return None
        smooth_steps = self._smooth_steps(common, gap, gaps, term.noise)
        nearby = between & (smooth_steps > 0)
        between = between & ~nearby
        rest = self._judge_rows(term, sides, ~(between | nearby))
        if bool(xp.any(nearby)):
            longest = float(xp.min(smooth_steps[nearby]))
            short = self._judge_rows(term, [side.up_to(longest) for side in sides], nearby)
            short = replace(short, detail=f"{short.detail} ({NOT_SMOOTH_NEARBY})")
            rest = worst_of([short, rest])
        if rest.verdict == FAIL or not bool(xp.any(between)):
            return rest
        relative = between * gaps / xp.where(between, size, xp.ones_like(size))
        row = int(xp.argmax(relative))
        gap_of_row, noise = float(gaps[row]), float(term.noise[row])
        # The smallest step at which noise does not hide the digits that are shown.
        k = max(k for k, t in enumerate(common) if k == 0 or 1e3 * noise <= gap_of_row * t)
        slope, gap_of_row = float(middle[k][row]) / common[k], float(gap[k][row]) / common[k]
        detail = (
            f"{NOT_SMOOTH}: a kink in row {row}, with the derivatives "
            f"{slope - gap_of_row:.3g} and {slope + gap_of_row:.3g} to the two sides, where "
            f"{float(term.derivative[row]):.3g} is given"
        )
        return Check(term.name, INCONCLUSIVE, float(relative[row]), self.negligible, detail)

    def _smooth_steps(
        self, steps: list[float], gap: list[Array], gaps: Array, noise: Array
    ) -> Array:
        """Return the longest step of each row below which its two sides are equal, or zero.

        The kink of such a row is at a distance from the point, and not at the point itself.
        """
        xp = self.backend.xp
        longest, smooth = xp.zeros_like(gaps), gaps > 0
        for t, g in sorted(zip(steps, gap, strict=True), key=lambda pair: pair[0]):
            hidden = noise / t > EQUAL_SIDES * gaps
            smooth = smooth & (hidden | (xp.abs(g) / t <= EQUAL_SIDES * gaps))
            longest = xp.where(smooth & ~hidden, t, longest)
        return longest

    def _judge_rows(self, term: Term, sides: list[_Side], rows: Array) -> Check:
        """Judge some rows of a term, without the others."""
        mask = self.backend.xp.astype(rows, term.unit.dtype)
        sides = [_Side(s.sign, s.steps, [_masked(c, mask, term) for c in s.changes]) for s in sides]
        masked = replace(term, derivative=mask * term.derivative, noise=mask * term.noise)
        return self._judge(masked, sides)[0]


def _times(function: Callable[[float], Array | None], sign: float, t: float) -> Array | None:
    return function(sign * t)


def _extend(side: _Side, finer: _Side) -> _Side:
    return _Side(side.sign, side.steps + finer.steps, side.changes + finer.changes)


def _masked(change: Array, mask: Array, term: Term) -> Array:
    """Return a change whose entries of a term are multiplied by a mask."""
    changed = 1.0 * change
    changed[term.entries] = mask * change[term.entries]
    return changed
