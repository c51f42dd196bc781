"""Users' matrices and LinearOperators as operators of this package, validated on the way in."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, Backend, is_dense, is_sparse
from ..arrays.library import library_of
from ..arrays.sparse import to_canonical_format
from ..errors import MfdeqError, ModelError, note_origin
from .dot_tests import check_adjoint, check_columns
from .operator import Matrix, Operator, SelfAdjoint, columnwise


def backend_of(x: Any) -> Backend:
    """Return the backend of a matrix or an operator of any library."""
    if isinstance(x, Operator):
        return x.backend
    if is_sparse(x) or is_dense(x):
        return Backend.of(x.data if is_sparse(x) else x)
    return Backend.of(library_of(x).zeros_of(x))


def check_home(backend: Backend, x: Any, name: str, error: type[MfdeqError] = ModelError) -> None:
    """Raise an `error` where a matrix or operator belongs to another library or device."""
    if not isinstance(x, Operator):
        backend.check_home(x, name, error)
    elif (backend.xp, backend.device) != (x.backend.xp, x.backend.device):
        backend.refuse_foreign(x, name, error)


def as_operator(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Operator:
    """Return a user's matrix, sparse matrix or LinearOperator as an operator, validated.

    Raises
    ------
    ModelError
        Wrong shape, dtype or library, NaN among the entries, or no adjoint.
    DerivativeError
        The adjoint of a LinearOperator is not its adjoint.
    """
    if isinstance(given, Operator):
        check_home(backend, given, name)
        backend.check_dtype(given.dtype, name)
        found = given
    elif is_sparse(given) or is_dense(given):
        found = Matrix(backend, _checked_matrix(backend, given, shape, name))
    elif library_of(given).is_matrix(given):
        found = library_of(given).as_operator(backend, given, name)
    elif hasattr(given, "matvec") and hasattr(given, "shape"):
        found = FromUser(backend, _checked_products(backend, given, shape, name), name)
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


def _checked_matrix(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Any:
    if is_dense(given):
        return backend.check_array(given, shape, name)
    if tuple(given.shape) != shape:
        raise ModelError(f"{name}: expected shape {shape}, got {tuple(given.shape)}")
    backend.check_home(given, name)
    backend.check_dtype(given.dtype, name)
    # astype copies, so that a model that fills its buffers again changes nothing here.
    matrix = to_canonical_format(
        backend.asarray(given if given.format in ("csr", "csc") else given.tocsr())
    )
    if not bool(backend.xp.all(backend.xp.isfinite(matrix.data))):
        raise ModelError(f"{name} holds NaN or infinity")
    return matrix


class FromUser(Operator):
    """A LinearOperator of the user's: it gets whole blocks, and its results are validated."""

    block_rtol: float | None = None  # to which a product of a block must be that of its columns

    def __init__(self, backend: Backend, op: Any, name: str) -> None:
        super().__init__(backend, tuple(op.shape))
        self.op, self.name = op, name
        # Without a block product of the user's, scipy and cupyx would pass (n, 1) columns to a
        # function that was written for (n,).
        self._columns_only = getattr(op, "_CustomLinearOperator__matmat_impl", True) is None
        self._compared: set[str] = set()  # products whose blocks agreed with their columns
        self._probe_adjoint()

    def _probe_adjoint(self) -> None:
        try:
            self._apply_adjoint(self.backend.zeros(self.shape[0]))
        except (NotImplementedError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{self.name} is an operator without its adjoint ({error or type(error).__name__})"
                ": pass rmatvec=, or an array or sparse matrix instead"
            ) from error

    def _apply(self, x: Array) -> Array:
        block = getattr(self.op, "matmat", None)
        return self._product(x, self.op.matvec, block, self.shape[0], "product")

    def _apply_adjoint(self, y: Array) -> Array:
        block = getattr(self.op, "rmatmat", None)
        return self._product(y, self.op.rmatvec, block, self.shape[1], "adjoint product")

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
        xp = self.backend.xp
        possible = bool(xp.all(xp.isfinite(x)))  # a solver that broke down passes NaN
        try:
            with note_origin(f"{name}, of an array of shape {tuple(x.shape)}"):
                out = function(xp.asarray(x, copy=True))  # the function may write into it
        except ValueError as error:  # scipy raises it for a wrong shape
            raise ModelError(f"{name} with an array of shape {x.shape} failed: {error}") from error
        return self.backend.check_array(out, (rows, *x.shape[1:]), name, finite=possible)


def as_symmetric(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Operator:
    """Do as `as_operator` for what must be symmetric: a LinearOperator needs no adjoint then."""
    ours = isinstance(given, Operator) or library_of(given).is_matrix(given)
    if hasattr(given, "matvec") and not ours and hasattr(given, "shape"):
        return SymmetricFromUser(backend, _checked_products(backend, given, shape, name), name)
    return as_operator(backend, given, shape, name)


class SymmetricFromUser(SelfAdjoint, FromUser):
    """A symmetric LinearOperator of the user's, which needs no adjoint of its own."""

    # Eigenvalues may be asked of inexact products, which say themselves how inexact they are.
    block_rtol = 1e-2
