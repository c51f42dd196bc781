"""A point of a branch of equilibria."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array
from ..errors import ArgumentError


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
    kind : {"", "fold", "crossing", "hopf", "flip"}
        The kind of a special point; empty for an ordinary one. At a "hopf" point a complex pair of
        eigenvalues becomes stable or unstable, and at a "flip" of a map an eigenvalue of J is -1.
    eigenvalues : (k,) array of complex, or None
        For a residual, the eigenvalues of A nearest to zero; for a map, those of J that are largest
        in magnitude.
    unstable : int or None
        The number of all unstable eigenvalues: those of A with a negative real part (positive for a
        model with ``time_sign = 1``), or those of J with a magnitude above one. At a special point
        the eigenvalues that are about to change are not counted. None if eigenvalues were not
        requested, or if it is not certain; see `mfdeq.follow`.
    dimension : int
        The number of eigenvalues that become zero at a fold or crossing: 1, or more at a crossing
        where several do so together, as they do by symmetry. It is 0 at other points.
    frequency : float or None
        At a Hopf point, the imaginary part of the pair for a residual, which is the angular
        frequency of the oscillation, and its angle for a map, in radians per iteration.
    gradient : (P,) array or None
        What `derivative` returns.

    Examples
    --------
    The fold of h² = p, where the branch turns back:

    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, p: h**2 - p, 1, 1, "residual")
    >>> branch = mfdeq.follow(
    ...     model, np.ones(1), 0, span=(-2.0, 2.0), start=np.ones(1), towards=-1.0
    ... )
    >>> point = branch.folds[0]
    >>> point.kind, round(point.t, 6), abs(point.slope) < 1e-6
    ('fold', -1.0, True)
    """

    t: float
    state: Array
    tangent: Array
    slope: float
    kind: str = ""
    eigenvalues: Any = None
    unstable: int | None = None
    dimension: int = 0
    frequency: float | None = None
    gradient: Array | None = None

    def derivative(self) -> Array:
        """Return the derivative of t at a fold with respect to all parameters theta0.

        Returns
        -------
        (P,) array
            dt/dtheta0. Its product with the direction d is -1; an entry of a parameter that d does
            not change is the derivative of the critical parameter with respect to it.

        Raises
        ------
        ArgumentError
            If the point is no fold, or the null vector could not be computed there.

        Notes
        -----
        Where t turns back, w'A = 0 for a left null vector w. Differentiating the equations at the
        fold and multiplying by w' leaves w'B (d dt + dtheta0) = 0, so that

            dt/dtheta0 = -B'w / (w'B d).

        No differences are taken, and the derivative of the state does not contribute.

        References
        ----------
        I. Dobson, "Observations on the geometry of saddle node bifurcation and voltage collapse in
        electrical power systems", IEEE Transactions on Circuits and Systems I 39(3), 1992.

        Examples
        --------
        The fold of h² = p - q at p = q, followed along p:

        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, p: h**2 - p[0] + p[1], 1, 2, "residual")
        >>> branch = mfdeq.follow(
        ...     model, np.array([3.0, 2.0]), 0, span=(-2.0, 2.0), start=np.ones(1), towards=-1.0
        ... )
        >>> print(branch.folds[0].derivative())
        [-1.  1.]
        """
        if self.kind != "fold":
            raise ArgumentError(f"derivative: expected a fold, got {_named(self.kind)}")
        if self.gradient is None:
            raise ArgumentError(
                "derivative: the left null vector of A could not be computed at this fold: use a "
                "direct solver"
            )
        return self.gradient


def _named(kind: str) -> str:
    return {"": "an ordinary point", "hopf": "a Hopf point"}.get(kind, f"a {kind}")
