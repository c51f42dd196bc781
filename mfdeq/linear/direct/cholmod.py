"""CHOLMOD's supernodal Cholesky factorization, by kvxopt (the extra ``mfdeq[suitesparse]``).

References
----------
.. [1] Y. Chen, T. A. Davis, W. W. Hager and S. Rajamanickam, "Algorithm 887: CHOLMOD, supernodal
       sparse Cholesky factorization and update/downdate", ACM Transactions on Mathematical
       Software 35(3), article 22, 2008.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import scipy.sparse

from ...arrays.backend import Array, Backend, host, is_sparse
from ...locks import lock_of
from ...operators.dot_tests import is_symmetric
from ...operators.operator import Operator
from .costs import Fill, PackageCost
from .package import DirectPackage, Factorization, passes_trial_solve, unsuitable


class CholmodPackage(DirectPackage):
    """CHOLMOD, for symmetric positive definite sparse matrices on the host."""

    name = "cholmod"
    title = "CHOLMOD"
    equilibrates = False
    cost_on_host = PackageCost(unknown=1_000.0, operation=0.065, entry=2.0, solved_unknown=50.0)

    def obstacle(self, A: Operator) -> str:
        """Return why CHOLMOD cannot factorize A here, or "" if it can."""
        expected = "expected a sparse symmetric positive definite matrix on the host, got"
        if not is_sparse(A.array):
            return f"{expected} a dense one"
        if not A.backend.library.on_host:
            return f"{expected} one on a device"
        if not is_symmetric(A):
            return f"{expected} one that is not symmetric"
        if not has_positive_diagonal(A):
            return f"{expected} one with a diagonal that is not positive"
        if not has_kvxopt():
            return "kvxopt is not installed (pip install kvxopt)"
        return ""

    def is_candidate(self, A: Operator, fill: Fill) -> bool:
        """Return whether A comes from a mesh and may be positive definite, by its diagonal."""
        # CHOLMOD's ordering fills graphs with long edges more than SuperLU's does.
        return fill.compact and has_kvxopt() and not self.obstacle(A)

    def factorize(
        self, A: Operator, matrix: Any, max_operations: float = math.inf
    ) -> Factorization:
        """Factorize a symmetric positive definite matrix, and check that by a trial solve."""
        try:
            factors = CholeskyFactorization(A.backend, matrix)
            good = passes_trial_solve(A.backend, lambda x: matrix @ x, factors.solve, A.shape[0])
        except ArithmeticError as error:  # of a pivot that is not positive
            raise unsuitable(self, "it is not positive definite") from error
        if not good:
            raise unsuitable(self, "it is too badly conditioned")
        return factors


class CholeskyFactorization:
    """The Cholesky factor of a symmetric positive definite matrix, in float64."""

    solves_adjoint = True
    nbytes = 0  # kvxopt does not report it

    def __init__(self, backend: Backend, matrix: Any) -> None:
        self.backend = backend
        self.kvxopt = importlib.import_module("kvxopt")
        self.cholmod = importlib.import_module("kvxopt.cholmod")
        lower = scipy.sparse.tril(matrix, format="coo")
        values = lower.data.astype("float64")
        i, j = (self.kvxopt.matrix(x.astype("int64")) for x in (lower.row, lower.col))
        A = self.kvxopt.spmatrix(self.kvxopt.matrix(values), i, j, lower.shape)
        self.factor = self.cholmod.symbolic(A)
        self.cholmod.numeric(A, self.factor)

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b, (N,) or (N, k); A is its own adjoint."""
        if not b.size:
            return self.backend.xp.zeros_like(b)
        by_columns = host.asfortranarray(b.reshape(b.shape[0], -1), dtype="float64")
        x = self.kvxopt.matrix(by_columns)
        with lock_of(self):  # CHOLMOD has one workspace.
            self.cholmod.solve(self.factor, x)
        return host.ascontiguousarray(host.asarray(x), dtype=b.dtype).reshape(b.shape)


def has_kvxopt() -> bool:
    """Return whether kvxopt is installed."""
    return importlib.util.find_spec("kvxopt") is not None


def has_positive_diagonal(A: Operator) -> bool:
    """Return whether all entries on the diagonal of a sparse matrix are positive."""
    return bool((A.array.diagonal() > 0).all())
