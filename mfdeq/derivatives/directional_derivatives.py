"""Numerical directional derivatives of a function f of x = (theta, h) at one point.

The first derivative along a direction a is

- the complex step, Im f(x + i e a) / e with a tiny e, which is exact to rounding [1]_, or
- a central difference, (f(x + t a) − f(x − t a)) / 2t, whose step t ~ eps^(1/3) balances
  truncation and rounding [2]_ and leaves a relative error of eps^(2/3).

The second derivative along a and b is a central difference along b of the complex step along a,
with a relative error of eps^(2/3), or a difference of four values with steps t ~ eps^(1/4) and a
relative error of eps^(1/2).

References
----------
.. [1] W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real
   functions", SIAM Review 40 (1998), 110-112.
.. [2] P. E. Gill, W. Murray, M. A. Saunders and M. H. Wright, "Computing forward-difference
   intervals for numerical optimization", SIAM Journal on Scientific and Statistical Computing 4
   (1983), 310-321.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, as_array
from ..errors import ArgumentError, ModelError, note_origin
from ..operators.operator import Operator, columnwise
from .nearby_points import nearby_point, typical_sizes

SECOND_STEP_FACTOR = 4.0  # second derivatives from values use this times step^(3/4) ~ eps^(1/4)
ERROR_FACTOR = 4.0  # safety factor of errors estimated for derivatives of order one
Direction = tuple[Array, Array]  # (dtheta, dh)


@dataclass(frozen=True)
class StepRule:
    """The step sizes of finite differences.

    Parameters
    ----------
    relative_step : float, optional
        The step relative to the typical sizes. By default it is optimal for a smooth function.
    scale : pair of floats or arrays, optional
        Typical sizes of the state and of the parameters, by default those of the point.
    """

    relative_step: float | None = None
    scale: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        step, scale = self.relative_step, self.scale
        if step is not None and not (isinstance(step, float) and 0.0 < step < 1.0):
            raise ArgumentError(f"step: expected a float between 0 and 1, or None, got {step!r}")
        if scale is not None and not (isinstance(scale, (tuple, list)) and len(scale) == 2):
            raise ArgumentError(
                f"scale: expected a pair (state scale, parameter scale), got {type(scale).__name__}"
            )


class DirectionalDerivatives:
    """First and second directional derivatives of f at one point.

    Directions are scaled by typical sizes: entry i of a direction is in units of the typical size
    of variable i.

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

    Attributes
    ----------
    sizes : pair of (P,) and (N,) arrays
        The typical sizes of theta and h.
    method : str
        A description of how first derivatives are computed.
    accuracy : tuple of two floats
        Relative accuracy of first and of second derivatives.
    """

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        name: str,
        h: Array,
        theta: Array,
        rule: StepRule,
        step_factor: float = 1.0,
    ) -> None:
        self.f, self.name, self.x = f, name, (theta, h)
        self.rule, self.step_factor = rule, step_factor
        self.backend = backend = Backend.of(h, theta)
        scale = (None, None) if rule.scale is None else rule.scale
        self.sizes = (
            _sizes(backend, theta, scale[1], "scale of the parameters"),
            _sizes(backend, h, scale[0], "scale of the state"),
        )
        eps = backend.eps
        self.step = step_factor * (rule.relative_step or eps ** (1 / 3))
        self.second_step = SECOND_STEP_FACTOR * self.step**0.75
        self.complex_step, why_not = (False, "") if rule.relative_step else self._try_complex_step()
        if self.complex_step:
            self.method = "the complex step"
            self.accuracy = ERROR_FACTOR * eps, ERROR_FACTOR * eps ** (2 / 3)
        else:
            self.method = f"central differences{why_not}"
            self.accuracy = (
                ERROR_FACTOR * max(eps / self.step, self.step**2),
                ERROR_FACTOR * max(eps / self.second_step**2, self.second_step**2),
            )

    @property
    def size(self) -> int:
        """The number N of entries of f."""
        return self.x[1].shape[0]

    def first(self, a: Direction, at: Direction | None = None) -> Array:
        """Return f'[a] at the point, or at the point shifted by the direction `at`."""
        longest = self._longest(a)
        if longest == 0.0:
            return self.backend.zeros(self.size)
        if self.complex_step:
            return self._by_complex_step(a, longest, at)
        t = self.step / longest
        return (self._value(_shift(at, a, t)) - self._value(_shift(at, a, -t))) / (2.0 * t)

    def second(self, a: Direction, b: Direction) -> Array:
        """Return f''[a, b], with entries below the rounding error of the difference set to zero."""
        if 0.0 in (longest := (self._longest(a), self._longest(b))):
            return self.backend.zeros(self.size)
        if self.complex_step:
            t = self.step / longest[1]
            plus, minus = (self.first(a, _shift(None, b, sign * t)) for sign in (1.0, -1.0))
            return self._difference([plus], [minus]) / (2.0 * t)
        s, t = self.second_step / longest[0], self.second_step / longest[1]
        same, opposite = (
            [self._value(_shift(_shift(None, a, p * s), b, p * q * t)) for p in (1.0, -1.0)]
            for q in (1.0, -1.0)
        )
        return self._difference(same, opposite) / (4.0 * s * t)

    def jacobians(self) -> list[Operator]:
        """Return df/dh and df/dtheta as operators on scaled directions."""
        return [_Jacobian(self, 1), _Jacobian(self, 0)]

    def unscale(self, jacobian: Operator, part: int) -> Any:
        """Return the matrix of df/dtheta (part 0) or df/dh (part 1) in unscaled variables."""
        backend, columns = self.backend, jacobian.shape[1]
        array: Any = jacobian.array
        if array is None:
            array = jacobian._apply(backend.eye(columns, columns))
        if isinstance(array, backend.xp.ndarray):
            return array / self.sizes[part]
        return array @ backend.sparse.diags(1.0 / self.sizes[part])

    def nearby(self, i: int) -> DirectionalDerivatives:
        """Return the derivatives at a nearby point, different for each i."""
        theta, h = self.x
        h, theta = nearby_point(self._evaluate, h, theta, self.sizes[::-1], i)
        return DirectionalDerivatives(self.f, self.name, h, theta, self.rule, self.step_factor)

    def _longest(self, a: Direction) -> float:
        xp = self.backend.xp
        return max(float(xp.max(xp.abs(part))) for part in a)

    def _point(self, at: Direction | None) -> tuple[Array, Array]:
        if at is None:
            return self.x
        return tuple(x + s * a for x, s, a in zip(self.x, self.sizes, at, strict=True))

    def _value(self, at: Direction | None) -> Array:
        theta, h = self._point(at)
        return self._evaluate(h, theta)

    def _evaluate(self, h: Array, theta: Array) -> Array:
        copy = self.backend.xp.asarray
        with note_origin(f"{self.name}, of shapes {tuple(h.shape)}, {tuple(theta.shape)}"):
            out = self.f(copy(h, copy=True), copy(theta, copy=True))
        return self.backend.check_array(out, tuple(h.shape), self.name, finite=False)

    def _difference(self, plus: list[Array], minus: list[Array]) -> Array:
        xp = self.backend.xp
        difference = sum(plus) - sum(minus)
        rounding = 4.0 * self.backend.eps * sum(xp.abs(x) for x in [*plus, *minus])
        return xp.where(xp.abs(difference) > rounding, difference, xp.zeros_like(difference))

    def _by_complex_step(self, a: Direction, longest: float, at: Direction | None) -> Array:
        xp, point = self.backend.xp, self._point(at)
        tiny = float(xp.finfo(self.backend.dtype).tiny) ** 0.5 / longest
        theta, h = (
            x + 1j * (tiny * size * part)
            for x, size, part in zip(point, self.sizes, a, strict=True)
        )
        name, shape = f"{self.name}, of complex arrays,", (self.size,)
        with note_origin(f"{name} of shapes {tuple(h.shape)}, {tuple(theta.shape)}"):
            out = self.f(h, theta)
        out = as_array(self.backend, out, f"{name} (an array of shape {shape})", ModelError)
        if tuple(out.shape) != shape or not xp.isdtype(out.dtype, "complex floating"):
            raise ModelError(
                f"{name}: expected a complex array of shape {shape}, got dtype {out.dtype} and "
                f"shape {tuple(out.shape)}"
            )
        # A NaN may have an imaginary part of zero.
        derivative = xp.where(xp.isfinite(out), xp.imag(out) / tiny, xp.nan)
        return xp.asarray(derivative, dtype=self.backend.dtype)

    def _try_complex_step(self) -> tuple[bool, str]:
        """Return whether the complex step is valid along a random direction, and why not."""
        backend = self.backend
        a: Any = tuple(backend.random(x.shape[0], seed=17) for x in self.x)
        try:
            with warnings.catch_warnings(), backend.ignore_overflow():
                warnings.simplefilter("ignore")  # numpy warns if an imaginary part is discarded
                derivative = self._by_complex_step(a, self._longest(a), None)
        except Exception as error:
            reason = f"{error}" or type(error).__name__
            return False, f" (f does not accept complex arrays: {reason})"
        self.complex_step = False  # so that `first` computes a difference
        with backend.ignore_overflow():
            difference = self.first(a)
            error_norm, size = backend.norm(derivative - difference), backend.norm(difference)
        if error_norm <= 10.0 * backend.eps ** (1 / 3) * size or not size < float("inf"):
            return True, ""
        return False, " (f is not analytic: the complex step is not its derivative)"


