"""A point of a branch of equilibria."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array


@dataclass(frozen=True)
class Point:
    """A point of a branch.

    Attributes
    ----------
    t : float
        The parameters there are theta0 + t d.
    state : (N,) array
        The equilibrium h.
    tangent : (N,) array
        dh/ds along the branch, s being its arclength.
    slope : float
        dt/ds; zero at a fold.
    kind : {"", "fold", "crossing"}
        What is special about the point, if anything.
    eigenvalues : (k,) array of complex, or None
        Of A for a residual, those nearest to zero; of J for a map, those largest in magnitude.
    unstable : int or None
        The number of unstable ones among the computed eigenvalues: with a negative real part of A,
        with a magnitude above one of J. All are computed where N is at most 200. None if none is
        unstable but one that was may now be too far from zero to be among them.
    """

    t: float
    state: Array
    tangent: Array
    slope: float
    kind: str = ""
    eigenvalues: Any = None
    unstable: int | None = None
