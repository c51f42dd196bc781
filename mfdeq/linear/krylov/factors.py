"""Factors that solve by Krylov methods: this library's for blocks, scipy's column by column."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any

from ...arrays.backend import Array
from ...arrays.memory import columns_that_fit
from ...errors import ArgumentError
from ...operators.compiled_solves import compiled_krylov
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ...report import LinearCounts
from ..checked_solve import LOOSE_RTOL
from ..equilibration import is_balanced
from ..factor import Factor
from ..preconditioners.wrappers import as_preconditioner
from ..protocols import COLUMNS_PER_SPACE, Preconditioner, PreconditionerOperator
from ..scaling import Scaling, weigh
from .block_gmres import block_gmres
from .cg import INDEFINITE, block_cg, cg
from .columns import OUT_OF_ITERATIONS
from .gmres import gmres
from .minres import minres
from .recycling import Recycled

SYMMETRIC_METHODS = ("cg", "minres")
CYCLE_OPTIONS = {"lgmres": "inner_m"}  # length of a cycle, where maxiter counts cycles
MAX_UNSCALED_RESIDUAL = 0.5  # in no units, of methods whose mathematics has units
SLACK_IN_UNITS = 10.0  # of tolerances with the units that A has, where it is scaled
MAX_LEFT = 0.5  # of a residual by one application of the preconditioner
RESIDUAL_ROUNDING = 2.0  # in units of eps ||b||
VECTORS = {"cg": 8, "minres": 12}  # that a method stores for a column
COMPILED_METHODS = ("gmres", "cg")


def matrix_for(described: Preconditioner, A: Operator) -> Operator:
    """Return the matrix that a preconditioner is set up for: the singular one if it suits that."""
    return A if A.singular is None or not described.suits_singular else A.singular


class KrylovFactor(Factor):
    """Base class of the factors of both kinds of methods: it applies and reuses M.

    Parameters
    ----------
    A : Operator, (N, N)
    solver : Krylov
        The method and its options.
    M : PreconditionerOperator or None
        The preconditioner, in place of the inverse of A.
    counts : LinearCounts
    scaling : Scaling
        The scaling of A with which the method runs.
    """

    def __init__(
        self,
        A: Operator,
        solver: Any,
        M: PreconditionerOperator | None,
        counts: LinearCounts,
        scaling: Scaling,
    ) -> None:
        super().__init__(A if A.singular is None else A.singular, solver.rtol, counts)
        self.solver, self.M, self.run_scaling = solver, M, scaling
        # The method solves (R A C) y = R b, preconditioned by C^-1 M R^-1, and x is C y.
        self._sides = scaling, scaling.adjoint
        if scaling.rows is not None or A.array is None:
            self.scaling = scaling
            if not scaling.balanced:
                self._rtol_factor_in_units = SLACK_IN_UNITS
        else:
            # The norm that the method minimizes has units: in no units only gross errors count.
            self._least_rtol_in_no_units = MAX_UNSCALED_RESIDUAL
        self.flexible = M is None or M.flexible  # without M, `approximate` is a loose solve
        described = as_preconditioner(solver.preconditioner)
        kind = described.description if described else "no preconditioner"
        self.name = f"Krylov {solver.method} with {kind}"
        self.counts.bytes = self.nbytes

    @property
    def advice(self) -> str:  # type: ignore[override]
        """What the error after a failed solve says to try."""
        if self._least_rtol_in_no_units and not is_balanced(self.A.array):
            return f"state_scale of the model, whose unknowns differ in size, {Factor.advice}"
        if not self.A.has_entries:
            return (
                f"another preconditioner or more iterations, or {self.A.advice_for_entries}, for "
                "a factorization, which needs the entries of A and shows whether it is singular"
            )
        return Factor.advice

    @property
    def nbytes(self) -> int:
        """Bytes of the preconditioner."""
        return 0 if self.M is None else self.M.nbytes

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        """Return a factor with this preconditioner, unless the method does not suit the matrix."""
        symmetric = self.solver.method in SYMMETRIC_METHODS
        if symmetric and not is_symmetric(self.run_scaling.operator(A)):
            return None
        solver = replace(self.solver, max_iterations=max_iterations)
        counts.add(setups=-1)  # Nothing is set up.
        return type(self)(A, solver, self.M, counts, self.run_scaling)

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor with this preconditioner and the usual limit on iterations."""
        return self.preconditioned_factor(A, counts, self.solver.max_iterations)

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        """Return a factor of A after the preconditioner has been refreshed, if it can be."""
        M = copy.copy(self.M)  # Other threads may be solving with this factor.
        described = as_preconditioner(self.solver.preconditioner)
        with counts.add_time():
            if M is None or described is None or not M.refresh(matrix_for(described, A)):
                return None
        counts.add(setups=-1, refreshes=1)  # It is not counted as a set-up.
        scaling = self.run_scaling if A.scales is None else Scaling.from_scales(A)
        return type(self)(A, self.solver, M, counts, scaling)

    def approximate(self, r: Array, *, adjoint: bool = False) -> Array:
        """Apply the preconditioner twice; once may leave half of r, which would hide errors.

        One that leaves more, as that of a matrix which was nearly singular, is iterated with.
        """
        if self.M is None:
            return self._approximate(r, adjoint)
        A, norms = self._adjoint_operator if adjoint else self.A, self.backend.column_norms
        with self.backend.ignore_overflow():
            x = self._approximate(r, adjoint)
            left = r - A._apply(x)
            if bool(self.backend.xp.all(norms(left) <= MAX_LEFT * norms(r))):
                return x + self._approximate(left, adjoint)
        return self._attempt(r, LOOSE_RTOL, adjoint)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        if self.M is None:
            return super()._approximate(r, adjoint)
        sizes = self.backend.column_norms(r)
        sizes = self.backend.xp.where(sizes > 0, sizes, self.backend.xp.ones_like(sizes))
        r = r / sizes  # Columns of unit length, so that levels in float32 do not overflow.
        return (self.M._apply_adjoint(r) if adjoint else self.M._apply(r)) * sizes

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self._attempt_weighted(b, rtol, adjoint, None)

    def _attempt_weighted(
        self, b: Array, rtol: float, adjoint: bool, weights: Array | None
    ) -> Array:
        scaling, parts = self._sides[adjoint], self._components
        if weights is not None and self.solver.method not in SYMMETRIC_METHODS:
            scaling = replace(scaling, rows=weights, balanced=False)
        rtol = scaling.tightened(b, rtol)
        # Rounding of the true residual must not take a second solve.
        rtol = max(rtol - RESIDUAL_ROUNDING * self.backend.eps, 0.5 * rtol)
        b = weigh(scaling.rows, b)
        if parts is None:
            return weigh(scaling.columns, self._solve_scaled(b, rtol, adjoint, scaling))
        # The parts of b in independent systems may be of very different size.
        equations, unknowns = (
            (parts.columns, parts.rows) if adjoint else (parts.rows, parts.columns)
        )
        lengths = equations.lengths_or_ones(b)
        side = weigh(equations.spread(1.0 / lengths), b)
        y = self._solve_scaled(side, rtol, adjoint, scaling)
        return weigh(scaling.columns, weigh(unknowns.spread(lengths), y))

    def _solve_scaled(self, b: Array, rtol: float, adjoint: bool, scaling: Scaling) -> Array:
        """Solve with R A C, or with R A* C if `adjoint`."""
        raise NotImplementedError

    def _system(self, adjoint: bool, scaling: Scaling) -> Operator:
        """Return R A C, or R A* C if `adjoint`."""
        return scaling.operator(self._adjoint_operator if adjoint else self.A)

    def _preconditioner(self, adjoint: bool, scaling: Scaling) -> Operator | None:
        """Return the preconditioner of `_system`."""
        if self.M is None:
            return None
        M = self.M.H if adjoint else self.M  # type: ignore[attr-defined]
        return scaling.inverse_operator(M)

    def _record(self, residual: float) -> None:
        self.count_iterations(1, residual)


