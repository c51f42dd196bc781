"""Conversion and validation of users' matrices and LinearOperators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..arrays.backend import Array, Backend, host, is_dense, is_sparse
from ..arrays.library import library_of
from ..arrays.sparse import to_canonical_format
from ..errors import MfdeqError, ModelError
from .dot_tests import check_adjoint, check_columns
from .matrix_operator import Matrix
from .operator import Operator, SelfAdjoint, columnwise

# Formats whose entries are one array; those of the others (dok, lil) are Python objects.
ARRAY_FORMATS = ("csr", "csc", "coo", "bsr", "dia")


def backend_of(x: Any) -> Backend:
    """Return the backend of a matrix or an operator of any library."""
    if isinstance(x, Operator):
        return x.backend
    if is_sparse(x):
        return Backend.of(x.data if x.format in ARRAY_FORMATS else x.tocoo().data)
    if is_dense(x):
        return Backend.of(x)
    return Backend.of(library_of(x).zeros_of(x))


def check_home(backend: Backend, x: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
    """Raise an `error` if a matrix or operator belongs to another library or device."""
    if not isinstance(x, Operator):
        backend.check_home(x, name, error)
    elif (backend.xp, backend.device) != (x.backend.xp, x.backend.device):
        backend.refuse_foreign(x, name, error)


def as_operator(
    backend: Backend,
    given: Any,
    shape: tuple[int, int],
    name: str,
    convert: bool = False,
    test_adjoint: bool = True,
) -> Operator:
    """Return a user's array, sparse matrix or LinearOperator as an operator, after checking it.

    With `convert`, a matrix of lower precision is accepted and converted, as data are. Without
    `test_adjoint`, the dot test of a LinearOperator is left out.

    Raises
    ------
    ModelError
        If the shape, dtype or array library is wrong, an entry is NaN or infinite, or an adjoint
        is missing.
    DerivativeError
        If the adjoint of a LinearOperator fails the dot test.
    """
    if type(given) is host.ndarray and backend.is_numpy:
        return Matrix(backend, backend.check_array(given, shape, name, convert=convert))
    if isinstance(given, Operator):
        check_home(backend, given, name)
        backend.check_dtype(given.dtype, name)
        found = given
    elif is_sparse(given) or is_dense(given):
        found = Matrix(backend, _checked_matrix(backend, given, shape, name, convert))
    elif library_of(given).is_matrix(given):
        found = library_of(given).as_operator(backend, given, name)
    elif hasattr(given, "matvec") and hasattr(given, "shape"):
        given = _checked_products(backend, given, shape, name)
        found = FromUser(backend, given, name, test_adjoint)
        if test_adjoint:
            check_adjoint(found, name)
    else:
        raise ModelError(
            f"{name}: expected an array, a sparse matrix or a LinearOperator of shape {shape}, "
            f"got a {type(given).__name__}"
        )
    if tuple(found.shape) != shape:
        raise ModelError(f"{name}: expected shape {shape}, got {tuple(found.shape)}")
    return found


def _checked_products(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Any:
    backend.check_home(given, name)
    if tuple(given.shape) != shape:
        raise ModelError(f"{name}: expected shape {shape}, got {tuple(given.shape)}")
    backend.check_dtype(getattr(given, "dtype", None) or backend.dtype, name)
    return given


def _checked_matrix(
    backend: Backend, given: Any, shape: tuple[int, int], name: str, convert: bool
) -> Any:
    if is_dense(given):
        return backend.check_array(given, shape, name, convert=convert)
    if tuple(given.shape) != shape:
        raise ModelError(f"{name}: expected shape {shape}, got {tuple(given.shape)}")
    backend.check_home(given, name)
    backend.check_dtype(given.dtype, name, convert=convert)
    # `asarray` copies sparse matrices, since a model may overwrite its buffers later.
    matrix = to_canonical_format(
        backend.asarray(given if given.format in ("csr", "csc") else given.tocsr())
    )
    xp = backend.xp
    if not bool(xp.all(xp.isfinite(matrix.data))):
        undefined, entries = xp.astype(~xp.isfinite(matrix.data), xp.int64), matrix.tocoo()
        count, k = int(xp.sum(undefined)), int(xp.argmax(undefined))
        raise ModelError(
            f"{name} holds NaN or infinity in {count} of {matrix.nnz} entries, the first of them "
            f"entry ({int(entries.row[k])}, {int(entries.col[k])})",
            non_finite=True,
        )
    return matrix


class FromUser(Operator):
    """A user's LinearOperator, applied to whole blocks, whose results are validated."""

    block_rtol: float | None = None  # relative tolerance of `check_columns`

    def __init__(self, backend: Backend, op: Any, name: str, probe: bool = True) -> None:
        super().__init__(backend, tuple(op.shape))
        self.op, self.name = op, name
        # If the user defines no block product, scipy and cupyx pass (n, 1) columns to a function
        # written for (n,).
        self._columns_only = getattr(op, "_CustomLinearOperator__matmat_impl", True) is None
        self._compared: set[str] = set()  # products that have passed `check_columns`
        if probe:
            self._probe_adjoint()

    def _probe_adjoint(self) -> None:
        try:
            self._apply_adjoint(self.backend.zeros(self.shape[0]))
        except (NotImplementedError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{self.name} is an operator without an adjoint ({error or type(error).__name__}): "
                "pass rmatvec= (that of a symmetric operator is its matvec), or an array or sparse "
                "matrix instead"
            ) from error

    def _apply(self, x: Array) -> Array:
        block = getattr(self.op, "matmat", None)
        return self._product(x, self.op.matvec, block, self.shape[0], "product")

    def _apply_adjoint(self, y: Array) -> Array:
        block = getattr(self.op, "rmatmat", None)
        return self._product(y, self.op.rmatvec, block, self.shape[1], "adjoint product")

    def inner_operators(self) -> list[Operator]:
        """Return the operators of which the array library's LinearOperator is composed."""
        return list(_composed_of(self.op))

    def _product(self, x: Array, vector: Any, block: Any, rows: int, what: str) -> Array:
        name = f"the {what} of {self.name}"
        if x.ndim == 2 and (block is None or self._columns_only):
            return columnwise(lambda c: self._checked(vector, c, rows, name), x, self.backend, rows)

        def product(x: Array) -> Array:
            return self._checked(block if x.ndim == 2 else vector, x, rows, name)

        if x.ndim == 2 and what not in self._compared:
            check_columns(self.backend, product, x.shape[0], name, self.block_rtol)
            self._compared.add(what)
        return product(x)

    def _checked(self, function: Any, x: Array, rows: int, name: str) -> Array:
        xp, shape = self.backend.xp, (rows, *x.shape[1:])
        try:
            with self.backend.user_call(f"{name}, of an array of shape {tuple(x.shape)}"):
                out = function(xp.asarray(x, copy=True))  # the function may change its argument
                out = self.backend.from_user(out)
        except ValueError as error:  # raised by scipy for a wrong shape
            raise ModelError(f"{name} with an array of shape {x.shape} failed: {error}") from error
        try:
            return self.backend.check_array(out, shape, name)
        except ModelError as error:
            if not error.non_finite or bool(xp.all(xp.isfinite(x))):
                raise
        # A solver that breaks down passes NaN.
        return self.backend.check_array(out, shape, name, finite=False)


def _composed_of(op: Any) -> Iterator[Operator]:
    """Yield mfdeq's operators in the sums, products and multiples of scipy or cupyx."""
    if isinstance(op, Operator):
        yield op
    elif hasattr(op, "matvec"):
        for part in getattr(op, "args", ()):
            yield from _composed_of(part)


def as_symmetric(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Operator:
    """Return a user's symmetric matrix or LinearOperator, which may lack an adjoint."""
    ours = isinstance(given, Operator) or library_of(given).is_matrix(given)
    if hasattr(given, "matvec") and not ours and hasattr(given, "shape"):
        return SymmetricFromUser(backend, _checked_products(backend, given, shape, name), name)
    return as_operator(backend, given, shape, name)


class SymmetricFromUser(SelfAdjoint, FromUser):
    """A user's symmetric LinearOperator, which may lack an adjoint."""

    # Products may be inexact: eigenvalue solvers estimate their errors separately.
    block_rtol = 1e-2
