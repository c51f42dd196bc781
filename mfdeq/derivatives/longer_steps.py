"""Longer steps for differences that are lost in the rounding of what is differenced.

The step of a difference is chosen for a function that changes by its own size over the size of a
variable. A stiff function changes by far less: that of a fine grid has terms of the size of h/dx²,
in which its curvature is hidden by rounding. The best step follows from the noise of a difference
relative to its value, entry by entry. An entry takes the longer step only if both differences agree
within their noise, as in Lepski's method [1]_, and a second, somewhat shorter one measures its
truncation error.

References
----------
.. [1] O. V. Lepskii, "On a problem of adaptive estimation in Gaussian white noise", Theory of
   Probability and its Applications 35 (1991), 454-466.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import host

MAX_RUNGS = 3
MIN_RATIO = 8.0  # of the best step to that of an entry, for which other steps are worth the effort
MAX_STEP = 0.25  # relative to the length over which the function bends
AGREEMENT_FACTOR = 10.0  # in units of the noise of both values
SHORTEST_SHARE = 0.1  # of the entries want a step that is shorter than the next one
MOST = 0.9  # of the rows, whose errors relative to their own size are reported
SHORTER = 0.6  # factor of the second of two steps; no ratio of the steps of comparisons


@dataclass
class Differences:
    """Differences of the same derivatives, each with the best of the steps that were tried.

    Attributes
    ----------
    values : array
    noise, truncation : arrays
        The two parts of their errors, estimated.
    """

    values: Any
    noise: Any
    truncation: Any

    @property
    def errors(self) -> Any:
        """The estimated errors."""
        return self.noise + self.truncation


def with_longer_steps(
    values: Any,
    noise: Any,
    sizes: Any,
    step: Any,
    order: int,
    compute: Callable[[float, Any], Any] | None,
    *,
    tolerance: float,
    stretch: float = 1.0,
) -> Differences:
    """Improve differences by longer steps where their noise is large.

    Parameters
    ----------
    values : array on the host
        Central differences, zero where they are no larger than rounding.
    noise : array
        The part of their errors that is noise.
    sizes : array
        What the noise of an entry matters relative to: the largest entries of its row.
    step : float or array
        The steps of the values, relative to the lengths over which the function bends.
    order : int
        The power of the inverse step to which noise is proportional.
    compute : callable or None
        ``compute(factor, selected)`` returns the values for a step that is longer by a factor,
        where `selected` is true, and anything or NaN elsewhere. None keeps the steps.
    tolerance : float
        The relative noise above which longer steps are worth the evaluations.
    stretch : float, optional
        A factor of all longer steps. Different factors give values with independent errors.

    Returns
    -------
    Differences

    Notes
    -----
    With the noise q relative to a value, a factor k of the step t leaves the relative error
    q k^-p + (k t)²/6, which is least for k = (3 p q / t²)^(1/(p + 2)).
    """
    found = Differences(values, noise, step**2 / 6.0 * abs(values))
    if compute is None or not (noise > tolerance * host.maximum(sizes, abs(values))).any():
        return found
    factor = host.ones(values.shape)  # of the step of each entry
    settled = host.zeros(values.shape, dtype=bool)
    for _ in range(MAX_RUNGS):
        size = host.maximum(abs(found.values), found.noise)
        relative = host.divide(found.noise, size, out=host.zeros(size.shape), where=size > 0)
        best = (3.0 * order * relative / (factor * step) ** 2) ** (1.0 / (order + 2))
        best = host.minimum(factor * best, MAX_STEP / step) * stretch
        lost = found.noise > tolerance * host.maximum(sizes, abs(found.values))
        selected = lost & ~settled & (best >= MIN_RATIO * stretch * factor)
        if not selected.any():
            break
        longer = float(host.quantile(best[selected], SHORTEST_SHARE))
        value, shorter = (compute(share * longer, selected) for share in (1.0, SHORTER))
        with host.errstate(invalid="ignore"):
            truncation = abs(value - shorter) / (1.0 - SHORTER**2)
        before = found
        for share, of_step in ((1.0, value), (SHORTER, shorter)):
            of_noise = noise * (share * longer) ** -order
            with host.errstate(invalid="ignore"):
                agrees = abs(of_step - before.values) <= AGREEMENT_FACTOR * (
                    of_noise + before.noise + before.truncation
                )
                better = selected & agrees & (of_noise + share**2 * truncation < found.errors)
            found = Differences(
                host.where(better, of_step, found.values),
                host.where(better, of_noise, found.noise),
                host.where(better, share**2 * truncation, found.truncation),
            )
            factor = host.where(better, share * longer, factor)
        settled = settled | (selected & (found.errors >= before.errors))
    return found


def relative_error(differences: Differences, rows: Any, weights: Any, terms: Any) -> float:
    """Return the relative error of second derivatives, in norms without units.

    Parameters
    ----------
    differences : Differences
        Of (entries,) values.
    rows : (entries,) array of int
        The row of each entry.
    weights : float or (entries,) array
        The sizes of the variables of each entry, by which it is multiplied.
    terms : (N,) array
        The sizes of rows, in whose units they are compared with each other.

    Returns
    -------
    float
        The larger of the errors relative to the second derivatives of all rows, and of those of
        nine tenths of the rows relative to their own.
    """
    count = terms.shape[0]
    errors = (
        host.bincount(rows, weights=(weights * differences.errors) ** 2, minlength=count) ** 0.5
    )
    sizes = host.bincount(rows, weights=weights * abs(differences.values), minlength=count)
    usable = host.isfinite(errors) & host.isfinite(sizes) & (terms > 0.0) & (sizes > 0.0)
    if not usable.any():
        return 0.0
    errors, sizes, terms = errors[usable], sizes[usable], terms[usable]
    of_all = ((errors / terms) ** 2).sum() / ((sizes / terms) ** 2).sum()
    of_rows = errors / sizes
    of_rows.sort()
    return float(max(of_all**0.5, of_rows[int(MOST * (of_rows.shape[0] - 1))]))