class BlockFactor(KrylovFactor):
    """A factor that solves by this library's GMRES, CG or MINRES, some columns at a time."""

    def __init__(
        self,
        A: Operator,
        solver: Any,
        M: PreconditionerOperator | None,
        counts: LinearCounts,
        scaling: Scaling,
    ) -> None:
        super().__init__(A, solver, M, counts, scaling)
        described = as_preconditioner(solver.preconditioner)
        usual = described.columns_per_space if described else COLUMNS_PER_SPACE
        # A recycled space is shared by all columns.
        self.columns_per_space = solver.block or (COLUMNS_PER_SPACE if solver.recycle else usual)
        if solver.method == "minres":
            self.columns_per_space = 1
        if self.flexible and M is not None and solver.recycle:
            raise ArgumentError(
                "recycle needs a preconditioner that is linear to rounding: use "
                f"{M.linear_alternative}"
            )
        plain = M is None and not solver.recycle and solver.block in (None, 1)
        plain = plain and scaling.rows is None and solver.method in COMPILED_METHODS
        self.compiled = compiled_krylov(A, solver.method) if plain else None
        self.forget()

    def forget(self) -> None:
        """Discard the recycled spaces."""
        recycle = self.solver.recycle
        self.recycled = {
            side: Recycled(self.backend, recycle) if recycle else None for side in (False, True)
        }

    def _solve_scaled(self, b: Array, rtol: float, adjoint: bool, scaling: Scaling) -> Array:
        backend, xp = self.backend, self.backend.xp
        B = b[:, None] if b.ndim == 1 else b
        sizes = backend.column_norms(B)
        # With columns of unit length, thresholds mean the same at every scale, and levels in
        # float32 neither over- nor underflow. Compiled loops would copy blocks stored by columns.
        B = backend.row_major(B / xp.where(sizes > 0, sizes, xp.ones_like(sizes)))
        if self.compiled is not None:
            X = self._solve_compiled(B, rtol, adjoint, scaling.rows) * sizes
            return X[:, 0] if b.ndim == 1 else X
        apart = self._separate_spaces(self.columns_per_space)
        width = self._width(b.shape[0]) if apart else self.columns_per_space
        found = [
            self._block(B[:, j : j + width], rtol, adjoint, scaling)
            for j in range(0, max(B.shape[1], 1), width)
        ]
        X = (found[0] if len(found) == 1 else xp.concat(found, axis=1)) * sizes
        return X[:, 0] if b.ndim == 1 else X

    def _separate_spaces(self, columns: int) -> bool:
        """Return whether as many columns of one space are solved for by the method for vectors.

        It is the faster one, but stores no space for later solves, and its fused updates take no
        arrays that are distributed.
        """
        shared = bool(self.solver.recycle) or self.backend.library.distributed
        return columns == 1 and not shared

    def _width(self, n: int) -> int:
        """Return the number of columns to solve for at once, whose vectors fit in memory."""
        kernels = self.backend.kernels
        held = VECTORS.get(self.solver.method, self.solver.cycle_length + VECTORS["cg"])
        return max(
            1,
            min(
                kernels.MAX_BLOCK_COLUMNS,
                kernels.MAX_BLOCK_ENTRIES // n,
                columns_that_fit(self.backend, held * n),
            ),
        )

    def _solve_compiled(self, B: Array, rtol: float, adjoint: bool, weights: Array | None) -> Array:
        if B.shape[1] == 0:
            return B
        if weights is None:
            weights = self.backend.zeros(B.shape[0]) + 1.0
        xp, max_iterations = self.backend.xp, self.solver.max_iterations
        X, residuals, iterations, definite = self.compiled(  # type: ignore[misc]
            B, weights, rtol, max_iterations, self.solver.cycle_length, adjoint
        )
        used = int(xp.max(iterations))
        self.count_iterations(used, float(xp.max(residuals)))
        if not bool(xp.all(definite)):
            self.stopped = INDEFINITE
        elif used >= max_iterations:
            self.stopped = OUT_OF_ITERATIONS
        return X

    def _block(self, B: Array, rtol: float, adjoint: bool, scaling: Scaling) -> Array:
        inner = self._preconditioner(adjoint, scaling)
        product, M = (
            self._system(adjoint, scaling)._apply,
            _identity if inner is None else inner._apply,
        )
        problem = (self.backend, product, M, B, rtol, self.solver.max_iterations, self._record)
        apart = self._separate_spaces(min(self.columns_per_space, B.shape[1]))
        # The true residual shows a breakdown.
        with self.backend.ignore_overflow(), self.backend.kernels.inner_loops(B.shape[0]):
            if self.solver.method == "cg":
                solved = (cg if apart else block_cg)(*problem)
            elif self.solver.method == "minres":
                solved = minres(*problem)
            else:
                length, flexible = self.solver.cycle_length, self.flexible and self.M is not None
                if apart:
                    solved = gmres(*problem, length=length, flexible=flexible)
                else:
                    # They are orthogonal in the weights of the usual rows alone.
                    usual = scaling is self._sides[adjoint]
                    recycled = self.recycled[adjoint] if usual else None
                    solved = block_gmres(
                        *problem, length=length, flexible=flexible, recycled=recycled
                    )
        if solved.stopped:
            self.stopped = solved.stopped
        return solved.X


