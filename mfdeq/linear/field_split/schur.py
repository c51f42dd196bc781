"""Approximations of the Schur complement of the last field of a system."""

from __future__ import annotations

from typing import Any

from ...arrays.backend import is_dense, is_sparse
from ...arrays.kernels import scale_rows
from ...arrays.sparse import to_canonical_format
from ...errors import ArgumentError, short_repr
from ...operators.matrix_operator import Matrix
from ...operators.operator import Operator
from ...operators.user_operators import as_operator
from ..operands import matrix_or_products
from ..preconditioners.jacobi import inverse_diagonal
from .fields import Blocks, Fields

MATRIX_ADVICE = "pass a matrix that approximates the Schur complement as schur"


def check_schur(schur: Any) -> None:
    """Raise `ArgumentError` unless this can approximate a Schur complement."""
    known = schur is None or (isinstance(schur, str) and schur == "selfp")
    if known or is_sparse(schur) or is_dense(schur) or hasattr(schur, "matvec"):
        return
    if callable(schur) and not isinstance(schur, type):
        return
    raise ArgumentError(
        "schur of mfdeq.FieldSplit: expected None, 'selfp', a matrix that approximates the Schur "
        f"complement or its negative, or a function of A that returns one, got {short_repr(schur)}"
    )


def schur_complement(A: Operator, blocks: Blocks, fields: Fields, schur: Any) -> Operator:
    """Return what approximates the Schur complement of the last field, or its negative.

    It is the one of the two that is positive, for solvers that need a definite matrix.

    Parameters
    ----------
    A : Operator, (N, N)
    blocks : Blocks
        Those of A.
    fields : Fields
    schur : str, matrix or callable
        As in `mfdeq.FieldSplit`.

    Raises
    ------
    ArgumentError
        If, with "selfp", the diagonal of another field has a zero.
    ModelError
        If a matrix has a wrong shape or dtype.
    """
    size = fields.bounds[-1] - fields.bounds[-2]
    last = len(fields.names) - 1
    if isinstance(schur, str):
        found: Operator = Matrix(A.backend, _by_diagonal(blocks, fields))
    else:
        name = "schur of mfdeq.FieldSplit"
        given = schur
        if callable(schur) and not (is_dense(schur) or hasattr(schur, "matvec")):
            with A.backend.user_call(name):
                given = schur(matrix_or_products(A))
        found = as_operator(A.backend, given, (size, size), name, convert=True)
    scales = found.scales or fields.scales(A, last, last)
    y = A.backend.random(size, seed=4)
    if float(A.backend.xp.vecdot(y, found._apply(y))) < 0:
        found = -found
    found.scales = scales
    return found


def _by_diagonal(blocks: Blocks, fields: Fields) -> Any:
    """Return D - sum of C_i diag(A_ii)^-1 B_i over the fields before the last."""
    *rows, last = blocks
    total = None if last[-1] is None else last[-1].array
    for i, row in enumerate(rows):
        B, C, block = row[-1], last[i], row[i]
        if B is None or C is None:
            continue
        by = f"schur='selfp' of mfdeq.FieldSplit, {fields.names[i]}"
        if block is None:
            raise ArgumentError(f"{by}: the diagonal block is zero; {MATRIX_ADVICE}")
        inverse = inverse_diagonal(B.backend, block.array, by, MATRIX_ADVICE)
        if is_sparse(B.array):
            product = C.array @ (B.backend.sparse.diags(inverse) @ B.array).tocsr()
        else:
            product = C.array @ scale_rows(inverse, B.array)
        total = -product if total is None else total - product
    if total is None:
        raise ArgumentError(
            f"schur='selfp' of mfdeq.FieldSplit: {fields.names[-1]} has a zero diagonal block and "
            "is not coupled to the other fields, so that A is singular"
        )
    return to_canonical_format(total) if is_sparse(total) else total
