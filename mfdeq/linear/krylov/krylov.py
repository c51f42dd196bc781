"""Preconditioned Krylov solvers: this library's for blocks, and scipy's column by column."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from ...arguments import count, fraction, one_of
from ...arrays.backend import Array
from ...arrays.memory import columns_that_fit
from ...errors import ArgumentError
from ...operators.compiled_solves import compiled_krylov
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ...report import LinearCounts
from ..factor import LOOSE_RTOL, Factor
from ..operands import MAX_ASSEMBLED_SIZE, assembled, operator_of
from ..preconditioners.wrappers import as_preconditioner
from ..protocols import COLUMNS_PER_SPACE, Preconditioner, PreconditionerOperator, Solver
from ..scaling import Scaling, is_balanced, ratio, row_sizes, weigh
from .cg import INDEFINITE, block_cg, cg
from .columns import OUT_OF_ITERATIONS
from .gmres import block_gmres, gmres
from .recycling import MIN_CYCLE_RATIO, Recycled

BLOCK_METHODS = ("gmres", "cg")  # of this library
COLUMN_METHODS = ("minres", "lgmres", "bicgstab")  # of scipy
METHODS = (*BLOCK_METHODS, *COLUMN_METHODS)
SYMMETRIC_METHODS = ("cg", "minres")
CYCLE_OPTIONS = {"lgmres": "inner_m"}  # length of a cycle, where maxiter counts cycles
MAX_UNSCALED_RESIDUAL = 0.5  # in no units, of methods whose mathematics has units
SLACK_IN_UNITS = 10.0  # of tolerances with the units that A has, where it is scaled
MAX_PRODUCTS_RATIO = 1e4  # of estimated row or column sizes, up to which nothing is scaled
MAX_LEFT = 0.5  # of a residual by one application of the preconditioner
VECTORS_OF_CG = 8  # that CG stores for a column


@dataclass(frozen=True)
class Krylov(Solver):
    """A preconditioned Krylov method.

    Parameters
    ----------
    method : {"gmres", "cg", "minres", "lgmres", "bicgstab"}, optional
        "gmres", for any A, and "cg", for a symmetric positive definite A and preconditioner, are
        this library's own and solve for blocks of right-hand sides. The others are the array
        library's, if it has them, and go column by column; "minres" is for symmetric A.
    preconditioner : Preconditioner, LinearOperator or None, optional
        `mfdeq.AMG()`, `mfdeq.ILU()`, `mfdeq.Jacobi()`, `mfdeq.Approximate(...)`, an
        `mfdeq.linear.Preconditioner` of your own, or a LinearOperator, (N, N), that approximates
        A^-1 and has its adjoint.
    rtol : float, optional
        Relative true residual of every solve; None is 1e-10 (1e-5 in float32).
    max_iterations : int, optional
        Limit on the iterations of one solve for a column or a block.
    restart : int, optional
        Number of vectors per column that a cycle of "gmres" or "lgmres" stores.
    recycle : int, optional
        Number of vectors that "gmres" keeps from one solve to the next with the same matrix,
        separately for A and its adjoint. They save iterations if a solve takes many.
    block : int, optional
        Number of columns that "gmres" and "cg" solve for in one search space; wider blocks are
        split. With 1, each column has a space of its own, and the columns share only the products.
        None is the preconditioner's `columns_per_space`: 1 for `mfdeq.AMG`, by default 16.

    Raises
    ------
    ArgumentError
        If a value is not one of those above, or options exclude each other.

    See Also
    --------
    Direct, Neumann

    Notes
    -----
    Preconditioning is from the right, so that the method minimizes the true residual;
    `mfdeq.linear.Factor.solve` recomputes it at the end.

    References
    ----------
    Y. Saad and M. H. Schultz, GMRES: a generalized minimal residual algorithm for solving
    nonsymmetric linear systems, SIAM J. Sci. Stat. Comput. 7 (1986).

    M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems,
    J. Res. Nat. Bur. Standards 49 (1952).

    C. C. Paige and M. A. Saunders, Solution of sparse indefinite systems of linear equations,
    SIAM J. Numer. Anal. 12 (1975): "minres".

    A. H. Baker, E. R. Jessup and T. Manteuffel, A technique for accelerating the convergence of
    restarted GMRES, SIAM J. Matrix Anal. Appl. 26 (2005): "lgmres".

    H. A. van der Vorst, Bi-CGSTAB: a fast and smoothly converging variant of Bi-CG for the
    solution of nonsymmetric linear systems, SIAM J. Sci. Stat. Comput. 13 (1992).

    M. L. Parks, E. de Sturler, G. Mackey, D. D. Johnson and S. Maiti, Recycling Krylov subspaces
    for sequences of linear systems, SIAM J. Sci. Comput. 28 (2006): `recycle`.

    Examples
    --------
    One set-up serves A and its adjoint:

    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> A = sp.diags([-1.2, 2.5, -0.8], [-1, 0, 1], shape=(50, 50)).tocsr()
    >>> factor = mfdeq.Krylov("gmres", preconditioner=mfdeq.Jacobi()).setup(A)
    >>> B = np.eye(50)[:, :3]
    >>> bool(np.linalg.norm(A @ factor.solve(B) - B) < 1e-9)
    True
    >>> bool(np.linalg.norm(A.T @ factor.solve_adjoint(B) - B) < 1e-9)
    True
    """

    method: str = "gmres"
    preconditioner: Any = None
    rtol: float | None = None
    max_iterations: int = 1000
    restart: int = 30
    recycle: int = 0
    block: int | None = None

    def __post_init__(self) -> None:
        one_of(self.method, METHODS, "method of mfdeq.Krylov")
        described = as_preconditioner(self.preconditioner)
        if described and described.never_symmetric and self.method in SYMMETRIC_METHODS:
            raise ArgumentError(
                f"{self.method!r} needs a symmetric preconditioner, but {described.description} is "
                "not symmetric, even for a symmetric A: use 'gmres', or another preconditioner"
            )
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Krylov")
        count(self.max_iterations, "max_iterations of mfdeq.Krylov")
        count(self.restart, "restart of mfdeq.Krylov")
        if self.block is not None:
            count(self.block, "block of mfdeq.Krylov")
        if self.recycle != 0:
            count(self.recycle, "recycle of mfdeq.Krylov")
            if MIN_CYCLE_RATIO * self.recycle > self.restart:
                raise ArgumentError(
                    f"recycle of mfdeq.Krylov: expected restart >= {MIN_CYCLE_RATIO} recycle, "
                    f"got restart={self.restart} and recycle={self.recycle}"
                )
            if self.method != "gmres":
                raise ArgumentError(f"recycle is for 'gmres', not {self.method!r}")

    def setup(
        self, A: Operator, counts: LinearCounts | None = None, *, scaling: Scaling | None = None
    ) -> Factor:
        """Set up the preconditioner for A.

        Parameters
        ----------
        A : Operator, sparse matrix or array, (N, N)
        counts : LinearCounts, optional
        scaling : Scaling, optional
            The scaling of a nearby matrix, for which none is computed then.

        Raises
        ------
        ArgumentError
            If the method needs a symmetric A and this one is not, or the preconditioner does not
            suit A.
        """
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        with counts.add_time():
            described = as_preconditioner(self.preconditioner)
            if scaling is None:
                A = self._with_entries(A, described)
                scaling = self._scaling(A, described)
            if self.method in SYMMETRIC_METHODS and not _is_symmetric(A, scaling):
                raise ArgumentError(
                    f"{self.method!r} needs a symmetric A, but A is not symmetric: use 'gmres'"
                )
            kind = _BlockFactor if self.method in BLOCK_METHODS else _ColumnFactor
            return kind(A, self, described.setup(A) if described else None, counts, scaling)

    def _with_entries(self, A: Operator, described: Preconditioner | None) -> Operator:
        """Assemble a small A that is known by products if its units have to be removed."""
        known = A.has_entries or A.scales is not None
        free_of_units = described is None or described.equilibrates
        small = A.shape[0] <= MAX_ASSEMBLED_SIZE
        if known or not (free_of_units and small) or self.method in SYMMETRIC_METHODS:
            return A
        return assembled(A) if described is not None or _has_unlike_sizes(A) else A

    def _scaling(self, A: Operator, described: Preconditioner | None) -> Scaling:
        """Return the scaling of A with which the method runs."""
        symmetric = self.method in SYMMETRIC_METHODS
        if A.array is not None and not symmetric and (described is None or described.equilibrates):
            return Scaling.exact(A)
        return Scaling.from_scales(A)


def _has_unlike_sizes(A: Operator) -> bool:
    """Estimate whether rows or columns of A, known by products, are of very different size."""
    ones = A.backend.zeros(A.shape[0]) + 1.0
    sizes = row_sizes(A, ones), row_sizes(A.H, ones)  # type: ignore[attr-defined]
    return max(ratio(x) for x in sizes) > MAX_PRODUCTS_RATIO


def _is_symmetric(A: Operator, scaling: Scaling) -> bool:
    """Test the symmetry of R A C, of which no entry hides the others."""
    return is_symmetric(scaling.operator(A))


class _KrylovFactor(Factor):
    """Base class of the factors of both kinds of methods: it applies and reuses M."""

    def __init__(
        self,
        A: Operator,
        solver: Krylov,
        M: PreconditionerOperator | None,
        counts: LinearCounts,
        scaling: Scaling,
    ) -> None:
        super().__init__(A, solver.rtol, counts)
        self.solver, self.M, self.run_scaling = solver, M, scaling
        # The method solves (R A C) y = R b, preconditioned by C^-1 M R^-1, and x is C y.
        self._sides = scaling, scaling.adjoint
        if scaling.rows is not None or A.array is None:
            self.scaling = scaling
            if not scaling.alike:
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
        return Factor.advice

    @property
    def nbytes(self) -> int:
        return 0 if self.M is None else self.M.nbytes

    def preconditioned_factor(
        self, A: Operator, counts: LinearCounts, max_iterations: int
    ) -> Factor | None:
        if self.solver.method in SYMMETRIC_METHODS and not _is_symmetric(A, self.run_scaling):
            return None
        solver = replace(self.solver, max_iterations=max_iterations)
        counts.setups -= 1  # Nothing is set up.
        return type(self)(A, solver, self.M, counts, self.run_scaling)

    def factor_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor | None:
        return self.preconditioned_factor(A, counts, self.solver.max_iterations)

    def refactorize(self, A: Operator, counts: LinearCounts) -> Factor | None:
        with counts.add_time():
            if self.M is None or not self.M.refresh(A):
                return None
        self.M.refreshes += 1
        counts.setups -= 1  # It is counted as a refresh instead.
        counts.refreshes += 1
        scaling = self.run_scaling if A.scales is None else Scaling.from_scales(A)
        return type(self)(A, self.solver, self.M, counts, scaling)

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
            scaling = replace(scaling, rows=weights, alike=False)
        rtol = scaling.tightened(b, rtol)
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
        self.counts.iterations += 1
        self.counts.history.append(residual)


class _BlockFactor(_KrylovFactor):
    """A factor that solves by this library's GMRES or CG, some columns at a time."""

    def __init__(
        self,
        A: Operator,
        solver: Krylov,
        M: PreconditionerOperator | None,
        counts: LinearCounts,
        scaling: Scaling,
    ) -> None:
        super().__init__(A, solver, M, counts, scaling)
        described = as_preconditioner(solver.preconditioner)
        usual = described.columns_per_space if described else COLUMNS_PER_SPACE
        # A recycled space is shared by all columns.
        self.columns_per_space = solver.block or (COLUMNS_PER_SPACE if solver.recycle else usual)
        if self.flexible and M is not None and solver.recycle:
            raise ArgumentError(
                "recycle needs a preconditioner that is linear to rounding: use "
                f"{M.linear_alternative}"
            )
        plain = M is None and not solver.recycle and solver.block in (None, 1)
        plain = plain and scaling.rows is None
        self.compiled = compiled_krylov(A, solver.method) if plain else None
        self.forget()

    def forget(self) -> None:
        """Discard the recycled spaces."""
        self._refreshes = self.M.refreshes if self.M is not None else 0
        recycle = self.solver.recycle
        self.recycled = {
            side: Recycled(self.backend, recycle) if recycle else None for side in (False, True)
        }

    def _solve_scaled(self, b: Array, rtol: float, adjoint: bool, scaling: Scaling) -> Array:
        backend, xp = self.backend, self.backend.xp
        B = b[:, None] if b.ndim == 1 else b
        sizes = backend.column_norms(B)
        # With columns of unit length, thresholds mean the same at every scale, and levels in
        # float32 neither over- nor underflow.
        B = B / xp.where(sizes > 0, sizes, xp.ones_like(sizes))
        if self.compiled is not None:
            X = self._solve_compiled(B, rtol, adjoint, scaling.rows) * sizes
            return X[:, 0] if b.ndim == 1 else X
        apart = self.columns_per_space == 1 and not self.solver.recycle
        width = self._width(b.shape[0]) if apart else self.columns_per_space
        found = [
            self._block(B[:, j : j + width], rtol, adjoint, scaling)
            for j in range(0, max(B.shape[1], 1), width)
        ]
        X = (found[0] if len(found) == 1 else xp.concat(found, axis=1)) * sizes
        return X[:, 0] if b.ndim == 1 else X

    def _width(self, n: int) -> int:
        """Return the number of columns to solve for at once, whose vectors fit in memory."""
        kernels = self.backend.kernels
        vectors_of_gmres = self.solver.restart + VECTORS_OF_CG
        held = VECTORS_OF_CG if self.solver.method == "cg" else vectors_of_gmres
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
            B, weights, rtol, max_iterations, self.solver.restart, adjoint
        )
        used = int(xp.max(iterations))
        self.counts.iterations += used
        self.counts.history.append(float(xp.max(residuals)))
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
        with self.backend.ignore_overflow():  # The true residual shows a breakdown.
            if self.solver.method == "cg":
                solved = (cg if self.columns_per_space == 1 else block_cg)(*problem)
            else:
                length, flexible = self.solver.restart, self.flexible and self.M is not None
                if self.columns_per_space == 1 and not self.solver.recycle:
                    solved = gmres(*problem, length=length, flexible=flexible)
                else:
                    if self.M is not None and self.M.refreshes != self._refreshes:
                        self.forget()  # The recycled spaces are those of the old preconditioner.
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


class _ColumnFactor(_KrylovFactor):
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
            # minres has no atol, and older versions have tol in place of rtol.
            "rtol" if "rtol" in known else "tol": rtol,
            "maxiter": solver.max_iterations,
            "callback": self._count,
        }
        if M is not None:
            options["M"] = M
        if "atol" in known:
            options["atol"] = 0.0
        if solver.method in CYCLE_OPTIONS:
            length = min(solver.restart, solver.max_iterations, b.shape[0])
            options[CYCLE_OPTIONS[solver.method]] = length
            options["maxiter"] = -(-solver.max_iterations // length)
        with self.backend.ignore_overflow():  # The true residual shows a breakdown.
            # With b of unit length, absolute thresholds mean the same at every scale.
            x, info = method(A, b / size, **options)
        if info > 0:
            self.stopped = OUT_OF_ITERATIONS
        return size * x

    def _count(self, _: Any) -> None:
        self.counts.iterations += 1