def _identity(r: Array) -> Array:
    return r


class ColumnFactor(KrylovFactor):
    """A factor that solves by a method of the array library, column by column."""

    def _solve_scaled(self, b: Array, rtol: float, adjoint: bool, scaling: Scaling) -> Array:
        if b.ndim == 1:
            return self._column(b, rtol, adjoint, scaling)
        x = self.backend.zeros(*b.shape)
        for j in range(b.shape[1]):
            x[:, j] = self._column(b[:, j], rtol, adjoint, scaling)
        return x

    def _column(self, b: Array, rtol: float, adjoint: bool, scaling: Scaling) -> Array:
        A: Any = self._system(adjoint, scaling)
        M: Any = self._preconditioner(adjoint, scaling)
        size = self.backend.norm(b)
        if size == 0.0:
            return self.backend.zeros(*b.shape)
        solver = self.solver
        method = getattr(self.backend.sparse_linalg, solver.method, None)
        if method is None:
            package = self.backend.sparse_linalg.__name__
            raise ArgumentError(f"{package} has no {solver.method!r}: use 'gmres'")
        known = inspect.signature(method).parameters
        options: dict[str, Any] = {
            "rtol" if "rtol" in known else "tol": rtol,  # tol in older versions
            "atol": 0.0,
            "maxiter": solver.max_iterations,
            "callback": self._count,
        }
        if M is not None:
            options["M"] = M
        if solver.method in CYCLE_OPTIONS:
            length = min(solver.cycle_length, solver.max_iterations, b.shape[0])
            options[CYCLE_OPTIONS[solver.method]] = length
            options["maxiter"] = -(-solver.max_iterations // length)
        with self.backend.ignore_overflow():  # The true residual shows a breakdown.
            # With b of unit length, absolute thresholds mean the same at every scale.
            x, info = method(A, b / size, **options)
        if info > 0:
            self.stopped = OUT_OF_ITERATIONS
        return size * x

    def _count(self, _: Any) -> None:
        self.count_iterations(1)
