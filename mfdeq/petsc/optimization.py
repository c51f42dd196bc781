"""A loss as a function of the parameters, for PETSc's TAO."""

from __future__ import annotations

from typing import Any

from ..arrays import Array, Backend
from ..operators import Operator, SelfAdjoint
from ..optimization.functional import ReducedFunctional
from .ksp import database
from .objects import as_mat


def tao(
    functional: ReducedFunctional,
    theta: Any,
    *,
    prefix: str = "mfdeq_",
    options: dict[str, Any] | None = None,
) -> Any:
    """A TAO that minimizes theta -> L(h*(theta), theta), with gradient and exact Hessian.

    Parameters
    ----------
    functional : mfdeq.ReducedFunctional
        Of a model of Vecs and Mats. With ``on_failure="inf"`` a point without an equilibrium is
        one that TAO steps back from; otherwise its error ends the minimization.
    theta : Vec
        The start, in which the minimum will be.
    prefix : str, optional
        Of TAO's options: ``-mfdeq_tao_type bnls -mfdeq_tao_gatol 1e-8`` and so on.
    options : dict, optional
        The same without the prefix, where the command line has none: ``{"tao_type": "blmvm"}``.

    Returns
    -------
    PETSc.TAO
        Ready for its ``solve()``, or for further settings before (`setVariableBounds`, say).

    Notes
    -----
    Without options it is Newton's method in a trust region ("ntr"), its steps by conjugate
    gradients. The Hessian is a Mat of its products alone: preconditioners that need entries are
    not for it.
    """
    from petsc4py import PETSc

    found = PETSc.TAO().create(comm=theta.getComm())
    found.setOptionsPrefix(prefix)
    database(prefix, options)
    hessian = _HessianThere(functional, theta)

    def gradient(tao: Any, x: Any, g: Any) -> None:
        g.setArray(functional.gradient(x).local)

    def both(tao: Any, x: Any, g: Any) -> float:
        gradient(tao, x, g)
        return functional.value(x)

    found.setObjective(lambda tao, x: functional.value(x))
    found.setGradient(gradient, theta.duplicate())
    found.setObjectiveGradient(both, theta.duplicate())
    found.setHessian(lambda tao, x, H, preconditioner: hessian.move(x), as_mat(hessian))
    found.setType("ntr")
    found.setSolution(theta)
    found.setFromOptions()
    return found


class _HessianThere(SelfAdjoint):
    """The Hessian at the point that TAO asked for last."""

    def __init__(self, functional: ReducedFunctional, theta: Any) -> None:
        super().__init__(Backend.of(theta), (theta.getSize(), theta.getSize()))
        self.functional = functional
        self.there: Operator | None = None

    def move(self, theta: Any) -> None:
        """Make it the Hessian at theta."""
        self.there = self.functional.products(theta)

    def _apply(self, x: Array) -> Array:
        assert self.there is not None
        return self.there._apply(x)
