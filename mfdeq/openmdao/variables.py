"""The variables of a component as the parts of one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, host
from ..errors import ArgumentError, short_repr

ROUNDING_FACTOR = 8  # of values that went through OpenMDAO's scaling and back


class Variables:
    """Names, shapes and keywords of variables that together are one vector.

    Parameters
    ----------
    described : mapping of str to int, tuple or mapping
        A size, a shape, or keywords of ``add_input`` or ``add_output``, for each name.
    size : int
        The size of the vector.
    what : str
        The argument that errors name.

    Attributes
    ----------
    size : int
        The size of the vector.
    keywords : dict of str to dict
        The keywords of each variable, with its shape.
    """

    def __init__(self, described: Mapping[str, Any], size: int, what: str) -> None:
        if not isinstance(described, Mapping):
            raise ArgumentError(
                f"{what}: expected a mapping of names to sizes, shapes or keywords, got "
                f"{short_repr(described)}"
            )
        self.size = size
        self.keywords = {
            name: _with_shape(value, f"{name!r} of {what}") for name, value in described.items()
        }
        sizes = {name: math.prod(x["shape"]) for name, x in self.keywords.items()}
        if sum(sizes.values()) != size:
            raise ArgumentError(f"{what}: expected variables of {size} entries in all, got {sizes}")

    def vector(self, values: Any) -> Array:
        """Return a new vector of the entries of all variables."""
        return host.concatenate([host.ravel(values[name]) for name in self.keywords])

    def direction(self, values: Any) -> Array:
        """Return a new vector of the entries, zeros for variables that OpenMDAO leaves out."""
        vector = host.zeros(self.size)
        for name, part in self.parts(vector).items():
            if name in values:
                part[...] = values[name]
        return vector

    def write(self, values: Any, vector: Array) -> None:
        """Write a vector into the variables."""
        for name, part in self.parts(vector).items():
            values[name] = part

    def add(self, values: Any, vector: Array) -> None:
        """Add a vector to the variables, but for those that OpenMDAO leaves out."""
        for name, part in self.parts(vector).items():
            if name in values:
                values[name] += part

    def parts(self, vector: Array) -> dict[str, Array]:
        """Return the part of a vector that belongs to each variable, in its shape."""
        parts, first = {}, 0
        for name, keywords in self.keywords.items():
            last = first + math.prod(keywords["shape"])
            parts[name] = vector[first:last].reshape(keywords["shape"])
            first = last
        return parts


def _with_shape(value: Any, what: str) -> dict[str, Any]:
    """Return the keywords of a variable, with its shape as a tuple."""
    keywords = dict(value) if isinstance(value, Mapping) else {"shape": value}
    shape = keywords.get("shape", host.shape(keywords.get("val", 0.0)) or 1)
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    return {**keywords, "shape": tuple(count(n, f"the shape of {what}") for n in sizes)}


def are_as_written(found: Array, written: Array) -> bool:
    """Test whether values are those that were written, up to OpenMDAO's scaling and back."""
    rounding = ROUNDING_FACTOR * host.finfo(written.dtype).eps * abs(written)
    return bool(host.all(abs(found - written) <= rounding))
