"""Models whose start, sizes and names are keywords of the function that creates them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..arrays.backend import Array
from ..errors import ArgumentError, short_repr
from ..models.model import Model


@dataclass(frozen=True)
class ModelFields:
    """The optional fields of a model, as values or as functions.

    Parameters
    ----------
    caller : str
        The public function that names them in error messages.
    initial_state, residual_scale, state_scale : number, array, pytree or callable, optional
        As the methods of `Model`; values stand for functions that return them.
    state_names, equation_names : sequence of N strings, optional
    time_sign : {+1, -1}, optional
    """

    caller: str
    initial_state: Any = None
    residual_scale: Any = None
    state_scale: Any = None
    state_names: Sequence[str] | None = None
    equation_names: Sequence[str] | None = None
    time_sign: int | None = None

    def __post_init__(self) -> None:
        if self.time_sign not in (None, 1, -1) or isinstance(self.time_sign, bool):
            raise ArgumentError(
                f"time_sign of {self.caller}: expected 1, -1 or None, got "
                f"{short_repr(self.time_sign)}"
            )

    def names(self, field: str, size: int) -> list[str] | None:
        """Return `state_names` or `equation_names` as a list, after checking them."""
        names = getattr(self, field)
        if names is None:
            return None
        if isinstance(names, str) or not hasattr(names, "__len__") or len(names) != size:
            got = f"{len(names)}" if hasattr(names, "__len__") else ""
            got = short_repr(names) if isinstance(names, str) or not got else got
            raise ArgumentError(
                f"{field} of {self.caller}: expected a sequence of {size} strings, got {got}"
            )
        return [str(name) for name in names]


class ConfiguredModel(Model):
    """Common base class of models from a function, whose optional fields are keywords."""

    _fields = ModelFields("mfdeq")

    def configure(self, fields: ModelFields) -> None:
        """Set the optional fields; `state_size` must be set already."""
        self._fields = fields
        self.state_names = fields.names("state_names", self.state_size)
        self.equation_names = fields.names("equation_names", self.state_size)
        self.time_sign = fields.time_sign

    def initial_state(self, theta: Array) -> Array | None:
        """Return the initial state that was passed, or that of the function that was."""
        return self._field_value(self._fields.initial_state, theta)

    def state_scale(self, theta: Array) -> float | Array | None:
        """Return the sizes of the unknowns that were passed, or those of the function."""
        return self._field_value(self._fields.state_scale, theta)

    def residual_scale(self, h: Array, theta: Array) -> float | Array | None:
        """Return the sizes of the equations that were passed, or those of the function."""
        return self._field_value(self._fields.residual_scale, theta, h)

    def _field_value(self, given: Any, theta: Array, *states: Array) -> Any:
        value = given(*self._arguments(*states, theta=theta)) if callable(given) else given
        if value is None or isinstance(value, Real):
            return value
        return self._state_vector(value, theta)

    def _arguments(self, *states: Array, theta: Array) -> tuple[Any, ...]:
        """Return the arguments (h, theta) or (theta,) in the form that the user's f takes."""
        return (*states, theta)

    def _state_vector(self, value: Any, theta: Array) -> Any:
        """Convert a value with the structure of the state to an (N,) vector."""
        return value
