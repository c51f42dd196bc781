"""PETSc's SNES as a forward method: the model's residual and its linearization as Jacobian."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError
from ..models.linearization import Problem
from ..operators.operator import Operator
from .arrays import DistributedArray
from .cleanup import register_for_cleanup
from .errors import reason_name
from .mats import MatOperator, OperatorContext, shell_mat
from .options import set_from_options, temporary_options


def solve_by_snes(
    problem: Problem, start: Array, prefix: str, options: dict[str, Any]
) -> tuple[Array, list[float]]:
    """Return the state at which SNES ends, and ||R|| at each iteration.

    Parameters
    ----------
    problem : Problem
    start : (N,) array
    prefix : str
        Prefix of its options in PETSc's database: ``-mfdeq_snes_type``, ``-mfdeq_ksp_type``.
    options : dict
        Options without the prefix. Those on the command line take precedence.

    Raises
    ------
    ConvergenceError
        If SNES diverged: with the last state as `best`, and PETSc's reason.
    """
    from petsc4py import PETSc

    ranks = problem.backend.device
    A = problem.linearize(start).A
    jacobian = _Jacobian(A)

    def residual(_: Any, x: Any, into: Any) -> None:
        R, _ = problem.trial_residual(DistributedArray.from_petsc(x))
        if R is None:
            into.set(float("inf"))
        else:
            into.setArray(R.local)

    def linearize(_: Any, x: Any, J: Any, P: Any) -> None:
        jacobian.update(problem.linearize(DistributedArray.from_petsc(x)).A)

    solver = PETSc.SNES().create(comm=ranks.comm)
    register_for_cleanup(solver, ranks)
    solver.setOptionsPrefix(prefix)
    x = start.like(start.local.copy()).vec()
    solver.setFunction(residual, x.duplicate())
    solver.setJacobian(linearize, jacobian.mat, jacobian.mat)
    norms: list[float] = []
    solver.setMonitor(lambda _, step, norm: norms.append(norm))
    with temporary_options(prefix, options):
        set_from_options(solver, prefix)
        solver.solve(None, x)
    state, reason = DistributedArray.from_petsc(x), solver.getConvergedReason()
    if reason <= 0:
        raise ConvergenceError(
            f"{problem.name}: SNES {solver.getType()} stopped after "
            f"{solver.getIterationNumber()} iterations at ||R|| = {solver.getFunctionNorm():.2e}: "
            f"{reason_name(PETSc.SNES, reason)}. Start closer to the equilibrium (h0), set options "
            f"of -{prefix}snes_, or leave out method='snes' to use mfdeq's own methods",
            best=state,
        )
    return state, norms


class _Jacobian:
    """The one Jacobian Mat of a SNES, updated to the state operator A of each iterate."""

    def __init__(self, A: Operator) -> None:
        self.assembled = isinstance(A, MatOperator) and A.assembled
        self.mat = A.mat.copy() if self.assembled else shell_mat(OperatorContext(A))  # type: ignore[attr-defined]

    def update(self, A: Operator) -> None:
        """Take over the entries of A, or its products if it has no entries."""
        from petsc4py import PETSc

        if self.assembled:
            A.mat.copy(self.mat, PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)  # type: ignore[attr-defined]
        else:
            self.mat.getPythonContext().operator = A
        self.mat.assemble()
