"""Factorizations of symmetric indefinite matrices, and the inertia that their pivots show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scipy import sparse

from ...arrays.backend import Array, Backend, host
from ...errors import SingularStateError
from ...locks import lock_of
from ...operators.matrix_operator import Matrix
from ..factor import Factor
from ..multifrontal.multifrontal import Multifrontal
from ..multifrontal.pivoting import PivotedFronts
from ..scaling import Scaling
from .package import trial_residual
from .superlu import SuperLUFactorization

# Limit on the relative residual of a solve without refinement, for a random b. Factors without
# enough pivoting are those of a perturbed matrix, and the residual is about the size of the
# perturbation relative to the distance to a singular matrix. Below this limit iterative refinement
# converges fast, and the signs of the pivots are correct.
MAX_COUNTING_RESIDUAL = 1e-3
SWEEPS = 10  # of `balancing`


class SymmetricFactor(Factor):
    """A factorization of a sparse symmetric matrix that may be indefinite.

    The fronts of `Multifrontal` exchange rows only inside a front, but solve in batches on any
    device. If that is not accurate, `PivotedFronts` delays pivots, on the host; if the graph has no
    small separators, SuperLU pivots, whose factors show no inertia. Solutions are refined.

    Parameters
    ----------
    A : Matrix, (N, N)
        A sparse matrix, scaled such that its rows are of similar size: see `symmetric_scaling`.

    Attributes
    ----------
    unrefined_residual : float
        The relative residual of a solve without refinement.

    Raises
    ------
    ZeroDivisionError
        If a pivot is zero.
    ArithmeticError
        If no method can factorize A.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from mfdeq.linear import operator_of
    >>> A = sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(100, 100)).tocsr()
    >>> factor = SymmetricFactor(operator_of(A))
    >>> factor.negative_pivots()
    50
    >>> np.allclose(A @ factor.solve(np.ones(100)), 1.0)
    True
    """

    name = "a symmetric factorization"
    iterative = False
    advice = "a shift farther from all eigenvalues"

    def __init__(self, A: Matrix) -> None:
        super().__init__(A, None, None)
        self.scaling = Scaling()
        self.factors: Any = None
        self.unrefined_residual = math.inf
        self._remaining: list[Callable[[], Any]] = [self._static, self._pivoted]
        errors = []
        while self._remaining and not self.unrefined_residual <= MAX_COUNTING_RESIDUAL:
            try:
                self._factorize_otherwise()
            except ArithmeticError as error:
                errors.append(error)
        if self.factors is None:
            raise errors[-1]

    def _factorize_otherwise(self) -> None:
        """Factorize by the next method, and use that if it is more accurate or accurate enough."""
        factors = self._remaining.pop(0)()
        array = self.A.array
        residual = trial_residual(self.backend, lambda x: array @ x, factors.solve, array.shape[0])
        if residual <= max(MAX_COUNTING_RESIDUAL, self.unrefined_residual):
            self.factors, self.unrefined_residual = factors, residual

    def _static(self) -> Multifrontal:
        return Multifrontal(self.A.array, self.backend, symmetric=True)

    def _pivoted(self) -> Any:
        try:
            return PivotedFronts(self.A.array, self.backend)
        except ZeroDivisionError:
            raise
        except ArithmeticError:
            return _PivotedLU(self.backend, self.A.array)

    def negative_pivots(self) -> int | None:
        """Count the negative eigenvalues of A; None if the signs of pivots may be wrong."""
        with lock_of(self):
            count = self._count()
            if count is None and self._remaining:
                try:
                    self._factorize_otherwise()
                except ArithmeticError:
                    return None
                count = self._count()
            return count

    def _count(self) -> int | None:
        accurate = self.unrefined_residual <= MAX_COUNTING_RESIDUAL
        return self.factors.negative_pivots() if accurate else None

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.factors.solve(b)


class _PivotedLU(SuperLUFactorization):
    """An LU by SuperLU, whose pivots off the diagonal show no inertia."""

    def __init__(self, backend: Backend, matrix: Any) -> None:
        try:
            super().__init__(backend, matrix)
        except SingularStateError as error:
            raise ZeroDivisionError("a pivot is zero") from error

    def negative_pivots(self) -> None:
        """Return None: the inertia is unknown."""


def symmetric_scaling(matrix: Any) -> Any:
    """Return D such that the rows of D A D have largest entries of about one, (N,).

    Parameters
    ----------
    matrix : sparse matrix on the host, (N, N)
        Symmetric. A congruence by D preserves its inertia.
    """
    rows, columns = balancing(matrix)
    return power_of_two((rows * columns) ** 0.5)


def balancing(matrix: Any) -> tuple[Any, Any]:
    """Return R and C such that the rows and columns of R A C have largest entries of about one.

    Parameters
    ----------
    matrix : sparse matrix on the host, (N, N)
    """
    size = abs(matrix.astype("float64"))
    found = Scaling.of(size)
    ones = host.ones(matrix.shape[0])
    rows, columns = (ones if x is None else x for x in (found.rows, found.columns))
    entries = size.tocoo()
    for _ in range(SWEEPS):
        data = rows[entries.row] * entries.data * columns[entries.col]
        scaled = sparse.coo_matrix((data, (entries.row, entries.col)), shape=matrix.shape).tocsr()
        for_rows, for_columns = (scaled.max(axis=axis).toarray().ravel() for axis in (1, 0))
        rows = rows / host.sqrt(host.where(for_rows > 0.0, for_rows, 1.0))
        columns = columns / host.sqrt(host.where(for_columns > 0.0, for_columns, 1.0))
    return rows, columns


def largest_entry(matrix: Any, rows: Any, columns: Any) -> float:
    """Return the largest magnitude of an entry of R A C; 0 if there are none."""
    entries = matrix.tocoo()
    sizes = rows[entries.row] * abs(entries.data) * columns[entries.col]
    return float(sizes.max(initial=0.0))


def power_of_two(x: Any) -> Any:
    """Return the nearest powers of two, because scaling by them does not round."""
    return 2.0 ** host.round(host.log2(x))
