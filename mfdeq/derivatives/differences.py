"""Directional derivatives of a function of x = (theta, h), at one place.

first    Im f(x + i e a) / e                   exact to rounding (Squire and Trapp 1998)
         (f(x + t a) - f(x - t a)) / 2t        relative error eps^(2/3)
second   (f'(x + t b)[a] - f'(x - t b)[a]) / 2t
                                               of the former eps^(2/3), of the latter eps^(1/2)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, as_array
from ..errors import ArgumentError, ModelError, note_origin
from ..operators.operator import Operator, columnwise
from .sparsity import place_near, typical_sizes

WIDE = 4.0  # times step^(3/4), eps^(1/4): the step of second derivatives by values
INEXACT = 4.0  # times what a smooth function of size one leaves
Direction = tuple[Array, Array]  # (dtheta, dh)


@dataclass(frozen=True)
class Steps:
    """How differences are taken.

    Attributes
    ----------
    relative : float or None
        Step, relative to the sizes; None is the best for a smooth function.
    scale : pair or None
        Typical sizes of the state and of the parameters, numbers or arrays.
    """

    relative: float | None = None
    scale: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        step, scale = self.relative, self.scale
        if step is not None and not (isinstance(step, float) and 0.0 < step < 1.0):
            raise ArgumentError(f"step is {step!r}; a float between 0 and 1, or None, was expected")
        if scale is not None and not (isinstance(scale, (tuple, list)) and len(scale) == 2):
            raise ArgumentError(
                f"scale is {scale!r}; a pair, for the state and the parameters, was expected"
            )


class Slopes:
    """Derivatives of f at one place; directions are in units of the typical sizes.

    Parameters
    ----------
    f : callable
        Of (h, theta).
    name : str
        Of f, in messages.
    h, theta : arrays
        The place.
    steps : Steps
    wider : float
        Times the steps.

    Attributes
    ----------
    sizes : (P,) and (N,) arrays
        A direction of one is that.
    how : str
        How first derivatives are taken, in words.
    accuracy : tuple of two floats
        Relative accuracy of first and of second derivatives.
    """

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        name: str,
        h: Array,
        theta: Array,
        steps: Steps,
        wider: float = 1.0,
    ) -> None:
        self.f, self.name, self.x, self.steps, self.wider = f, name, (theta, h), steps, wider
        self.backend = backend = Backend.of(h, theta)
        given = (None, None) if steps.scale is None else steps.scale
        self.sizes = (
            _sizes(backend, theta, given[1], "scale of the parameters"),
            _sizes(backend, h, given[0], "scale of the state"),
        )
        eps = backend.eps
        self.step = wider * (steps.relative or eps ** (1 / 3))
        self.exact, why = (False, "") if steps.relative else self._complex_works()
        if self.exact:
            self.how, self.accuracy = "the complex step", (INEXACT * eps, INEXACT * eps ** (2 / 3))
        else:
            self.how = f"central differences{why}"
            wide = WIDE * self.step**0.75
            left = max(eps / self.step, self.step**2), max(eps / wide**2, wide**2)
            self.accuracy = INEXACT * left[0], INEXACT * left[1]

    @property
    def size(self) -> int:
        """N."""
        return self.x[1].shape[0]

    def first(self, a: Direction, at: Direction | None = None) -> Array:
        """f'[a], at the place moved by `at`."""
        longest = self._longest(a)
        if longest == 0.0:
            return self.backend.zeros(self.size)
        if self.exact:
            return self._by_complex_step(a, longest, at)
        t = self.step / longest
        return (self._value(_moved(at, a, t)) - self._value(_moved(at, a, -t))) / (2.0 * t)

    def second(self, a: Direction, b: Direction) -> Array:
        """f''[a, b]; zero where it is below the rounding of what it is a difference of."""
        if 0.0 in (longest := (self._longest(a), self._longest(b))):
            return self.backend.zeros(self.size)
        if self.exact:
            t = self.step / longest[1]
            plus, minus = (self.first(a, _moved(None, b, sign * t)) for sign in (1.0, -1.0))
            return self._difference([plus], [minus]) / (2.0 * t)
        wide = WIDE * self.step**0.75
        s, t = wide / longest[0], wide / longest[1]
        same, opposite = (
            [self._value(_moved(_moved(None, a, p * s), b, p * q * t)) for p in (1.0, -1.0)]
            for q in (1.0, -1.0)
        )
        return self._difference(same, opposite) / (4.0 * s * t)

    def derivatives(self) -> list[Operator]:
        """df/dh and df/dtheta by their products, in units of the typical sizes."""
        return [_Partial(self, 1), _Partial(self, 0)]

    def unscaled(self, derivative: Operator, part: int) -> Any:
        """The matrix of df/dtheta (part 0) or df/dh (1), of unit directions."""
        backend, columns = self.backend, derivative.shape[1]
        array: Any = derivative.array
        if array is None:
            array = derivative._apply(backend.eye(columns, columns))
        if isinstance(array, backend.xp.ndarray):
            return array / self.sizes[part]
        return array @ backend.sparse.diags(1.0 / self.sizes[part])

    def nearby(self, i: int) -> Slopes:
        """At another place, near this one."""
        theta, h = self.x
        h, theta = place_near(self._at, h, theta, self.sizes[::-1], i)
        return Slopes(self.f, self.name, h, theta, self.steps, self.wider)

    def _longest(self, a: Direction) -> float:
        xp = self.backend.xp
        return max(float(xp.max(xp.abs(part))) for part in a)

    def _place(self, at: Direction | None) -> tuple[Array, Array]:
        if at is None:
            return self.x
        return tuple(x + s * a for x, s, a in zip(self.x, self.sizes, at, strict=True))

    def _value(self, at: Direction | None) -> Array:
        theta, h = self._place(at)
        return self._at(h, theta)

    def _at(self, h: Array, theta: Array) -> Array:
        copy = self.backend.xp.asarray
        with note_origin(f"{self.name}, of shapes {tuple(h.shape)}, {tuple(theta.shape)}"):
            out = self.f(copy(h, copy=True), copy(theta, copy=True))
        return self.backend.checked(out, tuple(h.shape), self.name, finite=False)

    def _difference(self, plus: list[Array], minus: list[Array]) -> Array:
        xp = self.backend.xp
        found = sum(plus) - sum(minus)
        rounding = 4.0 * self.backend.eps * sum(xp.abs(x) for x in [*plus, *minus])
        return xp.where(xp.abs(found) > rounding, found, xp.zeros_like(found))

    def _by_complex_step(self, a: Direction, longest: float, at: Direction | None) -> Array:
        xp, place = self.backend.xp, self._place(at)
        tiny = float(xp.finfo(self.backend.dtype).tiny) ** 0.5 / longest
        theta, h = (
            x + 1j * (tiny * size * part)
            for x, size, part in zip(place, self.sizes, a, strict=True)
        )
        name, shape = f"{self.name}, of complex arrays,", (self.size,)
        with note_origin(f"{name} of shapes {tuple(h.shape)}, {tuple(theta.shape)}"):
            out = self.f(h, theta)
        out = as_array(self.backend, out, f"{name} (an array of shape {shape})", ModelError)
        if tuple(out.shape) != shape or not xp.isdtype(out.dtype, "complex floating"):
            raise ModelError(
                f"{name} returned {out.dtype} of shape {tuple(out.shape)}; complex numbers of "
                f"shape {shape} were expected"
            )
        slope = xp.where(xp.isfinite(out), xp.imag(out) / tiny, xp.nan)  # NaN often is real
        return xp.asarray(slope, dtype=self.backend.dtype)

    def _complex_works(self) -> tuple[bool, str]:
        """Whether f takes complex arrays and its derivative along one direction is right."""
        backend = self.backend
        a: Any = tuple(backend.random(x.shape[0], seed=17) for x in self.x)
        try:
            with warnings.catch_warnings(), backend.ignore_overflow():
                warnings.simplefilter("ignore")  # of an imaginary part that is discarded
                found = self._by_complex_step(a, self._longest(a), None)
        except Exception as error:
            said = f"{error}" or type(error).__name__
            return False, f" (f does not take complex arrays: {said})"
        self.exact = False
        with backend.ignore_overflow():
            off, size = found - (difference := self.first(a)), backend.norm(difference)
        if backend.norm(off) <= 10.0 * backend.eps ** (1 / 3) * size or not size < float("inf"):
            return True, ""
        return False, " (f is not analytic: its complex step is no derivative)"


