"""Jacobians by differences, with a step for each column that follows from its effect on f.

The first step of a column is relative to the size of its variable. The noise of an entry, relative
to it, is noise_i / |J_ij| t. Where that is large, the column is differenced again with a longer
step: for the noise of the entry, and for the length over which f may bend if the variable is near
zero by accident. An entry takes the longer step only if both values agree within their noise, as in
Lepski's method [1]_, and if a third step shows that its truncation error is small. Variables of
unknown size (those that are zero) are rescaled until a step changes the equations by a small part
of their own terms.

References
----------
.. [1] O. V. Lepskii, "On a problem of adaptive estimation in Gaussian white noise", Theory of
   Probability and its Applications 35 (1991), 454-466.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from .directional_derivatives import DirectionalDerivatives
from .jacobian_columns import Columns, excess_of_errors, relative_noise

NOISY = 100.0  # relative noise of an entry in rounding units, above which a longer step is tried
SMALL_BY_ACCIDENT = 10.0  # the same for the entry in which a variable is best visible
MEDIUM_NOISE = 0.57  # power of the rounding unit that separates the two longer steps for noise
MAX_NOISE = 1e-3  # relative noise above which an entry is negligible beside its equation
MAX_STEP = 0.03  # relative to the size of the variable
MAX_LENGTH_FACTOR = 1e20
RESCALING_RATIO = 30.0  # of a wrong size of a variable that is zero
MAX_RESCALINGS = 8
LONGER_SIZE = 1e6  # factor of a size by which no entry of f is changed
MAX_LONGER_SIZES = 3
MAX_BENDING = 0.1  # relative change of a difference with half of a step that is accepted
LARGE_CHANGE = 0.1  # change of an equation by a step, relative to its terms
NONLINEAR_FACTOR = 1e-4  # of a size for which a step changes an equation by more
SHORTER = 0.6  # factor of the second of two steps, which measures the truncation error of the first
AGREEMENT_FACTOR = 10.0  # in units of the noise of both values


def refine(derivatives: DirectionalDerivatives, columns: Columns, noise: Any) -> None:
    """Improve the entries of columns by other steps, and estimate their errors.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
        Real differences; the sizes of variables that are zero are changed.
    columns : Columns
    noise : (N,) array on the host
        The noise of f.
    """
    _lengthen_invisible_steps(derivatives, columns, noise)
    _rescale_unknown_sizes(derivatives, columns, array_on_host(derivatives.noise).astype(float))
    step = derivatives.step
    if derivatives.rule.relative_step is None:
        _lengthen_noisy_steps(derivatives, columns, noise[columns.rows])
    else:
        columns.errors = noise[columns.rows] / step + step**2 * abs(columns.values)
    columns.truncation = excess_of_errors(derivatives, columns, noise)


def _lengthen_noisy_steps(
    derivatives: DirectionalDerivatives, columns: Columns, noise: Any
) -> None:
    """Difference columns with longer steps where that reduces the errors of their entries.

    A second, somewhat shorter step measures the truncation error of each longer one: the length
    over which f bends may be much less than the size of a variable, and the noise of the first
    step hides it where f is almost flat, as in the tail of a saturated function. Central
    differences across a kink may agree; what one-sided differences differ by does not.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
    columns : Columns
        Its values are improved, and its errors are set.
    noise : (entries,) array on the host
        The noise of f in the row of each entry.
    """
    eps, step = derivatives.backend.eps, derivatives.step
    columns.errors = noise / step
    relative = relative_noise(columns, noise)
    least = columns.least(relative)
    medium = eps**MEDIUM_NOISE
    rungs = []
    for low, high in ((NOISY * eps, medium), (medium, MAX_NOISE)):
        chosen = (relative > low) & (relative <= high)
        largest = -columns.least(host.where(chosen, -relative, host.inf))
        factors = host.clip(largest, eps, MAX_STEP**3) ** (1 / 3) / step
        factors = derivatives.step_factor * factors  # else errors would not be independent
        factors = host.maximum(factors, 1.0)
        rungs.append((largest > 0, factors))
    if derivatives.rule.scale is None:
        accidental = host.isfinite(least) & (least > SMALL_BY_ACCIDENT * derivatives.relative_noise)
        factors = host.clip(least / derivatives.relative_noise, 1.0, MAX_LENGTH_FACTOR)
        rungs.append((accidental, host.where(accidental, factors, 1.0)))
    bends = step**2 / 6.0 * abs(columns.values)
    for selected, factors in rungs:
        if not selected.any():
            continue
        errors = noise / (step * factors[columns.columns])
        (values, asymmetry), (shorter, of_shorter) = (
            columns.computed_with_asymmetry(derivatives, share * factors, selected)
            for share in (1.0, SHORTER)
        )
        distance = abs(values - columns.values)
        new_bends = host.maximum(
            abs(values - shorter) / (1.0 - SHORTER**2),
            abs(of_shorter - SHORTER * asymmetry) / (1.0 - SHORTER),
        )
        with host.errstate(invalid="ignore"):
            better = (errors + new_bends < columns.errors + bends) & (
                distance <= AGREEMENT_FACTOR * (errors + columns.errors)
            )
        columns.values = host.where(better, values, columns.values)
        columns.errors = host.where(better, errors, columns.errors)
        bends = host.where(better, new_bends, bends)
    columns.errors = columns.errors + bends


def _lengthen_invisible_steps(
    derivatives: DirectionalDerivatives, columns: Columns, noise: Any
) -> None:
    """Increase the sizes of variables whose steps are lost in the rounding of f.

    Differences with half of a step must agree, since a long step may reach the front of a function
    that is flat here.
    """
    n = columns.shape[1]
    changed = host.bincount(columns.columns, columns.values != 0.0, n) > 0  # true for NaN
    selected = (host.bincount(columns.columns, minlength=n) > 0) & ~changed
    factor = 1.0
    for _ in range(MAX_LONGER_SIZES):
        if not selected.any():
            return
        factor *= LONGER_SIZE
        factors = host.where(selected, factor, 1.0)
        values = columns.computed(derivatives, factors, selected)
        lost = host.bincount(columns.columns, ~host.isfinite(values), n) > 0
        found = selected & ~lost & (host.bincount(columns.columns, values != 0.0, n) > 0)
        if found.any():
            half = columns.computed(derivatives, 0.5 * factors, found)
            of_noise = AGREEMENT_FACTOR * noise[columns.rows] / (derivatives.step * factor)
            with host.errstate(invalid="ignore"):
                differs = abs(half - values) > of_noise + MAX_BENDING * abs(values)
            lost = lost | (host.bincount(columns.columns, differs, n) > 0)
            found = found & ~lost
        _change_sizes(derivatives, columns, host.where(found, factor, 1.0), found, values)
        selected = selected & ~lost & ~found


def _change_sizes(
    derivatives: DirectionalDerivatives, columns: Columns, factors: Any, selected: Any, values: Any
) -> None:
    """Multiply the sizes of the selected columns, given these columns in the old units."""
    values = host.where(selected[columns.columns], values * factors[columns.columns], 0.0)
    columns.values = host.where(selected[columns.columns], values, columns.values)
    sizes: list[Array] = list(derivatives.sizes)
    sizes[columns.part] = sizes[columns.part] * derivatives.backend.from_host(factors)
    derivatives.sizes = (sizes[0], sizes[1])


def _rescale_unknown_sizes(
    derivatives: DirectionalDerivatives, columns: Columns, noise: Any
) -> None:
    backend = derivatives.backend
    unknown = ~array_on_host(derivatives.known[columns.part])
    for _ in range(MAX_RESCALINGS if unknown.any() else 0):
        least = columns.least(relative_noise(columns, noise[columns.rows]))
        lost = host.zeros(columns.shape[1], dtype=bool)
        host.logical_or.at(lost, columns.columns, ~host.isfinite(columns.values))
        too_large = least < backend.eps / RESCALING_RATIO
        selected = unknown & (lost | too_large)
        if not selected.any():
            return
        # Where f changes by as much as its own terms, the entry says nothing about a better size.
        nonlinear = lost | (least * LARGE_CHANGE < derivatives.step * backend.eps)
        factors = host.where(nonlinear, NONLINEAR_FACTOR, least / backend.eps)
        factors = host.where(selected, factors, 1.0)
        values = columns.computed(derivatives, factors, selected)
        _change_sizes(derivatives, columns, factors, selected, values)


def noise_of_terms(derivatives: DirectionalDerivatives, columns: Columns) -> Any:
    """Return the noise of f if the variables of these columns change.

    It is at least a part of the rounding of the terms of the known variables.
    """
    part, eps = columns.part, derivatives.backend.eps
    known = array_on_host(derivatives.known[part])
    noise = derivatives.noises[part] if known.any() else derivatives.noise
    terms = columns.row_sums(host.nan_to_num(abs(columns.values)) * known[columns.columns])
    return host.maximum(array_on_host(noise).astype(float), 0.25 * eps * terms)
