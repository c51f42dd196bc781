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
from collections.abc import Callable, Iterator
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, as_array, host
from ..errors import ModelError, is_evaluation_failure, note_origin
from ..locks import PerThread, cached_property
from ..operators.operator import Operator
from .adapted_sizes import adapt_sizes
from .complex_step_check import ComplexStepVerdict, judge_complex_step
from .nearby_points import nearby_point, typical_sizes
from .steps import StepRule, measure_noise, typical_noise, variable_sizes

SECOND_STEP_FACTOR = 4.0  # second derivatives from values use this times step^(3/4) ~ eps^(1/4)
ERROR_FACTOR = 4.0  # safety factor of errors estimated for derivatives of order one
# Spacings of points on a line, relative to the usual step; the next is tried if values are equal.
NOISE_SPACINGS = (1 / 8, 8.0, 512.0)
MAX_STEP = 0.05  # relative to the sizes of variables, of a function with much noise
ROUNDING_SHARE = 0.25  # least noise of an entry, in rounding units of its terms
DISPLACED_SEED = 41  # of a point at which values are compared
NOISY = 1e4  # noise of a function in rounding units, above which all steps are longer
SHORTER_STEP = 1 / 16  # factor of a step at whose ends f has no value
MAX_SHORTER_STEPS = 6
MAGNITUDE_RATIO = 1e-3  # parts of a direction that differ by more are differenced separately
MAX_MAGNITUDES = 3
Direction = tuple[Array, Array]  # (dtheta, dh)


