"""Differences of a function along a direction, and the noise of its values.

The central difference is (f(x + t a) − f(x − t a)) / 2t. Where f has no value on one side, the
difference is one-sided.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array
from ..locks import cached_property
from .shifted_function import Direction, ShiftedFunction, shift
from .steps import StepRule, measure_noise, typical_noise

# Spacings of points on a line, relative to the usual step; the next is tried if values are equal.
NOISE_SPACINGS = (1 / 8, 8.0, 512.0)
# Differences of the slopes of a short and a long line, relative to a slope and in units of the
# noise of the long one, from which on terms are lost in the rounding along the short one.
LOST_SHARE, LOST_FACTOR = 0.1, 10.0
ROUNDING_SHARE = 0.25  # least noise of an entry, in rounding units of its terms
SHORTER_STEP = 1 / 16  # factor of a step at whose ends f has no value
MAX_SHORTER_STEPS = 6
DISPLACED_SEED = 41  # of a point at which values are compared


class Differences(ShiftedFunction):
    """Differences of f at one point, and of its derivatives.

    Parameters
    ----------
    f, name, h, theta, rule, state_scale, size
        As of `ShiftedFunction`.
    step_factor : float, optional
        A factor of all steps. Different factors give derivatives with independent errors.

    Attributes
    ----------
    step : float
        The length of a shift, in units of the variables.
    complex_step : bool
        Whether first derivatives are complex steps.
    shorten_steps : bool
        Whether steps at whose ends f has no value are shortened; otherwise the result is NaN.
    sizes_are_adapted : bool
        Whether the sizes of variables that are zero have been adapted to their effect on f.
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
        size: int | None = None,
    ) -> None:
        super().__init__(f, name, h, theta, rule, state_scale=state_scale, size=size)
        self.step_factor = step_factor
        self.step = step_factor * (rule.relative_step or self.backend.eps ** (1 / 3))
        self.shorten_steps = True
        self.complex_step = False
        self.sizes_are_adapted = False
        # A point (theta, h) at a small distance in all variables, and the value of f there.
        self.displaced: Any = None

    @cached_property
    def terms(self) -> Array:
        """The (N,) sizes of the terms of the equations, from changes along two directions.

        Along one direction the change of an entry may be small by chance.
        """
        backend, xp = self.backend, self.backend.xp
        terms = abs(self.value)
        for seed in (31, 33):
            random = [backend.random(x.shape[0], seed=seed + i) for i, x in enumerate(self.x)]
            direction = (random[0] * self.known[0], random[1] * self.known[1])
            if any(bool(xp.any(part != 0)) for part in direction):
                change = self.by_difference(direction, self.step)
                if change is None:  # at an edge of the domain
                    inward = (abs(direction[0]), abs(direction[1]))
                    change = self.by_difference(inward, self.step)
                terms = terms if change is None else xp.maximum(terms, abs(change))
        return terms

    @property
    def noise(self) -> Array:
        """The (N,) noise of f at the point (see `measure_noise`)."""
        return self.backend.xp.maximum(*self.noises)

    @cached_property
    def noises(self) -> tuple[Array, Array]:
        """The noise of f if theta changes, and if h changes, which may be much larger or smaller.

        Variables of unknown size stay as they are until their sizes are adapted, since they may be
        much smaller than that.
        """
        backend, xp = self.backend, self.backend.xp
        rounding = 0.5 * backend.eps * abs(self.value)
        found = []
        for part, known in enumerate(self.known):
            moved = known | ~known if self.sizes_are_adapted else known
            direction: list[Array] = [0.0 * x for x in self.x]
            direction[part] = (0.5 + abs(backend.random(known.shape[0], seed=19))) * moved
            noise, visible = rounding, rounding < 0.0
            for spacing in NOISE_SPACINGS if bool(xp.any(moved)) else ():
                spacing *= backend.eps ** (1 / 3)
                step = (spacing * direction[0], spacing * direction[1])
                measured = measure_noise(backend, functools.partial(self._trial_along, step))
                if measured is None:
                    break
                noise, visible, resolved = measured
                if resolved:
                    break
            if self.sizes_are_adapted and bool(xp.any(~known)):
                noise = self._noise_if_steps_are_lost((direction[0], direction[1]), noise)
            found.append((noise, visible))
        largest = xp.maximum(found[0][0], found[1][0])
        largest = xp.maximum(largest, ROUNDING_SHARE * backend.eps * self.terms)
        theta, h = (
            xp.where(visible, typical_noise(backend, noise, largest), largest)
            for noise, visible in found
        )
        return theta, h

    def _noise_if_steps_are_lost(self, a: Direction, noise: Array) -> Array:
        """Return the noise along a longer line where rounding hides some terms from a short step.

        A short step leaves such terms as they are. A longer line changes them: f is a parabola on
        it, but for noise, and has another slope than the short step shows.
        """
        xp, unit = self.backend.xp, self.backend.eps ** (1 / 3)
        near, far = NOISE_SPACINGS[0] * unit, NOISE_SPACINGS[-1] * unit
        short, long = self.by_difference(a, near), self.by_difference(a, far)
        if short is None or long is None:
            return noise
        differ = abs(short - long) > LOST_SHARE * xp.maximum(abs(short), abs(long))
        step = (far * a[0], far * a[1])
        if not bool(xp.any(differ)) or not (
            measured := measure_noise(self.backend, functools.partial(self._trial_along, step))
        ):
            return noise
        differ = differ & (far * abs(short - long) > LOST_FACTOR * measured[0])
        return xp.where(differ, xp.maximum(noise, measured[0]), noise)

    def _trial_along(self, a: Direction, t: float) -> Array | None:
        return self.trial(shift(None, a, t))

    def by_difference(self, a: Direction, step: float) -> Array | None:
        """Return the difference along a with a relative step, or None if f has no value there."""
        trial = self._displaced_trial if self.displaced is None else self.trial
        return self._one_difference(trial, a, None, step / self.longest(a))

    def difference(
        self,
        g: Callable[[Direction | None], Array | None],
        a: Direction,
        at: Direction | None = None,
        rounding_of: Direction | None = None,
    ) -> Array:
        """Return the derivative of g along a by a difference on the points where g has a value.

        If there is none, the entries of a are differenced in two parts, since g may have values on
        different sides, and finally with shorter steps.
        """
        t = self.step / self.longest(a)
        if (found := self._one_difference(g, a, at, t, rounding_of)) is not None:
            return found
        if not self.shorten_steps:
            return self.backend.zeros(self.size) + self.backend.xp.nan
        if g(at) is None:  # there is no derivative where there is no value
            if self.failure.value is not None:
                raise self.failure.value
            return self.backend.zeros(self.size) + self.backend.xp.nan
        if (halves := self._halves(a)) is not None:
            return sum(self.difference(g, half, at, rounding_of) for half in halves)
        for _ in range(MAX_SHORTER_STEPS):
            t = t * SHORTER_STEP
            if (found := self._one_difference(g, a, at, t, rounding_of)) is not None:
                return found
        if self.failure.value is not None:
            raise self.failure.value
        return self.backend.zeros(self.size) + self.backend.xp.nan

    def _one_difference(
        self,
        g: Callable[[Direction | None], Array | None],
        a: Direction,
        at: Direction | None,
        t: float,
        rounding_of: Direction | None = None,
    ) -> Array | None:
        plus, minus = g(shift(at, a, t)), g(shift(at, a, -t))
        if plus is not None and minus is not None:
            return self.above_rounding(plus - minus, (plus, minus), rounding_of) / (2.0 * t)
        side, near = (t, plus) if plus is not None else (-t, minus)
        if near is None or (far := g(shift(at, a, 2.0 * side))) is None or (here := g(at)) is None:
            return None
        difference = 4.0 * (near - here) - (far - here)
        return self.above_rounding(difference, (near, here, far), rounding_of) / (2.0 * side)

    def above_rounding(
        self, difference: Array, values: tuple[Array, ...], rounding_of: Direction | None
    ) -> Array:
        """Return differences of derivatives, with those below their rounding error set to zero."""
        xp, backend = self.backend.xp, self.backend
        rounding: Any = 0.0
        if rounding_of is not None:  # of derivatives that are differences themselves
            rounding = 4.0 * self.noise * self.longest(rounding_of) / self.step
        elif self.complex_step:
            rounding = 4.0 * backend.eps * sum(xp.abs(value) for value in values)
        return xp.where(xp.abs(difference) > rounding, difference, xp.zeros_like(difference))

    def _halves(self, a: Direction) -> list[Direction] | None:
        """Split a direction into two with half of its nonzero entries each, or return None."""
        xp = self.backend.xp
        stacked, P = xp.concat(list(a)), a[0].shape[0]
        nonzero = xp.nonzero(stacked)[0]
        if (count := nonzero.shape[0]) < 2:
            return None
        halves = [xp.asarray(stacked, copy=True) for _ in range(2)]
        middle = int(nonzero[count // 2])
        halves[0][middle:], halves[1][:middle] = 0.0, 0.0
        return [(half[:P], half[P:]) for half in halves]

    # A value at a point nearby, in which a change of f shows.

    def keep_displaced_value(self) -> None:
        """Keep the value of f at a point nearby for `displaced_values`, unless there is one."""
        random = [self.backend.random(x.shape[0], seed=DISPLACED_SEED) for x in self.x]
        for distance in (self.step, -self.step, 0.0):
            if self.displaced is None:
                self._displaced_trial(shift(None, (random[0], random[1]), distance))

    def displaced_values(self) -> tuple[Array, Array]:
        """Return the value of f at a point nearby as it was and as it is now.

        A change of f shows there even if it vanishes at the point itself, as that of a factor of
        zero.
        """
        self.keep_displaced_value()
        (theta, h), value = self.displaced
        with self.backend.ignore_overflow():
            return value, self.evaluate(h, theta)

    def _displaced_trial(self, at: Direction | None) -> Array | None:
        value = self.trial(at)
        if value is not None:
            self.displaced = self.point(at), value
        return value
