"""PARDISO of Intel's Math Kernel Library, by pypardiso (the extra ``mfdeq[pardiso]``).

The library that pypardiso finds is called directly, because its own class takes only float64.

References
----------
.. [1] O. Schenk and K. Gärtner, "Solving unsymmetric sparse systems of linear equations with
       PARDISO", Future Generation Computer Systems 20(3), 475-487, 2004.
.. [2] O. Schenk and K. Gärtner, "On fast factorization pivoting methods for sparse symmetric
       indefinite systems", Electronic Transactions on Numerical Analysis 23, 158-179, 2006.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
import math
import os
import weakref
from typing import Any

import scipy.sparse

from ...arrays.backend import Array, Backend, host, is_sparse
from ...arrays.sparse import to_canonical_format
from ...errors import OutOfMemoryError
from ...locks import lock_of
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from ...parallel import threads
from .cholmod import has_positive_diagonal
from .costs import Fill, PackageCost
from .package import DirectPackage, Factorization, passes_trial_solve, unsuitable

DEFINITE, INDEFINITE, GENERAL = 2, -2, 11  # types of matrices
ANALYSIS, NUMBERS, SOLUTION, RELEASE = 11, 22, 33, -1  # phases
MINIMUM_DEGREE, NESTED_DISSECTION = 0, 2  # orderings
# Operations per entry of A above which nested dissection is tried, too. It takes 0.3 microseconds
# more per entry than minimum degree, is no better for meshes in the plane, and at best halves the
# operations of other small systems.
MAX_MINIMUM_DEGREE_OPERATIONS = 20_000.0
OUT_OF_MEMORY, ZERO_PIVOT = -2, -4
# Nanoseconds of a solve per unknown where zeros on the diagonal lead to perturbed pivots: PARDISO
# then takes two steps of refinement.
REFINED_UNKNOWN = 220.0
# Entries of the factors per unknown from which on a block is solved at once, in 0.3 to 0.5 of the
# time of its columns. With fewer, as for meshes in the plane, it takes 1.0 to 2.8 times as long.
MIN_BLOCK_ENTRIES = 120.0


class PardisoPackage(DirectPackage):
    """PARDISO, for sparse matrices on the host.

    It exchanges rows only inside a supernode, after a scaling and a matching that put large entries
    on the diagonal, and a trial solve decides whether the factorization is good enough.
    """

    name = "pardiso"
    title = "PARDISO"
    equilibrates = False
    cost_on_host = PackageCost(
        unknown=1_800.0,
        operation=0.02,
        entry=0.8,
        solved_unknown=40.0,
        block_share=0.4,
        min_block_entries=MIN_BLOCK_ENTRIES,
    )

    def obstacle(self, A: Operator) -> str:
        """Return why PARDISO cannot factorize A here, or "" if it can."""
        if not is_sparse(A.array):
            return "expected a sparse matrix on the host, got a dense one"
        if not A.backend.library.on_host:
            return "expected a sparse matrix on the host, got one on a device"
        if not has_pardiso():
            return "pypardiso is not installed (pip install pypardiso)"
        return ""

    def cost(self, A: Operator) -> PackageCost | None:
        """Return the time model, by which a saddle point's pivots are perturbed, then refined."""
        found = super().cost(A)
        if found is None or A.array.diagonal().all():
            return found
        return found._replace(solved_unknown=REFINED_UNKNOWN)

    def is_candidate(self, A: Operator, fill: Fill) -> bool:
        """Return whether A has compact parts, from which its fill is known."""
        return fill.compact and not self.obstacle(A)

    def factorize(
        self, A: Operator, matrix: Any, max_operations: float = math.inf
    ) -> Factorization:
        """Factorize as the symmetry of A allows, and check the pivots by a trial solve."""
        kinds = [GENERAL]
        if is_symmetric(A):
            kinds = [DEFINITE, INDEFINITE] if has_positive_diagonal(A) else [INDEFINITE]
        for kind in kinds:
            try:
                factors = PardisoFactorization(A.backend, matrix, kind)
            except ZeroDivisionError as error:
                if kind == DEFINITE:
                    continue
                raise unsuitable(self, str(error), singular=True) from error
            except ArithmeticError as error:
                raise unsuitable(self, str(error)) from error
            if passes_trial_solve(A.backend, lambda x: matrix @ x, factors.solve, A.shape[0]):
                return factors
        raise unsuitable(self, "it needs more pivoting than PARDISO does (package='superlu' does)")