class DirectionalDerivatives:
    """First and second directional derivatives of f at one point.

    Directions are scaled by the sizes of the variables: entry i of a direction is in units of the
    size of variable i.

    Parameters
    ----------
    f : callable
        A function of (h, theta).
    name : str
        The name of f in messages.
    h, theta : (N,) and (P,) arrays
        The point.
    rule : StepRule
    step_factor : float, optional
        A factor of all steps. Different factors give derivatives with independent errors.
    state_scale : (N,) array, optional
        The sizes of unknowns that are zero.
    refusal : str, optional
        Why the complex step is not valid for f, if that is known.
    size : int, optional
        The number m of entries of f, by default N. The shapes (N,) of what is computed from its
        values below are (m,) then.

    Attributes
    ----------
    sizes : pair of (P,) and (N,) arrays
        The sizes of theta and h.
    known : pair of (P,) and (N,) arrays of bool
        Whether each size is known; False for variables that are zero.
    relative_noise : float
        The noise of f relative to its terms.
    complex_step : bool
        Whether first derivatives are complex steps.
    verdict : ComplexStepVerdict
        Why they are not.
    shorten_steps : bool
        Whether steps at whose ends f has no value are shortened; otherwise the result is NaN.
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
        self.f, self.name, self.x = f, name, (theta, h)
        self.size = h.shape[0] if size is None else size
        self.rule, self.step_factor, self.state_scale = rule, step_factor, state_scale
        self.backend = backend = Backend.of(h, theta)
        scale = (None, None) if rule.scale is None else rule.scale
        params = variable_sizes(backend, theta, scale[1], None, "scale of the parameters")
        state = variable_sizes(backend, h, scale[0], state_scale, "scale of the state")
        self.sizes, self.known = (params[0], state[0]), (params[1], state[1])
        self.step = step_factor * (rule.relative_step or backend.eps ** (1 / 3))
        self.second_step = SECOND_STEP_FACTOR * self.step**0.75
        self.relative_noise = backend.eps
        self.shorten_steps = True
        self._failure = PerThread()  # the last exception of f, None if it returned NaN instead
        # A point (theta, h) at a small distance in all variables, and the value of f there.
        self._displaced: Any = None
        self.latest_value: Any = None  # at the point, the real part of a complex step
        self.complex_step = False
        if rule.relative_step:
            refusal = "a step was passed"
        self.verdict = ComplexStepVerdict(False, refusal) if refusal else judge_complex_step(self)
        self.complex_step = self.verdict.valid
        if not self.complex_step and rule.scale is None:
            if rule.relative_step is None:
                self._follow_noise()
            self.sizes = adapt_sizes(self, self.trial)
        if not self.complex_step:
            self._displaced = None  # which may not be one in all variables

    @cached_property
    def value(self) -> Array:
        """The (N,) value of f at the point."""
        with self.backend.ignore_overflow():
            return self._value(None)

    def keep_displaced_value(self) -> None:
        """Keep the value of f at a point nearby for `displaced_values`, unless there is one."""
        random = [self.backend.random(x.shape[0], seed=DISPLACED_SEED) for x in self.x]
        for distance in (self.step, -self.step, 0.0):
            if self._displaced is None:
                self._displaced_trial(_shift(None, (random[0], random[1]), distance))

    def displaced_values(self) -> tuple[Array, Array]:
        """Return the value of f at a point nearby as it was and as it is now.

        A change of f shows there even if it vanishes at the point itself, as that of a factor of
        zero.
        """
        self.keep_displaced_value()
        (theta, h), value = self._displaced
        with self.backend.ignore_overflow():
            return value, self._evaluate(h, theta)

    def _displaced_trial(self, at: Direction | None) -> Array | None:
        value = self.trial(at)
        if value is not None:
            self._displaced = self._point(at), value
        return value

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

        Variables of unknown size stay as they are, since they may be much smaller than that.
        """
        backend, xp = self.backend, self.backend.xp
        rounding = 0.5 * backend.eps * abs(self.value)
        found = []
        for part, known in enumerate(self.known):
            direction: list[Array] = [0.0 * x for x in self.x]
            direction[part] = (0.5 + abs(backend.random(known.shape[0], seed=19))) * known
            noise, visible = rounding, rounding < 0.0
            for spacing in NOISE_SPACINGS if bool(xp.any(known)) else ():
                spacing *= backend.eps ** (1 / 3)
                step = (spacing * direction[0], spacing * direction[1])
                measured = measure_noise(backend, functools.partial(self._trial_along, step))
                if measured is None:
                    break
                noise, visible, resolved = measured
                if resolved:
                    break
            found.append((noise, visible))
        largest = xp.maximum(found[0][0], found[1][0])
        largest = xp.maximum(largest, ROUNDING_SHARE * backend.eps * self.terms)
        theta, h = (
            xp.where(visible, typical_noise(backend, noise, largest), largest)
            for noise, visible in found
        )
        return theta, h

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
        if self._longest(a) == 0.0:
            return self.backend.zeros(self.size)
        if self.complex_step:
            return self.by_complex_step(a, at)
        return self._difference(self.trial, a, at)

    def first_with_asymmetry(self, a: Direction) -> tuple[Array, Array]:
        """Return the difference along a, and half of what the one-sided differences differ by.

        Where f bends smoothly, the second is proportional to the step. At a kink it is the error
        of the first. It is zero if f has a value on one side only.
        """
        zero = self.backend.zeros(self.size)
        if (longest := self._longest(a)) == 0.0:
            return zero, zero
        t = self.step / longest
        plus, minus = (self.trial(_shift(None, a, side)) for side in (t, -t))
        if plus is None or minus is None:
            return self._difference(self.trial, a), zero
        return (plus - minus) / (2.0 * t), (plus - 2.0 * self.value + minus) / (2.0 * t)

    def first_of_block(self, a: Direction, at: Direction | None = None) -> Array:
        """Return f'[a] for the columns a of two blocks, (P, k) and (N, k), as an (N, k) block."""
        if self.complex_step:
            return self._by_complex_steps(a, at)
        of_columns = [self.first(column, at) for column in _columns(a)]
        return self.backend.xp.stack(of_columns, axis=1)

    def second_of_block(self, a: Direction, b: Direction) -> Array:
        """Return f''[a, b] for one b and the columns a of two blocks, as an (N, k) block."""
        if self.complex_step:
            total: Any = self.backend.zeros(self.size, a[0].shape[1])
            for part in self._magnitudes(b):
                t = self.step / self._longest(part)
                there = functools.partial(self._finite, functools.partial(self.first_of_block, a))
                plus, minus = there(_shift(None, part, t)), there(_shift(None, part, -t))
                if plus is None or minus is None:
                    break
                total = total + self._above_rounding(plus - minus, (plus, minus), None) / (2.0 * t)
            else:
                return total
        return self.backend.xp.stack([self.second(column, b) for column in _columns(a)], axis=1)

    def second(self, a: Direction, b: Direction) -> Array:
        """Return f''[a, b], with entries below the rounding error of the difference set to zero."""
        total = self.backend.zeros(self.size)
        if self.complex_step:
            for part in self._magnitudes(b):
                total = total + self._difference(functools.partial(self.trial_first, a), part)
            return total
        steps = self.with_sizes(self.sizes, self.second_step)
        for of_a in self._magnitudes(a):
            for of_b in self._magnitudes(b):
                inner = functools.partial(steps.trial_first, of_a)
                total = total + steps._difference(inner, of_b, rounding_of=of_a)
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
        h, theta = nearby_point(self._evaluate, h, theta, sizes[::-1], i)
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

    def by_complex_step(self, a: Direction, at: Direction | None = None) -> Array:
        """Return the complex step along a."""
        column = a[0][:, None], a[1][:, None]
        return self._by_complex_steps(column, at)[:, 0]

    def _by_complex_steps(self, a: Direction, at: Direction | None) -> Array:
        """Return the complex steps along the columns of two blocks, as an (N, k) block."""
        xp, backend = self.backend.xp, self.backend
        longest = xp.max(xp.concat([xp.abs(part) for part in a]), axis=0)
        tiny = backend.eps**2 / xp.where(longest > 0.0, longest, xp.ones_like(longest))
        tiny_rows = 1j * tiny[:, None]
        theta, h = self._point(at)
        # A contiguous vector for each column.
        theta = theta + tiny_rows * (self.sizes[0] * a[0].T)
        h = h + tiny_rows * (self.sizes[1] * a[1].T)
        steps = array_on_host(longest)
        if self.size == h.shape[1]:
            out = 0.0 * h
        else:
            out = xp.zeros((steps.shape[0], self.size), dtype=h.dtype, device=backend.device)
        name, shape = f"{self.name}, of complex arrays,", (self.size,)
        with note_origin(f"{name} of shapes {h.shape[1:]}, {theta.shape[1:]}"):
            for j in range(steps.shape[0]):
                if steps[j] != 0.0:
                    value = self.f(h[j, :], theta[j, :])
                    if (
                        type(value) is not host.ndarray
                        or value.shape != shape
                        or value.dtype.kind != "c"
                    ):
                        value = self._complex_array(value, name)
                    out[j, :] = value
        if at is None and steps.shape[0] and steps[-1] != 0.0:
            self.latest_value = xp.real(out[-1, :])  # squares of the step are lost in rounding
        # A NaN may have an imaginary part of zero.
        derivative = xp.where(xp.isfinite(out), xp.imag(out) / tiny[:, None], xp.nan)
        return xp.asarray(derivative, dtype=backend.dtype).T

    def _complex_array(self, out: Any, name: str) -> Array:
        """Return a value of f as a complex array of the backend, or raise `ModelError`."""
        shape = (self.size,)
        out = as_array(self.backend, out, f"{name} (an array of shape {shape})", ModelError)
        complex_numbers = self.backend.xp.isdtype(out.dtype, "complex floating")
        if tuple(out.shape) != tuple(shape) or not complex_numbers:
            raise ModelError(
                f"{name}: expected a complex array of shape {shape}, got dtype {out.dtype} and "
                f"shape {tuple(out.shape)}"
            )
        return out

    def by_difference(self, a: Direction, step: float) -> Array | None:
        """Return the difference along a with a relative step, or None if f has no value there."""
        trial = self._displaced_trial if self._displaced is None else self.trial
        return self._one_difference(trial, a, None, step / self._longest(a))

    def _follow_noise(self) -> None:
        """Choose the step for the noise that is typical of the entries."""
        xp, eps = self.backend.xp, self.backend.eps
        usable = (self.terms > 0) & xp.isfinite(self.terms) & xp.isfinite(self.noise)
        ratio = xp.sort(self.noise[usable] / self.terms[usable])
        if ratio.shape[0] and (typical := float(ratio[ratio.shape[0] // 2])) > NOISY * eps:
            self.relative_noise = typical
            self.step = self.step_factor * min(typical ** (1 / 3), MAX_STEP)
            self.__dict__.pop("terms")  # which are those of longer steps now

    def _longest(self, a: Direction) -> float:
        largest = self.backend.largest
        return max(largest(a[0]), largest(a[1]))

    def _magnitudes(self, a: Direction) -> list[Direction]:
        """Split a into parts whose entries are of similar sizes, so that each has its own step."""
        parts: list[Direction] = []
        rest = a
        for _ in range(MAX_MAGNITUDES - 1):
            if (longest := self._longest(rest)) == 0.0:
                return parts
            large = [abs(part) >= MAGNITUDE_RATIO * longest for part in rest]
            parts.append(tuple(part * keep for part, keep in zip(rest, large, strict=True)))
            rest = tuple(part * ~keep for part, keep in zip(rest, large, strict=True))
        return parts if self._longest(rest) == 0.0 else [*parts, rest]

    def _point(self, at: Direction | None) -> tuple[Array, Array]:
        if at is None:
            return self.x
        (theta, h), sizes = self.x, self.sizes
        return theta + sizes[0] * at[0], h + sizes[1] * at[1]

    def _value(self, at: Direction | None) -> Array:
        theta, h = self._point(at)
        return self._evaluate(h, theta)

    def _evaluate(self, h: Array, theta: Array) -> Array:
        copied = self.backend.copied
        with note_origin(f"{self.name}, of shapes {tuple(h.shape)}, {tuple(theta.shape)}"):
            out = self.f(copied(h), copied(theta))
        return self.backend.check_array(out, (self.size,), self.name, finite=False)

    def trial(self, at: Direction | None) -> Array | None:
        """Return the value at a shifted point, or None if f raises or is not finite there."""
        return self._finite(self._value, at)

    def _trial_along(self, a: Direction, t: float) -> Array | None:
        return self.trial(_shift(None, a, t))

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
        return self._finite(functools.partial(self.first, a), at)

    def _finite(self, function: Callable[..., Array], at: Direction | None) -> Array | None:
        with self.backend.ignore_overflow():
            try:
                value = function(at)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                self._failure.value = error
                return None
            if self.backend.all(self.backend.xp.isfinite(value)):
                return value
            self._failure.value = None
            return None

    def _difference(
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
        t = self.step / self._longest(a)
        if (found := self._one_difference(g, a, at, t, rounding_of)) is not None:
            return found
        if not self.shorten_steps:
            return self.backend.zeros(self.size) + self.backend.xp.nan
        if g(at) is None:  # there is no derivative where there is no value
            if self._failure.value is not None:
                raise self._failure.value
            return self.backend.zeros(self.size) + self.backend.xp.nan
        if (halves := self._halves(a)) is not None:
            return sum(self._difference(g, half, at, rounding_of) for half in halves)
        for _ in range(MAX_SHORTER_STEPS):
            t = t * SHORTER_STEP
            if (found := self._one_difference(g, a, at, t, rounding_of)) is not None:
                return found
        if self._failure.value is not None:
            raise self._failure.value
        return self.backend.zeros(self.size) + self.backend.xp.nan

    def _one_difference(
        self,
        g: Callable[[Direction | None], Array | None],
        a: Direction,
        at: Direction | None,
        t: float,
        rounding_of: Direction | None = None,
    ) -> Array | None:
        plus, minus = g(_shift(at, a, t)), g(_shift(at, a, -t))
        if plus is not None and minus is not None:
            return self._above_rounding(plus - minus, (plus, minus), rounding_of) / (2.0 * t)
        side, near = (t, plus) if plus is not None else (-t, minus)
        if near is None or (far := g(_shift(at, a, 2.0 * side))) is None or (here := g(at)) is None:
            return None
        difference = 4.0 * (near - here) - (far - here)
        return self._above_rounding(difference, (near, here, far), rounding_of) / (2.0 * side)

    def _above_rounding(
        self, difference: Array, values: tuple[Array, ...], rounding_of: Direction | None
    ) -> Array:
        """Return differences of derivatives, with those below their rounding error set to zero."""
        xp, backend = self.backend.xp, self.backend
        rounding: Any = 0.0
        if rounding_of is not None:  # of derivatives that are differences themselves
            rounding = 4.0 * self.noise * self._longest(rounding_of) / self.step
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
        columns = _columns((x, rest) if self.part == 0 else (rest, x))
        found = [xp.concat(self.derivatives.first_with_asymmetry(column)) for column in columns]
        return xp.stack(found, axis=1)


def _columns(a: Direction) -> Iterator[Direction]:
    """Iterate over the columns of two blocks as directions."""
    return ((a[0][:, j], a[1][:, j]) for j in range(a[0].shape[1]))


def _shift(at: Direction | None, a: Direction, t: float) -> Direction:
    """Return at + t a, where None denotes zero."""
    if at is None:
        return t * a[0], t * a[1]
    return at[0] + t * a[0], at[1] + t * a[1]
