"""Where pictures are drawn: the caller's axes, or new ones of matplotlib's."""

from __future__ import annotations

from typing import Any

from ..arrays.optional_packages import package


def axes_or_new(ax: Any) -> Any:
    """Return the caller's axes, or those of a new figure."""
    if ax is not None:
        return ax
    return pyplot().subplots(figsize=(6.4, 4.6), layout="constrained")[1]


def pyplot() -> Any:
    """Return matplotlib.pyplot, or say what to install."""
    return package("matplotlib.pyplot", "plot")
