"""The operators of equations in which constraints have replaced those that depend on others.

With Pi and U S of a `Projection`, they are Pi X + U S Y, where X is a derivative of the equations
and Y that of the constraints. Products are those of the parts: X may have few diagonals, and Y full
rows.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, Backend, is_dense, is_sparse
from ..arrays.sparse import to_canonical_format, with_rows
from ..locks import cached_property
from ..operators.matrix_operator import Matrix, Transposed
from ..operators.operator import Operator
from .constraints import magnitudes
from .elimination import Projection

MAX_ASSEMBLED_ENTRIES = 2**20  # of a matrix that is dense with the constraints, 8 MiB


def combine(projection: Projection, upper: Operator, lower: Any) -> Operator:
    """Return Pi X + U S Y for an operator X, (N, n), and Y, (m, n) or None for zero.

    It is a matrix where both are known by their entries and the result is as sparse as X.
    """
    backend, array = projection.backend, upper.array
    # B may be square, too, but has no constraints in place of its rows.
    square = projection.pins and lower is not None and upper.shape[0] == upper.shape[1]
    if array is None:
        known = upper.has_single_entries or upper.declared_null_spaces is not None
        cls = ReplacedProducts if square and known else Combined
        return cls(projection, upper, lower)
    if is_dense(array):
        dense = lower.toarray() if is_sparse(lower) else lower
        combined = projection.project(array)
        return Matrix(backend, combined if dense is None else combined + projection.insert(dense))
    if projection.rows is None or not projection.keeps(array):
        if upper.shape[0] * upper.shape[1] > MAX_ASSEMBLED_ENTRIES:
            return Combined(projection, upper, lower)
        return combine(projection, Matrix(backend, array.toarray()), lower)
    array, xp, csr = to_canonical_format(array.tocsr()), backend.xp, backend.sparse.csr_matrix
    if lower is None:
        data = backend.copied(array.data)
        for i in projection.rows:
            data[int(array.indptr[i]) : int(array.indptr[i + 1])] = 0.0
        return Matrix(backend, csr((data, array.indices, array.indptr), shape=array.shape))
    gains = csr(projection.gains) if is_sparse(lower) else projection.gains
    combined = with_rows(xp, array, projection.rows, to_canonical_format(csr(gains @ lower)))
    if square:
        return ReplacedRows(backend, combined, upper, projection, lower)
    return Matrix(backend, combined)


def _product(backend: Backend, C: Any, x: Array) -> Array:
    """Return C x for few rows C."""
    return C @ x if is_sparse(C) else backend.inner_products(C.T, x)


def _less_combination(backend: Backend, y: Array, C: Any, c: Array) -> Array:
    """Return y - C' c for few rows C; y may be overwritten."""
    return y - C.T @ c if is_sparse(C) else backend.subtract_columns(y, C.T, c)


class ReplacedEquations(Operator):
    """A in which constraints have replaced equations, with its parts.

    Attributes
    ----------
    base : Operator, (N, N)
        A, in which equations depend on each other. Its entries are known, or its null space is
        declared.
    projection : Projection
    lower : (m, N) array or sparse matrix
        C.
    """

    base: Operator
    projection: Projection
    lower: Any

    def constraints(self, x: Array) -> Array:
        """Return S C x."""
        return self.projection.gains @ _product(self.backend, self.lower, x)

    def subtract_constraints_adjoint(self, y: Array, c: Array) -> Array:
        """Return y - C' S' c; y may be overwritten."""
        return _less_combination(self.backend, y, self.lower, self.projection.gains.T @ c)

    @cached_property
    def constraint_sizes(self) -> Any:
        """|S| |C|."""
        sizes, C = self.backend.xp.abs(self.projection.gains), abs(self.lower)
        return (self.backend.sparse.csr_matrix(sizes) if is_sparse(C) else sizes) @ C

    @cached_property
    def pin_sizes(self) -> list[float]:
        """The sizes of the replaced rows of A, by which entries of `pinned` grow."""
        sums = self.base.abs_apply(self.backend.zeros(self.shape[1]) + 1.0)
        assert self.projection.rows is not None
        sizes = [float(sums[i]) for i in self.projection.rows]
        return [size if size > 0.0 else 1.0 for size in sizes]

    @property
    def near(self) -> Operator:
        """`pinned`, from which this matrix differs by a few ranks."""
        return self.pinned

    @cached_property
    def pinned(self) -> Operator:
        """A regular matrix with the pattern of A, which differs from it in m entries.

        It is A itself if the entries are not known. Its solver then knows the null space.
        """
        if not self.base.has_single_entries:
            return self.base
        rows, pins = self.projection.rows, self.projection.pins
        assert rows is not None
        assert pins is not None
        return self.base.plus_entries(rows, pins, self.pin_sizes)


