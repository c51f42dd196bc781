"""PETSc's SNES as a forward method: the model's residual and its linearization as Jacobian.

No exception passes through SNES. Where the model has no value at a trial state, or the state is
outside the bounds, SNES is shown a residual that is far too large, and shortens its step. A mistake
in the model ends the iteration, and is raised afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array
from ..models.checked_linearization import CheckedLinearization
from ..models.problem import Problem
from ..operators.operator import Operator
from .arrays import DistributedArray
from .cleanup import register_for_cleanup
from .errors import reason_name
from .mats import MatOperator
from .null_spaces import copy_null_spaces
from .options import set_from_options, temporary_options, warn_of_unused_options
from .shell_mats import OperatorContext, shell_mat

REJECTED_RATIO = 1e8  # of the residual shown where there is no value, to the largest one so far


@dataclass(frozen=True)
class SNESResult:
    """How a SNES ended.

    Attributes
    ----------
    state : (N,) array
        Its last iterate.
    history : list of float
        The worst residual of each iterate before.
    diverged : str
        Why it says that it has not converged; empty if it says that it has.
    """

    state: Array
    history: list[float]
    diverged: str


def solve_by_snes(
    problem: Problem,
    start: Array,
    prefix: str,
    options: dict[str, Any],
    worst_residual: Callable[[Array, Array, Operator], float],
) -> SNESResult:
    """Iterate by a SNES until it stops, whether it has converged or not.

    Parameters
    ----------
    problem : Problem
    start : (N,) array
    prefix : str
        Prefix of its options in PETSc's database: ``-mfdeq_snes_type``, ``-mfdeq_ksp_type``.
    options : dict
        Options without the prefix. Those on the command line take precedence.
    worst_residual : callable
        Of (h, R, A): what is recorded of each iterate.

    Raises
    ------
    Exception
        What the model raises at the start, or what is a mistake.
    """
    from petsc4py import PETSc

    ranks = problem.backend.device
    functions = _Functions(problem, start, worst_residual)
    solver = PETSc.SNES().create(comm=ranks.comm)
    register_for_cleanup(solver, ranks)
    solver.setOptionsPrefix(prefix)
    x = start.like(start.local.copy()).vec()
    solver.setFunction(functions.residual, x.duplicate())
    jacobian = functions.jacobian
    solver.setJacobian(functions.linearize, jacobian.mat, jacobian.near)
    with temporary_options(prefix, options):
        set_from_options(solver, prefix)
        near_only = jacobian.near is not jacobian.mat and jacobian.gauge is None
        if near_only and solver.ksp.getType() == "preonly":
            solver.ksp.setType("gmres")  # what is factorized is near the Jacobian only
        solver.solve(None, x)
        warn_of_unused_options(ranks, prefix, options, ("snes_",))
    if functions.failure is not None:
        raise functions.failure
    reason = solver.getConvergedReason()
    stopped = f"stopped after {solver.getIterationNumber()} iterations"
    kind = f"{solver.getType()} says {reason_name(PETSc.SNES, reason)}"
    diverged = "" if reason > 0 else f"{stopped}: {kind}"
    state = DistributedArray.from_petsc(x)
    if jacobian.gauge is not None:
        state = jacobian.gauge.with_constant_of(state, start)
    return SNESResult(state, functions.history, diverged)


class _Functions:
    """The functions that SNES calls.

    Attributes
    ----------
    jacobian : _Jacobian
    history : list of float
    failure : Exception or None
        What a function has raised on all ranks, if it is a mistake. Nothing is evaluated after it.
    """

    def __init__(
        self,
        problem: Problem,
        start: Array,
        worst_residual: Callable[[Array, Array, Operator], float],
    ) -> None:
        self.problem, self.worst_residual = problem, worst_residual
        self.failure: Exception | None = None
        self.history: list[float] = []
        self.largest = problem.backend.norm(problem.residual(start))  # raises what the model raises
        self.jacobian = _Jacobian(problem.linearize(start))

    def residual(self, snes: Any, x: Any, into: Any) -> None:
        """Compute R, or show a residual that is far too large."""
        h, R = DistributedArray.from_petsc(x), None
        if self.failure is None:
            try:
                R, norm = self.problem.trial_residual(h)
            except Exception as error:
                self.failure = error
        if R is None:
            into.set(REJECTED_RATIO * (self.largest or 1.0))
        else:
            self.largest = max(self.largest, norm)
            into.setArray(R.local)

    def linearize(self, snes: Any, x: Any, J: Any, P: Any) -> None:
        """Update the Jacobian; leave it as it is after a failure, which is raised later."""
        if self.failure is not None:
            return
        try:
            h, R = map(DistributedArray.from_petsc, (x, snes.getFunction()[0]))
            linearized = self.problem.linearize(h)
            self.history.append(self.worst_residual(h, R, linearized.A))
            self.jacobian.update(linearized)
        except Exception as error:
            self.failure = error


class _Jacobian:
    """The one Jacobian Mat of a SNES, updated to the state operator A of each iterate.

    A Mat that carries null spaces stays singular, with its null spaces.

    Attributes
    ----------
    mat : Mat
    near : Mat
        What preconditioners are made of: `mat`, or a Mat near it whose entries are known.
    gauge : Gauge or None
        Of the first iterate.
    """

    def __init__(self, linearized: CheckedLinearization) -> None:
        self.gauge = linearized.gauge
        A, near = self._operator(linearized), linearized.A.near
        self.mat = self._new(A)
        self.near = self.mat if near is A else self._new(near)

    def _operator(self, linearized: CheckedLinearization) -> Operator:
        return linearized.A if linearized.gauge is None else linearized.gauge.given

    def _new(self, A: Operator) -> Any:
        mat = A.mat.copy() if _assembled(A) else shell_mat(OperatorContext(A))  # type: ignore[attr-defined]
        if isinstance(A, MatOperator):
            copy_null_spaces(A.mat, mat)
        return mat

    def update(self, linearized: CheckedLinearization) -> None:
        """Take over the entries of A, or its products if it has no entries."""
        A = self._operator(linearized)
        self._take(self.mat, A)
        if self.near is not self.mat:
            self._take(self.near, linearized.A.near)

    def _take(self, mat: Any, A: Operator) -> None:
        from petsc4py import PETSc

        if _assembled(A):
            A.mat.copy(mat, PETSc.Mat.Structure.DIFFERENT_NONZERO_PATTERN)  # type: ignore[attr-defined]
        else:
            mat.getPythonContext().operator = A
        mat.assemble()


def _assembled(A: Operator) -> bool:
    return isinstance(A, MatOperator) and A.assembled
