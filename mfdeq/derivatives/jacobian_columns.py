"""The columns of a Jacobian by differences, and the errors of its entries.

The noise of an entry follows from that of its row. What the entries miss because the function bends
over a short length, or has a kink nearby, is measured along a few directions in all variables: a
difference with another step is compared with the product, and differences on the two sides with
each other. Central differences across a kink may agree with any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Backend, array_on_host, host
from ..arrays.sparse import sparse_on_host
from ..operators.operator import Operator
from ..operators.probing import ColouredPattern
from .directional_derivatives import DirectionalDerivatives, Jacobian, JacobianWithAsymmetry

COLUMNS_AT_ONCE = 256  # of a dense matrix, so that a block of unit vectors stays small
TRUNCATION_SEED = 29
# Two steps of differences in all variables; the next two if f has no value there.
COMPARED_STEPS = ((2.0, 1.0), (0.5, 1.0))
NOISE_MARGIN = 3.0  # of the noise of this difference, by which it may differ


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
        What the errors of the equations are above `errors`, because f bends.
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
            rows, columns, coloured = (
                host.repeat(host.arange(m), n),
                host.tile(host.arange(n), m),
                None,
            )
        else:
            assert coloured is not None  # the operator is a matrix since its pattern is known
            rows, columns = coloured.rows, coloured.columns
            matrix = sparse_on_host(array).tocsr()
            # Copies, since scipy cannot index by large arrays that have been unpickled.
            at = rows.copy(), columns.copy()
            values = host.asarray(matrix[at]).ravel() if rows.size else host.zeros(0)
        values = values.astype(float)
        zeros = host.zeros_like(values)
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
        return self._entries(derivatives, factors, selected, Jacobian)

    def computed_with_asymmetry(
        self, derivatives: DirectionalDerivatives, factors: Any, selected: Any
    ) -> Any:
        """Return the same, and half of what the differences on the two sides differ by."""
        return self._entries(derivatives, factors, selected, JacobianWithAsymmetry)

    def _entries(
        self,
        derivatives: DirectionalDerivatives,
        factors: Any,
        selected: Any,
        kind: type[Jacobian],
    ) -> Any:
        backend = derivatives.backend
        sizes = list(derivatives.sizes)
        sizes[self.part] = sizes[self.part] * backend.from_host(factors)
        trial = derivatives.with_sizes(tuple(sizes))
        trial.shorten_steps = False  # an entry without a value is not used
        jacobian = kind(trial, self.part)
        if self.coloured is None:
            (m, n), rows = self.shape, jacobian.shape[0]
            dense = host.full((rows, n), host.nan)
            dense[:, selected] = dense_columns(jacobian, selected)
            values = dense.reshape(-1, m * n) if rows > m else dense.ravel()
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


def relative_noise(columns: Columns, noise: Any) -> Any:
    """Return the noise of each entry relative to it, infinity where it is zero or not known."""
    size = abs(columns.values)
    usable = (size > 0.0) & (noise > 0.0) & host.isfinite(size)
    return host.where(usable, noise / host.where(usable, size, 1.0), host.inf)


def relative_noise_of_rows(columns: list[Columns], noise: Any, terms: Any = 0.0) -> float:
    """Return the largest noise of a row relative to the sum of its entries in scaled variables.

    The sum is at least `terms`, which stands for the entries of columns that are not computed.
    """
    sums = host.fmax(sum(c.row_sums(abs(c.values)) for c in columns), terms)
    usable = host.isfinite(sums) & (sums > 0.0)
    return float((noise[usable] / sums[usable]).max(initial=0.0))


def accuracy(columns: list[Columns], terms: Any = 0.0, truncation: bool = True) -> float:
    """Return the relative error of the worst of the given Jacobians, in norms without units.

    Columns are in units of the variables, and rows in units of their sums or, if larger, of
    `terms`, which stand for the entries of a Jacobian that is not computed. Without `truncation`,
    the errors by which products differ between steps and sides are left out.
    """
    share = float(truncation)
    sums = host.fmax(sum(c.row_sums(abs(c.values)) for c in columns), terms)
    usable = host.isfinite(sums) & (sums > 0.0)
    worst = 0.0
    for c in columns:
        # Errors of the entries of a row are independent; those of the terms of a sum may not be.
        error, size = (
            host.linalg.norm(values[usable] / sums[usable])
            for values in (
                (c.row_sums(c.errors**2) + share * c.truncation**2) ** 0.5,
                c.row_sums(abs(c.values)),
            )
        )
        worst = max(worst, float(error / size) if size > 0.0 else 0.0)
    return worst


def excess_of_errors(derivatives: DirectionalDerivatives, columns: Columns, noise: Any) -> Any:
    """Return by how much the errors of products with the entries are larger than estimated.

    Products with vectors in all variables are compared with differences along them with two steps,
    and one-sided differences with each other, which show kinks. Along a single vector errors of
    two entries may cancel.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
    columns : Columns
    noise : (N,) array on the host
        The noise of f.

    Returns
    -------
    (N,) array on the host
    """
    backend, (m, n), part = derivatives.backend, columns.shape, columns.part
    random = host.random.default_rng(TRUNCATION_SEED + part)
    signs = random.choice([-1.0, 1.0], n)
    second = host.where(host.arange(n) % 2, -signs, signs) * random.uniform(0.75, 1.0, n)
    estimated = columns.row_sums(columns.errors**2) ** 0.5
    excess = host.zeros(m)
    for vector in (signs, second)[: min(n, 2)]:
        direction = [backend.zeros(x.shape[0]) for x in derivatives.x]
        direction[part] = backend.from_host(vector)
        product = columns.row_sums(columns.values * vector[columns.columns])
        for factors in COMPARED_STEPS:
            (found, asymmetry), (_, of_second) = (
                derivatives.with_longer_steps(factor).first_with_asymmetry(tuple(direction))
                for factor in factors
            )
            if not backend.all(backend.xp.isfinite(found + of_second)):
                continue
            ratio = factors[1] / factors[0]
            difference = abs(array_on_host(found).astype(float) - product)
            kinks = array_on_host(abs(of_second - ratio * asymmetry)).astype(float)
            margin = NOISE_MARGIN * (noise / (min(factors) * derivatives.step) + estimated)
            for found_excess, scale in ((difference, 1.0 - factors[0] ** 2), (kinks, 1.0 - ratio)):
                visible = host.nan_to_num(found_excess) > margin
                excess = host.where(visible, host.fmax(excess, found_excess / abs(scale)), excess)
            break
    return excess
