"""Conversion of A to an operator, and access to its entries."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Backend, array_on_host, is_sparse
from ..arrays.memory import reserve
from ..arrays.sparse import to_canonical_format
from ..errors import ArgumentError
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from ..operators.user_operators import as_operator, backend_of

MAX_ASSEMBLED_SIZE = 2_000  # unknowns up to which entries are computed from products
ASSEMBLY_COLUMNS = 128  # of the identity, multiplied at once
MAX_SPARSE_DENSITY = 0.25  # share of entries up to which an assembled matrix is stored as sparse
MIN_SPARSE_SIZE = 50
COMPARED_FIRST = 64  # entries by which two matrices are compared before the others
MAX_COMPARED_AT_ONCE = 4_096  # entries of matrices that are compared without that


def operator_of(A: Any) -> Operator:
    """Return a square matrix or linear operator as an `Operator`.

    Parameters
    ----------
    A : Operator, LinearOperator, sparse matrix or array, (N, N)

    Returns
    -------
    Operator
        A itself if it is one.

    Raises
    ------
    ArgumentError
        If A is not square.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.linear import operator_of
    >>> A = operator_of(np.diag([2.0, 4.0]))
    >>> print(A @ np.ones(2), A.array.shape)
    [2. 4.] (2, 2)
    """
    if isinstance(A, Operator) and A.shape[0] == A.shape[1] > 0:
        return A
    shape = tuple(getattr(A, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ArgumentError(
            "A: expected a square matrix, or a LinearOperator that has its adjoint, got a "
            f"{type(A).__name__} of shape {shape}"
        )
    if is_sparse(A):
        A = to_canonical_format(A)
    return as_operator(backend_of(A), A, shape, "A")


def matrix_of(A: Operator, needed_by: str) -> Any:
    """Return the sparse matrix or array of an operator.

    Up to 2,000 unknowns the entries are computed from products if they are not known.

    Parameters
    ----------
    A : Operator, sparse matrix or array, (N, N)
    needed_by : str
        Name of what needs the entries, for the error.

    Returns
    -------
    array or sparse matrix, (N, N)

    Raises
    ------
    ArgumentError
        If only products with a larger A are available, or PETSc has the entries.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.linear import matrix_of, operator_of
    >>> A = operator_of(np.diag([2.0, 4.0]))
    >>> print(matrix_of(A, "a preconditioner").diagonal())
    [2. 4.]
    """
    A = operator_of(A)
    array = A.array
    if array is None and A.has_entries:
        raise ArgumentError(
            f"{needed_by} takes matrices of numpy, scipy and cupy; use "
            "mfdeq.petsc.KSP(options={...}) for those of PETSc"
        )
    if array is None and A.shape[0] <= MAX_ASSEMBLED_SIZE:
        array = assembled(A).array
    if array is None:
        raise ArgumentError(
            f"{needed_by} needs the entries of A, but only products with A are available. They are "
            f"assembled up to {MAX_ASSEMBLED_SIZE:,} unknowns, and N = {A.shape[0]:,}: "
            f"{A.advice_for_entries}, or use mfdeq.Krylov(preconditioner=M), where M is None, a "
            "LinearOperator of your own or mfdeq.Approximate(...)"
        )
    return array


def matrix_or_products(A: Operator) -> Any:
    """Return the sparse matrix or array of an operator, or the operator if only products are known.

    Functions of users that build a preconditioner get it.
    """
    return A if A.array is None else A.array


def have_equal_entries(A: Operator, B: Operator) -> bool:
    """Return whether two operators are known to be the same matrix, with the same scales.

    Some entries are compared first, which tell most pairs apart. To find the same matrix among
    many, look it up by its `fingerprint`.
    """
    if A is B:
        return True
    a, b = A.stored_entries(), B.stored_entries()
    if a is None or b is None or a[0] is not b[0] or A.shape != B.shape:
        return False
    if A.scales is not None or B.scales is not None:
        for x, y in zip(A.scales or (None, None), B.scales or (None, None), strict=True):
            if (x is None) != (y is None) or (x is not None and not _equal(A.backend, x, y)):
                return False
    samples = (_sample(A.backend, stored[1]) for stored in (a, b))
    if a[1].size > MAX_COMPARED_AT_ONCE and not _equal(A.backend, *samples):
        return False
    return all(x is y or _equal(A.backend, x, y) for x, y in zip(a[1:], b[1:], strict=True))


def fingerprint(A: Operator) -> tuple[Any, ...]:
    """Return a key that equal matrices have in common, and that tells most others apart.

    It has some of the entries. Operators of which only products are known have keys of their own.
    """
    stored = A.stored_entries()
    if stored is None:
        return (id(A),)
    kind, values = stored[:2]
    sample = array_on_host(_sample(A.backend, values)) + 0.0  # where -0 and 0 are the same
    return kind, str(A.backend.dtype), A.shape, values.shape, sample.tobytes()


def _sample(backend: Backend, values: Any) -> Any:
    entries = backend.xp.reshape(values, (-1,))
    return entries[:: max(1, entries.shape[0] // COMPARED_FIRST)]


def _equal(backend: Backend, x: Any, y: Any) -> bool:
    return x.shape == y.shape and backend.all(x == y)


def assembled(A: Operator) -> Operator:
    """Return A with its entries, which are computed by products with the identity if need be.

    Parameters
    ----------
    A : Operator, (N, N)

    Returns
    -------
    Operator
        A itself if its entries are known; otherwise a dense matrix, or a sparse one if at most a
        quarter of the entries are not zero. It is computed once.
    """
    if A.has_entries:
        return A
    found = vars(A).get("_assembled")
    if found is None:
        entries = A.assembled_entries()
        found = Matrix(A.backend, _entries(A) if entries is None else entries)
        vars(A)["_assembled"] = found
        found.scales = A.scales
    return found


def _entries(A: Operator) -> Any:
    backend, n = A.backend, A.shape[0]
    xp = backend.xp
    reserve(
        backend,
        2.0 * n * n,
        f"the matrix of A, assembled by products for {n:,} unknowns",
        "use mfdeq.Krylov(...), which only multiplies by A",
    )
    dense, width = backend.zeros(n, n), min(n, ASSEMBLY_COLUMNS)
    for first in range(0, n, width):
        # All blocks have the same width, since some operators compile a product for each.
        columns = xp.arange(first, first + width, device=backend.device)
        block = xp.astype(
            xp.arange(n, device=backend.device)[:, None] == columns[None, :], backend.dtype
        )
        dense[:, first : first + width] = A._apply(block)[:, : n - first]
    present = int(xp.sum(xp.astype(dense != 0, xp.int64)))
    if n >= MIN_SPARSE_SIZE and present <= MAX_SPARSE_DENSITY * n * n:
        return backend.sparse.csr_matrix(dense)
    return dense
