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
from .directional_derivatives import DirectionalDerivatives
from .jacobian_columns import dense_columns
from .longer_steps import MAX_STEP, Differences, relative_error, with_longer_steps
from .shifted_function import Direction

COMPLEX_STEP_ROUNDINGS = 2.0  # noise of a difference of complex steps, in roundings of the row
# Relative noise above which longer steps are tried, in square roots of the noise of f: of
# differences of the complex step and of values.
TOLERANCES = {1: 4.0, 2: 100.0}
VISIBLE = 4.0  # a change that is larger than this many times its noise is not rounding
PROBE_SEED = 37
TRUNCATION_SEEDS = (45, 47)
MAX_BENDING = 0.1  # relative change of f' within a step, above which differences are useless
SAMPLE_FACTOR = 2.0  # safety factor of an error that is measured once
MAX_GROUPS = 3  # of variables whose truncation errors are measured
# Sizes of variables in lengths over which f bends, relative to the largest.
MIN_SIMILAR_SIZE = 1 / 30
EXCESS_FACTOR = 10.0  # truncation errors in units of the noise, above which steps are shortened


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
        The relative error of the second derivatives so far; before the first, their truncation
        error.
    truncation, expected_error : float
        The relative error along directions in all variables: due to the steps, and with the noise.
    excess : float
        The truncation error of an equation in units of what is not worth shorter steps; of the
        worst.
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
        self.backend, self.judge = derivatives.backend, judge
        self.N, self.P = derivatives.size, derivatives.x[0].shape[0]
        self.coloured = coloured
        self.pattern = Grid(magnitudes.shape) if coloured is None else coloured
        self.terms = magnitudes @ sizes
        self.order = 1 if derivatives.complex_step else 2
        eps = self.backend.eps
        self.tolerance = TOLERANCES[self.order] * max(eps, noise) ** 0.5
        # A step that was passed is kept.
        self.adaptive = not derivatives.rule.is_fixed
        self._measure_truncation()
        self.error = self.truncation

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
            self._entries(b, 1.0, None if kept is None else self._mask(columns[at]))[at]
            for b, at in zip(directions, chosen, strict=True)
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
                    value = self._entries(b, factor, self._mask(columns[at][part]))[at]
                found.append(value)
            return host.concatenate(found)

        sizes = host.bincount(of_rows, weights=weights * abs(values), minlength=self.N)
        hidden = (sizes == 0.0) & (host.bincount(of_rows, weights=noise, minlength=self.N) > 0.0)
        if self.adaptive and hidden.any():
            sizes = host.where(hidden & self._linear_rows, host.inf, sizes)
        found = self._improved(values, noise, steps, sizes[of_rows] / weights, compute)
        if of_b is None:
            found.truncation = found.truncation + abs(found.values) * max(
                map(self._rounding_of_steps, directions)
            )
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
        found.truncation = found.truncation + self._rounding_of_steps(b) * abs(found.values)
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

    def _measure_truncation(self) -> None:
        """Set `excess`, `truncation` and `expected_error`.

        Steps are halved along a direction in the variables over whose sizes f bends most often, and
        along others in those whose second derivatives would hide theirs.
        """
        excess, parts, left = 0.0, [], self.sizes > 0.0
        for _ in range(MAX_GROUPS):
            if not left.any():
                break
            largest = self.sizes[left].max()
            group = left & (self.sizes >= MIN_SIMILAR_SIZE * largest)
            left = left & ~group
            value, error, noise = self._compare_steps(group)
            excess = max(excess, float((error / noise).max(initial=0.0)))
            visible = abs(value) > VISIBLE * noise
            of_step = noise / 2.0**self.order
            parts.append(largest**2 * host.stack([value, error, of_step]) * visible)
        rows = host.tile(host.arange(self.N), len(parts))
        values, errors, noises = host.concatenate(parts, axis=1)
        self.excess = excess / EXCESS_FACTOR
        self.truncation, self.expected_error = (
            # One difference may be small by chance.
            SAMPLE_FACTOR * relative_error(Differences(values, of, errors), rows, 1.0, self.terms)
            for of in (0.0, noises)
        )

    def _compare_steps(self, group: Any) -> tuple[Any, Any, Any]:
        """Return second derivatives along a direction in some variables, their errors and noise."""
        n = self.magnitudes.shape[1]
        a, b = (
            self.backend.from_host(host.sign(array_on_host(self.backend.random(n, seed=i))) * group)
            for i in TRUNCATION_SEEDS
        )
        of_a, of_b = self._split(a), self._split(b)
        # That of comparisons is longer than the one that is chosen here.
        share = 1.0 / self.derivatives.step_factor if self.adaptive else 1.0
        d = self.derivatives.with_longer_steps(share)
        step = d.step if d.complex_step else d.second_step
        d = d.with_sizes(d.sizes, step)
        found = d.firsts_along(of_a, of_b, [0.0, step, -step, 0.5 * step, -0.5 * step])
        noise = (2.0 / share) ** self.order * self._row_noise(b) + host.finfo(float).tiny
        if d.complex_step:
            noise = noise * (self.magnitudes @ group.astype(float)) + host.finfo(float).tiny
        if found is None:  # at an edge of the domain
            return host.zeros(self.N), host.zeros(self.N), noise
        here, plus, minus, near, opposite = (array_on_host(first).astype(float) for first in found)
        value, half = (plus - minus) / (2.0 * step), (near - opposite) / step
        # The difference shows noise as well, where it is larger than expected.
        error = abs(value - half) / (1.0 - 0.5**2)
        # Both are useless if f' at their points has nothing to do with that in between.
        size, bending = host.maximum(abs(here), abs(plus)), 0.5 * abs(plus + minus - 2.0 * here)
        error = host.where(bending > MAX_BENDING * size, host.maximum(error, bending / step), error)
        return value, error, noise

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

    def _mask(self, columns: Any) -> Any:
        """Return which columns are among the given ones."""
        mask = host.zeros(self.pattern.shape[1], dtype=bool)
        mask[columns] = True
        return mask

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

    def _rounding_of_steps(self, b: Array) -> float:
        """Return the relative error of steps along b, which rounding of x + t b changes.

        Steps along sums of unit vectors are powers of two, and exact.
        """
        moved = array_on_host(b) != 0.0
        sizes, x = (
            array_on_host(self.backend.xp.concat(list(parts)))
            for parts in (self.derivatives.sizes, self.derivatives.x)
        )
        ratio = float((abs(x) / sizes)[moved].max(initial=0.0))
        return self.backend.eps * ratio / self.derivatives.step

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
