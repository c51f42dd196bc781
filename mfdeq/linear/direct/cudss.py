"""cuDSS, NVIDIA's direct solver on the device, through the bindings of nvmath-python.

The bindings are called directly because nvmath-python's own class is limited to right-hand sides of
one shape.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import math
import weakref
from typing import Any

from ...arrays.backend import Array, Backend, is_sparse
from ...arrays.cuda import pointer, stream_pointer
from ...errors import ArgumentError, OutOfMemoryError
from ...locks import lock_of
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from .costs import PackageCost
from .package import DirectPackage, passes_trial_solve, unsuitable


class CuDSSPackage(DirectPackage):
    """cuDSS, for sparse matrices in the memory of a device."""

    name = "cudss"
    title = "cuDSS"
    cost_on_device = PackageCost(unknown=8_000.0, operation=0.0005, entry=0.01, solve=1e6)

    def obstacle(self, A: Operator) -> str:
        """Return why cuDSS cannot factorize A here, or "" if it can."""
        if not is_sparse(A.array):
            return "expected a sparse matrix on a device, got a dense one"
        if A.backend.library.on_host:
            return "expected a sparse matrix on a device, got one on the host"
        if not has_cudss():
            return (
                "it needs nvmath-python and cuDSS "
                '(pip install "nvmath-python[cu13]", or [cu12] for CUDA 12)'
            )
        return ""

    def default_max_operations(self, A: Operator) -> float:
        """Return infinity: on a device, cuDSS is the first choice."""
        return math.inf

    def factorize(
        self, A: Operator, matrix: Any, max_operations: float = math.inf
    ) -> CuDSSFactorization:
        """Factorize on the device, and check the pivots by a trial solve."""
        factors = CuDSSFactorization(matrix, is_symmetric(A))
        if not passes_trial_solve(A.backend, lambda x: matrix @ x, factors.solve, A.shape[0]):
            raise unsuitable(
                self,
                "it is singular, or needs more pivoting than cuDSS does "
                "(package='superlu' pivots fully)",
            )
        return factors


class CuDSSFactorization:
    """The LU of a sparse matrix on the device, or the L D L' of a symmetric one.

    cuDSS does not solve with A' by the LU of A: `solves_adjoint` is False unless A is symmetric.

    Parameters
    ----------
    matrix : sparse matrix of cupyx, (N, N)
    symmetric : bool
        Whether A' = A.
    """

    def __init__(self, matrix: Any, symmetric: bool) -> None:
        self.solves_adjoint = symmetric
        self.library = library = importlib.import_module("nvmath.bindings.cudss")
        self.backend = Backend.of(matrix.data)
        self.shape = matrix.shape
        csr = (self.backend.sparse.triu(matrix) if symmetric else matrix).tocsr()
        csr.sum_duplicates()
        indices = [self.backend.xp.asarray(x, dtype="int32") for x in (csr.indptr, csr.indices)]
        self._arrays = [*indices, csr.data]  # cuDSS reads from them and does not own them
        self._value = library.DataType.R_64F if csr.dtype.itemsize == 8 else library.DataType.R_32F
        self.handle = library.create()
        self.config, self.data = library.config_create(), library.data_create(self.handle)
        kinds, views = library.MatrixType, library.MatrixViewType
        starts, columns, values = (pointer(x) for x in self._arrays)
        self.matrix = library.matrix_create_csr(
            *csr.shape,
            csr.nnz,
            starts,
            0,
            columns,
            values,
            library.DataType.R_32I,
            library.DataType.R_32I,
            self._value,
            kinds.SYMMETRIC if symmetric else kinds.GENERAL,
            views.UPPER if symmetric else views.FULL,
            library.IndexBase.ZERO,
        )
        weakref.finalize(self, _free, library, self.handle, self.config, self.data, self.matrix)
        b = self.backend.zeros(self.shape[0], 1)
        for phase in (library.Phase.ANALYSIS, library.Phase.FACTORIZATION):
            self._execute(phase, b, b)

    @property
    def nbytes(self) -> int:
        """Bytes of the entries of L and U."""
        entries, written = ctypes.c_int64(), ctypes.c_size_t()
        address, size = (ctypes.addressof(x) for x in (entries, written))
        parameter, width = self.library.DataParam.LU_NNZ, ctypes.sizeof(entries)
        self.library.data_get(self.handle, self.data, parameter, address, width, size)
        return self.backend.itemsize * entries.value

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b, (N,) or (N, k); `adjoint` only if `solves_adjoint`."""
        assert self.solves_adjoint or not adjoint
        xp = self.backend.xp
        if b.size == 0:
            return xp.zeros_like(b)
        by_columns = xp.asfortranarray(b.astype(self._arrays[-1].dtype, copy=False))
        x = xp.empty_like(by_columns)
        with lock_of(self):  # The handle has one workspace and one stream.
            self._execute(self.library.Phase.SOLVE, x, by_columns)
        return xp.ascontiguousarray(x)

    def _execute(self, phase: Any, x: Array, b: Array) -> None:
        library, n = self.library, self.shape[0]
        library.set_stream(self.handle, stream_pointer())
        columns = 1 if b.ndim == 1 else b.shape[1]
        dense = [
            library.matrix_create_dn(
                n, columns, n, pointer(block), self._value, library.Layout.COL_MAJOR
            )
            for block in (x, b)
        ]
        try:
            library.execute(self.handle, phase, self.config, self.data, self.matrix, *dense)
        except library.cuDSSError as error:
            message = f"cuDSS failed in its {phase.name.lower()} phase: {error}"
            if "ALLOC_FAILED" in str(error):
                raise OutOfMemoryError(
                    f"{message}. If the factors do not fit on the device, use "
                    "mfdeq.Krylov(preconditioner=mfdeq.AMG())"
                ) from error
            raise ArgumentError(f"{message}. Omit package= to try another package") from error
        finally:
            for block in dense:
                library.matrix_destroy(block)


def _free(library: Any, handle: int, config: int, data: int, matrix: int) -> None:
    library.matrix_destroy(matrix)
    library.data_destroy(handle, data)
    library.config_destroy(config)
    library.destroy(handle)


def has_cudss() -> bool:
    """Return whether nvmath-python is installed."""
    return importlib.util.find_spec("nvmath") is not None
