"""The lengths over which a function bends, from which steps of second derivatives follow.

The length of a variable is at first its own size. It is longer where f depends on the variable
linearly, or where the variable is small by accident: a difference with a longer step, compared with
the column, tells. It is shorter in exp(V / 0.025) or near a front. That is tested along a direction
in all variables (`SecondDifferences.excess`), and only if it shows are the columns measured.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import array_on_host, host
from .column_steps import (
    AGREEMENT_FACTOR,
    MAX_LENGTH_FACTOR,
    MAX_STEP,
)
from .directional_derivatives import SECOND_STEP_FACTOR, DirectionalDerivatives
from .jacobian_columns import Columns, relative_noise
from .nearby_points import typical_sizes

NOISE_STEP_FACTOR = 2.0  # steps of second derivatives, in fourth roots of the noise
MIN_SECOND_NOISE = 1e-8  # noise of entries for which steps of second derivatives are chosen
MIN_LENGTH_FACTOR = 10.0  # by which a length is longer than a size for a test to be worth it
MIN_EXACT_LENGTH_FACTOR = 1e3  # the same for the complex step, whose differences have less noise
MAX_SHORTER_LENGTHS = 6
SHORTER_LENGTH = 1e-2
TEST_STEP_POWER = 0.2  # of the rounding unit: the step that measures whether f bends
MAX_BENDING = 0.1  # relative truncation error up to which the length follows from it
CAUTION = 0.1  # f'' may bend over a shorter length than f'
MIN_SHARE = 1e-3  # of the terms of an equation, below which a variable does not matter in it


def measure_lengths(
    derivatives: DirectionalDerivatives, columns: list[Columns], shorten: bool = False
) -> None:
    """Set the lengths over which f bends along each variable.

    Without `shorten`, those of known variables are at least their sizes, and only variables that
    may be small by accident are measured.

    A variable that is much smaller than what would change its equations by the size of their own
    terms may be small by accident, or a small quantity on which f depends over its own size. A
    difference with a longer step, compared with the column, tells which.
    """
    length_step = derivatives.backend.eps**TEST_STEP_POWER
    known = [array_on_host(part) for part in derivatives.known]
    terms = sum(c.row_sums(abs(c.values) * known[c.part][c.columns]) for c in columns)
    least = MIN_EXACT_LENGTH_FACTOR if derivatives.complex_step else MIN_LENGTH_FACTOR
    suspicious = any(_natural_lengths(c, terms, known[c.part], least)[1].any() for c in columns)
    for x in derivatives.x:
        typical = typical_sizes(x)
        suspicious |= bool((array_on_host(abs(x)) < array_on_host(typical) / least).any())
    if suspicious or not derivatives.complex_step:
        # Terms that do not depend on the variables show in the noise only.
        noise = array_on_host(derivatives.noise).astype(float)
        terms = host.maximum(terms, noise / derivatives.backend.eps)
    for c in columns:
        size, of_known = terms[c.rows], known[c.part]
        natural, left = _natural_lengths(c, terms, of_known, least)
        factors = host.where(left, natural, 1.0)
        left = left | shorten
        for _ in range(MAX_SHORTER_LENGTHS):
            if not left.any():
                break
            test = derivatives.with_sizes(derivatives.sizes, length_step)
            test.complex_step = False
            found = c.computed(test, factors, left)
            matters = abs(c.values) * natural[c.columns] > MIN_SHARE * size
            with host.errstate(invalid="ignore", divide="ignore"):
                excess = abs(found - c.values) - AGREEMENT_FACTOR * c.errors
                bending = host.where(matters, excess / abs(c.values), 0.0)
            bending = -c.least(-host.where(host.isnan(bending), host.inf, bending))
            bends = left & (bending > length_step**2)
            measured = bends & (bending < MAX_BENDING)
            with host.errstate(invalid="ignore", divide="ignore"):
                factors = host.where(measured, factors * length_step / bending**0.5, factors)
            left = bends & ~measured
            factors = host.where(left, SHORTER_LENGTH * factors, factors)
            if not shorten:
                left = left & ~(of_known & (factors < 1.0))
        shortest = host.minimum(factors, 1.0) if shorten else 1.0
        cautious = CAUTION * factors
        c.lengths = host.where(of_known, host.maximum(cautious, shortest), cautious)


def _natural_lengths(columns: Columns, terms: Any, known: Any, least: float) -> tuple[Any, Any]:
    """Return lengths that change an equation by its terms, and whether they are to be tested."""
    size = terms[columns.rows]
    usable = (columns.values != 0.0) & (size > 0.0)
    ratio = host.where(usable, size / host.where(usable, abs(columns.values), 1.0), host.inf)
    lengths = columns.least(ratio)
    lengths = host.where(host.isfinite(lengths), host.minimum(lengths, MAX_LENGTH_FACTOR), 1.0)
    return lengths, host.where(known, lengths > least, lengths != 1.0)


def second_derivative_sizes(
    derivatives: DirectionalDerivatives, columns: list[Columns], noise: Any, share: float = 1.0
) -> tuple[DirectionalDerivatives, Any]:
    """Return derivatives whose sizes are those that second derivatives take.

    By differences of the complex step these are the lengths of `measure_lengths`. By four values
    they follow from the noise as well.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
    columns : list of two Columns
    noise : (N,) array on the host
        The noise of f; not used with the complex step.
    share : float, optional
        A factor of all steps.

    Returns
    -------
    derivatives : DirectionalDerivatives
    steps : (P+N,) array on the host
        The step of each variable relative to the length over which f bends.
    """
    eps, sizes, rule = derivatives.backend.eps, list(derivatives.sizes), derivatives.rule
    by_part: list[Any] = [None, None]
    found = derivatives.with_sizes(derivatives.sizes)
    if not rule.is_fixed:
        # The sum of a number and a power of two is exact, unless that is lost in rounding.
        factor = derivatives.step_factor
        found.step = factor * _power_of_two(eps ** (1 / 3))
        found.second_step = factor * _power_of_two(SECOND_STEP_FACTOR * eps**0.25)
    usual = found.step if derivatives.complex_step else found.second_step
    for c in columns:
        factors = host.full(c.shape[1], share)
        if not derivatives.complex_step and rule.relative_step is None:
            relative = relative_noise(c, noise[c.rows]) / c.lengths[c.columns]
            # Between the best step for the least and for the most noisy entry that is not
            # negligible.
            least = host.clip(c.least(relative), eps, 1.0)
            small = relative <= MIN_SECOND_NOISE
            largest = host.maximum(-c.least(host.where(small, -relative, host.inf)), least)
            steps = host.minimum(NOISE_STEP_FACTOR * (least * largest) ** 0.125, MAX_STEP)
            factors = share * steps / (SECOND_STEP_FACTOR * eps**0.25)
        size = array_on_host(sizes[c.part]) * c.lengths * factors
        rounded = size if rule.is_fixed else _power_of_two(size)
        sizes[c.part] = derivatives.backend.from_host(rounded)
        by_part[c.part] = usual * factors * rounded / size
    found.sizes = sizes[0], sizes[1]
    return found, host.concatenate(by_part)


def _power_of_two(x: Any) -> Any:
    return 2.0 ** host.round(host.log2(x))
