"""Direct factorization: multifrontal or SuperLU for sparse matrices, LAPACK for dense ones."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import warnings
from dataclasses import dataclass
from typing import Any

from ...arguments import fraction
from ...arrays.backend import Array, Backend, is_dense, is_sparse
from ...arrays.sparse import stored_bytes
from ...errors import ArgumentError
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ...report import LinearCounts
from ..factor import Application, Factor, matrix_of, operator_of, singular
from ..krylov.krylov import Krylov
from ..multifrontal.multifrontal import Multifrontal
from .cudss import CuDSS, has_cudss
from .dense_blocks import DenseBlocks
from .fill import estimated_fill
from .scaling import Scaling
from .superlu import options_for

TOGETHER = 8  # columns of one call: SuperLU is slower on wider blocks
PACKAGES = (None, "multifrontal", "superlu", "cholespy", "cudss")
FEW = 10_000  # unknowns up to which SuperLU's sparse columns are as good as dense fronts
WORSE = 8.0  # operations of fronts, of those that SuperLU's fill is estimated to take, at most
TRIED = 1e-6  # relative residual of a solve that shows fronts without pivots between them to do


@dataclass(frozen=True)
class Direct:
    """One LU factorization of A, for A and its adjoint.

    Parameters
    ----------
    rtol : float, optional
        Relative true residual that every solve must reach, after refinement where needed;
        None is 1e-10 (1e-5 in float32) or the rounding floor of the solve.
    package : {"multifrontal", "superlu", "cholespy", "cudss"}, optional
        What factorizes a sparse A. "multifrontal" is this library's own: its solves are dense
        products, which makes blocks of right-hand sides cheap and runs on any device. It has no
        pivots from outside a front. "superlu" has, and sets up faster in the plane. "cholespy"
        (the extra ``mfdeq[cholespy]``) is CHOLMOD's Cholesky, for symmetric definite A on the
        host. "cudss" (nvmath-python) is NVIDIA's, for A on a device: it does not solve with A'
        by the LU of A, so that a nonsymmetric A is factorized twice once its adjoint is needed.
        None is "multifrontal" above 10,000 unknowns where the graph of A has small separators
        and the fronts are regular, else "superlu"; on a device "cudss" where it is installed;
        and where A is dense blocks on its diagonal and nothing else, their inverses.

    Notes
    -----
    Where the pattern of A is symmetric, minimum degree on A + A' in SuperLU's symmetric mode:
    it halves fill and solve time against column ordering.
    """

    rtol: float | None = None
    package: str | None = None

    def __post_init__(self) -> None:
        if self.rtol is not None:
            fraction(self.rtol, "rtol of mfdeq.Direct")
        if self.package not in PACKAGES:
            raise ArgumentError(f"package {self.package!r} of mfdeq.Direct is none of {PACKAGES}")

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Factorize the matrix of A.

        Raises
        ------
        SingularStateError
            On an exactly zero pivot.
        ArgumentError
            If A has no entries, only products.
        """
        counts = LinearCounts() if counts is None else counts
        A = operator_of(A)
        array = matrix_of(A, "mfdeq.Direct()")
        with counts.timed():
            if self.package == "cholespy":
                return _Cholesky(A, array, self.rtol, counts)
            if self.package == "multifrontal":
                return _Fronts(A, array, self.rtol, counts)
            if self.package == "cudss":
                return _CuDSSFactor(A, array, self.rtol, counts)
            if not is_sparse(array):
                return _DenseLU(A, array, self.rtol, counts)
            if self.package is None and (blocks := DenseBlocks.of(array, A.backend)):
                with contextlib.suppress(ArithmeticError):
                    return _BlockInverse(A, blocks, self.rtol, counts)
            if self.package is None and has_cudss() and not on_host(A.backend):
                with contextlib.suppress(ArgumentError):
                    return _CuDSSFactor(A, array, self.rtol, counts)
            if self.package is None and (A.shape[0] > FEW or not on_host(A.backend)):
                most = WORSE * estimated_fill(array).operations
                with contextlib.suppress(ArgumentError):
                    return _Fronts(A, array, self.rtol, counts, most)
            return _SparseLU(A, array, self.rtol, counts)


