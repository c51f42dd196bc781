"""Jacobians by differences, with a step for each column that follows from its effect on f.

The first step of a column is relative to the size of its variable. The noise of an entry, relative
to it, is noise_i / |J_ij| t. Where that is large, the column is differenced again with a longer
step: for the noise of the entry, and for the length over which f may bend if the variable is near
zero by accident. An entry takes the longer step only if both values agree within their noise, as in
Lepski's method [1]_; the truncation error of the longer step is then no larger than the noise of
the shorter. Variables of unknown size (those that are zero) are rescaled until a step changes the
equations by a small part of their own terms.

References
----------
.. [1] O. V. Lepskii, "On a problem of adaptive estimation in Gaussian white noise", Theory of
   Probability and its Applications 35 (1991), 454-466.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..arrays.sparse import sparse_on_host
from ..operators.operator import Operator
from ..operators.probing import ColouredPattern
from .directional_derivatives import DirectionalDerivatives, Jacobian

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
COLUMNS_AT_ONCE = 256  # of a dense matrix, so that a block of unit vectors stays small


@dataclass
class Columns:
    """The entries of df/dtheta (part 0) or df/dh (part 1) in scaled variables, on the host.

    Attributes
    ----------
    rows, columns, values : (entries,) arrays
    coloured : ColouredPattern or None
        None if the matrix is dense.
    part : int
    shape : pair of ints
    errors : (entries,) array
        The estimated errors of the values; zero until `refine`.
    lengths : (n,) array
        The length over which f bends along each variable, relative to its size.
    truncation : (N,) array or float
        The truncation errors of the equations, where they are larger than what `errors` contain.
    """

    rows: Any
    columns: Any
    values: Any
    coloured: ColouredPattern | None
    part: int
    shape: tuple[int, int]
    errors: Any
    lengths: Any
    truncation: Any = 0.0

    @classmethod
    def of(cls, operator: Operator, coloured: ColouredPattern | None, part: int) -> Columns:
        """Return the entries of an operator, which is a `Matrix` if its pattern is known."""
        m, n = operator.shape
        array: Any = operator.array
        if array is None:
            array = operator.backend.from_host(dense_columns(operator, host.ones(n, dtype=bool)))
        if isinstance(array, operator.backend.xp.ndarray):
            values = array_on_host(array).ravel()
            rows, columns, coloured = host.repeat(host.arange(m), n), host.tile(range(n), m), None
        else:
            assert coloured is not None  # the operator is a matrix since its pattern is known
            rows, columns = coloured.rows, coloured.columns
            matrix = sparse_on_host(array).tocsr()
            # Copies, since scipy cannot index by large arrays that have been unpickled.
            at = rows.copy(), columns.copy()
            values = host.asarray(matrix[at]).ravel() if rows.size else host.zeros(0)
        values = values.astype(float)
        zeros = 0.0 * host.nan_to_num(values)
        return cls(rows, columns, values, coloured, part, (m, n), zeros, host.ones(n))

    def least(self, values: Any) -> Any:
        """Return the least of the given values in each column, infinity if there is none."""
        least = host.full(self.shape[1], host.inf)
        host.minimum.at(least, self.columns, values)
        return least

    def row_sums(self, values: Any) -> Any:
        """Return the sums of values over each row."""
        return host.bincount(self.rows, weights=values, minlength=self.shape[0])

    def computed(self, derivatives: DirectionalDerivatives, factors: Any, selected: Any) -> Any:
        """Return the entries of some columns with other sizes, in the units of the old ones.

        Parameters
        ----------
        derivatives : DirectionalDerivatives
        factors : (n,) array
            The new sizes relative to those of `derivatives`.
        selected : (n,) array of bool
            The columns to be computed; the entries of the others are NaN.
        """
        backend = derivatives.backend
        sizes = list(derivatives.sizes)
        sizes[self.part] = sizes[self.part] * backend.from_host(factors)
        trial = derivatives.with_sizes(tuple(sizes))
        trial.shorten_steps = False  # an entry without a value is not used
        jacobian = Jacobian(trial, self.part)
        if self.coloured is None:
            dense = host.full(self.shape, host.nan)
            dense[:, selected] = dense_columns(jacobian, selected)
            values = dense.ravel()
        else:
            values = self.coloured.entries_of(jacobian, selected)
        return values / factors[self.columns]

    def matrix(self, backend: Backend) -> Any:
        """Return the matrix of the backend."""
        if self.coloured is None:
            return backend.from_host(self.values.reshape(self.shape))
        return self.coloured.matrix_with(self.values, backend)


def dense_columns(operator: Operator, selected: Any) -> Any:
    """Return some columns of an operator on the host, computed a few at a time.

    Parameters
    ----------
    operator : Operator, (m, n)
    selected : (n,) array of bool on the host
    """
    backend, (m, n) = operator.backend, operator.shape
    at = host.nonzero(selected)[0]
    found = host.zeros((m, at.shape[0]))
    for first in range(0, at.shape[0], COLUMNS_AT_ONCE):
        chosen = at[first : first + COLUMNS_AT_ONCE]
        units = host.zeros((n, chosen.shape[0]))
        units[chosen, host.arange(chosen.shape[0])] = 1.0
        product = operator._apply(backend.from_host(units))
        found[:, first : first + COLUMNS_AT_ONCE] = array_on_host(product)
    return found


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
    eps = derivatives.backend.eps
    _lengthen_invisible_steps(derivatives, columns, noise)
    _rescale_unknown_sizes(derivatives, columns, array_on_host(derivatives.noise).astype(float))
    step, noise = derivatives.step, noise[columns.rows]
    columns.errors = noise / step
    if derivatives.rule.relative_step is not None:
        columns.errors = columns.errors + step**2 * abs(columns.values)
        return
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
        rungs.append((largest > 0, factors, True))
    if derivatives.rule.scale is None:
        accidental = host.isfinite(least) & (least > SMALL_BY_ACCIDENT * derivatives.relative_noise)
        factors = host.clip(least / derivatives.relative_noise, 1.0, MAX_LENGTH_FACTOR)
        rungs.append((accidental, host.where(accidental, factors, 1.0), False))
    bends = step**2 / 6.0 * abs(columns.values)
    for selected, factors, relative_to_size in rungs:
        if not selected.any():
            continue
        values = columns.computed(derivatives, factors, selected)
        factor = factors[columns.columns]
        errors = noise / (step * factor)
        distance = abs(values - columns.values)
        relative_step = step * factor if relative_to_size else step
        new_bends = relative_step**2 / 6.0 * abs(values)
        if derivatives.bends:  # over less than its sizes
            shorter = columns.computed(derivatives, SHORTER * factors, selected)
            new_bends = abs(values - shorter) / (1.0 - SHORTER**2)
        with host.errstate(invalid="ignore"):
            better = (errors + new_bends < columns.errors + bends) & (
                distance <= AGREEMENT_FACTOR * (errors + columns.errors)
            )
        columns.values = host.where(better, values, columns.values)
        columns.errors = host.where(better, errors, columns.errors)
        bends = host.where(better, new_bends, bends)
    columns.errors = columns.errors + bends
    if derivatives.bends:
        columns.truncation = array_on_host(derivatives.truncation(columns.part)).astype(float)


def relative_noise_of_rows(columns: list[Columns], noise: Any, terms: Any = 0.0) -> float:
    """Return the largest noise of a row relative to the sum of its entries in scaled variables.

    The sum is at least `terms`, which stands for the entries of columns that are not computed.
    """
    sums = host.fmax(sum(c.row_sums(abs(c.values)) for c in columns), terms)
    usable = host.isfinite(sums) & (sums > 0.0)
    return float((noise[usable] / sums[usable]).max(initial=0.0))


def accuracy(columns: list[Columns], terms: Any = 0.0) -> float:
    """Return the relative error of the worst of the given Jacobians, in norms without units.

    Columns are in units of the variables, and rows in units of their sums or, if larger, of
    `terms`, which stand for the entries of a Jacobian that is not computed.
    """
    sums = host.fmax(sum(c.row_sums(abs(c.values)) for c in columns), terms)
    usable = host.isfinite(sums) & (sums > 0.0)
    worst = 0.0
    for c in columns:
        # Errors of the entries of a row are independent; those of the terms of a sum may not be.
        error, size = (
            host.linalg.norm(values[usable] / sums[usable])
            for values in (
                (c.row_sums(c.errors**2) + c.truncation**2) ** 0.5,
                c.row_sums(abs(c.values)),
            )
        )
        worst = max(worst, float(error / size) if size > 0.0 else 0.0)
    return worst


def relative_noise(columns: Columns, noise: Any) -> Any:
    """Return the noise of each entry relative to it, infinity where it is zero or not known."""
    size = abs(columns.values)
    usable = (size > 0.0) & (noise > 0.0) & host.isfinite(size)
    return host.where(usable, noise / host.where(usable, size, 1.0), host.inf)


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
