"""A loss as a function of the parameters, for PETSc's TAO."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Backend
from ..operators.operator import Zero
from ..optimization.reduced_functional import ReducedFunctional
from .arrays import check_vec
from .cleanup import made
from .ksp import configured, database
from .mats import Context
from .objects import as_mat

NEWTON = ("nls", "ntr", "ntl")  # types whose preconditioner would need entries by default


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
        one that TAO steps back from; otherwise its error ends the minimization, in later
        versions of PETSc as the cause of a PETSc.Error.
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

    check_vec(theta, "theta")
    backend, size = Backend.of(theta), theta.getSize()

    def gradient(tao: Any, x: Any, g: Any) -> None:
        g.setArray(functional.gradient(x).local)

    def both(tao: Any, x: Any, g: Any) -> float:
        gradient(tao, x, g)
        return functional.value(x)

    def hessian(tao: Any, x: Any, H: Any, preconditioner: Any) -> None:
        H.setPythonContext(Context(functional.products(x)))  # without what TAO has shifted it by

    found = PETSc.TAO().create(comm=theta.getComm())
    found.setOptionsPrefix(prefix)
    found.setObjective(lambda tao, x: functional.value(x))
    found.setGradient(gradient, None)
    found.setObjectiveGradient(both, None)
    H = as_mat(Zero(backend, (size, size)))
    found.setHessian(hessian, H)
    found.setAttr("H", H)  # for the end, where those are known that Python still has
    found.setType("ntr")
    found.setSolution(theta)
    with database(prefix, options) as given:
        configured(found, prefix)
        kind = found.getType()
        if kind in NEWTON and not given.hasName(f"tao_{kind}_pc_type"):
            found.getKSP().getPC().setType("lmvm")
    made(found, backend.device)
    return found
