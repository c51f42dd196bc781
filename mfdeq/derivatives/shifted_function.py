"""Values of a function f of x = (theta, h) at points shifted from one, in units of the variables.

The points may be complex: the complex step Im f(x + i e a) / e, with a tiny e, is the derivative
along a, exact to rounding [1]_, of a function that computes with complex numbers.

References
----------
.. [1] W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real
   functions", SIAM Review 40 (1998), 110-112.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, as_array, host
from ..errors import ModelError, is_evaluation_failure, note_origin
from ..locks import PerThread, cached_property
from .steps import StepRule, variable_sizes

Direction = tuple[Array, Array]  # (dtheta, dh)


class ShiftedFunction:
    """A function of (h, theta) at points shifted from one of them.

    Shifts are scaled by the sizes of the variables: entry i of a direction is in units of the size
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
    state_scale : (N,) array, optional
        The sizes of unknowns that are zero.
    size : int, optional
        The number m of entries of f, by default N. The shapes (N,) of what is computed from its
        values below are (m,) then.

    Attributes
    ----------
    sizes : pair of (P,) and (N,) arrays
        The sizes of theta and h.
    known : pair of (P,) and (N,) arrays of bool
        Whether each size is known; False for variables that are zero.
    latest_value : (m,) array or None
        The real part of f at the point, of the latest complex step.
    """

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        name: str,
        h: Array,
        theta: Array,
        rule: StepRule,
        *,
        state_scale: Array | None = None,
        size: int | None = None,
    ) -> None:
        self.f, self.name, self.x = f, name, (theta, h)
        self.size = h.shape[0] if size is None else size
        self.rule, self.state_scale = rule, state_scale
        self.backend = backend = Backend.of(h, theta)
        scale = (None, None) if rule.scale is None else rule.scale
        params = variable_sizes(backend, theta, scale[1], None, "scale of the parameters")
        state = variable_sizes(backend, h, scale[0], state_scale, "scale of the state")
        self.sizes, self.known = (params[0], state[0]), (params[1], state[1])
        self.failure = PerThread()  # the last exception of f, None if it returned NaN instead
        self.latest_value: Any = None  # at the point, the real part of a complex step

    @cached_property
    def value(self) -> Array:
        """The (N,) value of f at the point."""
        with self.backend.ignore_overflow():
            return self._value_at(None)

    def point(self, at: Direction | None) -> tuple[Array, Array]:
        """Return (theta, h) of a shifted point."""
        if at is None:
            return self.x
        (theta, h), sizes = self.x, self.sizes
        return theta + sizes[0] * at[0], h + sizes[1] * at[1]

    def _value_at(self, at: Direction | None) -> Array:
        theta, h = self.point(at)
        return self.evaluate(h, theta)

    def evaluate(self, h: Array, theta: Array) -> Array:
        """Return the (m,) value of f at a point, which may not be finite."""
        copied = self.backend.copied
        with note_origin(f"{self.name}, of shapes {tuple(h.shape)}, {tuple(theta.shape)}"):
            out = self.f(copied(h), copied(theta))
        return self.backend.check_array(out, (self.size,), self.name, finite=False)

    def trial(self, at: Direction | None) -> Array | None:
        """Return the value at a shifted point, or None if f raises or is not finite there."""
        return self.finite(self._value_at, at)

    def finite(self, function: Callable[..., Array], at: Direction | None) -> Array | None:
        """Return ``function(at)``, or None if it raises or is not finite."""
        with self.backend.ignore_overflow():
            try:
                value = function(at)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                self.failure.value = error
                return None
            if self.backend.all(self.backend.xp.isfinite(value)):
                return value
            self.failure.value = None
            return None

    def longest(self, a: Direction) -> float:
        """Return the largest entry of a direction."""
        largest = self.backend.largest
        return max(largest(a[0]), largest(a[1]))

    # Complex points.

    def by_complex_step(self, a: Direction, at: Direction | None = None) -> Array:
        """Return the complex step along a."""
        column = a[0][:, None], a[1][:, None]
        return self.by_complex_steps(column, at)[:, 0]

    def by_complex_steps(self, a: Direction, at: Direction | None) -> Array:
        """Return the complex steps along the columns of two blocks, as an (N, k) block."""
        xp, backend = self.backend.xp, self.backend
        longest = xp.max(xp.concat([xp.abs(part) for part in a]), axis=0)
        tiny = backend.eps**2 / xp.where(longest > 0.0, longest, xp.ones_like(longest))
        tiny_rows = 1j * tiny[:, None]
        theta, h = self.point(at)
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


def columns_of(a: Direction) -> Iterator[Direction]:
    """Iterate over the columns of two blocks as directions."""
    return ((a[0][:, j], a[1][:, j]) for j in range(a[0].shape[1]))


def shift(at: Direction | None, a: Direction, t: float) -> Direction:
    """Return at + t a, where None denotes zero."""
    if at is None:
        return t * a[0], t * a[1]
    return at[0] + t * a[0], at[1] + t * a[1]
