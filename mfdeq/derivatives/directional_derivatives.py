"""Numerical directional derivatives of a function f of x = (theta, h) at one point.

The first derivative along a direction a is

- the complex step, Im f(x + i e a) / e with a tiny e, which is exact to rounding [1]_, or
- a central difference, (f(x + t a) − f(x − t a)) / 2t, whose step t ~ eps^(1/3) balances
  truncation and rounding [2]_ and leaves a relative error of eps^(2/3).

The second derivative along a and b is a central difference along b of the complex step along a,
with a relative error of eps^(2/3), or of the central difference along a with steps t ~ eps^(1/4)
and a relative error of eps^(1/2). If f has no value on one side, the difference is one-sided.

References
----------
.. [1] W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real
   functions", SIAM Review 40 (1998), 110-112.
.. [2] P. E. Gill, W. Murray, M. A. Saunders and M. H. Wright, "Computing forward-difference
   intervals for numerical optimization", SIAM Journal on Scientific and Statistical Computing 4
   (1983), 310-321.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array
from ..errors import is_evaluation_failure
from ..operators.operator import Operator
from .adapted_sizes import adapt_sizes
from .complex_step_check import ComplexStepVerdict, judge_complex_step
from .differences import Differences
from .nearby_points import nearby_point, typical_sizes
from .shifted_function import Direction, columns_of, shift
from .steps import StepRule

SECOND_STEP_FACTOR = 4.0  # second derivatives from values use this times step^(3/4) ~ eps^(1/4)
ERROR_FACTOR = 4.0  # safety factor of errors estimated for derivatives of order one
MAX_STEP = 0.05  # relative to the sizes of variables, of a function with much noise
NOISY = 1e4  # noise of a function in rounding units, above which all steps are longer
MAGNITUDE_RATIO = 1e-3  # parts of a direction that differ by more are differenced separately
MAX_MAGNITUDES = 3


class DirectionalDerivatives(Differences):
    """First and second directional derivatives of f at one point.

    Parameters
    ----------
    f, name, h, theta, rule, step_factor, state_scale, size
        As of `Differences`.
    refusal : str, optional
        Why the complex step is not valid for f, if that is known.

    Attributes
    ----------
    relative_noise : float
        The noise of f relative to its terms.
    verdict : ComplexStepVerdict
        Whether first derivatives are complex steps, and why they are not.
    """

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        name: str,
        h: Array,
        theta: Array,
        rule: StepRule,
        step_factor: float = 1.0,
        *,
        state_scale: Array | None = None,
        refusal: str = "",
        size: int | None = None,
    ) -> None:
        super().__init__(f, name, h, theta, rule, step_factor, state_scale=state_scale, size=size)
        self.second_step = SECOND_STEP_FACTOR * self.step**0.75
        self.relative_noise = self.backend.eps
        if rule.relative_step:
            refusal = "a step was passed"
        self.verdict = ComplexStepVerdict(False, refusal) if refusal else judge_complex_step(self)
        self.complex_step = self.verdict.valid
        if not self.complex_step and rule.scale is None:
            if rule.relative_step is None:
                self._follow_noise()
            adapt_sizes(self)
            if not all(self.backend.all(known) for known in self.known):
                self.__dict__.pop("noises", None)  # which are those of longer sizes
                if rule.relative_step is None:
                    self._follow_noise()
        if not self.complex_step:
            self.displaced = None  # which may not be one in all variables

    def with_sizes(self, sizes: Direction, step: float | None = None) -> DirectionalDerivatives:
        """Return the same derivatives in other units of the directions, and with another step."""
        other = copy.copy(self)
        other.sizes, other.step = sizes, step or self.step
        return other

    def with_longer_steps(self, factor: float) -> DirectionalDerivatives:
        """Return the same derivatives with longer steps, and NaN where f has no value there."""
        other = copy.copy(self)
        other.step, other.second_step = factor * self.step, factor * self.second_step
        other.shorten_steps = False
        return other

    def first(self, a: Direction, at: Direction | None = None) -> Array:
        """Return f'[a] at the point, or at the point shifted by the direction `at`."""
        if self.longest(a) == 0.0:
            return self.backend.zeros(self.size)
        if self.complex_step:
            return self.by_complex_step(a, at)
        return self.difference(self.trial, a, at)

    def first_with_asymmetry(self, a: Direction) -> tuple[Array, Array]:
        """Return the difference along a, and half of what the one-sided differences differ by.

        Where f bends smoothly, the second is proportional to the step. At a kink it is the error
        of the first. It is zero if f has a value on one side only.
        """
        zero = self.backend.zeros(self.size)
        if (longest := self.longest(a)) == 0.0:
            return zero, zero
        t = self.step / longest
        plus, minus = (self.trial(shift(None, a, side)) for side in (t, -t))
        if plus is None or minus is None:
            return self.difference(self.trial, a), zero
        return (plus - minus) / (2.0 * t), (plus - 2.0 * self.value + minus) / (2.0 * t)

    def first_of_block(self, a: Direction, at: Direction | None = None) -> Array:
        """Return f'[a] for the columns a of two blocks, (P, k) and (N, k), as an (N, k) block."""
        if self.complex_step:
            return self.by_complex_steps(a, at)
        of_columns = [self.first(column, at) for column in columns_of(a)]
        return self.backend.xp.stack(of_columns, axis=1)

    def second_of_block(self, a: Direction, b: Direction) -> Array:
        """Return f''[a, b] for one b and the columns a of two blocks, as an (N, k) block."""
        if self.complex_step:
            total: Any = self.backend.zeros(self.size, a[0].shape[1])
            for part in self._magnitudes(b):
                t = self.step / self.longest(part)
                there = functools.partial(self.finite, functools.partial(self.first_of_block, a))
                plus, minus = there(shift(None, part, t)), there(shift(None, part, -t))
                if plus is None or minus is None:
                    break
                total = total + self.above_rounding(plus - minus, (plus, minus), None) / (2.0 * t)
            else:
                return total
        return self.backend.xp.stack([self.second(column, b) for column in columns_of(a)], axis=1)

    def second(self, a: Direction, b: Direction) -> Array:
        """Return f''[a, b], with entries below the rounding error of the difference set to zero."""
        total = self.backend.zeros(self.size)
        if self.complex_step:
            for part in self._magnitudes(b):
                total = total + self.difference(functools.partial(self.trial_first, a), part)
            return total
        steps = self.with_sizes(self.sizes, self.second_step)
        for of_a in self._magnitudes(a):
            for of_b in self._magnitudes(b):
                inner = functools.partial(steps.trial_first, of_a)
                total = total + steps.difference(inner, of_b, rounding_of=of_a)
        return total

    def unscale(self, matrix: Any, part: int) -> Any:
        """Return the matrix of df/dtheta (part 0) or df/dh (part 1) in unscaled variables."""
        if isinstance(matrix, self.backend.xp.ndarray):
            return matrix / self.sizes[part]
        return matrix @ self.backend.sparse.diags(1.0 / self.sizes[part])

    def nearby(self, i: int) -> DirectionalDerivatives:
        """Return the derivatives at a nearby point, different for each i."""
        theta, h = self.x
        # Some functions have a value only at points whose entries keep their sizes and signs.
        sizes = self.sizes if i % 2 else (typical_sizes(theta), typical_sizes(h))
        h, theta = nearby_point(self.evaluate, h, theta, sizes[::-1], i)
        refusal = "" if self.complex_step else self.verdict.reason
        return DirectionalDerivatives(
            self.f,
            self.name,
            h,
            theta,
            self.rule,
            self.step_factor,
            state_scale=self.state_scale,
            refusal=refusal,
            size=self.size,
        )

    def _follow_noise(self) -> None:
        """Choose the step for the noise that is typical of the entries."""
        xp, eps = self.backend.xp, self.backend.eps
        usable = (self.terms > 0) & xp.isfinite(self.terms) & xp.isfinite(self.noise)
        ratio = xp.sort(self.noise[usable] / self.terms[usable])
        if ratio.shape[0] and (typical := float(ratio[ratio.shape[0] // 2])) > NOISY * eps:
            self.relative_noise = typical
            self.step = self.step_factor * min(typical ** (1 / 3), MAX_STEP)
            self.__dict__.pop("terms")  # which are those of longer steps now

    def _magnitudes(self, a: Direction) -> list[Direction]:
        """Split a into parts whose entries are of similar sizes, so that each has its own step."""
        parts: list[Direction] = []
        rest = a
        for _ in range(MAX_MAGNITUDES - 1):
            if (longest := self.longest(rest)) == 0.0:
                return parts
            large = [abs(part) >= MAGNITUDE_RATIO * longest for part in rest]
            parts.append(tuple(part * keep for part, keep in zip(rest, large, strict=True)))
            rest = tuple(part * ~keep for part, keep in zip(rest, large, strict=True))
        return parts if self.longest(rest) == 0.0 else [*parts, rest]

    def firsts_along(self, a: Direction, b: Direction, steps: list[float]) -> list[Array] | None:
        """Return f'[a] at points x + t b for several t, or None if one of them has no value."""
        with self.backend.ignore_overflow():
            try:
                found = [self.first(a, (t * b[0], t * b[1])) for t in steps]
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                return None
        total = sum(found[1:], found[0])
        return found if self.backend.all(self.backend.xp.isfinite(total)) else None

    def trial_first(self, a: Direction, at: Direction | None) -> Array | None:
        """Return the first derivative at a shifted point, or None."""
        return self.finite(functools.partial(self.first, a), at)


class Jacobian(Operator):
    """The derivative df/dtheta (part 0) or df/dh (part 1), given by products with directions."""

    def __init__(self, derivatives: DirectionalDerivatives, part: int) -> None:
        super().__init__(derivatives, (derivatives.size, derivatives.x[part].shape[0]))
        self.derivatives, self.part = derivatives, part

    def _apply(self, x: Array) -> Array:
        rest = self.backend.zeros(self.derivatives.x[1 - self.part].shape[0], *x.shape[1:])
        direction = (x, rest) if self.part == 0 else (rest, x)
        return (self.derivatives.first if x.ndim == 1 else self.derivatives.first_of_block)(
            direction
        )


class JacobianWithAsymmetry(Jacobian):
    """The derivative by differences, and below it half of what one-sided ones differ by."""

    def __init__(self, derivatives: DirectionalDerivatives, part: int) -> None:
        super().__init__(derivatives, part)
        self.shape = (2 * derivatives.size, self.shape[1])

    def _apply(self, x: Array) -> Array:
        """Return the products with the columns of a block."""
        xp, (m, k) = self.backend.xp, (self.derivatives.x[1 - self.part].shape[0], x.shape[1])
        rest = self.backend.zeros(m, k)
        columns = columns_of((x, rest) if self.part == 0 else (rest, x))
        found = [xp.concat(self.derivatives.first_with_asymmetry(column)) for column in columns]
        return xp.stack(found, axis=1)
