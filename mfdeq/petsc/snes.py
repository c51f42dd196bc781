"""PETSc's SNES on a model's residual, with the linearization as its Jacobian."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..errors import ConvergenceError
from ..models.linearization import Problem
from ..operators.operator import Operator
from .arrays import Distributed
from .cleanup import made
from .ksp import configured, database, in_words
from .mats import Context, FromMat
from .objects import shell


def snes(
    problem: Problem, start: Array, prefix: str, options: dict[str, Any]
) -> tuple[Array, list[float]]:
    """The state that SNES ends at, and ||R|| at each iteration.

    Parameters
    ----------
    problem : Problem
    start : (N,) array
    prefix : str
        Of its options in PETSc's database: ``-mfdeq_snes_type``, ``-mfdeq_ksp_type`` and so on.
    options : dict
        The same without the prefix, where the command line has none.

    Raises
    ------
    ConvergenceError
        With the last state, and PETSc's reason.
    """
    from petsc4py import PETSc

    ranks = problem.backend.device
    A = problem.linearize(start).A
    jacobian = _Jacobian(A)

    def residual(_: Any, x: Any, into: Any) -> None:
        R, _ = problem.trial_residual(Distributed.of(x))
        if R is None:
            into.set(float("inf"))
        else:
            into.setArray(R.local)

    def linearize(_: Any, x: Any, J: Any, P: Any) -> None:
        jacobian.become(problem.linearize(Distributed.of(x)).A)

    solver = PETSc.SNES().create(comm=ranks.comm)
    made(solver, ranks)
    solver.setOptionsPrefix(prefix)
    x = start.like(start.local.copy()).vec()
    solver.setFunction(residual, x.duplicate())
    solver.setJacobian(linearize, jacobian.mat, jacobian.mat)
    norms: list[float] = []
    solver.setMonitor(lambda _, step, norm: norms.append(norm))
    with database(prefix, options):
        configured(solver, prefix)
        solver.solve(None, x)
    state, reason = Distributed.of(x), solver.getConvergedReason()
    if reason <= 0:
        raise ConvergenceError(
            f"{problem.name}: SNES {solver.getType()} stopped after "
            f"{solver.getIterationNumber()} iterations at ||R|| {solver.getFunctionNorm():.2e}: "
            f"{in_words(PETSc.SNES, reason)}. Start nearer (h0), set -{prefix}snes_ options, or "
            "leave out method='snes' for mfdeq's own methods",
            best=state,
        )
    return state, norms


class _Jacobian:
    """One Mat that is the state operator of one iterate after the other, as SNES has it."""

    def __init__(self, A: Operator) -> None:
        self.assembled = isinstance(A, FromMat) and A.assembled
        self.mat = A.mat.copy() if self.assembled else shell(Context(A))  # type: ignore[attr-defined]

    def become(self, A: Operator) -> None:
        """Take the entries, or the products, of another operator."""
        from petsc4py import PETSc

        if self.assembled:
            A.mat.copy(self.mat, PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)  # type: ignore[attr-defined]
        else:
            self.mat.getPythonContext().operator = A
        self.mat.assemble()