class _Partial(Operator):
    """df/dtheta (part 0) or df/dh (1) by products, in units of the typical sizes."""

    def __init__(self, slopes: Slopes, part: int) -> None:
        super().__init__(slopes, (slopes.size, slopes.x[part].shape[0]))
        self.slopes, self.part = slopes, part

    def _apply(self, x: Array) -> Array:
        return columnwise(self._along, x, self.backend, self.shape[0])

    def _along(self, x: Array) -> Array:
        rest = 0.0 * self.slopes.x[1 - self.part]
        return self.slopes.first((x, rest) if self.part == 0 else (rest, x))


class Differentiated(Operator):
    """a -> f''[a, b] for one b, of stacked directions, (N, P+N)."""

    def __init__(self, slopes: Slopes, b: Array) -> None:
        self.slopes, self.P = slopes, slopes.x[0].shape[0]
        super().__init__(slopes, (slopes.size, self.P + slopes.size))
        self.b = self._split(b)

    def _split(self, x: Array) -> Direction:
        return x[: self.P], x[self.P :]

    def _apply(self, x: Array) -> Array:
        return columnwise(self._along, x, self.backend, self.shape[0])

    def _along(self, a: Array) -> Array:
        return self.slopes.second(self._split(a), self.b)


def _moved(at: Direction | None, a: Direction, t: float) -> Direction:
    if at is None:
        return t * a[0], t * a[1]
    return at[0] + t * a[0], at[1] + t * a[1]


def _sizes(backend: Backend, x: Array, given: Any, name: str) -> Array:
    xp = backend.xp
    if given is not None:
        sizes = backend.checked(given, None, name, ArgumentError)
        if sizes.shape not in ((), x.shape) or not bool(xp.all(sizes > 0)):
            raise ArgumentError(f"{name} is {given!r}; positive, a number or one for each entry")
        return sizes + 0.0 * x
    return typical_sizes(x)
