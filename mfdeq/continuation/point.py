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
        The parameters at the point are theta0 + t d.
    state : (N,) array
        The equilibrium h.
    tangent : (N,) array
        dh/ds along the branch, where s is the arclength.
    slope : float
        dt/ds; zero at a fold.
    kind : {"", "fold", "crossing"}
        The kind of a special point; empty for an ordinary one.
    eigenvalues : (k,) array of complex, or None
        For a residual, the eigenvalues of A nearest to zero; for a map, those of J that are largest
        in magnitude.
    unstable : int or None
        The number of unstable eigenvalues among all that were computed: those of A with a negative
        real part, or those of J with a magnitude above one. All N are computed if N is at most 200.
        None if no computed eigenvalue is unstable but an unstable one may have moved too far from
        zero to be among them.
    negative : int or None
        The number of negative real eigenvalues of A, which changes by one at a simple fold or
        crossing; None unless all N eigenvalues were computed.
    """

    t: float
    state: Array
    tangent: Array
    slope: float
    kind: str = ""
    eigenvalues: Any = None
    unstable: int | None = None
    negative: int | None = None
