"""Equilibria of models that are written for PETSc."""

from __future__ import annotations

from typing import Any

from ..arguments import one_of
from ..equilibrium import solve as solving
from ..errors import ArgumentError
from ..forward import METHODS
from ..models.linearization import Problem
from .arrays import check_vec
from .ksp import KSP
from .objects import Equilibrium
from .snes import snes

TIGHT = {"snes_rtol": 1e-12}  # of the residual at the start, where nobody says: it is judged after


def solve(
    model: Any, theta: Any, h0: Any = None, *, method: str = "auto", **options: Any
) -> Equilibrium:
    """Solve h = f(h, theta), or R(h, theta) = 0, for the equilibrium h*, on all ranks.

    Parameters
    ----------
    model : mfdeq.FixedPointModel or mfdeq.ResidualModel
        Its functions get Vecs and return Vecs; its `Linearization` and `Curvature` hold Mats.
        `state_size` and `param_size` are numbers of entries, or pairs (of this rank, of all).
    theta : Vec
    h0 : Vec, optional
        The start.
    method : {"auto", "newton", "anderson", "picard", "snes"}, optional
        As in `mfdeq.solve`, or PETSc's SNES with the options of the solver's prefix.
    **options
        Of `mfdeq.solve`: solver (by default `mfdeq.petsc.KSP()`), rtol, max_iterations. SNES has
        its own: ``-mfdeq_snes_rtol`` and so on, of which the state must pass mfdeq's own test.

    Returns
    -------
    mfdeq.petsc.Equilibrium

    Raises
    ------
    MfdeqError
        As `mfdeq.solve`, on all ranks.

    Notes
    -----
    Options on the command line are read where ``petsc4py.init(sys.argv)`` was called before
    ``from petsc4py import PETSc``.
    """
    check_vec(theta, "theta")
    one_of(method, ("auto", *METHODS, "snes"), "method")
    if method != "snes":
        return Equilibrium(solving.solve(model, theta, h0, method=method, **options))
    solver = options.pop("solver", "auto")
    solver = KSP() if solver == "auto" else solver
    if not isinstance(solver, KSP):
        raise ArgumentError(f"solver is {solver!r}; 'auto' or an mfdeq.petsc.KSP was expected")
    if options:
        raise ArgumentError(
            f"method='snes' takes no {', '.join(options)}: set -{solver.prefix}snes_ options"
        )
    problem = Problem(model, theta, h0)
    state, norms = snes(problem, problem.start(h0), solver.prefix, {**TIGHT, **solver.options})
    advice = f"Set -{solver.prefix}snes_rtol or -{solver.prefix}snes_atol lower"
    found = solving.equilibrium_of_state(problem, state, solver, "SNES", "ended too early", advice)
    found.report.residuals[:0] = norms[:-1]
    return Equilibrium(found)


def equilibrium_at(model: Any, theta: Any, state: Any, **options: Any) -> Equilibrium:
    """The equilibrium at a state that was solved for elsewhere; its residual is checked.

    Parameters
    ----------
    model, theta, **options
        As in `solve`.
    state : Vec
    """
    check_vec(theta, "theta")
    return Equilibrium(solving.equilibrium_at(model, theta, state, **options))
