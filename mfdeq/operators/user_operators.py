"""A user's matrix or LinearOperator as one of our operators, checked once on the way in."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, Backend, is_dense, is_sparse
from ..arrays.sparse import canonical
from ..errors import ModelError, note_origin
from .dot_tests import check_adjoint, check_columns
from .operator import Matrix, Operator, SelfAdjoint, columnwise


def as_operator(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Operator:
    """A user's matrix, sparse matrix or LinearOperator as one of our operators, checked.

    Raises
    ------
    ModelError
        Wrong shape, dtype or library, NaN among the entries, or no adjoint.
    DerivativeError
        The adjoint of a LinearOperator is not its adjoint.
    """
    if isinstance(given, Operator):
        backend.check_home(given, name)
        backend.check_dtype(given.dtype, name)
        found = given
    elif is_sparse(given) or is_dense(given):
        found = Matrix(backend, _checked_matrix(backend, given, shape, name))
    elif hasattr(given, "getOwnershipRanges"):
        found = backend.sparse.as_operator(backend, given, name)
    elif hasattr(given, "matvec") and hasattr(given, "shape"):
        backend.check_home(given, name)
        if tuple(given.shape) != shape:
            raise ModelError(f"{name} has shape {tuple(given.shape)}; {shape} was expected")
        backend.check_dtype(getattr(given, "dtype", None) or backend.dtype, name)
        found = FromUser(backend, given, name)
        check_adjoint(found, name)
    else:
        raise ModelError(
            f"{name} is a {type(given).__name__}; an array, a sparse matrix or a "
            f"LinearOperator of shape {shape} was expected"
        )
    if tuple(found.shape) != shape:
        raise ModelError(f"{name} has shape {tuple(found.shape)}; {shape} was expected")
    return found


def _checked_matrix(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Any:
    if is_dense(given):
        return backend.checked(given, shape, name)
    if tuple(given.shape) != shape:
        raise ModelError(f"{name} has shape {tuple(given.shape)}; {shape} was expected")
    backend.check_home(given, name)
    backend.check_dtype(given.dtype, name)
    # astype's copy: a model that refills its buffers changes nothing here.
    matrix = canonical(backend.asarray(given if given.format in ("csr", "csc") else given.tocsr()))
    if not bool(backend.xp.all(backend.xp.isfinite(matrix.data))):
        raise ModelError(f"{name} holds NaN or infinity")
    return matrix


class FromUser(Operator):
    """A LinearOperator of the user's: whole blocks go in, what comes out is checked."""

    alike: float | None = None  # to which products of blocks are those of their columns

    def __init__(self, backend: Backend, op: Any, name: str) -> None:
        super().__init__(backend, tuple(op.shape))
        self.op, self.name = op, name
        # scipy's and cupyx's stand-in for a missing block product hands (n, 1) columns to
        # a function that was written for (n,).
        self._columns_only = getattr(op, "_CustomLinearOperator__matmat_impl", True) is None
        self._compared: set[str] = set()  # which products of blocks, with those of columns
        self._probe_adjoint()

    def _probe_adjoint(self) -> None:
        try:
            self._apply_adjoint(self.backend.zeros(self.shape[0]))
        except (NotImplementedError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{self.name} is an operator without its adjoint ({error or type(error).__name__})"
                ": give rmatvec=, or an array or sparse matrix"
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
            check_columns(self.backend, product, x.shape[0], name, self.alike)
            self._compared.add(what)
        return product(x)

    def _checked(self, function: Any, x: Array, rows: int, name: str) -> Array:
        xp = self.backend.xp
        possible = bool(xp.all(xp.isfinite(x)))  # a solver that broke down hands in NaN itself
        try:
            with note_origin(f"{name}, of an array of shape {tuple(x.shape)}"):
                out = function(xp.asarray(x, copy=True))  # which it may write into
        except ValueError as error:  # scipy's, of a wrong shape
            raise ModelError(f"{name} with an array of shape {x.shape} failed: {error}") from error
        return self.backend.checked(out, (rows, *x.shape[1:]), name, finite=possible)


def as_symmetric(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Operator:
    """As `as_operator`, of what must be symmetric: a LinearOperator then needs no adjoint."""
    ours = isinstance(given, Operator) or hasattr(given, "getOwnershipRanges")
    if hasattr(given, "matvec") and not ours and hasattr(given, "shape"):
        backend.check_home(given, name)
        if tuple(given.shape) != shape:
            raise ModelError(f"{name} has shape {tuple(given.shape)}; {shape} was expected")
        backend.check_dtype(getattr(given, "dtype", None) or backend.dtype, name)
        return SymmetricFromUser(backend, given, name)
    return as_operator(backend, given, shape, name)


class SymmetricFromUser(SelfAdjoint, FromUser):
    """A symmetric LinearOperator of the user's, which needs no adjoint of its own."""

    alike = 1e-2  # eigenvalues may be asked of products that are inexact, and say how much
