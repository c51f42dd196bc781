"""CHOLMOD's Cholesky factorization, through the package cholespy (the extra ``mfdeq[cholespy]``).

References
----------
.. [1] Y. Chen, T. A. Davis, W. W. Hager and S. Rajamanickam, "Algorithm 887: CHOLMOD, supernodal
       sparse Cholesky factorization and update/downdate", ACM Transactions on Mathematical
       Software 35(3), article 22, 2008.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import math
from typing import Any

from ...arrays.backend import Array, Backend, is_sparse
from ...locks import lock_of
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from .costs import Fill, PackageCost
from .package import DirectPackage, Factorization, unsuitable

CONFIGURED_FUNCTIONS = 7  # pointers to functions in SuiteSparse_config: four for memory, then ...
PRINT_FUNCTION = 4  # ... the one that prints, and two of arithmetic


class CholespyPackage(DirectPackage):
    """CHOLMOD, for symmetric positive definite sparse matrices on the host."""

    name = "cholespy"
    title = "CHOLMOD"
    equilibrates = False
    cost_on_host = PackageCost(unknown=5_000.0, operation=0.5, entry=1.5)

    def obstacle(self, A: Operator) -> str:
        """Return why CHOLMOD cannot factorize A here, or "" if it can."""
        expected = "expected a sparse symmetric positive definite matrix on the host, got"
        if not is_sparse(A.array):
            return f"{expected} a dense one"
        if not A.backend.library.on_host:
            return f"{expected} one on a device"
        if not is_symmetric(A):
            return f"{expected} one that is not symmetric"
        if not _has_positive_diagonal(A):
            return f"{expected} one with a diagonal that is not positive"
        if not has_cholespy():
            return "cholespy is not installed (pip install cholespy)"
        return ""

    def is_candidate(self, A: Operator, fill: Fill) -> bool:
        """Return whether A comes from a mesh and may be positive definite, by its diagonal."""
        # CHOLMOD's ordering fills graphs with long edges more than SuperLU's does.
        return fill.compact and has_cholespy() and not self.obstacle(A)

    def factorize(
        self, A: Operator, matrix: Any, max_operations: float = math.inf
    ) -> Factorization:
        """Factorize a symmetric positive definite matrix."""
        try:
            return CholeskyFactorization(A.backend, matrix)
        except ValueError as error:
            raise unsuitable(self, f"{error}".rstrip("!. ").lower()) from error


class CholeskyFactorization:
    """The Cholesky factor of a symmetric positive definite matrix."""

    solves_adjoint = True
    nbytes = 0  # cholespy does not report it

    def __init__(self, backend: Backend, matrix: Any) -> None:
        self.xp = backend.xp
        cholespy = silent_cholespy()
        matrix = matrix.tocsc()
        matrix.sort_indices()
        solver = cholespy.CholeskySolverD if backend.itemsize == 8 else cholespy.CholeskySolverF
        self.cholesky = solver(
            matrix.shape[0],
            matrix.indptr.astype("int32"),
            matrix.indices.astype("int32"),
            matrix.data.astype("float64"),
            cholespy.MatrixType.CSC,
        )

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b, (N,) or (N, k); A is its own adjoint."""
        b = self.xp.asarray(b, copy=True, order="C")
        x = self.xp.empty_like(b)
        if b.size:
            with lock_of(self):  # CHOLMOD has one workspace.
                self.cholesky.solve(b, x)
        return x


@functools.cache
def silent_cholespy() -> Any:
    """Import cholespy, and keep CHOLMOD from printing warnings of matrices that are indefinite.

    CHOLMOD prints by a function of SuiteSparse's configuration, a record of seven pointers to
    functions that the extension module of cholespy exports. A null pointer there prints nothing.
    The error for such a matrix is raised as before.
    """
    cholespy = importlib.import_module("cholespy")
    core = importlib.import_module("cholespy._cholespy_core")
    with contextlib.suppress(ValueError, OSError):  # of a build that does not export the record
        functions = ctypes.c_void_p * CONFIGURED_FUNCTIONS
        record = functions.in_dll(ctypes.CDLL(core.__file__), "SuiteSparse_config")
        record[PRINT_FUNCTION] = None
    return cholespy


def has_cholespy() -> bool:
    """Return whether cholespy is installed."""
    return importlib.util.find_spec("cholespy") is not None


def _has_positive_diagonal(A: Operator) -> bool:
    return bool((A.array.diagonal() > 0).all())
