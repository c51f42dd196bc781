"""Numbers that a caller passes, checked where they come in."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

from .errors import ArgumentError


def fraction(x: Any, name: str) -> float:
    """`x` as a float between 0 and 1, a relative tolerance, or an `ArgumentError` naming it."""
    if not isinstance(x, Real) or not 0.0 < float(x) < 1.0:
        raise ArgumentError(f"{name} is {x!r}; a number between 0 and 1 was expected")
    return float(x)


def at_least(least: float, x: Any, name: str) -> float:
    """`x` as a finite float from `least` up, or an `ArgumentError` naming it."""
    if not isinstance(x, Real) or not least <= float(x) < float("inf"):
        raise ArgumentError(f"{name} is {x!r}; a number from {least:g} up was expected")
    return float(x)


def real(x: Any, name: str) -> float:
    """`x` as a finite float, or an `ArgumentError` naming it."""
    if isinstance(x, bool) or not isinstance(x, Real) or not abs(float(x)) < float("inf"):
        raise ArgumentError(f"{name} is {x!r}; a finite number was expected")
    return float(x)


def one_of(x: Any, known: tuple[str, ...], name: str) -> str:
    """`x` if it is one of these words, or an `ArgumentError` naming it."""
    if x not in known:
        raise ArgumentError(f"{name} is {x!r}; one of {', '.join(map(repr, known))} was expected")
    return x


def count(n: Any, name: str) -> int:
    """`n` as a positive int, or an `ArgumentError` naming it."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or operator.index(n) < 1:
        raise ArgumentError(f"{name} is {n!r}; a positive integer was expected")
    return operator.index(n)
