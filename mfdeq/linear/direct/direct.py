"""`Direct`: the description of a factorization, and the choice of the package that computes it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from ...arguments import fraction
from ...arrays.backend import is_dense, is_sparse
from ...errors import ArgumentError
from ...operators.matrix_operator import Matrix
from ...operators.operator import Operator
from ...report import LinearCounts
from ..extreme_entries import ExtremeFactor, extreme_exponent
from ..factor import Factor
from ..operands import MAX_SPARSE_DENSITY, assembled, matrix_of, operator_of
from ..protocols import Solver
from ..rounding import singular_error
from .dense import DenseFactor
from .dense_blocks import MAX_BLOCK_SIZE, DenseBlocks
from .factors import BlockInverseFactor, SparseFactor
from .package import UnsuitableMatrixError, unsuitable
from .registry import PACKAGES, default_packages
from .singular import is_singular


@dataclass(frozen=True)
class Direct(Solver):
    """A direct solver, which solves systems with A and its adjoint by one factorization.

    A dense A is factorized by LAPACK, a sparse A by the package that suits it or the one named in
    `package`. If a sparse A consists only of dense blocks of one size on its diagonal, the blocks
    are inverted.

    Parameters
    ----------
    rtol : float, optional
        Relative true residual that every solve must reach, by iterative refinement if needed. By
        default 1e-10 (1e-5 in float32) or the rounding floor of the solve.
    package : {"tridiagonal", "multifrontal", "superlu", "cholmod", "pardiso", "cudss"}, optional
        The package that factorizes a sparse A. By default the first of these that suits A:
        "tridiagonal"; "cudss" on a device, if it is installed; "multifrontal" above 10,000
        unknowns, if the graph of A has small separators and the fronts are well conditioned;
        otherwise "superlu".

        ``"multifrontal"``
            This library's own. Its solves are dense products, which run on any device and are cheap
            for blocks of right-hand sides. It exchanges rows only inside a front.
        ``"superlu"``
            SuperLU, as wrapped by SciPy. It pivots wherever it must, and its set-up is faster for
            two-dimensional meshes.
        ``"pardiso"``
            PARDISO of Intel's MKL (the extra ``mfdeq[pardiso]``), for any A on the host that its
            scaling and matching make regular enough. Its set-up is the fastest.
        ``"cholmod"``
            CHOLMOD's Cholesky factorization (the extra ``mfdeq[suitesparse]``), for a symmetric
            positive definite A on the host.
        ``"tridiagonal"``
            LAPACK's LU of a tridiagonal A on the host.
        ``"cudss"``
            NVIDIA's cuDSS (through nvmath-python), for an A on a device. A nonsymmetric A is
            factorized a second time when the first adjoint solve needs it.

    Notes
    -----
    With P and Q permutations that keep L and U sparse, the factorization is P A Q = L U; then
    A⁻¹ b = Q U⁻¹ L⁻¹ P b, and A⁻ᵀ b needs no factorization of its own. Rows and columns of very
    different size are scaled by powers of two first, except for CHOLMOD and PARDISO.

    References
    ----------
    .. [1] T. A. Davis, *Direct Methods for Sparse Linear Systems*, SIAM, 2006.
    .. [2] I. S. Duff and J. K. Reid, "The multifrontal solution of indefinite sparse symmetric
           linear equations", ACM Transactions on Mathematical Software 9(3), 302-325, 1983.
    .. [3] X. S. Li, "An overview of SuperLU: Algorithms, implementation, and user interface",
           ACM Transactions on Mathematical Software 31(3), 302-325, 2005.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> import mfdeq
    >>> A = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5)).tocsr()
    >>> factor = mfdeq.Direct().setup(A)
    >>> factor.name
    'Direct (tridiagonal LU)'
    >>> np.allclose(A @ factor.solve(np.ones(5)), 1.0)
    True

    A block of right-hand sides, and the adjoint, are solved with the same factors:

    >>> factor.solve_adjoint(np.eye(5)[:, :2]).round(3).tolist()[0]
    [0.833, 0.667]
    """

    rtol: float | None = None
    package: str | None = None

    def __post_init__(self) -> None:
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Direct")
        if self.package is not None and self.package not in PACKAGES:
            names = ", ".join(repr(name) for name in PACKAGES)
            raise ArgumentError(
                f"package of mfdeq.Direct: expected None or one of {names}, got {self.package!r}"
            )

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize the matrix of A.

        Parameters
        ----------
        A : (N, N) sparse matrix, array or LinearOperator
            If only products with A are available, the matrix is assembled by N products.
        counts : LinearCounts, optional
            Counts to which the work is added; by default new ones.

        Returns
        -------
        Factor
            Its `solve` and `solve_adjoint` take (N,) and (N, k) arrays.

        Raises
        ------
        SingularStateError
            If a pivot is exactly zero, or `package` fails because A is singular.
        ArgumentError
            If `package` cannot factorize A.
        OutOfMemoryError
            If only products with A are available, and its matrix would not fit in memory.
        """
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        if (composed := A.factor_of_parts(self, counts)) is not None:
            return composed
        if exponent := extreme_exponent(A):
            return ExtremeFactor.set_up(self.setup, A, exponent, counts)
        A = assembled(A)
        array = matrix_of(A, "mfdeq.Direct()")
        nearly_full = is_sparse(array) and array.nnz > MAX_SPARSE_DENSITY * A.shape[0] ** 2
        if nearly_full and A.shape[0] > MAX_BLOCK_SIZE and self.package is None:
            dense = Matrix(A.backend, array.toarray())
            A, array, dense.scales = dense, dense.array, A.scales
        with counts.add_time():
            if self.package is not None:
                return self._setup_named(A, array, counts)
            if is_dense(array):
                return DenseFactor(A, array, self.rtol, counts)
            if blocks := DenseBlocks.of(array, A.backend):
                with contextlib.suppress(ArithmeticError):
                    return BlockInverseFactor(A, blocks, self.rtol, counts)
            for package, max_operations in default_packages(A):
                with contextlib.suppress(UnsuitableMatrixError):
                    return SparseFactor(A, package, self.rtol, counts, max_operations)
            raise ArgumentError("mfdeq.Direct(): no package can factorize A; use mfdeq.Krylov(...)")

    def _setup_named(self, A: Operator, array: Any, counts: LinearCounts) -> Factor:
        assert self.package is not None
        package = PACKAGES[self.package]
        if obstacle := package.obstacle(A):
            raise unsuitable(package, obstacle)
        if is_dense(array):
            return DenseFactor(A, array, self.rtol, counts)
        try:
            return SparseFactor(A, package, self.rtol, counts)
        except UnsuitableMatrixError as error:
            if not package.pivots and is_singular(A):
                raise singular_error(0.0, f"({error.reason})") from error
            raise
