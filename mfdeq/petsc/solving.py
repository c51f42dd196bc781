"""Equilibria of models that are written for PETSc."""

from __future__ import annotations

from typing import Any

from .. import solving
from .objects import Equilibrium


def solve(model: Any, theta: Any, h0: Any = None, **options: Any) -> Equilibrium:
    """Solve h = f(h, theta), or R(h, theta) = 0, for the equilibrium h*, on all ranks.

    Parameters
    ----------
    model : mfdeq.FixedPointModel or mfdeq.ResidualModel
        Its functions get Vecs and return Vecs; its `Linearization` and `Curvature` hold Mats.
        `state_size` and `param_size` are numbers of entries, or pairs (of this rank, of all).
    theta : Vec
    h0 : Vec, optional
        The start.
    **options
        Of `mfdeq.solve`: method, solver (by default `mfdeq.petsc.KSP()`), rtol, max_iterations.

    Returns
    -------
    mfdeq.petsc.Equilibrium

    Raises
    ------
    MfdeqError
        As `mfdeq.solve`, on all ranks.
    """
    return Equilibrium(solving.solve(model, theta, h0, **options))


def equilibrium_at(model: Any, theta: Any, state: Any, **options: Any) -> Equilibrium:
    """The equilibrium at a state that was solved for elsewhere; its residual is checked.

    Parameters
    ----------
    model, theta, **options
        As in `solve`.
    state : Vec
    """
    return Equilibrium(solving.equilibrium_at(model, theta, state, **options))
