"""Taylor remainders on a ladder of steps, judged with the rounding floor in mind.

A derivative that is right leaves a remainder that falls as the next power of the step. One
that is wrong leaves its own power. Below the noise of the values neither can be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..arrays.backend import Array, Backend

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"

RATIO = 4.0  # between neighbouring steps of the ladder
STEPS = 9
VISIBLE = 10.0  # times the noise: what a remainder must exceed to be judged by its slope
MARGIN = 0.35  # the slope may fall short by this
ALIKE = 4  # neighbouring steps at which a row that is wrong is off by the same
AGREEMENT = 1e-3  # relative agreement at the noise that passes without a slope, in float64


def agreement_of(eps: float) -> float:
    """The relative agreement that passes without a slope: 1e-3, in float32 2e-2."""
    return max(AGREEMENT, eps**0.25)


def ladder(eps: float) -> list[float]:
    """Steps from eps^(1/8) down, for values with rounding unit eps."""
    return [eps**0.125 / RATIO**k for k in range(STEPS)]


def finer(steps: Sequence[float]) -> list[float]:
    """As many steps again, below those."""
    return [step / RATIO**STEPS for step in steps]


def judge(
    order: int,
    steps: Sequence[float],
    remainders: Sequence[float],
    terms: Sequence[float],
    noises: Sequence[float],
    scale: float,
    enough: float,
) -> tuple[str, float, float, str]:
    """Verdict, figure and explanation for remainders that should fall as steps**order.

    Parameters
    ----------
    order : int
    steps, remainders, terms : sequences of float
        The size of the remainder, and of the term under test, at every step.
    noises : sequence of floats
        What the errors of the values, and of a derivative that is a difference, leave in the
        remainder of each step.
    scale : float
        Size of the quantity whose derivative is tested: what a term lost in the noise is
        held against.
    enough : float
        Relative agreement at the noise that passes without a slope.

    Returns
    -------
    verdict : str
    figure, threshold : float
        The slope and the least that passes, or, where all is at the noise, the relative
        agreement and the most that passes.
    detail : str
    """
    seen = [k for k, r in enumerate(remainders) if r > VISIBLE * noises[k] and math.isfinite(r)]
    slopes = [
        math.log(remainders[k] / remainders[k + 1]) / math.log(steps[k] / steps[k + 1])
        for k in seen
        if k + 1 in seen
    ]
    if slopes and min(slopes[-2:]) < -MARGIN:
        how = "the remainder grows as the step shrinks: not smooth, or not the same at every call"
        return INCONCLUSIVE, min(slopes[-2:]), order - MARGIN, how
    if slopes:
        slope = slopes[-1]
        if len(slopes) >= 2 and slopes[-2] >= order - MARGIN and slope < order - MARGIN:
            # One slope alone may be bent by the noise just below it.
            slope = slopes[-2] if remainders[seen[-1]] < 10 * VISIBLE * noises[seen[-1]] else slope
        least = order - MARGIN
        if slope >= least:
            floor = min(r for r in remainders if math.isfinite(r))
            how = f"slope {slope:.2f}, expected {order}"
            return PASS, slope, least, f"{how}; floor {floor / scale:.0e}" if scale > 0 else how
        if slope <= order - 1 + MARGIN:
            return FAIL, slope, least, f"slope {slope:.2f}, expected {order}: not the derivative"
        return INCONCLUSIVE, slope, least, f"slope {slope:.2f} between {order - 1} and {order}"
    # The largest step that is at the noise says how far the derivative is confirmed.
    at_noise = [k for k in range(len(steps)) if k not in seen and math.isfinite(remainders[k])]
    if not at_noise:
        return INCONCLUSIVE, math.nan, enough, "no step gave an equilibrium"
    k = at_noise[0]
    hidden = VISIBLE * noises[k]
    term = terms[k] if terms[k] > hidden else scale * steps[k]
    agreement = hidden / term if term > 0 else 0.0
    if agreement <= enough:
        how = f"remainder at the rounding floor, agrees to {agreement:.0e}"
        return PASS, agreement, enough, how
    return INCONCLUSIVE, agreement, enough, f"the noise hides all but {agreement:.0e} of the term"


def worst_row(
    backend: Backend,
    steps: Sequence[float],
    remainders: Sequence[Array],
    changes: Sequence[Array],
    noise: Array,
    off: float,
) -> tuple[str, float, float, str] | None:
    """The row most in error, relative to its own size; None where none is.

    A row that is wrong is off by the same per step at every small step. One that is right is off
    by less the smaller the step, until noise, which is off by more.

    Parameters
    ----------
    backend : Backend
    steps : sequence of float
    remainders, changes : sequences of (n,) arrays
        At every step.
    noise : (n,) array
        Of each row.
    off : float
        The error that the derivative itself may have.

    Returns
    -------
    tuple or None
        As of `judge`.
    """
    xp = backend.xp
    if len(steps) < ALIKE or remainders[0].shape[0] == 0:
        return None
    rates = xp.stack([r / t for r, t in zip(remainders, steps, strict=True)], axis=1)
    wrong = xp.zeros_like(noise)  # what a row is off by, per step; 0 where it is not
    for k in range(len(steps) - ALIKE + 1):
        window = rates[:, k : k + ALIKE]
        most, least = xp.max(window, axis=1), xp.min(window, axis=1)
        size = xp.maximum(xp.abs(most), xp.abs(least))
        # Noise that is alike at four steps is 64 times as great at the first as at the last.
        seen = xp.min(xp.abs(window), axis=1) > noise / steps[k + ALIKE - 1] + VISIBLE * off
        alike = most - least <= size / ALIKE
        # Smaller steps have the last word, but noise, which looks greater there, has none.
        wrong = xp.where(seen & ~alike & (size < wrong / 2), xp.zeros_like(wrong), wrong)
        wrong = xp.where(seen & alike, size, wrong)
    own = xp.abs(changes[-1] / steps[-1]) + xp.abs(changes[-1] - remainders[-1]) / steps[-1]
    relative = xp.where(wrong > 0, wrong / xp.where(own > 0, own, xp.ones_like(own)), wrong)
    row = int(xp.argmax(relative))
    if not float(relative[row]) > 0:
        return None
    figure = float(relative[row])
    least_seen = (float(noise[row]) / steps[0] + VISIBLE * off) * figure / float(wrong[row])
    return FAIL, figure, least_seen, f"row {row} off by {figure:.0e} of itself: not the derivative"
