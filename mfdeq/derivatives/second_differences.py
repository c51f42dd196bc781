"""Second derivatives of a function by differences, with an estimate of the error of each.

A difference of first derivatives has the rounding of their rows, which may be much larger than its
value: rows of a fine grid have entries of the size of 1/dx², and change by far less. Such entries
are differenced again with longer steps (`with_longer_steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..locks import cached_property
from ..operators.operator import Operator
from ..operators.probing import ColouredPattern
from .column_steps import dense_columns
from .directional_derivatives import Direction, DirectionalDerivatives
from .longer_steps import MAX_STEP, Differences, relative_error, with_longer_steps

COMPLEX_STEP_ROUNDINGS = 2.0  # noise of a difference of complex steps, in roundings of the row
# Relative noise above which longer steps are tried, in square roots of the noise of f: of
# differences of the complex step and of values.
TOLERANCES = {1: 4.0, 2: 100.0}
VISIBLE = 4.0  # a change that is larger than this many times its noise is not rounding
PROBE_SEED = 37


class SecondDifferences:
    """Second derivatives of f at one point along given directions, in scaled variables.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
        With the sizes that second derivatives take.
    magnitudes : (N, P+N) array or sparse matrix on the host
        The magnitudes of the entries of f' in these scaled variables.
    steps : (P+N,) array on the host
        The step of each variable relative to the length over which f bends.
    sizes : (P+N,) array on the host
        The sizes of the variables themselves in these units, in which entries are compared: the
        length over which f bends is infinite along a variable that f is linear in.
    noise : float
        The noise of f relative to its terms.
    coloured : ColouredPattern or None
        The coloured pattern of f', or None if it is large and dense.
    judge : callable
        ``judge(error)`` is called with the relative error of what has been computed.

    Attributes
    ----------
    error : float
        The relative error of the second derivatives so far, zero before the first.
    """

    def __init__(
        self,
        derivatives: DirectionalDerivatives,
        magnitudes: Any,
        steps: Any,
        sizes: Any,
        noise: float,
        coloured: ColouredPattern | None,
        judge: Callable[[float], None],
    ) -> None:
        self.derivatives, self.magnitudes = derivatives, magnitudes
        self.steps, self.sizes = steps, sizes
        self.backend, self.error, self.judge = derivatives.backend, 0.0, judge
        self.N, self.P = derivatives.size, derivatives.x[0].shape[0]
        self.coloured = coloured
        self.pattern = Grid(magnitudes.shape) if coloured is None else coloured
        self.terms = magnitudes @ sizes
        self.order = 1 if derivatives.complex_step else 2
        eps = self.backend.eps
        self.tolerance = TOLERANCES[self.order] * max(eps, noise) ** 0.5
        # A step that was passed is kept.
        self.adaptive = derivatives.rule.relative_step is None and derivatives.rule.scale is None

    def entries_along(
        self,
        directions: Sequence[Array],
        kept: Sequence[Any] | None = None,
        of_b: Sequence[Any] | None = None,
    ) -> Differences:
        """Return the entries of a -> f''[a, b] for several directions b.

        Parameters
        ----------
        directions : sequence of (P+N,) arrays
        kept : sequence of index arrays, optional
            The entries of the pattern to return for each direction, by default all.
        of_b : sequence of arrays, optional
            For each of these entries the size of the variable of b on which its row depends, by
            default 1.

        Returns
        -------
        Differences
            For one direction after the other.
        """
        everything = slice(None)
        chosen = [everything] * len(directions) if kept is None else list(kept)
        rows, columns = self.pattern.rows, self.pattern.columns
        by_direction = [
            self._entries(b, 1.0, None)[at] for b, at in zip(directions, chosen, strict=True)
        ]
        ends = host.cumsum([value.shape[0] for value in by_direction])
        values = host.concatenate(by_direction)
        noise, steps = (
            host.concatenate([of(b)[at] for b, at in zip(directions, chosen, strict=True)])
            for of in (self._noise, self._steps)
        )
        of_rows = host.concatenate([rows[at] for at in chosen])
        weights = host.concatenate([self.sizes[columns[at]] for at in chosen])
        if of_b is not None:
            weights = weights * host.concatenate(list(of_b))

        def compute(factor: float, selected: Any) -> Any:
            found = []
            parts = host.split(selected, ends[:-1])
            for b, at, part in zip(directions, chosen, parts, strict=True):
                value = host.full(part.shape, host.nan)
                if part.any():
                    wanted = host.zeros(self.pattern.shape[1], dtype=bool)
                    wanted[columns[at][part]] = True
                    value = self._entries(b, factor, wanted)[at]
                found.append(value)
            return host.concatenate(found)

        sizes = host.bincount(of_rows, weights=weights * abs(values), minlength=self.N)
        hidden = (sizes == 0.0) & (host.bincount(of_rows, weights=noise, minlength=self.N) > 0.0)
        if self.adaptive and hidden.any():
            sizes = host.where(hidden & self._linear_rows, host.inf, sizes)
        found = self._improved(values, noise, steps, sizes[of_rows] / weights, compute)
        self._remember_error(found, of_rows, weights)
        return found

    def along(self, a: Array, b: Array) -> Array:
        """Return f''[a, b] for stacked (P+N,) directions, an (N,) array."""
        value = array_on_host(self._at(1.0).second(self._split(a), self._split(b)))
        steps = self._step_of(b) * host.ones(self.N)
        if self.derivatives.complex_step:
            noise = self._row_noise(b) * (self.magnitudes @ abs(array_on_host(a)))
        else:
            noise = self._row_noise(b) * self._longest(a)
            steps = (steps * self._step_of(a)) ** 0.5

        def compute(factor: float, selected: Any) -> Any:
            return array_on_host(self._at(factor).second(self._split(a), self._split(b)))

        # The part of a row that depends on these directions may be linear.
        share = host.divide(abs(value), self.terms, out=0.0 * value, where=self.terms > 0.0)
        sizes = share.max(initial=0.0) * self.terms
        found = self._improved(value, noise, steps, sizes, compute)
        self._remember_error(found, host.arange(self.N), 1.0)
        return self.backend.from_host(found.values)

    def _improved(
        self, values: Any, noise: Any, steps: Any, sizes: Any, compute: Any
    ) -> Differences:
        return with_longer_steps(
            values,
            noise,
            sizes,
            steps,
            self.order,
            compute if self.adaptive else None,
            tolerance=self.tolerance,
            stretch=self.derivatives.step_factor,
        )

    def _remember_error(self, found: Differences, rows: Any, weights: Any) -> None:
        self.error = max(self.error, relative_error(found, rows, weights, self.terms))
        self.judge(self.error)

    @cached_property
    def _linear_rows(self) -> Any:
        """Return the rows in which f does not bend along a line, by the longest steps."""
        n = self.magnitudes.shape[1]
        b = self.backend.xp.sign(self.backend.random(n, seed=PROBE_SEED))
        factor = MAX_STEP / self.steps.max()
        value = array_on_host(self._at(factor).second(self._split(b), self._split(b)))
        noise = self._row_noise(b) / factor**self.order
        if self.derivatives.complex_step:
            noise = noise * host.asarray(self.magnitudes.sum(axis=1)).ravel()
        with host.errstate(invalid="ignore"):
            return abs(value) <= VISIBLE * noise

    def _entries(self, b: Array, factor: float, columns: Any) -> Any:
        """Return the entries of a -> f''[a, b] with a longer step, for some of the columns a."""
        along = SecondDerivativeAlong(self._at(factor), b)
        return host.asarray(self.pattern.entries_of(along, columns)).astype(float)

    def _at(self, factor: float) -> DirectionalDerivatives:
        return self.derivatives if factor == 1.0 else self.derivatives.with_longer_steps(factor)

    def _noise(self, b: Array) -> Any:
        """Return the noise of the entries of a -> f''[a, b]."""
        pattern = self.pattern
        noise = self._row_noise(b)
        if self.derivatives.complex_step:
            return noise * pattern_entries(self.magnitudes, pattern)
        return noise[pattern.rows]

    def _row_noise(self, b: Array) -> Any:
        """Return the noise of f''[a, b] for a unit vector a; for the complex step, of f' = 1."""
        d = self.derivatives
        if d.complex_step:
            return COMPLEX_STEP_ROUNDINGS * self.backend.eps * self._longest(b) / d.step
        return array_on_host(d.noise).astype(float) * self._longest(b) / d.second_step**2

    def _steps(self, b: Array) -> Any:
        """Return the steps of the entries of a -> f''[a, b], relative to lengths of f."""
        of_b = self._step_of(b)
        if self.derivatives.complex_step:
            return of_b * host.ones(self.pattern.columns.shape[0])
        return (of_b * self.steps[self.pattern.columns]) ** 0.5

    def _step_of(self, b: Array) -> float:
        longest = self._longest(b)
        size = abs(array_on_host(b)) * self.steps
        return float(size.max(initial=0.0)) / longest if longest > 0.0 else self.steps.max()

    def _longest(self, b: Array) -> float:
        return float(abs(array_on_host(b)).max(initial=0.0))

    def _split(self, x: Array) -> Direction:
        return x[: self.P], x[self.P :]


