"""Models whose start, sizes and names are keywords of the function that creates them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar, Self, TypedDict, TypeVar, Unpack, get_type_hints

from ..arrays.backend import Array
from ..errors import ArgumentError, short_repr
from ..models.model import Model
from .data import DataHolder

Creator = TypeVar("Creator", bound=Callable)

FIELD_DOCUMENTATION = """\
initial_state : number, {values} or callable, optional
    The start of solvers, by default zeros, or a function of {params} that returns it.
residual_scale, state_scale : number, {values} or callable, optional
    The sizes of the equations and of the unknowns that count as one, or functions of
    ({state}, {params}) and of ({params}) that return them. By default each size is measured; see
    `mfdeq.solve`. With `args`, callables take these as their last argument, too.
state_names, equation_names : sequence of N strings, optional
    Names of the unknowns and of the equations, for error messages.
time_sign : {{+1, -1}}, optional
    The sign of dh/dt = ±R(h, theta) by which the equilibrium is reached in time, for
    pseudo-transient continuation. For a map the time derivative is f(h, theta) - h.
"""


class ModelFields(TypedDict, total=False):
    """The optional fields of a model, as values or as functions, each None by default.

    `FIELD_DOCUMENTATION` documents them.
    """

    initial_state: Any
    residual_scale: Any
    state_scale: Any
    state_names: Sequence[str] | None
    equation_names: Sequence[str] | None
    time_sign: int | None


def takes_model_fields(values: str, state: str, params: str) -> Callable[[Creator], Creator]:
    """Decorate a function with ``**fields: Unpack[ModelFields]``, so that it lists the keywords.

    Its signature has the fields as keywords, and its docstring has their documentation in place of
    that of ``**fields``.

    Parameters
    ----------
    values : str
        What a field may be, besides a number or a callable.
    state, params : str
        The names of the arguments of a callable.
    """
    described = FIELD_DOCUMENTATION.format(values=values, state=state, params=params)

    def decorate(function: Creator) -> Creator:
        signature = inspect.signature(function)
        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in get_type_hints(ModelFields).items()
        ]
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *keywords]
        )
        if function.__doc__:  # `python -OO` has none
            function.__doc__ = re.sub(
                r"^( *)\*\*fields\n(?:\1 +.*\n)+",
                lambda found: textwrap.indent(described, found[1]),
                function.__doc__,
                flags=re.MULTILINE,
            )
        return function

    return decorate


class ConfiguredModel(DataHolder, Model):
    """Common base class of models from a function, whose optional fields are keywords."""

    _fields: ModelFields = {}  # noqa: RUF012, it is replaced, never changed
    _data_are_example = True  # unless `with_args` has replaced them, or they are a batch
    _own: ClassVar[tuple[str, ...]] = ("_lock",)  # attributes that a copy does not share

    def _set_data(self, data: tuple[Any, ...]) -> None:
        self._data = data

    def _with_data(self, data: tuple[Any, ...]) -> Self:
        other = self._copy()
        other._set_data(data)
        other._data_are_example = False
        return other

    def _copy(self) -> Self:
        """Return a copy that shares everything that was compiled."""
        other = object.__new__(type(self))
        other.__dict__.update({k: x for k, x in vars(self).items() if k not in self._own})
        return other

    def configure(self, caller: str, **fields: Unpack[ModelFields]) -> None:
        """Set the optional fields, after checking them; `state_size` must be set already.

        Parameters
        ----------
        caller : str
            The public function that names the fields in error messages.
        **fields
            The keywords of `ModelFields`.
        """
        for name in fields:
            if name not in ModelFields.__annotations__:
                raise TypeError(
                    f"{caller}() got an unexpected keyword argument {name!r}: expected one of its "
                    f"own or {', '.join(sorted(ModelFields.__annotations__))} (the start of one "
                    "solution is an argument of mfdeq.solve, h0)"
                )
        self._fields = fields
        for field in ("state_names", "equation_names"):
            names = _checked_names(fields.get(field), f"{field} of {caller}", self._named_size)
            setattr(self, field, self._all_names(names, field))
        self.time_sign = fields.get("time_sign")
        if self.time_sign not in (None, 1, -1) or isinstance(self.time_sign, bool):
            raise ArgumentError(
                f"time_sign of {caller}: expected 1, -1 or None, got {short_repr(self.time_sign)}"
            )

    @property
    def _named_size(self) -> int:
        """The number of unknowns that `state_names` name."""
        return self.state_size

    def _all_names(self, names: list[str] | None, field: str) -> Sequence[str] | None:
        """Return the names of all unknowns or equations."""
        return names

    def _defines(self, method: str) -> bool:
        own = getattr(getattr(self, method), "__func__", None) is getattr(ConfiguredModel, method)
        return not own or self._fields.get(method) is not None

    def initial_state(self, theta: Array) -> Array | None:
        """Return the initial state that was passed, or that of the function that was."""
        return self._field_value(self._fields.get("initial_state"), theta)

    def state_scale(self, theta: Array) -> float | Array | None:
        """Return the sizes of the unknowns that were passed, or those of the function."""
        return self._field_value(self._fields.get("state_scale"), theta)

    def residual_scale(self, h: Array, theta: Array) -> float | Array | None:
        """Return the sizes of the equations that were passed, or those of the function."""
        return self._field_value(self._fields.get("residual_scale"), theta, h)

    def _field_value(self, given: Any, theta: Array, *states: Array) -> Any:
        value = given(*self._arguments(*states, theta=theta)) if callable(given) else given
        if value is None or isinstance(value, Real):
            return value
        return self._state_vector(value, theta)

    def _arguments(self, *states: Array, theta: Array) -> tuple[Any, ...]:
        """Return (h, theta) or (theta,), and the data, in the form that the user's f takes."""
        return (*states, theta, *self._data)

    def _state_vector(self, value: Any, theta: Array) -> Any:
        """Convert a value with the structure of the state to an (N,) vector."""
        return value


def _checked_names(names: Any, field: str, size: int) -> list[str] | None:
    """Return the names of unknowns or of equations as a list, after checking them."""
    if names is None:
        return None
    if isinstance(names, str) or not hasattr(names, "__len__") or len(names) != size:
        got = f"{len(names)}" if hasattr(names, "__len__") else ""
        got = short_repr(names) if isinstance(names, str) or not got else got
        raise ArgumentError(f"{field}: expected a sequence of {size} strings, got {got}")
    return [str(name) for name in names]
