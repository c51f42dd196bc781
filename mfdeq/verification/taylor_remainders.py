"""Taylor remainders on a ladder of steps, judged against the noise of the values.

The remainder of a correct derivative falls as the square of the step, that of a wrong one as the
step itself. Below the noise of the values they cannot be distinguished.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..arrays.backend import Array, Backend

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"

STEP_RATIO = 4.0  # ratio of neighbouring steps of the ladder
LADDER_LENGTH = 9  # steps
NOISE_FACTOR = 10.0  # a remainder above this many times its noise is judged by its slope
SLOPE_MARGIN = 0.35  # by which the slope may fall short
REQUIRED_AGREEMENT = 1e-3  # relative, of remainders that are all within their noise, in float64
WINDOW_STEPS = 4  # neighbouring steps at which the error of a wrong row, per step, must be the same
WINDOW_SPREAD = 0.25  # relative difference within which these errors count as the same
KINK_MARGIN = 1.1  # a derivative this far from the middle, in half gaps, is between both sides
NO_VALUE = "no step gave a finite value"
NOT_SMOOTH = "not smooth at this point"  # in the detail of checks at a kink
NOT_SMOOTH_NEARBY = "smooth only close to this point: a kink is nearby"
LEAST_ERROR_POWER = 0.45  # relative errors below eps to this power may be noise of any kind


def required_agreement(eps: float) -> float:
    """Return the relative agreement that passes without a slope: 1e-3, or 2e-2 in float32."""
    return max(REQUIRED_AGREEMENT, eps**0.25)


def least_error(eps: float) -> float:
    """Return the relative error below which a derivative passes: 1e-7, or 8e-4 in float32.

    Errors of this size are also those of a model that solves inner problems by iterations, which
    are smooth and so cannot be distinguished from an error of the derivative.
    """
    return eps**LEAST_ERROR_POWER


def step_ladder(eps: float) -> list[float]:
    """Return steps from eps^(1/8) downwards, for values with unit roundoff eps."""
    return [eps**0.125 / STEP_RATIO**k for k in range(LADDER_LENGTH)]


def finer_steps(steps: Sequence[float]) -> list[float]:
    """Return equally many steps that continue the ladder downwards."""
    return [step / STEP_RATIO**LADDER_LENGTH for step in steps]


def judge_remainders(
    order: int,
    steps: Sequence[float],
    remainders: Sequence[float],
    terms: Sequence[float],
    noises: Sequence[float],
    scale: float,
    agreement_needed: float,
    negligible: float = 0.0,
) -> tuple[str, float, float, str]:
    """Judge remainders that should fall as steps**order.

    Parameters
    ----------
    order : int
    steps : sequence of float
        The steps, descending.
    remainders, terms : sequences of float
        The sizes of the remainder and of the term under test, at every step.
    noises : sequence of float
        The part of each remainder that errors of the values explain, and errors of a derivative
        that is itself a finite difference.
    scale : float
        The size of the quantity whose derivative is tested; a term hidden by the noise is compared
        with it.
    agreement_needed : float
        The relative agreement that passes if all remainders are within their noise.
    negligible : float, optional
        The relative error that passes at whatever slope.

    Returns
    -------
    verdict : {"PASS", "FAIL", "INCONCLUSIVE"}
    figure, threshold : float
        The slope and the smallest that passes; or, if all remainders are within their noise, the
        relative agreement and the largest that passes.
    detail : str
        The explanation.
    """
    finite = [k for k, r in enumerate(remainders) if math.isfinite(r)]
    visible = [k for k in finite if remainders[k] > NOISE_FACTOR * noises[k]]
    slopes = [
        math.log(remainders[k] / remainders[k + 1]) / math.log(steps[k] / steps[k + 1])
        for k in visible
        if k + 1 in visible
    ]
    least = order - SLOPE_MARGIN
    agreements = [(remainders[k] + noises[k]) / terms[k] for k in finite if terms[k] > 0]
    if agreements and min(agreements) <= negligible and slopes and slopes[-1] < least:
        detail = f"agrees to {min(agreements):.0e}"
        return PASS, min(agreements), negligible, detail
    if slopes and min(slopes[-2:]) < -SLOPE_MARGIN:
        detail = (
            "the remainder grows as the step shrinks: the function is not smooth, or not the same "
            "at every call"
        )
        return INCONCLUSIVE, min(slopes[-2:]), least, detail
    if slopes:
        slope, last = slopes[-1], visible[-1]
        near_noise = remainders[last] < 10 * NOISE_FACTOR * noises[last]
        if len(slopes) >= 2 and slopes[-2] >= least > slope and near_noise:
            slope = slopes[-2]  # the last slope may be bent by the noise just below it
        if slope >= least:
            floor = min(remainders[k] for k in finite)
            detail = f"slope {slope:.2f}, expected {order}"
            detail += f"; floor {floor / scale:.0e}" if scale > 0 else ""
            return PASS, slope, least, detail
        if slope <= order - 1 + SLOPE_MARGIN:
            return FAIL, slope, least, f"slope {slope:.2f}, expected {order}: not the derivative"
        return INCONCLUSIVE, slope, least, f"slope {slope:.2f} between {order - 1} and {order}"
    hidden = [k for k in finite if k not in visible]
    if not hidden:
        return INCONCLUSIVE, math.nan, agreement_needed, NO_VALUE
    # The largest step within the noise says to how many digits the derivative is confirmed.
    k = hidden[0]
    noise = NOISE_FACTOR * noises[k]
    term = terms[k] if terms[k] > noise else scale * steps[k]
    agreement = noise / term if term > 0 else 0.0
    if agreement <= agreement_needed:
        detail = f"remainder at the rounding floor, agrees to {agreement:.0e}"
        return PASS, agreement, agreement_needed, detail
    detail = f"the noise hides errors below {agreement:.0e} of the term"
    return INCONCLUSIVE, agreement, agreement_needed, detail


def judge_one_sided(
    steps: Sequence[float],
    remainders: Sequence[float],
    terms: Sequence[float],
    noises: Sequence[float],
    scale: float,
    agreement_needed: float,
) -> tuple[str, float, float, str]:
    """Judge remainders that a kink may explain by the smallest of them.

    Parameters
    ----------
    steps, remainders, terms, noises, scale, agreement_needed
        As in `judge_remainders`.

    Returns
    -------
    tuple
        As returned by `judge_remainders`.
    """
    rates, figures = [], []
    for step, remainder, term, noise in zip(steps, remainders, terms, noises, strict=True):
        if math.isfinite(remainder):
            rates.append((remainder + noise) / step)
            figures.append(rates[-1] / (term / step or scale or 1.0))
    figure = min(figures)
    if figure <= agreement_needed:
        return PASS, figure, agreement_needed, f"agrees to {figure:.0e} ({NOT_SMOOTH_NEARBY})"
    words = NOT_SMOOTH_NEARBY if min(rates) < max(rates) / 2 else NOT_SMOOTH
    detail = f"{words}, which hides errors below {figure:.0e}"
    return INCONCLUSIVE, figure, agreement_needed, detail


def constant_rates(
    backend: Backend,
    steps: Sequence[float],
    remainders: Sequence[Array],
    noise: Array,
    error: Array,
    until_hidden: bool = False,
) -> Array:
    """Return the rows whose remainder, per step, is the same at all small steps.

    It is the error of a wrong derivative. That of a correct one falls with the step until the noise
    makes it rise.

    Parameters
    ----------
    backend : Backend
    steps : sequence of float
        The steps, descending.
    remainders : sequence of (n,) arrays
        The remainder at every step.
    noise : (n,) array
        The noise of each row.
    error : (n,) array
        The error per step that the derivative itself may have.
    until_hidden : bool, optional
        Whether it suffices that the remainder is the same down to steps at which the noise hides
        it. The remainder of a kink nearby vanishes there.

    Returns
    -------
    (n,) array
        The remainder per step; zero for rows where it is not constant or not visible.
    """
    xp = backend.xp
    constant_rate = xp.zeros_like(noise)
    if len(steps) < WINDOW_STEPS:
        return constant_rate
    rates = xp.stack([r / t for r, t in zip(remainders, steps, strict=True)], axis=1)
    for k in range(len(steps) - WINDOW_STEPS + 1):
        last = k + WINDOW_STEPS - 1
        window = rates[:, k : last + 1]
        highest, lowest = xp.max(window, axis=1), xp.min(window, axis=1)
        size = xp.maximum(xp.abs(highest), xp.abs(lowest))
        # Noise that is constant over four steps is, per step, 64 times as large at the last one.
        threshold = noise / steps[last] + NOISE_FACTOR * error
        visible = xp.min(xp.abs(window), axis=1) > threshold
        constant = highest - lowest <= WINDOW_SPREAD * size
        # Smaller steps overrule larger ones, except by noise, which looks larger there.
        if until_hidden:
            falls = visible & ~constant & (size < constant_rate / 2)
        else:
            falls = xp.abs(rates[:, last]) + threshold < constant_rate / 2
        constant_rate = xp.where(falls, xp.zeros_like(constant_rate), constant_rate)
        constant_rate = xp.where(visible & constant, size, constant_rate)
    return constant_rate


def halves_of_sides(
    steps: Sequence[float], right: Mapping[float, Array], left: Mapping[float, Array]
) -> tuple[list[Array], list[Array]]:
    """Return the halves of the difference and of the sum of the remainders to the two sides.

    At a step where only one side has a value, the other one is taken to agree with it.

    Parameters
    ----------
    steps : sequence of float
    right, left : mappings of float to (n,) arrays
        The remainders at the steps of each side.
    """
    pairs = [
        (right[t] if t in right else -left[t], left[t] if t in left else -right[t]) for t in steps
    ]
    return [(a - b) / 2 for a, b in pairs], [(a + b) / 2 for a, b in pairs]


def two_sided_errors(
    backend: Backend,
    steps: Sequence[float],
    odd: Sequence[Array],
    even: Sequence[Array],
    noise: Array,
    error: Array,
) -> Array:
    """Return the errors of a derivative that are the same to both sides, however small the step.

    A wrong derivative has such an error, which is not between the derivatives to the two sides. The
    remainder of a kink nearby vanishes at smaller steps, and that of a kink at the point, or close
    to it on one side, differs between the sides.

    Parameters
    ----------
    backend, steps, noise, error
        As in `constant_rates`.
    odd, even : sequences of (n,) arrays
        The halves of the difference and of the sum of the remainders to the two sides, at every
        step.

    Returns
    -------
    (n,) array
        The error per step; zero where smaller steps or the other side refute it.
    """
    xp = backend.xp
    found = 0.0 * noise
    for t, difference, both in zip(steps, odd, even, strict=True):
        rate, hidden = xp.abs(difference) / t, noise / t + error
        found = xp.where(rate + hidden < found / 2, 0.0 * found, found)
        is_error = (rate > NOISE_FACTOR * hidden) & (KINK_MARGIN * xp.abs(both) <= rate * t)
        found = xp.where(is_error, rate, found)
    return found


def find_wrong_row(
    backend: Backend,
    steps: Sequence[float],
    remainders: Sequence[Array],
    changes: Sequence[Array],
    noise: Array,
    error: Array,
    negligible: float,
    two_sided: Array,
) -> tuple[str, float, float, str] | None:
    """Return the judgement of the row with the largest relative error; None if no row is wrong.

    It fails if that error is the same to both sides.

    Parameters
    ----------
    backend, steps, remainders, noise, error
        As in `constant_rates`.
    changes : sequence of (n,) arrays
        The change of the function at every step.
    negligible : float
        The relative error that passes.
    two_sided : (n,) bool array
        The rows whose error is the same to both sides.

    Returns
    -------
    tuple or None
        As returned by `judge_remainders`.
    """
    xp = backend.xp
    wrong = constant_rates(backend, steps, remainders, noise, error)
    if not bool(xp.any(wrong > 0)):
        return None
    own = xp.abs(changes[-1] / steps[-1]) + xp.abs(changes[-1] - remainders[-1]) / steps[-1]
    relative = xp.where(wrong > 0, wrong / xp.where(own > 0, own, xp.ones_like(own)), wrong)
    if bool(xp.any(two_sided & (relative > negligible))):
        relative = xp.where(two_sided, relative, 0.0 * relative)
    row = int(xp.argmax(relative))
    if not float(relative[row]) > negligible:
        return None
    figure = float(relative[row])
    least_visible = float(noise[row]) / steps[0] + NOISE_FACTOR * float(error[row])
    threshold_figure = least_visible * figure / float(wrong[row])
    detail = f"row {row} has a relative error of {figure:.0e}"
    if not bool(two_sided[row]):
        return INCONCLUSIVE, figure, threshold_figure, f"{detail} to one side: {NOT_SMOOTH}"
    return FAIL, figure, threshold_figure, f"{detail}: not the derivative"
