"""Checks of the bounds of the unknowns, `lower` and `upper` of `mfdeq.solve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ArgumentError


def checked_bound(backend: Backend, value: Any, size: int, name: str) -> Array | None:
    """Return a bound as an (N,) array, after checking it, or None if there is none.

    Parameters
    ----------
    backend : Backend
    value : float or (N,) array or None
    size : int
        N.
    name : str
        "lower" or "upper", for error messages.
    """
    if value is None:
        return None
    if isinstance(value, (int, float)):
        value = float(value) + backend.zeros(size)
    bound = backend.check_array(value, (size,), name, ArgumentError, finite=False)
    if bool(backend.xp.any(backend.xp.isnan(bound))):
        raise ArgumentError(f"{name}: expected numbers, got NaN")
    return bound


def check_bound_order(
    backend: Backend, lower: Array | None, upper: Array | None, unknown: Callable[[int], str]
) -> None:
    """Raise `ArgumentError` if a lower bound is above the upper one.

    Parameters
    ----------
    backend : Backend
    lower, upper : (N,) array or None
    unknown : callable
        ``unknown(i)`` returns the name of an unknown.
    """
    if lower is None or upper is None:
        return
    xp = backend.xp
    crossed = xp.astype(lower > upper, xp.int64)
    if int(xp.sum(crossed)):
        i = int(xp.argmax(crossed))
        raise ArgumentError(
            f"lower and upper: expected lower <= upper, got lower = {float(lower[i]):.6g} and "
            f"upper = {float(upper[i]):.6g} for {unknown(i)}"
        )
