"""Minimizing a loss over the parameters by PETSc's TAO."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Backend
from ..operators.operator import Zero
from ..optimization.reduced_functional import ReducedFunctional
from .agreement import on_all_ranks
from .arrays import check_vec
from .cleanup import register_for_cleanup
from .options import set_from_options, temporary_options, warn_of_unused_options
from .shell_mats import OperatorContext, as_mat

NEWTON_TYPES = ("nls", "ntr", "ntl")  # their default preconditioner needs entries of the Hessian


@on_all_ranks
def tao(
    functional: ReducedFunctional,
    theta: Any,
    *,
    prefix: str = "mfdeq_",
    options: dict[str, Any] | None = None,
) -> Any:
    """Create a TAO that minimizes L(h*(theta), theta), with its gradient and exact Hessian.

    Parameters
    ----------
    functional : mfdeq.ReducedFunctional
        Of a model on Vecs and Mats. With ``on_failure="inf"`` TAO steps back from a point without
        an equilibrium. Otherwise its error ends the minimization, in PETSc versions after 3.18 as
        the cause of a PETSc.Error.
    theta : Vec, (P,)
        The start. TAO writes the minimum into it.
    prefix : str, optional
        Prefix of TAO's options: ``-mfdeq_tao_type bnls -mfdeq_tao_gatol 1e-8`` and so on.
    options : dict, optional
        Options without the prefix, ``{"tao_type": "blmvm"}``. Those on the command line take
        precedence.

    Returns
    -------
    petsc4py.PETSc.TAO
        Ready for ``solve()``, after further settings if you like (`setVariableBounds`, say).

    Raises
    ------
    ArgumentError
        If theta is no Vec, or PETSc refuses an option.

    Notes
    -----
    Without options it is Newton's method in a trust region ("ntr"), with steps by conjugate
    gradients. The Hessian is a shell Mat, known by its products alone, so preconditioners that need
    its entries cannot be used.

    Examples
    --------
    The parameter of h = tanh(θ) for which h is 1/2:

    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import petsc
    >>> model = petsc.distributed(mfdeq.from_function(lambda h, theta: np.tanh(theta), 2, 2, "map"))
    >>> loss = model.loss(mfdeq.LeastSquares(np.arange(2), np.array([0.5, 0.5])))
    >>> theta = model.params(np.zeros(2))
    >>> tao = petsc.tao(mfdeq.ReducedFunctional(model, loss), theta)
    >>> tao.solve()
    >>> model.gathered_params(theta).round(4)
    array([0.5493, 0.5493])
    """
    from petsc4py import PETSc

    check_vec(theta, "theta")
    backend, size = Backend.of(theta), theta.getSize()

    def gradient(tao: Any, x: Any, g: Any) -> None:
        g.setArray(functional.gradient(x).local)

    def value_and_gradient(tao: Any, x: Any, g: Any) -> float:
        gradient(tao, x, g)
        return functional.value(x)

    def hessian(tao: Any, x: Any, H: Any, preconditioner: Any) -> None:
        H.setPythonContext(
            OperatorContext(functional.products(x))
        )  # drops the shift that TAO has added

    solver = PETSc.TAO().create(comm=theta.getComm())
    solver.setOptionsPrefix(prefix)
    solver.setObjective(lambda tao, x: functional.value(x))
    solver.setGradient(gradient, None)
    solver.setObjectiveGradient(value_and_gradient, None)
    H = as_mat(Zero(backend, (size, size)))
    solver.setHessian(hessian, H)
    solver.setAttr("H", H)  # cleanup finds only Mats that Python still refers to
    solver.setType("ntr")
    solver.setSolution(theta)
    with temporary_options(prefix, options) as database:
        set_from_options(solver, prefix)
        kind = solver.getType()
        if kind in NEWTON_TYPES and not database.hasName(f"tao_{kind}_pc_type"):
            solver.getKSP().getPC().setType("lmvm")
        warn_of_unused_options(backend.device, prefix, options, ("tao_",))
    register_for_cleanup(solver, backend.device)
    return solver
