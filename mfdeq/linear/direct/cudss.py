"""Factors of a sparse matrix on the device, by cuDSS through nvmath-python's bindings.

Its own Python class takes one shape of right-hand sides for good; the bindings take any.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import weakref
from typing import Any

from ...arrays.backend import Array, Backend
from ...arrays.cuda import pointer, stream_pointer
from ...errors import ArgumentError, OutOfMemoryError


class CuDSS:
    """An LU of a sparse matrix, or L D L' of a symmetric one.

    Parameters
    ----------
    matrix : sparse matrix of cupyx, (N, N)
    symmetric : bool
        Whether A' = A.
    """

    def __init__(self, matrix: Any, symmetric: bool) -> None:
        self.library = library = importlib.import_module("nvmath.bindings.cudss")
        self.backend = Backend.of(matrix.data)
        self.shape = matrix.shape
        csr = (self.backend.sparse.triu(matrix) if symmetric else matrix).tocsr()
        csr.sum_duplicates()
        indices = [self.backend.xp.asarray(x, dtype="int32") for x in (csr.indptr, csr.indices)]
        self._held = [*indices, csr.data]  # which cuDSS reads from, and does not own
        self._value = library.DataType.R_64F if csr.dtype.itemsize == 8 else library.DataType.R_32F
        self.handle = library.create()
        self.config, self.data = library.config_create(), library.data_create(self.handle)
        kinds, views = library.MatrixType, library.MatrixViewType
        starts, columns, values = (pointer(x) for x in self._held)
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
    def entries(self) -> int:
        """Numbers stored."""
        found, written = ctypes.c_int64(), ctypes.c_size_t()
        where, size = (ctypes.addressof(x) for x in (found, written))
        parameter = self.library.DataParam.LU_NNZ
        self.library.data_get(self.handle, self.data, parameter, where, ctypes.sizeof(found), size)
        return found.value

    def solve(self, b: Array) -> Array:
        """A^-1 b, for (N,) or (N, k)."""
        xp = self.backend.xp
        if b.size == 0:
            return xp.zeros_like(b)
        by_columns = xp.asfortranarray(b.astype(self._held[-1].dtype, copy=False))
        x = xp.empty_like(by_columns)
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
            kind = OutOfMemoryError if "ALLOC_FAILED" in str(error) else ArgumentError
            raise kind(
                f"cuDSS failed in its {phase.name.lower()}: {error}. Use "
                "mfdeq.Direct(package='multifrontal'), or mfdeq.Krylov(...) if the factors do not "
                "fit on the device"
            ) from error
        finally:
            for block in dense:
                library.matrix_destroy(block)


def _free(library: Any, handle: int, config: int, data: int, matrix: int) -> None:
    library.matrix_destroy(matrix)
    library.data_destroy(handle, data)
    library.config_destroy(config)
    library.destroy(handle)


def has_cudss() -> bool:
    """Whether nvmath-python is installed."""
    return importlib.util.find_spec("nvmath") is not None