class _Jacobian(Operator):
    """The derivative df/dtheta (part 0) or df/dh (part 1), given by products with directions."""

    def __init__(self, derivatives: DirectionalDerivatives, part: int) -> None:
        super().__init__(derivatives, (derivatives.size, derivatives.x[part].shape[0]))
        self.derivatives, self.part = derivatives, part

    def _apply(self, x: Array) -> Array:
        return columnwise(self._along, x, self.backend, self.shape[0])

    def _along(self, x: Array) -> Array:
        rest = 0.0 * self.derivatives.x[1 - self.part]
        return self.derivatives.first((x, rest) if self.part == 0 else (rest, x))


class SecondDerivativeAlong(Operator):
    """The linear map a -> f''[a, b] of stacked (P+N,) directions for fixed b, (N, P+N)."""

    def __init__(self, derivatives: DirectionalDerivatives, b: Array) -> None:
        self.derivatives, self.P = derivatives, derivatives.x[0].shape[0]
        super().__init__(derivatives, (derivatives.size, self.P + derivatives.size))
        self.b = self._split(b)

    def _split(self, x: Array) -> Direction:
        return x[: self.P], x[self.P :]

    def _apply(self, x: Array) -> Array:
        return columnwise(self._along, x, self.backend, self.shape[0])

    def _along(self, a: Array) -> Array:
        return self.derivatives.second(self._split(a), self.b)


def _shift(at: Direction | None, a: Direction, t: float) -> Direction:
    """Return at + t a, where None denotes zero."""
    if at is None:
        return t * a[0], t * a[1]
    return at[0] + t * a[0], at[1] + t * a[1]


def _sizes(backend: Backend, x: Array, scale: Any, name: str) -> Array:
    """Return the typical sizes of the entries of x, or `scale` if the user passed it."""
    xp = backend.xp
    if scale is None:
        return typical_sizes(x)
    sizes = backend.check_array(scale, None, name, ArgumentError)
    if sizes.shape not in ((), x.shape):
        raise ArgumentError(
            f"{name}: expected a number or an array of shape {tuple(x.shape)}, got shape "
            f"{tuple(sizes.shape)}"
        )
    if not bool(xp.all(sizes > 0)):
        raise ArgumentError(f"{name}: expected positive numbers, got {float(xp.min(sizes))}")
    return sizes + 0.0 * x