class Grid:
    """All entries of a dense matrix, in the place of a `ColouredPattern`."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.count = shape, shape[1]
        self.rows = host.repeat(host.arange(shape[0]), shape[1])
        self.columns = host.tile(host.arange(shape[1]), shape[0])

    def entries_of(self, A: Operator, selected: Any = None) -> Any:
        """Return the entries of A on the host, row by row; NaN in columns not selected."""
        n = self.shape[1]
        if selected is None:
            return dense_columns(A, host.ones(n, dtype=bool)).ravel()
        found = host.full(self.shape, host.nan)
        found[:, selected] = dense_columns(A, selected)
        return found.ravel()


class SecondDerivativeAlong(Operator):
    """The linear map a -> f''[a, b] of stacked (P+N,) directions for fixed b, (N, P+N)."""

    def __init__(self, derivatives: DirectionalDerivatives, b: Array) -> None:
        self.derivatives, self.P = derivatives, derivatives.x[0].shape[0]
        variables = self.P + derivatives.x[1].shape[0]
        super().__init__(derivatives, (derivatives.size, variables))
        self.b = self._split(b)

    def _split(self, x: Array) -> Direction:
        return x[: self.P, ...], x[self.P :, ...]

    def _apply(self, x: Array) -> Array:
        second = self.derivatives.second if x.ndim == 1 else self.derivatives.second_of_block
        return second(self._split(x), self.b)


def pattern_entries(matrix: Any, pattern: ColouredPattern | Grid) -> Any:
    """Return the entries of a matrix on the host, in the order of a pattern."""
    if isinstance(matrix, host.ndarray):
        if isinstance(pattern, Grid):
            return matrix.ravel()
        return matrix[pattern.rows, pattern.columns]
    if isinstance(pattern, Grid):
        return matrix.toarray().ravel()
    # Copies, since scipy cannot index by large arrays that have been unpickled.
    at = pattern.rows.copy(), pattern.columns.copy()
    return host.asarray(matrix[at]).ravel() if pattern.rows.size else host.zeros(0)