class ReplacedRows(ReplacedEquations, Matrix):
    """A sparse matrix in which constraints have replaced rows.

    Parameters
    ----------
    backend : Backend
    array : sparse matrix, (N, N)
        The matrix.
    base, projection, lower
        As in `ReplacedEquations`.
    """

    def __init__(
        self, backend: Backend, array: Any, base: Operator, projection: Projection, lower: Any
    ) -> None:
        super().__init__(backend, array)
        self.base, self.projection, self.lower = base, projection, lower

    # Products are those of A, which may have few diagonals, and of C, whose rows may be full.

    def _apply(self, x: Array) -> Array:
        y, values = self.base._apply(x), self.constraints(x)
        for k, i in enumerate(self.projection.rows or ()):
            y[i, ...] = values[k, ...]
        return y

    def _apply_adjoint(self, y: Array) -> Array:
        values = self.projection.at_rows(y)
        product = self.base._apply_adjoint(self.projection.clear(y))
        return self.subtract_constraints_adjoint(product, -values)

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x|."""
        terms = self.base.abs_apply(x)
        values = _product(self.backend, self.constraint_sizes, self.backend.xp.abs(x))
        for k, i in enumerate(self.projection.rows or ()):
            terms[i, ...] = values[k, ...]
        return terms

    def _adjoint(self) -> Operator:
        return _TransposedReplacedRows(self)

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return I - A, which keeps this matrix for the way back."""
        return _IdentityMinusReplaced(self.backend, super().identity_minus().array, self)


class _TransposedReplacedRows(Transposed):
    """The adjoint of `ReplacedRows`."""

    of: ReplacedRows

    def abs_apply(self, x: Array) -> Array:
        """Return |A'| |x|."""
        A = self.of
        terms = A.base.H.abs_apply(A.projection.clear(x))  # type: ignore[attr-defined]
        values = self.backend.xp.abs(A.projection.at_rows(x))
        return _less_combination(self.backend, terms, A.constraint_sizes, -values)


class _IdentityMinusReplaced(Matrix):
    """I - A for a matrix with replaced rows."""

    def __init__(self, backend: Backend, array: Any, of: ReplacedRows) -> None:
        super().__init__(backend, array)
        self.of = of

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return A."""
        return self.of


class Combined(Operator):
    """The operator Pi X + U S Y by products.

    Parameters
    ----------
    projection : Projection
    upper : Operator, (N, n)
        X.
    lower : (m, n) array or sparse matrix, or None
        Y.
    """

    def __new__(cls, projection: Projection, upper: Operator, lower: Any) -> Any:
        """Join the class to the LinearOperator of the array library of X."""
        return super().__new__(cls, upper)

    def __init__(self, projection: Projection, upper: Operator, lower: Any) -> None:
        super().__init__(upper, upper.shape)
        self.projection, self.upper, self.lower = projection, upper, lower
        self.advice_for_entries = upper.advice_for_entries

    def _apply(self, x: Array) -> Array:
        product = self.projection.project(self.upper._apply(x))
        if self.lower is None:
            return product
        return product + self.projection.insert(self.lower @ x)

    def _apply_adjoint(self, y: Array) -> Array:
        product = self.upper._apply_adjoint(self.projection.project_adjoint(y))
        if self.lower is None:
            return product
        return product + self.lower.T @ self.projection.insert_adjoint(y)

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x| of the combination, if X knows it."""
        if "_assembled" in vars(self):
            return super().abs_apply(x)
        projection = self.projection
        terms = self.upper.abs_apply(x)
        if projection.replaces:
            terms = projection.cleared(terms)
        if self.lower is None:
            return terms
        xp = self.backend.xp
        values = xp.abs(projection.gains) @ magnitudes(self.backend, self.lower, x)
        return terms + xp.abs(projection.columns) @ values


class ReplacedProducts(ReplacedEquations, Combined):
    """A matrix that is no array, such as one of PETSc's, in which constraints replace rows."""

    def __init__(self, projection: Projection, upper: Operator, lower: Any) -> None:
        super().__init__(projection, upper, lower)
        self.base = upper


class StateBlock(Operator):
    """The state block of the inverse of the bordered matrix.

    A x + W mu = b and C x = 0 leave mu = (Y'W)^-1 Y'b with the left null vectors Y of A, and x is
    the solution for b - W mu.

    Parameters
    ----------
    solve : Operator, (N, N)
        The inverse of Pi A + U S C.
    projection : Projection
    basis : (N, m) array
        W.
    weights : (N, m) array
        Y (Y'W)^-T.
    """

    def __init__(
        self, solve: Operator, projection: Projection, basis: Array, weights: Array
    ) -> None:
        super().__init__(solve, solve.shape)
        self.solve, self.projection = solve, projection
        self.basis, self.weights = basis, weights

    def _apply(self, x: Array) -> Array:
        x = x - self.basis @ (self.weights.T @ x)
        return self.solve._apply(self.projection.project(x))

    def _apply_adjoint(self, y: Array) -> Array:
        y = self.projection.project_adjoint(self.solve._apply_adjoint(y))
        return y - self.weights @ (self.basis.T @ y)
