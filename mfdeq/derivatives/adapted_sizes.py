"""Sizes of variables, shortened to the lengths over which a function is smooth.

A size that follows from the value of a variable alone may be too long: that of a variable that is
zero, or a voltage in exp(V / 0.025). Steps relative to such sizes are tried along a few directions.
"""

from __future__ import annotations

from ..arrays.backend import Array
from .differences import Differences
from .shifted_function import Direction

UNKNOWN_SIZE_STEP = 1e-3  # by which variables of unknown size are changed in a test
LARGE_CHANGE = 0.1  # relative change of f at which a step is too long
SHORTER_SIZE = 1e-4  # factor of sizes for which it is
MAX_SHORTER_SIZES = 6
MIN_SHORTENING = 0.5  # factor of sizes that is worth the effort
MAX_SHORTENINGS = 3
MIN_FACTOR = 1e-3
TRUNCATION_FACTOR = 10.0  # truncation error in units of the noise, above which steps are shortened


def adapt_sizes(d: Differences) -> None:
    """Shorten the sizes of variables so that steps relative to them are not too long.

    Parameters
    ----------
    d : Differences
        Its sizes are changed.
    """
    terms = d.backend.xp.maximum(d.noise / d.backend.eps, d.terms)
    for part, known in enumerate(d.known):
        if not bool(d.backend.xp.all(known)):
            _shorten_unknown_sizes(d, part, terms)
            # They may be added to something larger, whose rounding does not bend f.
            d.sizes_are_adapted = True
            d.__dict__.pop("noises", None)
    theta, h = d.known
    for group in ((theta, h), (~theta, h & ~h), (theta & ~theta, ~h)):
        if any(bool(d.backend.xp.any(part)) for part in group):
            _shorten_where_f_bends(d, group, terms)


def _shorten_unknown_sizes(d: Differences, part: int, terms: Array) -> None:
    """Shorten the sizes of variables that are zero until a step changes f by little."""
    backend, xp, known = d.backend, d.backend.xp, d.known[part]
    direction: list[Array] = [0.0 * x for x in d.x]
    random = 0.5 + abs(backend.random(known.shape[0], seed=23))
    direction[part] = UNKNOWN_SIZE_STEP * random * ~known
    comparable = terms > 0
    if not bool(xp.any(comparable)):
        return
    for _ in range(MAX_SHORTER_SIZES):
        value, factor = d.trial((direction[0], direction[1])), SHORTER_SIZE
        if value is not None:
            change = xp.where(comparable, abs(value - d.value), 0.0 * terms)
            relative = float(xp.max(change / xp.where(comparable, terms, 1.0 + terms)))
            if relative < LARGE_CHANGE:
                if relative > UNKNOWN_SIZE_STEP:
                    _scale(d, part, ~known, UNKNOWN_SIZE_STEP / relative)
                return
        _scale(d, part, ~known, factor)


def _shorten_where_f_bends(d: Differences, group: Direction, terms: Array) -> None:
    """Shorten the sizes of a group of variables until truncation errors are about the noise.

    Differences with one and with two steps show the truncation error of each entry.
    """
    backend, xp = d.backend, d.backend.xp
    signs = [xp.sign(backend.random(x.shape[0], seed=29 + i)) for i, x in enumerate(d.x)]
    direction = (signs[0] * group[0], signs[1] * group[1])
    for _ in range(MAX_SHORTENINGS):
        short, long = (d.by_difference(direction, factor * d.step) for factor in (1.0, 2.0))
        if short is None or long is None:
            return
        truncation = abs(long - short) / 3.0
        noise = xp.maximum(d.noise, 0.5 * backend.eps * xp.maximum(terms, abs(short))) / d.step
        excessive = truncation > TRUNCATION_FACTOR * noise
        if not bool(xp.any(excessive)):
            return
        # Where there is neither, there is no excess.
        both = xp.where(excessive, truncation + noise, 1.0 + 0.0 * noise)
        least = float(xp.min(xp.where(excessive, noise / both, 1.0 + 0.0 * noise)))
        factor = max(least ** (1 / 3), MIN_FACTOR)
        if factor > MIN_SHORTENING:
            return
        for part in (0, 1):
            _scale(d, part, group[part], factor)


def _scale(d: Differences, part: int, which: Array, factor: float) -> None:
    sizes = list(d.sizes)
    sizes[part] = d.backend.xp.where(which, factor * sizes[part], sizes[part])
    d.sizes = (sizes[0], sizes[1])
