"""Constraints in place of equations that depend on each other, by operators of size N.

With left null vectors W of A (redundant equations) and constraints c(h, theta) = 0, m of each, the
system

    R(h, theta) + U mu = 0,    c(h, theta) = 0

of N + m unknowns (h, mu) is regular. The multipliers are eliminated exactly: with L in the span of
W and L'U = I, mu = -L'R, which leaves N equations for h alone,

    Pi R + U S c = 0,    Pi = I - U L',

since L' takes their left-hand side to S c, and S is regular. Their derivatives are combinations of
those of R and c in the same way: A becomes Pi A + U S C.

The columns U are W in the units of the equations; then Pi is an orthogonal projection in these
units. For a sparse A they are unit vectors of m pivotal equations, which c replaces, so that A
stays sparse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, host, is_dense, is_sparse
from ..arrays.sparse import to_canonical_format
from ..locks import cached_property
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from .constraints import magnitudes

MAX_SPREAD_ROUNDINGS = 1e4  # W'X beside |W|'|X|, in rounding units, that counts as zero
MAX_ASSEMBLED_ENTRIES = 2**20  # of a matrix that is dense with the constraints, 8 MiB


@dataclass(frozen=True)
class Elimination:
    """What takes the place of redundant equations, on the host in float64.

    Attributes
    ----------
    basis : (N, m) array
        W, the redundant combinations of equations.
    columns, dual : (N, m) arrays
        U and L.
    gains : (m, m) array
        S.
    rows : list of int or None
        The equations that the constraints replace, if U consists of unit vectors.
    pins : list of int or None
        As many unknowns, in which the null vectors of A are independent.
    right : (N, m) array or None
        The null vectors of A, if they are known.
    spread : bool
        Whether an imbalance that is allowed is spread along W before equations are replaced. The
        other columns do so by themselves.
    replaces : bool
        Whether the equations of `rows` are dropped, so that L is U, too.
    """

    basis: Any
    columns: Any
    dual: Any
    gains: Any
    rows: list[int] | None = None
    pins: list[int] | None = None
    right: Any = None
    spread: bool = False
    replaces: bool = False

    def on(self, backend: Backend) -> Projection:
        """Return the operators for arrays of a library and dtype."""
        W, size = self.basis, self.basis.shape[0]
        columns = {
            **{name: getattr(self, name) for name in ("basis", "columns", "dual", "right")},
            "spread": W @ host.linalg.inv(W.T @ W) if self.spread else None,
        }
        converted = {
            name: None if x is None else backend.from_host(x, size) for name, x in columns.items()
        }
        gains = backend.coefficients(self.gains)
        return Projection(
            backend,
            **converted,
            gains=gains,
            rows=self.rows,
            pins=self.pins,
            replaces=self.replaces,
        )


@dataclass(frozen=True)
class Projection:
    """The operators Pi and U S for arrays of one library and dtype.

    Attributes
    ----------
    backend : Backend
    basis, columns, dual, gains, rows, pins, right, replaces
        As in `Elimination`.
    spread : (N, m) array or None
        W (W'W)^-1, if an imbalance is spread along W.
    """

    backend: Backend
    basis: Array
    columns: Array
    dual: Array
    gains: Array
    rows: list[int] | None
    pins: list[int] | None = None
    right: Array | None = None
    spread: Array | None = None
    replaces: bool = False

    def project(self, x: Array) -> Array:
        """Return Pi x, for an (N,) or (N, k) array."""
        if not self.replaces:
            return x - self.columns @ (self.dual.T @ x)
        if self.spread is not None:
            x = x - self.spread @ (self.basis.T @ x)
        return self.clear(x)

    def project_adjoint(self, y: Array) -> Array:
        """Return Pi' y."""
        if not self.replaces:
            return y - self.dual @ (self.columns.T @ y)
        y = self.clear(y)
        return y if self.spread is None else y - self.basis @ (self.spread.T @ y)

    def combined_values(self, x: Array) -> Array:
        """Return L' x, (m,) or (m, k)."""
        if self.replaces:
            return self.backend.xp.stack([x[i, ...] for i in self.rows or ()])
        return self.dual.T @ x

    def add_combinations(self, y: Array, values: Array) -> Array:
        """Return y + L values, in place if L consists of unit vectors, where y is zero."""
        if not self.replaces:
            return y + self.dual @ values
        for k, i in enumerate(self.rows or ()):
            y[i, ...] = values[k, ...]
        return y

    def clear(self, x: Array) -> Array:
        """Return x with zeros in the equations that constraints replace."""
        x = self.backend.xp.asarray(x, copy=True)
        for i in self.rows or ():
            x[i, ...] = 0.0
        return x

    def _keeps(self, array: Any) -> bool:
        """Return whether W'X is zero to rounding for a sparse X, so that nothing is spread."""
        if self.spread is None:
            return True
        xp, x = self.backend.xp, self.backend.random(array.shape[1], seed=47)
        terms = abs(self.basis).T @ (abs(array) @ abs(x))
        limit = MAX_SPREAD_ROUNDINGS * self.backend.eps
        return bool(xp.all(xp.abs(self.basis.T @ (array @ x)) <= limit * terms))

    def insert(self, c: Array) -> Array:
        """Return U S c, for an (m,) or (m, k) array."""
        values = self.gains @ c
        if self.rows is None:
            return self.columns @ values
        x = self.backend.zeros(self.columns.shape[0], *c.shape[1:])
        for k, i in enumerate(self.rows):
            x[i, ...] = values[k, ...]
        return x

    def insert_adjoint(self, y: Array) -> Array:
        """Return S' U' y, (m,) or (m, k)."""
        return self.gains.T @ (self.columns.T @ y)

    def combine(self, upper: Operator, lower: Any) -> Operator:
        """Return Pi X + U S Y for an operator X, (N, n), and Y, (m, n) or None for zero.

        It is a matrix where both are known by their entries and the result is as sparse as X.
        """
        backend, array = self.backend, upper.array
        # B may be square, too, but has no constraints in place of its rows.
        square = self.pins and lower is not None and upper.shape[0] == upper.shape[1]
        if array is None:
            known = upper.has_single_entries or upper.declared_null_spaces is not None
            cls = ReplacedProducts if square and known else Combined
            return cls(self, upper, lower)
        if is_dense(array):
            dense = lower.toarray() if is_sparse(lower) else lower
            combined = self.project(array)
            return Matrix(backend, combined if dense is None else combined + self.insert(dense))
        if self.rows is None or not self._keeps(array):
            if upper.shape[0] * upper.shape[1] > MAX_ASSEMBLED_ENTRIES:
                return Combined(self, upper, lower)
            return self.combine(Matrix(backend, array.toarray()), lower)
        csr = backend.sparse.csr_matrix
        array = to_canonical_format(array.tocsr())
        data = backend.xp.asarray(array.data, copy=True)
        for i in self.rows:
            data[int(array.indptr[i]) : int(array.indptr[i + 1])] = 0.0
        combined = csr((data, array.indices, array.indptr), shape=array.shape)
        if lower is None:
            return Matrix(backend, combined)
        replaced = csr(self.columns) @ csr(self.gains) @ csr(lower)
        combined = combined + to_canonical_format(replaced)
        combined.eliminate_zeros()
        if square:
            return ReplacedRows(backend, combined.tocsr(), upper, self, lower)
        return Matrix(backend, combined.tocsr())


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
        return self.projection.gains @ (self.lower @ x)

    def constraints_adjoint(self, c: Array) -> Array:
        """Return C' S' c."""
        return self.lower.T @ (self.projection.gains.T @ c)

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
        values = self.backend.xp.stack([y[i, ...] for i in self.projection.rows or ()])
        product = self.base._apply_adjoint(self.projection.clear(y))
        return product + self.constraints_adjoint(values)

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return I - A, which keeps this matrix for the way back."""
        return _IdentityMinusReplaced(self.backend, super().identity_minus().array, self)


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
            terms = projection.clear(terms)
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
