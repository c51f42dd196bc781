"""Axes to draw on, and results with their names in the legend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError


def pyplot() -> Any:
    """Return matplotlib.pyplot; raise ArgumentError that says what to install if it is missing."""
    return import_optional("matplotlib.pyplot", "plot")


def get_axes(ax: Any) -> Any:
    """Return the caller's axes, or those of a new figure if there are none."""
    if ax is not None:
        return ax
    return pyplot().subplots(figsize=(6.4, 4.6), layout="constrained")[1]


def named_results(
    given: Any, kind: type, argument: str, source: str, label: str | None = None
) -> list[tuple[str | None, Any]]:
    """Return (name, result) pairs for one result, or for a mapping from names to results.

    Parameters
    ----------
    given : object or mapping of str to object
        The argument that the caller passed.
    kind : type
        The class that results must have.
    argument, source : str
        The name of the argument, and the function that returns such results, for errors.
    label : str, optional
        The name of a single result.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else [(label, given)]
    if not pairs:
        raise ArgumentError(
            f"{argument}: expected at least one {kind.__name__}, got an empty mapping"
        )
    for _, result in pairs:
        if not isinstance(result, kind):
            raise ArgumentError(
                f"{argument}: expected a {kind.__name__}, which {source} returns, got "
                f"{type(result).__name__}"
            )
    return pairs