class _LU(Factor):
    iterative = False

    def nearby(self, A: Operator, counts: LinearCounts, max_iterations: int) -> Factor:
        counts.setups -= 1  # nothing is set up
        return Krylov("gmres", Application(self), self.rtol, max_iterations).setup(A, counts)


class _SparseLU(_LU):
    name = "Direct (SuperLU)"

    def __init__(self, A: Operator, array: Any, rtol: float | None, counts: LinearCounts) -> None:
        super().__init__(A, rtol, counts)
        self.scaling = Scaling.of(array)
        matrix = self.scaling.applied(array).tocsc()
        matrix.sort_indices()
        try:
            self.lu = self.backend.sparse_linalg.splu(matrix, **options_for(matrix))
        except RuntimeError as error:
            raise singular(0.0, f"({error})") from error
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        return (self.backend.itemsize + 4) * self.lu.nnz

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.scaling.solve(self._lu_solve, b, adjoint)

    def _lu_solve(self, b: Array, adjoint: bool) -> Array:
        side = "T" if adjoint else "N"
        if b.ndim == 1 or b.shape[1] <= TOGETHER:
            return self.lu.solve(b, side)
        parts = [
            self.lu.solve(b[:, j : j + TOGETHER], side) for j in range(0, b.shape[1], TOGETHER)
        ]
        return self.backend.xp.concat(parts, axis=1)


class _Fronts(_LU):
    name = "Direct (multifrontal)"

    def __init__(
        self,
        A: Operator,
        array: Any,
        rtol: float | None,
        counts: LinearCounts,
        most: float = math.inf,
    ) -> None:
        if not is_sparse(array):
            raise _unsuited("it is dense")
        symmetric = is_symmetric(A)
        self.scaling = Scaling.of(array)
        scaled = self.scaling.applied(array)
        try:
            self.factors = Multifrontal(scaled, A.backend, symmetric, most)
        except ArithmeticError as error:
            raise _unsuited(str(error)) from error
        b = A.backend.random(A.shape[0], seed=5)
        off = A.backend.norm(b - scaled @ self.factors.solve(b)) / A.backend.norm(b)
        if not off <= max(TRIED, A.backend.default_rtol):
            raise _unsuited("its fronts are too badly conditioned")
        super().__init__(A, rtol, counts)
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        return self.backend.itemsize * self.factors.entries

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.scaling.solve(self.factors.solve, b, adjoint)


class _CuDSSFactor(_LU):
    name = "Direct (cuDSS)"

    def __init__(self, A: Operator, array: Any, rtol: float | None, counts: LinearCounts) -> None:
        if on_host(A.backend) or not is_sparse(array):
            raise ArgumentError(
                "mfdeq.Direct(package='cudss') is for a sparse A on a device, and A is "
                f"{'on the host' if is_sparse(array) else 'dense'}: use mfdeq.Direct()"
            )
        if not has_cudss():
            raise ArgumentError(
                "mfdeq.Direct(package='cudss') needs nvmath-python and cuDSS: "
                'pip install "nvmath-python[cu13]" (or cu12)'
            )
        self.symmetric = is_symmetric(A)
        self.scaling = Scaling.of(array)
        self.scaled = self.scaling.applied(array)
        self.sides = {False: CuDSS(self.scaled, self.symmetric)}
        b = A.backend.random(A.shape[0], seed=5)
        off = A.backend.norm(b - self.scaled @ self.sides[False].solve(b)) / A.backend.norm(b)
        if not off <= max(TRIED, A.backend.default_rtol):
            raise ArgumentError(
                "mfdeq.Direct(package='cudss') does not suit this A, which is singular or needs "
                "pivots that cuDSS does not look for: use mfdeq.Direct(package='superlu')"
            )
        super().__init__(A, rtol, counts)
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        return self.backend.itemsize * sum(side.entries for side in self.sides.values())

    def _side(self, adjoint: bool) -> CuDSS:
        adjoint = adjoint and not self.symmetric
        if adjoint not in self.sides:
            self.sides[adjoint] = CuDSS(self.scaled.T, symmetric=False)
            self.counts.setups += 1
            self.counts.bytes = self.nbytes
        return self.sides[adjoint]

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.scaling.solve(lambda x, side: self._side(side).solve(x), b, adjoint)


