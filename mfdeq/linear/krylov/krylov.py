"""Preconditioned Krylov solvers: block CG and block GMRES of our own, others of scipy's."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from ...arguments import count, fraction
from ...arrays.backend import Array
from ...arrays.memory import columns_that_fit
from ...errors import ArgumentError
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator, columnwise
from ...operators.user_operators import as_operator
from ...report import LinearCounts
from ..factor import Factor, operator_of
from ..preconditioners.amg import AMG
from .cg import INDEFINITE, block_cg, cg
from .gmres import block_gmres, gmres
from .recycling import LONG, Recycled

OURS = ("gmres", "cg")
OF_CG = 8  # vectors that CG holds for a column
SYMMETRIC_ONLY = ("cg", "minres")
CYCLE = {"lgmres": "inner_m", "gcrotmk": "m"}  # scipy's maxiter counts these
METHODS = (*OURS, "minres", "lgmres", "gcrotmk", "bicgstab", "bicg", "cgs", "qmr", "tfqmr")


@dataclass(frozen=True)
class Krylov:
    """A preconditioned Krylov method.

    Parameters
    ----------
    method : str, optional
        "gmres"; "cg" for symmetric definite A and preconditioner: ours, which solve a block of
        right-hand sides in one space. "minres" for symmetric A, "lgmres", "gcrotmk",
        "bicgstab", "bicg", "cgs", "qmr", "tfqmr": those of the array library, where it has
        them, column by column.
    preconditioner : description, LinearOperator or None, optional
        `mfdeq.AMG()`, `mfdeq.ILU()`, `mfdeq.Jacobi()`, or a LinearOperator of your own that
        approximates A^-1 and has its adjoint.
    rtol : float, optional
        Relative true residual; None is 1e-10 (1e-5 in float32).
    max_iterations : int, optional
        Iterations of one solve of one column, or of one block.
    restart : int, optional
        Vectors per column that a cycle of "gmres", "lgmres" or "gcrotmk" keeps.
    recycle : int, optional
        Vectors that "gmres" keeps from one solve to the next with the same matrix, separately
        for A and its adjoint: where a solve takes many iterations, later ones take fewer.
    block : int, optional
        Columns that "gmres" and "cg" solve in one search space, more of them in turn; of 1, all
        columns have their own spaces and share the products. None is 1 with `mfdeq.AMG`, where
        what a space shared saves of the few iterations costs more than they do, else 16.
    """

    method: str = "gmres"
    preconditioner: Any = None
    rtol: float | None = None
    max_iterations: int = 1000
    restart: int = 30
    recycle: int = 0
    block: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ArgumentError(f"Krylov method {self.method!r} is none of {', '.join(METHODS)}")
        if isinstance(self.preconditioner, str):
            raise ArgumentError(
                f"preconditioner {self.preconditioner!r}: give a description such as mfdeq.AMG(), "
                "mfdeq.ILU(), mfdeq.Jacobi(), a LinearOperator or None"
            )
        one_way = isinstance(self.preconditioner, AMG) and self.preconditioner.method == "air"
        if one_way and self.method in SYMMETRIC_ONLY:
            raise ArgumentError(
                f"{self.method!r} needs a symmetric preconditioner, and mfdeq.AMG('air') is not, "
                "for any A: use 'gmres', or mfdeq.AMG()"
            )
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Krylov")
        count(self.max_iterations, "max_iterations of mfdeq.Krylov")
        count(self.restart, "restart of mfdeq.Krylov")
        if self.block is not None:
            count(self.block, "block of mfdeq.Krylov")
        if self.recycle != 0:
            count(self.recycle, "recycle of mfdeq.Krylov")
            if LONG * self.recycle > self.restart:
                raise ArgumentError(
                    f"recycle={self.recycle} of mfdeq.Krylov needs cycles of {LONG} times as many "
                    f"iterations: restart is {self.restart}"
                )
            if self.method != "gmres":
                raise ArgumentError(f"recycle is for 'gmres', not {self.method!r}")

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Set the preconditioner up."""
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        with counts.timed():
            if self.method in SYMMETRIC_ONLY and not is_symmetric(A):
                raise ArgumentError(
                    f"Krylov method {self.method!r} needs a symmetric A, and A is not: use 'gmres'"
                )
            kind = _BlockFactor if self.method in OURS else _ColumnFactor
            return kind(A, self, _preconditioner(self.preconditioner, A), counts)


