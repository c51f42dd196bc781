"""The factor of a dense matrix."""

from __future__ import annotations

from typing import Any

import scipy.linalg.lapack

from ...arrays.backend import Array, host
from ...locks import ignore_warnings
from ...operators.operator import Operator
from ...report import LinearCounts
from ..rounding import singular_error
from ..scaling import Scaling
from .factors import DirectFactor

MAX_RENEWED_BYTES = 2**19  # as in `package`, for a dense matrix: 256 unknowns in float64

# LAPACK's functions for arrays of numpy. Those of scipy.linalg look them up and check their
# arguments, which takes several times as long as a small system.
FUNCTIONS = {
    "d": (scipy.linalg.lapack.dgetrf, scipy.linalg.lapack.dgetrs),
    "f": (scipy.linalg.lapack.sgetrf, scipy.linalg.lapack.sgetrs),
}


class DenseFactor(DirectFactor):
    """The LU of a dense matrix, by LAPACK or its equivalent on a device.

    Raises
    ------
    SingularStateError
        If a pivot is zero.
    """

    name = "Direct (dense LU)"
    max_renewed_bytes = MAX_RENEWED_BYTES

    def __init__(self, A: Operator, array: Any, rtol: float | None, counts: LinearCounts) -> None:
        super().__init__(A, rtol, counts)
        self.scaling = Scaling.of_operator(A)
        array = self.scaling.apply(array)
        functions = FUNCTIONS.get(array.dtype.char) if type(array) is host.ndarray else None
        self._getrs = functions and functions[1]
        if functions:
            self.lu, self.pivots, failed = functions[0](array)
            singular = failed or not self.backend.all(host.isfinite(self.lu.diagonal()))
        else:
            with ignore_warnings():  # an exact zero pivot becomes an error below
                self.lu, self.pivots = self.backend.dense_linalg.lu_factor(
                    array, check_finite=False
                )
            xp = self.backend.xp
            diagonal = xp.linalg.diagonal(self.lu)
            # scipy leaves a zero pivot as it is; cupy makes it NaN.
            singular = bool(xp.any((diagonal == 0) | ~xp.isfinite(diagonal)))
        if singular:
            raise singular_error(0.0, "(a pivot is exactly zero)")
        self.counts.bytes = self.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of L and U."""
        return int(self.lu.nbytes)

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        if self.scaling.rows is None and self._getrs:
            # SciPy changes the pivots while it solves, and changes them back: threads need their
            # own.
            return self._getrs(self.lu, self.pivots.copy(), b, 1 if adjoint else 0)[0]
        return self.scaling.solve(self._solve_scaled, b, adjoint)

    def _solve_scaled(self, b: Array, adjoint: bool) -> Array:
        trans = 1 if adjoint else 0
        if self._getrs:
            return self._getrs(self.lu, self.pivots.copy(), b, trans)[0]
        pivots = self.backend.xp.asarray(self.pivots, copy=True)
        solve = self.backend.dense_linalg.lu_solve
        # Both arrays are known to be finite; a check would wait for the device.
        return solve((self.lu, pivots), b, trans=trans, check_finite=False)