class _BlockInverse(_LU):
    name = "Direct (dense blocks)"

    def __init__(
        self, A: Operator, blocks: DenseBlocks, rtol: float | None, counts: LinearCounts
    ) -> None:
        self.blocks, self.inverse = blocks, blocks.inverse()
        b = A.backend.random(A.shape[0], seed=5)
        off = A.backend.norm(b - blocks.apply(self.inverse.apply(b))) / A.backend.norm(b)
        if not off <= max(TRIED, A.backend.default_rtol):
            raise ArithmeticError("a block is badly conditioned")
        super().__init__(A, rtol, counts)
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        return stored_bytes(self.blocks.values) + stored_bytes(self.inverse.values)

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.inverse.apply(b, adjoint)

    def _product(self, A: Operator, x: Array) -> Array:
        return self.blocks.apply(x, adjoint=A is not self.A)


def _unsuited(why: str) -> ArgumentError:
    return ArgumentError(
        f"mfdeq.Direct(package='multifrontal') does not suit this A: {why}. Use mfdeq.Direct()"
    )


class _Cholesky(_LU):
    name = "Direct (CHOLMOD)"

    def __init__(self, A: Operator, array: Any, rtol: float | None, counts: LinearCounts) -> None:
        super().__init__(A, rtol, counts)
        suited = {
            "dense": is_sparse(array),
            "not on the host": on_host(self.backend),
            "not symmetric": is_symmetric(A),
            "not definite: its diagonal is not positive": is_dense(array)
            or bool((array.diagonal() > 0).all()),
        }
        if wrong := [why for why, fine in suited.items() if not fine]:
            raise ArgumentError(
                "mfdeq.Direct(package='cholespy') is for a symmetric definite sparse A on the "
                f"host, and A is {wrong[0]}: use mfdeq.Direct()"
            )
        if not has_cholesky():
            raise ArgumentError(
                "mfdeq.Direct(package='cholespy') needs cholespy: pip install cholespy"
            )
        import cholespy

        matrix = array.tocsc()
        matrix.sort_indices()
        double = self.backend.itemsize == 8
        kind = cholespy.CholeskySolverD if double else cholespy.CholeskySolverF
        indices = (matrix.indptr.astype("int32"), matrix.indices.astype("int32"))
        values = matrix.data.astype("float64")
        try:
            self.cholesky = kind(A.shape[0], *indices, values, cholespy.MatrixType.CSC)
        except ValueError as error:
            raise ArgumentError(
                f"mfdeq.Direct(package='cholespy'): {error} Use mfdeq.Direct()"
            ) from error

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        xp = self.backend.xp
        B = xp.asarray(b, copy=True, order="C")
        x = xp.empty_like(B)
        if B.size:
            self.cholesky.solve(B, x)
        return x


class _DenseLU(_LU):
    name = "Direct (dense LU)"

    def __init__(self, A: Operator, array: Any, rtol: float | None, counts: LinearCounts) -> None:
        super().__init__(A, rtol, counts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an exact zero pivot: it becomes an error below
            self.lu, self.pivots = self.backend.dense_linalg.lu_factor(array, check_finite=False)
        xp = self.backend.xp
        pivots = xp.linalg.diagonal(self.lu)
        # A zero pivot is a zero for scipy, NaN for cupy.
        if bool(xp.any((pivots == 0) | ~xp.isfinite(pivots))):
            raise singular(0.0, "(a pivot is exactly zero)")
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        return stored_bytes(self.lu)

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        solve = self.backend.dense_linalg.lu_solve
        # Both are finite: a check would wait for the device.
        return solve((self.lu, self.pivots), b, trans=1 if adjoint else 0, check_finite=False)


def on_host(backend: Backend) -> bool:
    """Whether sparse matrices are scipy's."""
    return backend.sparse.__name__ == "scipy.sparse"


def has_cholesky() -> bool:
    """Whether cholespy is installed."""
    return importlib.util.find_spec("cholespy") is not None
