"""Arithmetic of objects that can be added, and multiplied by real numbers."""

from __future__ import annotations

from numbers import Real
from typing import Any, Self


class LinearCombinations:
    """Base class of objects with linear combinations, such as losses.

    Subclasses define `__add__` and `_times`.
    """

    def __add__(self, other: Any) -> Any:
        raise NotImplementedError

    def _times(self, factor: float) -> Any:
        """Return the multiple by a real number."""
        raise NotImplementedError

    def __radd__(self, other: Any) -> Self:
        # The built-in sum() starts from 0.
        return self if isinstance(other, Real) and other == 0 else NotImplemented

    def __mul__(self, factor: Any) -> Any:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return self._times(float(factor))

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> Any:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return self._times(1.0 / float(factor))

    def __neg__(self) -> Any:
        return self._times(-1.0)

    def __sub__(self, other: Any) -> Any:
        return self + (-other)