class PardisoFactorization:
    """The factors of a sparse matrix on the host.

    Parameters
    ----------
    backend : Backend
    matrix : sparse matrix, (N, N)
    kind : {DEFINITE, INDEFINITE, GENERAL}
        The symmetry of the matrix.

    Raises
    ------
    ZeroDivisionError
        If a pivot is zero, or not positive if the matrix should be positive definite.
    OutOfMemoryError
        If the factors do not fit in memory.
    """

    solves_adjoint = True

    def __init__(self, backend: Backend, matrix: Any, kind: int) -> None:
        self.backend, self.kind = backend, kind
        matrix = to_canonical_format(matrix.tocsr())
        self.entries = matrix.nnz
        if kind != GENERAL:
            matrix = _upper_triangle(matrix)
        self.size = matrix.shape[0]
        self.data = host.ascontiguousarray(matrix.data)
        self.starts, self.columns = (x.astype("int32") for x in (matrix.indptr, matrix.indices))
        self.handle = host.zeros(64, dtype="int64")
        self.options = host.zeros(64, dtype="int32")
        options = {1: 1, 19: -1, 28: int(backend.itemsize == 4), 35: 1}
        if kind != DEFINITE:  # perturbations of pivots, scaling, matching
            options |= {10: 8 if kind == INDEFINITE else 13, 11: 1, 13: 1, 21: 1, 24: 0}
        for number, value in options.items():
            self.options[number - 1] = value
        parts = self.handle, self.options, self.starts, self.columns, self.data
        weakref.finalize(self, _release, kind, self.size, parts)
        self._analyze()
        self._call(NUMBERS, *2 * [host.zeros(self.size, dtype=self.data.dtype)])

    def _analyze(self) -> None:
        """Order the unknowns by minimum degree or, if that fills up, by the better of two."""
        empty = host.zeros(self.size, dtype=self.data.dtype)
        operations = {}
        for order in (MINIMUM_DEGREE, NESTED_DISSECTION):
            self._order(order, empty)
            operations[order] = 1e6 * float(self.options[18])
            if operations[order] <= MAX_MINIMUM_DEGREE_OPERATIONS * self.entries:
                return
        if operations[MINIMUM_DEGREE] < operations[NESTED_DISSECTION]:
            self._order(MINIMUM_DEGREE, empty)

    def _order(self, order: int, empty: Any) -> None:
        self.options[1], self.options[18] = order, -1
        self._call(ANALYSIS, empty, empty)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors, as PARDISO reports them."""
        return 1024 * int(self.options[16])

    def negative_pivots(self) -> int | None:
        """Count the negative eigenvalues of a symmetric A; None if pivots were perturbed."""
        if self.kind == DEFINITE:
            return 0
        return int(self.options[22]) if self.kind == INDEFINITE and not self.options[13] else None

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b or A⁻ᵀ b, (N,) or (N, k)."""
        rows = self._by_columns(b)
        x = host.empty_like(rows)
        at_once = b.ndim == 1 or self.nbytes >= MIN_BLOCK_ENTRIES * self.size * self.data.itemsize
        if b.size:
            with lock_of(self):  # The handle has one workspace.
                self.options[11] = 2 if adjoint and self.kind == GENERAL else 0
                for given, solution in [(rows, x)] if at_once else zip(rows, x, strict=True):
                    self._call(SOLUTION, given, solution)
        return host.ascontiguousarray(x.T)

    def _by_columns(self, b: Array) -> Array:
        """Return b', whose rows are the right-hand sides one after the other, or the vector b."""
        if b.ndim == 1 or b.flags.f_contiguous:
            return host.ascontiguousarray(b.T, dtype=self.data.dtype)
        rows = host.empty(b.shape[::-1], dtype=self.data.dtype)
        self.backend.kernels.transpose_into(rows, b)
        return rows

    def _call(self, phase: int, b: Any, x: Any) -> None:
        parts = self.handle, self.options, self.starts, self.columns, self.data
        error = _call(phase, self.kind, self.size, parts, b, x)
        if error == OUT_OF_MEMORY:
            raise OutOfMemoryError(
                "PARDISO cannot allocate the memory for its factors: use an iterative solver, "
                "mfdeq.Krylov(preconditioner=mfdeq.AMG())"
            )
        if error == ZERO_PIVOT:
            raise ZeroDivisionError("a pivot is zero")
        if error:
            raise ArithmeticError(f"PARDISO fails with its error {error}")


