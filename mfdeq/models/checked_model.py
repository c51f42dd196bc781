"""A model at fixed parameters: its sizes, names, starts, scales and bounds, all checked."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, Backend, native
from ..errors import ArgumentError, ModelError
from .bounds import check_bound_order, checked_bound
from .model import FixedPointModel, Model, ResidualModel
from .vectors import flatten_params, flatten_state

MAX_BOUND_APPROACH = 0.9  # the share of the distance to a bound that one step may take


class CheckedModel:
    """A model at fixed parameters, with what it says of itself besides its function.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
        The parameters, which are copied. They determine the array library and the dtype.
    h0 : float or (N,) array, optional
        A state, which must be of the same array library.
    state_name : str, optional
        The name of `h0` in error messages.
    lower, upper : float or (N,) array, optional
        Bounds of the unknowns, which no step may cross.
    fixes_gauges : bool, optional
        Whether a regular operator takes the place of an A whose null space is declared.

    Attributes
    ----------
    name : str
        The name of the model in messages.
    backend : Backend
        The array library, dtype and device of `theta`.
    state_size, param_size : int
        N and P.
    is_map : bool
        Whether the model is a map, and not a residual.
    start_name : str
        What the start is, in messages.
    """

    start_name = "the start h0"

    def __init__(
        self,
        model: Model,
        theta: Array,
        h0: Array | None = None,
        state_name: str = "h0",
        lower: Any = None,
        upper: Any = None,
        fixes_gauges: bool = True,
    ) -> None:
        if not isinstance(model, (FixedPointModel, ResidualModel)):
            raise ModelError(
                "the model: expected an mfdeq.FixedPointModel or an mfdeq.ResidualModel, got "
                f"{_kind_of(model)}"
            )
        self.model: Model = model
        self.fixes_gauges = fixes_gauges
        self.name = model.display_name
        theta, h0 = flatten_params(model, theta), flatten_state(model, h0, state_name)
        is_array = h0 is not None and not isinstance(h0, Number)
        arrays = {"params": theta, state_name: h0} if is_array else {"params": theta}
        self.backend = Backend.of(*arrays.values(), name=" and ".join(arrays), dtype_of=1)
        self.state_size = self._size("state_size")
        self.param_size = self._size("param_size")
        if getattr(theta, "shape", None) == (self.state_size,) != (self.param_size,):
            raise ModelError(
                f"params: expected an array of shape ({self.param_size},), got shape "
                f"({self.state_size},), that of a state: are state_size and param_size of "
                f"{self.name} in the wrong order?"
            )
        self.theta = self.backend.vector(theta, self.param_size, "params")
        size = self.state_size
        self.lower = checked_bound(self.backend, lower, size, "lower")
        self.upper = checked_bound(self.backend, upper, size, "upper")
        check_bound_order(self.backend, self.lower, self.upper, self.unknown_name)
        self.is_map = isinstance(model, FixedPointModel)  # or a `ResidualModel`
        self._has_residual_scale = model._defines("residual_scale")
        self._has_state_scale = model._defines("state_scale")

    def _size(self, name: str) -> int:
        # The user may have forgotten to set the attribute.
        size: Any = self.backend.global_size(getattr(self.model, name, None))
        if isinstance(size, tuple):
            raise ModelError(
                f"{self.name}.{name} is {size}, a pair of local and global sizes, which only "
                "models for PETSc have: pass theta as a Vec"
            )
        try:
            number = count(size, f"{self.name}.{name}")
        except ArgumentError as error:
            raise ModelError(f"{error}; set it on the class or in __init__") from None
        return size if isinstance(size, int) else number  # an int of PETSc holds its layout

    def inside(self, h: Array) -> Array:
        """Return where a state is within the bounds, (N,)."""
        inside = h == h
        if self.lower is not None:
            inside = inside & (h >= self.lower)
        if self.upper is not None:
            inside = inside & (h <= self.upper)
        return inside

    def limited(self, h: Array, trial: Array) -> Array:
        """Return a trial state, stopped short of the bounds in the unknowns that would cross them.

        Parameters
        ----------
        h : (N,) array
            The state that the step begins at.
        trial : (N,) array
        """
        xp = self.backend.xp
        if self.lower is not None:
            trial = xp.maximum(trial, h + MAX_BOUND_APPROACH * (self.lower - h))
        if self.upper is not None:
            trial = xp.minimum(trial, h + MAX_BOUND_APPROACH * (self.upper - h))
        return trial

    def initial_state(self, h0: Array | None = None) -> Array:
        """Return `h0` after checking it, or the model's default initial state if it is None."""
        start = self._initial_state(h0)
        if h0 is not None:
            self.start_name = "the start h0"
        elif self.backend.any(start != 0.0):
            self.start_name = "the start, initial_state of the model"
        else:
            self.start_name = "the start h = 0 (no h0 was given)"
        inside = self.inside(start)
        if not bool(self.backend.xp.all(inside)):
            i = int(self.backend.xp.argmin(self.backend.xp.astype(inside, self.backend.xp.int64)))
            raise ArgumentError(
                f"the start: expected a state within lower and upper, got {self.unknown_name(i)} "
                f"= {float(start[i]):.6g}; pass another h0"
            )
        return start

    def _initial_state(self, h0: Array | None) -> Array:
        if h0 is not None:
            return self._vector_of(flatten_state(self.model, h0, "h0"), "h0")
        name = f"{self.name}.initial_state"
        with self.backend.user_call(f"{name}(theta)"):
            default = self.model.initial_state(self.backend.to_user(self.theta))
            default = self.backend.from_user(default, self.state_size)
        if default is None:
            return self.backend.zeros(self.state_size)
        return self._vector_of(default, name)

    def checked_state(self, h: Any, name: str) -> Array:
        """Return a state of the user's, in any form and precision, as an (N,) array."""
        h = flatten_state(self.model, h, name)
        return self.backend.vector(h, self.state_size, name, convert=True)

    def residual_scale(self, h: Array) -> Array | None:
        """Return the model's sizes of equations as an (N,) array, after checking them, or None."""
        if not self._has_residual_scale:
            return None
        name = f"{self.name}.residual_scale"
        with self.backend.user_call(f"{name}(h, theta)"):
            value = self.model.residual_scale(*map(self.backend.to_user, (h, self.theta)))
            value = self.backend.from_user(value, self.state_size)
        return self._sizes(value, name)

    def state_scale(self) -> Array | None:
        """Return the model's sizes of unknowns as an (N,) array, after checking them, or None."""
        if not self._has_state_scale:
            return None
        name = f"{self.name}.state_scale"
        with self.backend.user_call(f"{name}(theta)"):
            value = self.model.state_scale(self.backend.to_user(self.theta))
            value = self.backend.from_user(value, self.state_size)
        return self._sizes(value, name)

    def _sizes(self, value: Any, name: str) -> Array | None:
        if value is None:
            return None
        xp, sizes = self.backend.xp, self._vector_of(value, name)
        if not bool(xp.all(sizes >= 0)):
            raise ModelError(f"{name}: expected a number >= 0, got {float(xp.min(sizes))}")
        return sizes

    def _vector_of(self, value: Any, name: str) -> Array:
        """Return a number for all unknowns, or an array, as an (N,) array after checking it."""
        if getattr(native(value), "ndim", 0) == 0 and not isinstance(value, (list, tuple)):
            number = float(self.backend.check_array(value, (), name, convert=True))
            value = number + self.backend.zeros(self.state_size)
        return self.backend.vector(value, self.state_size, name, convert=True)

    def unknown_name(self, i: int) -> str:
        """Return the user's name of an unknown, or "unknown i"."""
        return self._entry_name(self.model.state_names, i, "unknown", "state_names")

    def equation_name(self, i: int) -> str:
        """Return the user's name of an equation, or "equation i"."""
        return self._entry_name(self.model.equation_names, i, "equation", "equation_names")

    def _entry_name(self, names: Sequence[str] | None, i: int, default: str, field: str) -> str:
        if names is None:
            return f"{default} {i}"
        if len(names) != self.state_size:
            raise ModelError(
                f"{self.name}.{field}: expected {self.state_size} names, got {len(names)}"
            )
        return str(names[i])

    def scales(self, h: Array) -> tuple[Array | None, Array | None] | None:
        """Return the sizes of equations and unknowns for linear solvers, which take no zeros."""
        if not (self._has_residual_scale or self._has_state_scale):
            return None
        xp = self.backend.xp
        sizes = self.residual_scale(h), self.state_scale()
        if sizes[0] is None and sizes[1] is None:
            return None
        equations, unknowns = (None if x is None or bool(xp.any(x == 0)) else x for x in sizes)
        if self.is_map:  # h - f(h) has the units of h
            known = equations if unknowns is None else unknowns
            equations = unknowns = known
        return None if equations is None and unknowns is None else (equations, unknowns)


def _kind_of(model: Any) -> str:
    if isinstance(model, type) and issubclass(model, Model):
        return f"the class {model.__name__} itself: pass an instance, {model.__name__}(...)"
    return type(model).__name__