class _KrylovFactor(Factor):
    def __init__(
        self, A: Operator, solver: Krylov, M: Operator | None, counts: LinearCounts
    ) -> None:
        super().__init__(A, solver.rtol, counts)
        self.solver, self.M = solver, M
        kind = type(solver.preconditioner).__name__ if M is not None else "no preconditioner"
        self.name = f"Krylov {solver.method} with {kind}"
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        return getattr(self.M, "nbytes", 0)

    def nearby(self, A: Operator, counts: LinearCounts, max_iterations: int) -> Factor | None:
        if self.solver.method in SYMMETRIC_ONLY and not is_symmetric(A):
            return None
        solver = replace(self.solver, max_iterations=max_iterations)
        counts.setups -= 1  # nothing is set up
        return type(self)(A, solver, self.M, counts)

    def kept_for(self, A: Operator, counts: LinearCounts) -> Factor | None:
        return self.nearby(A, counts, self.solver.max_iterations)

    def refreshed(self, A: Operator, counts: LinearCounts) -> Factor | None:
        refresh = getattr(self.M, "refresh", None)
        with counts.timed():
            if refresh is None or not refresh(A):
                return None
        counts.setups -= 1
        counts.refreshes += 1
        return type(self)(A, self.solver, self.M, counts)

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """Two applications of the preconditioner: one leaves up to half, which an error hides."""
        A: Any = self.A.H if adjoint else self.A  # type: ignore[attr-defined]
        x = self._approximate(r, adjoint)
        return x if self.M is None else x + self._approximate(r - A._apply(x), adjoint)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        if self.M is None:
            return super()._approximate(r, adjoint)
        sizes = self.backend.column_norms(r)
        sizes = self.backend.xp.where(sizes > 0, sizes, self.backend.xp.ones_like(sizes))
        r = r / sizes  # of unit length: float32 levels then mean the same at every scale
        return (self.M._apply_adjoint(r) if adjoint else self.M._apply(r)) * sizes

    def _record(self, residual: float) -> None:
        self.counts.iterations += 1
        self.counts.history.append(residual)


