"""Preconditioned Krylov solvers, scipy's and cupyx's, chosen by name."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from ..adapters import as_operator
from ..arguments import count, fraction
from ..arrays import Array
from ..dottest import is_symmetric
from ..errors import ArgumentError
from ..operators import Operator, columnwise
from ..report import LinearCounts
from .factor import Factor, operator_of

SYMMETRIC_ONLY = ("cg", "minres")
CYCLE = {"gmres": "restart", "lgmres": "inner_m", "gcrotmk": "m"}  # scipy's maxiter counts these
METHODS = (
    *("gmres", "lgmres", "gcrotmk", "bicgstab", "bicg", "cgs", "qmr", "tfqmr"),
    *SYMMETRIC_ONLY,
)


@dataclass(frozen=True)
class Krylov:
    """A preconditioned Krylov method.

    Parameters
    ----------
    method : str, optional
        "gmres", "lgmres", "gcrotmk", "bicgstab", "bicg", "cgs", "qmr", "tfqmr"; "cg" and
        "minres" for symmetric A (and "cg" for definite A and preconditioner). Of these, what
        the array library has.
    preconditioner : description, LinearOperator or None, optional
        `mfdeq.AMG()`, `mfdeq.ILU()`, `mfdeq.Jacobi()`, or a LinearOperator of your own that
        approximates A^-1 and has its adjoint.
    rtol : float, optional
        Relative true residual; None is 1e-10 (1e-5 in float32).
    max_iterations : int, optional
        Iterations of one solve of one column.
    restart : int, optional
        Length of a cycle of "gmres", "lgmres" or "gcrotmk": that many vectors are kept.
    """

    method: str = "gmres"
    preconditioner: Any = None
    rtol: float | None = None
    max_iterations: int = 1000
    restart: int = 30

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ArgumentError(f"Krylov method {self.method!r} is none of {', '.join(METHODS)}")
        if isinstance(self.preconditioner, str):
            raise ArgumentError(
                f"preconditioner {self.preconditioner!r}: give a description such as mfdeq.AMG(), "
                "mfdeq.ILU(), mfdeq.Jacobi(), a LinearOperator or None"
            )
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Krylov")
        count(self.max_iterations, "max_iterations of mfdeq.Krylov")
        count(self.restart, "restart of mfdeq.Krylov")

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Set the preconditioner up."""
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        with counts.timed():
            if self.method in SYMMETRIC_ONLY and not is_symmetric(A):
                raise ArgumentError(
                    f"Krylov method {self.method!r} needs a symmetric A, and A is not: use 'gmres'"
                )
            return _KrylovFactor(A, self, _preconditioner(self.preconditioner, A), counts)


class _KrylovFactor(Factor):
    def __init__(
        self, A: Operator, solver: Krylov, M: Operator | None, counts: LinearCounts
    ) -> None:
        super().__init__(A, solver.rtol, counts)
        self.solver, self.M = solver, M
        kind = type(solver.preconditioner).__name__ if M is not None else "no preconditioner"
        self.name = f"Krylov {solver.method} with {kind}"

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        A: Any = self.A.H if adjoint else self.A  # type: ignore[attr-defined]
        M: Any = self.M.H if adjoint and self.M is not None else self.M  # type: ignore[attr-defined]
        return columnwise(lambda c: self._column(A, M, c, rtol), b, self.backend, A.shape[0])

    def _column(self, A: Any, M: Any, b: Array, rtol: float) -> Array:
        size = self.backend.norm(b)
        if size == 0.0:
            return self.backend.zeros(*b.shape)
        solver = self.solver
        method = getattr(self.backend.sparse_linalg, solver.method, None)
        if method is None:
            package = self.backend.sparse_linalg.__name__
            raise ArgumentError(f"{package} has no {solver.method!r}: use 'gmres'")
        known = inspect.signature(method).parameters
        # scipy's tfqmr leaves the residual itself unpreconditioned, and its qmr wants M split in
        # two: precondition from the right.
        right = M is not None and solver.method in ("tfqmr", "qmr")
        options: dict[str, Any] = {
            # minres has no atol, and older ones say tol.
            "rtol" if "rtol" in known else "tol": rtol,
            "maxiter": solver.max_iterations,
            "callback": self._count,
        }
        if not right and M is not None:
            options["M"] = M
        if "atol" in known:
            options["atol"] = 0.0
        if solver.method == "gmres":
            # Without it, scipy's maxiter would change its meaning.
            options["callback_type"] = "pr_norm"
        if solver.method in CYCLE:
            length = min(solver.restart, solver.max_iterations, b.shape[0])
            options[CYCLE[solver.method]] = length
            if self.backend.sparse_linalg.__name__.startswith("scipy"):
                options["maxiter"] = -(-solver.max_iterations // length)
        # Unit length: absolute thresholds inside the solvers then mean the same at every scale.
        with self.backend.quiet():  # a breakdown divides by zero; the true residual tells
            self._iterate = self.backend.zeros(*b.shape)
        with self.backend.quiet():  # of a breakdown, which the true residual shows
            x, info = method(A @ M if right else A, b / size, **options)
        if callable(x):  # what scipy 1.12's bicg returns on breakdown
            x = self._iterate
        self.exhausted |= info > 0
        return size * (M @ x if right else x)

    def _count(self, iterate: Any) -> None:
        self.counts.iterations += 1
        self._iterate = iterate

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        if self.M is None:
            return super()._approximate(r, adjoint)
        return self.M._apply_adjoint(r) if adjoint else self.M._apply(r)


def _preconditioner(given: Any, A: Operator) -> Operator | None:
    if given is None:
        return None
    described = hasattr(given, "setup") and not isinstance(given, type)
    found = given.setup(A) if described else given
    if tuple(getattr(found, "shape", ())) != A.shape:
        raise ArgumentError(
            f"preconditioner is {given!r}; mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi(), None or a "
            f"LinearOperator of shape {A.shape} was expected"
        )
    return as_operator(A.backend, found, A.shape, "the preconditioner")
