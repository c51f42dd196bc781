"""`mfdeq.Krylov`: the description of a preconditioned Krylov method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...arguments import count, fraction, one_of
from ...errors import ArgumentError
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ...report import LinearCounts
from ..extreme_entries import ExtremeFactor, extreme_exponent
from ..factor import Factor
from ..operands import MAX_ASSEMBLED_SIZE, assembled, operator_of
from ..preconditioners.wrappers import as_preconditioner
from ..protocols import VECTORS_PER_CYCLE, Preconditioner, Solver
from ..scaling import Scaling, ratio, row_sizes
from .factors import SYMMETRIC_METHODS, BlockFactor, ColumnFactor, matrix_for
from .recycling import MIN_CYCLE_RATIO

BLOCK_METHODS = ("gmres", "cg", "minres")  # of this library
COLUMN_METHODS = ("lgmres", "bicgstab")  # of scipy
METHODS = (*BLOCK_METHODS, *COLUMN_METHODS)
MAX_PRODUCTS_RATIO = 1e4  # of estimated row or column sizes, up to which nothing is scaled


@dataclass(frozen=True)
class Krylov(Solver):
    """A preconditioned Krylov method.

    Parameters
    ----------
    method : {"gmres", "cg", "minres", "lgmres", "bicgstab"}, optional
        "gmres", for any A, "cg", for a symmetric positive definite A and preconditioner, and
        "minres", for a symmetric A and a positive definite preconditioner, are this library's own
        and solve for blocks of right-hand sides. The others are the array library's, if it has
        them, and go column by column.
    preconditioner : Preconditioner, LinearOperator, callable or None, optional
        What approximates A^-1: `mfdeq.AMG()`, `mfdeq.ILU()`, `mfdeq.Jacobi()`,
        `mfdeq.FieldSplit(...)`, `mfdeq.Approximate(...)`, an `mfdeq.linear.Preconditioner` of your
        own, or a LinearOperator, (N, N), that has its adjoint. A function A -> M, or an object with
        a method ``setup(A)``, builds one for each matrix. It is passed the sparse matrix or array
        of A, or a LinearOperator if only products are known, and returns any of the above or what
        `setup` of a solver does.
    rtol : float, optional
        Relative true residual of every solve; None is 1e-10 (1e-5 in float32).
    max_iterations : int, optional
        Limit on the iterations of one solve for a column or a block.
    restart : int, optional
        Number of vectors per column that a cycle of "gmres" or "lgmres" stores. None is the
        preconditioner's `vectors_per_cycle`: 100 for `mfdeq.FieldSplit`, by default 30.
    recycle : int, optional
        Number of vectors that "gmres" keeps from one solve to the next with the same matrix,
        separately for A and its adjoint. They save iterations if a solve takes many.
    block : int, optional
        Number of columns that "gmres" and "cg" solve for in one search space; wider blocks are
        split. With 1, each column has a space of its own, and the columns share only the products.
        None is the preconditioner's `columns_per_space`: 1 for `mfdeq.AMG`, by default 16. With
        "minres", each column has a space of its own.

    Raises
    ------
    ArgumentError
        If a value is not one of those above, or options exclude each other.

    See Also
    --------
    Direct, Neumann

    Notes
    -----
    Solves are stopped by the true residual, which `mfdeq.linear.Factor.solve` recomputes at the
    end. "gmres" is preconditioned from the right, so that it minimizes that residual; "minres"
    minimizes it in the norm of the preconditioner.

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

    A function that builds the preconditioner of each matrix:

    >>> from scipy.sparse.linalg import LinearOperator, spilu
    >>> def incomplete(A):
    ...     ilu = spilu(A.tocsc(), drop_tol=0.01)
    ...     return LinearOperator(A.shape, ilu.solve, rmatvec=lambda y: ilu.solve(y, "T"))
    >>> factor = mfdeq.Krylov(preconditioner=incomplete).setup(A)
    >>> bool(np.linalg.norm(A.T @ factor.solve_adjoint(B) - B) < 1e-9)
    True
    """

    method: str = "gmres"
    preconditioner: Any = None
    rtol: float | None = None
    max_iterations: int = 1000
    restart: int | None = None
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
        if self.restart is not None:
            count(self.restart, "restart of mfdeq.Krylov")
        if self.block is not None:
            count(self.block, "block of mfdeq.Krylov")
        if self.recycle != 0:
            count(self.recycle, "recycle of mfdeq.Krylov")
            if MIN_CYCLE_RATIO * self.recycle > self.cycle_length:
                raise ArgumentError(
                    f"recycle of mfdeq.Krylov: expected restart >= {MIN_CYCLE_RATIO} recycle, "
                    f"got restart={self.cycle_length} and recycle={self.recycle}"
                )
            if self.method != "gmres":
                raise ArgumentError(f"recycle is for 'gmres', not {self.method!r}")

    @property
    def cycle_length(self) -> int:
        """Number of vectors per column that a cycle stores: `restart` or the default."""
        if self.restart is not None:
            return self.restart
        described = as_preconditioner(self.preconditioner)
        return described.vectors_per_cycle if described else VECTORS_PER_CYCLE

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
        if scaling is None and (composed := A.factor_of_parts(self, counts)) is not None:
            return composed
        described = as_preconditioner(self.preconditioner)
        follows_scale = scaling is None and (described is None or described.follows_scale)
        if follows_scale and (exponent := extreme_exponent(A)):
            return ExtremeFactor.set_up(self.setup, A, exponent, counts)
        with counts.add_time():
            if scaling is None:
                A = self._with_entries(A, described)
                scaling = self._scaling(A, described)
            if self.method in SYMMETRIC_METHODS and not is_symmetric(scaling.operator(A)):
                raise ArgumentError(
                    f"{self.method!r} needs a symmetric A, but A is not symmetric: use 'gmres'"
                )
            kind = BlockFactor if self.method in BLOCK_METHODS else ColumnFactor
            M = described.setup(matrix_for(described, A)) if described else None
            return kind(A, self, M, counts, scaling)

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
