"""Zero pivots in factorizations of PETSc: A is singular, or its rows are in a bad order."""

from __future__ import annotations

from typing import Any

from ..equilibrium.null_vectors import find_null_vectors
from ..errors import ConvergenceError, SingularStateError
from ..linear.rounding import singular_error
from ..operators.operator import Operator

# PETSc's codes of zero pivots of LU and Cholesky, and of an object in a wrong state, as is a matrix
# that stores no diagonal.
ZERO_PIVOT_CODES, WRONG_STATE_CODE = (71, 81), 73
MISSING_DIAGONAL = "missing diagonal"
STORED_BY_ROWS = ("seqaij", "mpiaij")  # types of Mats whose empty rows are known
EXCHANGES_ROWS = ("mumps", "superlu", "umfpack", "klu", "mkl_pardiso", "mkl_cpardiso", "strumpack")


def is_zero_pivot(error: Any) -> bool:
    """Return whether an error of PETSc says that a pivot is zero, or is not stored."""
    codes = {error.ierr, getattr(error.__cause__, "ierr", None)}
    if codes.intersection(ZERO_PIVOT_CODES):
        return True
    return WRONG_STATE_CODE in codes and MISSING_DIAGONAL in str(error).lower()


def empty_rows(mat: Any) -> list[int]:
    """Return the rows of a Mat that have no entries other than zero, on all ranks.

    Those of a Mat with a null space, to which they belong, are left out.
    """
    if mat.getType() not in STORED_BY_ROWS or mat.getTransposeNullSpace() or mat.getNullSpace():
        return []
    rows = mat.findZeroRows()
    indices = [] if not rows else rows.getIndices().tolist()
    return sorted(i for part in mat.getComm().tompi4py().allgather(indices) for i in part)


def setup_error(A: Operator, ksp: Any, why: str) -> ConvergenceError | SingularStateError:
    """Return the error for a preconditioner that PETSc cannot set up.

    Parameters
    ----------
    A : Operator, (N, N)
    ksp : KSP
    why : str
        What PETSc says.

    Returns
    -------
    ConvergenceError or SingularStateError
        The latter if A has null vectors, or if the package exchanges rows, so that its pivots are
        zero only then.
    """
    pc = ksp.getPC()
    package = pc.getFactorSolverType() if pc.getType() in ("lu", "cholesky") else None
    if package in EXCHANGES_ROWS or find_null_vectors(A) is not None:
        return singular_error(0.0, f"({why})")
    prefix = ksp.getOptionsPrefix()
    return ConvergenceError(
        f"KSP {ksp.getType()} with {pc.getType()}: {why}. A need not be singular, since PETSc's "
        f"own factorizations do not exchange rows. Use -{prefix}pc_type lu with "
        f"-{prefix}pc_factor_mat_solver_type mumps, -{prefix}pc_factor_shift_type nonzero, or a "
        f"-{prefix}pc_type that does not factorize, such as jacobi",
    )
