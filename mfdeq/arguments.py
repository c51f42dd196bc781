"""Validation of scalar and string arguments."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from .errors import ArgumentError, short_repr


def fraction(x: Any, name: str) -> float:
    """Return `x` as a float between 0 and 1 (a relative tolerance), or raise `ArgumentError`."""
    if not isinstance(x, Real) or not 0.0 < float(x) < 1.0:
        raise _unexpected(name, "a number between 0 and 1", x)
    return float(x)


def at_least(least: float, x: Any, name: str) -> float:
    """Return `x` as a finite float not below `least`, or raise `ArgumentError`."""
    if not isinstance(x, Real) or not least <= float(x) < float("inf"):
        raise _unexpected(name, f"a number of at least {least:g}", x)
    return float(x)


def real(x: Any, name: str) -> float:
    """Return `x` as a finite float, or raise `ArgumentError`."""
    if isinstance(x, bool) or not isinstance(x, Real) or not abs(float(x)) < float("inf"):
        raise _unexpected(name, "a finite number", x)
    return float(x)


def one_of(x: Any, known: tuple[str | None, ...], name: str) -> str:
    """Return `x` if it is among the `known` strings, or raise `ArgumentError`."""
    if x not in known:
        raise _unexpected(name, f"one of {', '.join(map(repr, known))}", x)
    return x


def count(n: Any, name: str) -> int:
    """Return `n` as a positive int, or raise `ArgumentError`."""
    try:
        number = 0 if isinstance(n, bool) else operator.index(n)
    except TypeError:  # arrays have __index__, but only those of one integer have a value
        number = 0
    if number < 1:
        raise _unexpected(name, "a positive integer", n)
    return number


def _unexpected(name: str, expected: str, got: Any) -> ArgumentError:
    return ArgumentError(f"{name}: expected {expected}, got {short_repr(got)}")