class _BlockFactor(_KrylovFactor):
    """GMRES or CG of ours, some columns at a time."""

    def __init__(
        self, A: Operator, solver: Krylov, M: Operator | None, counts: LinearCounts
    ) -> None:
        super().__init__(A, solver, M, counts)
        apart = isinstance(solver.preconditioner, AMG) and not solver.recycle
        self.shared = solver.block or (1 if apart else 16)
        self.flexible = M is None or bool(getattr(M, "flexible", False))
        if self.flexible and M is not None and solver.recycle:
            raise ArgumentError(
                "recycle needs a preconditioner that is linear to rounding: give "
                "mfdeq.AMG(levels='float64')"
            )
        alone = M is None and not solver.recycle and solver.block in (None, 1)
        self.compiled = A.compiled_krylov(solver.method) if alone else None
        self.forget()

    def forget(self) -> None:
        recycle = self.solver.recycle
        self.recycled = {
            side: Recycled(self.backend, recycle) if recycle else None for side in (False, True)
        }

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        backend, xp = self.backend, self.backend.xp
        B = b[:, None] if b.ndim == 1 else b
        sizes = backend.column_norms(B)
        # Unit length: thresholds, and float32 levels, then mean the same at every scale.
        B = B / xp.where(sizes > 0, sizes, xp.ones_like(sizes))
        if self.compiled is not None:
            X = self._by_its_source(B, rtol, adjoint) * sizes
            return X[:, 0] if b.ndim == 1 else X
        apart = self.shared == 1 and not self.solver.recycle
        width = self._width(b.shape[0]) if apart else self.shared
        found = [
            self._block(B[:, j : j + width], rtol, adjoint)
            for j in range(0, max(B.shape[1], 1), width)
        ]
        X = (found[0] if len(found) == 1 else xp.concat(found, axis=1)) * sizes
        return X[:, 0] if b.ndim == 1 else X

    def _width(self, n: int) -> int:
        """Columns whose products are taken together: as many as their vectors leave room for."""
        kernels = self.backend.kernels
        held = OF_CG if self.solver.method == "cg" else self.solver.restart + OF_CG
        return max(
            1,
            min(
                kernels.MAX_BLOCK_COLUMNS,
                kernels.MAX_BLOCK_ENTRIES // n,
                columns_that_fit(self.backend, held * n),
            ),
        )

    def _by_its_source(self, B: Array, rtol: float, adjoint: bool) -> Array:
        if B.shape[1] == 0:
            return B
        xp, most = self.backend.xp, self.solver.max_iterations
        X, residuals, iterations, definite = self.compiled(  # type: ignore[misc]
            B, rtol, most, self.solver.restart, adjoint
        )
        taken = int(xp.max(iterations))
        self.counts.iterations += taken
        self.counts.history.append(float(xp.max(residuals)))
        if not bool(xp.all(definite)):
            self.stopped = INDEFINITE
        elif taken >= most:
            self.stopped = "it ran out of iterations"
        return X

    def _block(self, B: Array, rtol: float, adjoint: bool) -> Array:
        A: Any = self.A.H if adjoint else self.A  # type: ignore[attr-defined]
        M = _identity if self.M is None else self.M._apply_adjoint if adjoint else self.M._apply
        given = (self.backend, A._apply, M, B, rtol, self.solver.max_iterations, self._record)
        with self.backend.ignore_overflow():  # of a breakdown, which the true residual shows
            if self.solver.method == "cg":
                solved = (cg if self.shared == 1 else block_cg)(*given)
            else:
                length, flexible = self.solver.restart, self.flexible and self.M is not None
                if self.shared == 1 and not self.solver.recycle:
                    solved = gmres(*given, length=length, flexible=flexible)
                else:
                    recycled = self.recycled[adjoint]
                    solved = block_gmres(
                        *given, length=length, flexible=flexible, recycled=recycled
                    )
        if solved.stopped:
            self.stopped = solved.stopped
        return solved.X


def _identity(r: Array) -> Array:
    return r


class _ColumnFactor(_KrylovFactor):
    """A method of the array library, column by column."""

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
        if solver.method in CYCLE:
            length = min(solver.restart, solver.max_iterations, b.shape[0])
            options[CYCLE[solver.method]] = length
            options["maxiter"] = -(-solver.max_iterations // length)
        with self.backend.ignore_overflow():  # a breakdown divides by zero; the true residual tells
            self._iterate = self.backend.zeros(*b.shape)
            # Unit length: absolute thresholds inside then mean the same at every scale.
            x, info = method(A @ M if right else A, b / size, **options)
        if callable(x):  # what scipy 1.12's bicg returns on breakdown
            x = self._iterate
        if info > 0:
            self.stopped = "it ran out of iterations"
        return size * (M @ x if right else x)

    def _count(self, iterate: Any) -> None:
        self.counts.iterations += 1
        self._iterate = iterate


def _preconditioner(given: Any, A: Operator) -> Operator | None:
    if given is None:
        return None
    described = hasattr(given, "setup") and not isinstance(given, type)
    found = given.setup(A) if described else given
    if tuple(getattr(found, "shape", ())) != A.shape:
        raise ArgumentError(
            f"preconditioner is {given!r}; mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi(), "
            f"mfdeq.Approximate(...), None or a LinearOperator of shape {A.shape} was expected"
        )
    return as_operator(A.backend, found, A.shape, "the preconditioner")
