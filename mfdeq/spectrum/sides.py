"""The ends of the spectrum at which eigenvalues are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Side:
    """One end of the spectrum at which eigenvalues are wanted.

    Attributes
    ----------
    sign : {1, -1}
        1 at the upper end, -1 at the lower.
    last : float
        sign times the wanted value farthest from the end.
    margin : float
        The error bound of that value.
    """

    sign: int
    last: float
    margin: float

    def end(self, gap: float) -> float:
        """Return sign times the value beyond which eigenvalues are looked for."""
        return self.last + max(self.margin, gap)


def wanted_sides(values: Any, margins: Any, which: str) -> list[Side]:
    """Return the ends of the spectrum at which eigenvalues are wanted.

    Parameters
    ----------
    values, margins : (k,) host arrays
        The wanted values, ascending, and their error bounds.
    which : {"LM", "LA", "SA", "BE"}
    """
    k, least = values.shape[0], int(abs(values).argmin())
    if which == "LA":
        return [Side(1, float(values[0]), float(margins[0]))]
    if which == "SA":
        return [Side(-1, -float(values[-1]), float(margins[-1]))]
    if which == "LM":
        last, margin = float(abs(values[least])), float(margins[least])
        return [Side(1, last, margin), Side(-1, last, margin)]
    below = k // 2
    sides = [Side(1, float(values[below]), float(margins[below]))]
    if below:
        sides.append(Side(-1, -float(values[below - 1]), float(margins[below - 1])))
    return sides