def _upper_triangle(matrix: Any) -> Any:
    """Return the entries on and above the diagonal, all of which PARDISO needs to be stored."""
    upper = scipy.sparse.triu(matrix, format="csr")
    n = upper.shape[0]
    diagonal = host.zeros(n, dtype=bool)
    first = upper.indptr[:-1][upper.indptr[:-1] < upper.indptr[1:]]
    rows = host.flatnonzero(upper.indptr[:-1] < upper.indptr[1:])
    diagonal[rows] = upper.indices[first] == rows
    if diagonal.all():
        return upper
    entries, missing = upper.tocoo(), host.flatnonzero(~diagonal)
    row, column = (host.concatenate([x, missing]) for x in (entries.row, entries.col))
    data = host.concatenate([entries.data, host.zeros(missing.shape[0], dtype=upper.dtype)])
    return to_canonical_format(
        scipy.sparse.coo_matrix((data, (row, column)), shape=upper.shape).tocsr()
    )


def _call(phase: int, kind: int, size: int, parts: tuple[Any, ...], b: Any, x: Any) -> int:
    """Call PARDISO by so many threads as mfdeq's own loops; return its error."""
    handle, options, starts, columns, data = parts
    library, error = _library(), ctypes.c_int(0)
    numbers = [ctypes.byref(ctypes.c_int(i)) for i in (1, 1, kind, phase, size)]
    width, silent = (ctypes.byref(ctypes.c_int(i)) for i in (1 if b.ndim == 1 else b.shape[0], 0))
    arrays = [ctypes.c_void_p(array.ctypes.data) for array in (data, starts, columns)]
    before = library.MKL_Set_Num_Threads_Local(threads())
    try:
        library.pardiso(
            ctypes.c_void_p(handle.ctypes.data),
            *numbers,
            *arrays,
            None,
            width,
            ctypes.c_void_p(options.ctypes.data),
            silent,
            ctypes.c_void_p(b.ctypes.data),
            ctypes.c_void_p(x.ctypes.data),
            ctypes.byref(error),
        )
    finally:
        library.MKL_Set_Num_Threads_Local(before)
    return error.value


def _release(kind: int, size: int, parts: tuple[Any, ...]) -> None:
    nothing = host.zeros(1, dtype=parts[-1].dtype)
    _call(RELEASE, kind, size, parts, nothing, nothing)


@functools.cache
def _library() -> Any:
    """Return the library with PARDISO, without the types of arguments that pypardiso declares.

    It is one of the files of the package mkl, on which pypardiso depends. The search of pypardiso
    goes through all files of the environment, which takes a second; it finds what others installed.
    """
    if os.environ.get("PYPARDISO_MKL_RT") is None:
        try:
            files = importlib.metadata.files("mkl") or ()
            of_runtime = [file for file in files if file.name.startswith("libmkl_rt")]
            return ctypes.CDLL(os.path.realpath(of_runtime[0].locate()))
        except (importlib.metadata.PackageNotFoundError, IndexError, OSError):
            pass
    return ctypes.CDLL(importlib.import_module("pypardiso").PyPardisoSolver().libmkl._name)


def has_pardiso() -> bool:
    """Return whether pypardiso is installed."""
    return importlib.util.find_spec("pypardiso") is not None
