"""Linear operators on arrays of any library, and their algebra.

An operator defines `_apply` and `_apply_adjoint` for (n,) vectors and (n, k) blocks. At
construction its class is combined with the LinearOperator of the array library (scipy's or
cupyx's), so that instances can be passed to `eigsh`, `gmres` and `minimize(hessp=)`. The public
methods `dot`, `matvec` and so on validate their operands; within this package operators call
`_apply` directly.
"""

from __future__ import annotations

import functools
import inspect
import math
from numbers import Complex, Real
from typing import Any

from ..arrays.backend import Array, Backend, check_block, host, is_dense
from ..arrays.kernels import scale_rows
from ..arrays.memory import reserve, translate_memory_errors
from ..arrays.sparse import identity_minus, magnitude, negative
from ..errors import ArgumentError, short_repr
from ..locks import cached_property, state_to_pickle

MAX_KEPT_DENSE_SIZES = 2**21  # entries of an array whose magnitudes are kept, 16 MiB
MAX_KEPT_SIZES = 2**16  # entries of a sparse matrix whose sizes are kept: to form them costs more
# Entries, zeros included, of a sparse matrix up to which its products are those of a dense one: a
# product with a sparse matrix takes dozens of calls.
MAX_SMALL_ENTRIES = 2**12
MAX_DENSE_ENTRIES = 2**24  # entries that `toarray` forms at most, 128 MiB in float64


@functools.cache
def _joined(cls: type, base: type, dtype: Any) -> type:
    """Return a class derived from both an operator class and a library's LinearOperator.

    What the constructor of a LinearOperator sets besides the shape is set here, once for all
    operators of a dtype, since its checks take longer than a small product.
    """
    example: Any = object.__new__(base)
    base.__init__(example, dtype=dtype, shape=(1, 1))  # type: ignore[misc]
    attributes = {name: value for name, value in vars(example).items() if name != "shape"}
    attributes |= {"__module__": cls.__module__, "__doc__": cls.__doc__, "_unjoined": cls}
    return type(cls.__name__, (cls, base), attributes)


def _new(cls: type, backend: Backend) -> Any:
    """Return an operator of a class, joined to the LinearOperator of the library, without state."""
    joined = _joined(cls, backend.sparse_linalg.LinearOperator, backend.dtype)
    self: Any = object.__new__(joined)
    self.backend = backend
    return self


class Operator:
    """Base class of mfdeq's operators, which are independent of the array library.

    Subclasses define `_apply(x)` and `_apply_adjoint(y)` for arrays of shape (n,) and (n, k), and
    return new arrays (scipy's gmres overwrites the results of products).

    Parameters
    ----------
    source : Backend or Operator
        The backend, or an operator with the same array library, dtype and device. It must be the
        first argument of the constructor of every subclass, because `__new__` joins the class to
        the LinearOperator of that library.
    shape : tuple of int
        The number of rows and of columns.

    Attributes
    ----------
    array : array or sparse matrix or None
        The entries; None if only products are known.
    known_symmetric : bool
        Whether the operator is symmetric by its construction.
    scales : tuple of two or None
        The sizes of the equations, (m,), and of the unknowns, (n,), that count as one, each of
        which may be None. Iterative solvers whose mathematics has units use them.
    null_space : NullSpace or None
        The null vectors of a matrix that is known to be singular.
    singular : Operator or None
        The singular matrix from which this regular one differs in a few entries.
    product_size : float or None
        The largest entry of a product with a random vector, once a dot test has computed one.
    declared_null_spaces : NullSpaces or None
        The null spaces of A and of its adjoint, if the user has declared them.
    advice_for_entries : str
        How a user can make the entries known, for errors.
    """

    backend: Backend
    shape: tuple[int, int]
    dtype: Any
    array: Any = None
    _unjoined: type  # the class that was joined to a LinearOperator
    known_symmetric = False
    scales: tuple[Any, Any] | None = None
    null_space: Any = None
    singular: Operator | None = None
    product_size: float | None = None
    declared_null_spaces: Any = None
    advice_for_entries: str = "pass a sparse or dense matrix (in a model: as d_state)"
    # Make numpy and cupy defer `x @ op` and `x * op` to the operator.
    __array_ufunc__ = None
    __array_priority__ = 1000.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set the signature of the class to that of ``__init__``, which ``__new__`` would hide."""
        super().__init_subclass__(**kwargs)
        init = inspect.signature(cls.__init__)
        parameters = list(init.parameters.values())[1:]
        cls.__signature__ = init.replace(parameters=parameters)  # type: ignore[attr-defined]

    def __new__(cls, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Join the class to the LinearOperator of the source's array library."""
        backend = source if isinstance(source, Backend) else getattr(source, "backend", None)
        if backend is None:
            raise TypeError(
                f"{cls.__name__}: expected an operator or a Backend as the first argument, which "
                f"determines the array library, got {short_repr(source)}; pass A or A.backend first"
            )
        return _new(cls, backend)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the class before it was joined, which can be imported."""
        return _new, (self._unjoined, self.backend), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return state_to_pickle(self)

    def __init__(self, source: Any, shape: tuple[int, int]) -> None:
        self.shape = shape

    def _apply(self, x: Array) -> Array:
        raise NotImplementedError

    def _apply_adjoint(self, y: Array) -> Array:
        raise NotImplementedError

    # Hooks that scipy and cupyx call; block products use the same code as vector products.

    @translate_memory_errors
    def _matvec(self, x: Array) -> Array:
        rows, columns = self.shape
        x = check_block(x, self.backend, columns, "the operand")
        if x.ndim == 2:
            if x.shape[1] == 0:
                return self.backend.zeros(rows, 0)
            self._reserve(rows, x.shape[1])
        return self._apply(x)

    @translate_memory_errors
    def _rmatvec(self, x: Array) -> Array:
        rows, columns = self.shape
        x = check_block(x, self.backend, rows, "the operand")
        if x.ndim == 2:
            if x.shape[1] == 0:
                return self.backend.zeros(columns, 0)
            self._reserve(columns, x.shape[1])
        return self._apply_adjoint(x)

    def _reserve(self, rows: int, columns: int) -> None:
        reserve(
            self.backend,
            rows * columns,
            f"the product of {type(self).__name__} with {columns} columns",
            "multiply fewer columns at a time",
        )

    def _matmat(self, X: Array) -> Array:
        return self._matvec(X)

    def _rmatmat(self, X: Array) -> Array:
        return self._rmatvec(X)

    def _adjoint(self) -> Operator:
        return Adjoint(self)

    def _transpose(self) -> Operator:
        return self._adjoint()

    @property
    def has_entries(self) -> bool:
        """Whether the entries are known, and not only products."""
        return self.array is not None

    def assembled_entries(self) -> Any:
        """Return the matrix, assembled from blocks if need be; None if only products are known."""
        return self.array

    def stored_entries(self) -> tuple[Any, ...] | None:
        """Return a type and the arrays in which the entries are stored, the values first.

        Operators for which they are equal are the same matrix. By default they are those of
        `array`; None if only products are known.
        """
        array = self.array
        if array is None or is_dense(array):
            return None if array is None else (type(array), array)
        return type(array), array.data, array.indptr, array.indices

    def factor_of_parts(self, solver: Any, counts: Any) -> Any:
        """Return a factor composed of those of the parts; None, the default, if there are no parts.

        A structured square operator, such as a block triangular one, defines it. Whichever solver
        is asked for a factor of the operator sets up those of the parts instead.

        Parameters
        ----------
        solver : mfdeq.linear.Solver
            The solver of each part, as ``mfdeq.linear.set_up(solver, part, counts)``.
        counts : LinearCounts
            The counts of the composed factor.

        Returns
        -------
        mfdeq.linear.Factor or None
        """
        return None

    @property
    def near(self) -> Operator:
        """An operator near this one, whose entries make preconditioners: itself by default."""
        return self

    def forget(self) -> None:
        """Discard cached state, recursively in the component operators."""
        for part in vars(self).values():
            if isinstance(part, Operator):
                part.forget()

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x|, the scale of rounding errors in A x.

        If the entries are not known, return the estimate |A (s∘|x|)| with random s, a root sum of
        squares along each row instead of the sum. The s are of different size, so that terms that
        cancel in A x do not cancel in the estimate.
        """
        assembled: Operator | None = vars(self).get("_assembled")  # by a factor
        if assembled is not None:
            return assembled.abs_apply(x)
        xp = self.backend.xp
        s = self.backend.random(*x.shape, seed=1)
        s = 0.5 * xp.sign(s) + s / (1.0 + xp.abs(s))
        return xp.abs(self._apply(s * xp.abs(x)))

    def with_error(self, x: Array, *, rtol: float | None = None) -> tuple[Array, Array]:
        """Return A x and an estimate of its error of the same shape, by default zero."""
        return self._apply(x), self.backend.zeros(self.shape[0], *x.shape[1:])

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return I - J for this operator J, as a matrix if the entries are known.

        With `in_place`, the entries of J may be overwritten.
        """
        return IdentityMinus(self)

    def gauge(self) -> Any:
        """Return the `Gauge` that makes this operator regular, if null spaces are declared."""
        return None

    def plus(self, other: Operator) -> Operator:
        """Return the sum with another operator, as a matrix if both are of the same format."""
        return Sum(self, other)

    def times(self, factor: float) -> Operator:
        """Return a real multiple, as a matrix if the entries are known."""
        return Scaled(self, factor)

    @property
    def has_single_entries(self) -> bool:
        """Whether the operator is a sparse matrix, to whose entries numbers can be added."""
        return False

    def plus_entries(self, rows: list[int], columns: list[int], values: list[float]) -> Operator:
        """Return a matrix with numbers added to some entries, if `has_single_entries`."""
        raise NotImplementedError

    def gathered_entries(self) -> Any:
        """Return a distributed matrix as one of scipy, whole on every process; None if unknown."""
        return None

    # Arithmetic between mfdeq operators is defined here, which preserves float32 and `toarray`.
    # Arithmetic with other objects is that of the LinearOperator base class.

    def dot(self, x: Any) -> Any:
        """Return the product with a vector, a block, another operator or a scalar."""
        if isinstance(x, Operator):
            return Product(self, x)
        if isinstance(x, Real):
            return Scaled(self, x)
        if hasattr(x, "matvec") or isinstance(x, Complex):
            return super().dot(x)  # type: ignore[misc]
        return self._matvec(x)

    def __mul__(self, x: Any) -> Any:
        return Scaled(self, x) if _is_number(x) else self.dot(x)

    def __rmul__(self, x: Any) -> Any:
        if isinstance(x, Real) or _is_number(x):
            return Scaled(self, x)
        return super().__rmul__(x)  # type: ignore[misc]

    def __rmatmul__(self, x: Any) -> Any:
        if getattr(x, "ndim", 0) not in (1, 2) or hasattr(x, "matvec"):
            return super().__rmatmul__(x)  # type: ignore[misc]
        return self._transpose().dot(x.T).T  # missing in cupyx's base class

    def __neg__(self) -> Operator:
        return Scaled(self, -1.0)

    def __add__(self, other: Any) -> Any:
        return Sum(self, other) if isinstance(other, Operator) else super().__add__(other)  # type: ignore[misc]

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, Real):
            raise ValueError("Scalar operands are not allowed, use '*' instead")
        return self.dot(other)

    def toarray(self) -> Array:
        """Return the dense matrix of a small operator.

        Raises
        ------
        ArgumentError
            If there are more than 2**24 entries, so that no large array is formed by accident.
        """
        rows, columns = self.shape
        if rows * columns > MAX_DENSE_ENTRIES:
            raise ArgumentError(
                f"toarray of {type(self).__name__}: expected at most {MAX_DENSE_ENTRIES} entries, "
                f"got {rows} x {columns} ({rows * columns * self.dtype.itemsize / 2**30:.3g} GiB). "
                "Apply the operator to a block of vectors instead (operator @ V), or use "
                "mfdeq.eigsh for its spectrum"
            )
        return self._apply(self.backend.eye(columns, columns))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        dense = self.toarray()
        return dense if dtype is None else dense.astype(dtype)


class SelfAdjoint(Operator):
    """Base class of self-adjoint operators, which define only `_apply`."""

    def _apply_adjoint(self, y: Array) -> Array:
        return self._apply(y)

    def _adjoint(self) -> Operator:
        return self


class Adjoint(Operator):
    """The adjoint of an operator."""

    def __init__(self, of: Operator) -> None:
        super().__init__(of, (of.shape[1], of.shape[0]))
        self.of = of
        if of.scales is not None:
            equations, unknowns = ((None if x is None else 1.0 / x) for x in of.scales)
            self.scales = unknowns, equations

    def _apply(self, x: Array) -> Array:
        return self.of._apply_adjoint(x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.of._apply(y)

    def _adjoint(self) -> Operator:
        return self.of


class Product(Operator):
    """The composition left @ right."""

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.shape[1] != right.shape[0]:
            raise ArgumentError(f"cannot multiply shapes {left.shape} and {right.shape}")
        super().__init__(left, (left.shape[0], right.shape[1]))
        self.left, self.right = left, right

    def _apply(self, x: Array) -> Array:
        return self.left._apply(self.right._apply(x))

    def _apply_adjoint(self, y: Array) -> Array:
        return self.right._apply_adjoint(self.left._apply_adjoint(y))


class Sum(Operator):
    """The sum of two operators."""

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.shape != right.shape:
            raise ArgumentError(f"cannot add shapes {left.shape} and {right.shape}")
        super().__init__(left, left.shape)
        self.left, self.right = left, right

    def _apply(self, x: Array) -> Array:
        return self.left._apply(x) + self.right._apply(x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.left._apply_adjoint(y) + self.right._apply_adjoint(y)

    def assembled_entries(self) -> Any:
        """Return the sum of the two matrices; None if only products are known."""
        left, right = self.left.assembled_entries(), self.right.assembled_entries()
        return None if left is None or right is None else left + right


class Scaled(Operator):
    """A real multiple of an operator, with the operator's dtype."""

    def __init__(self, of: Operator, factor: Any) -> None:
        super().__init__(of, of.shape)
        self.of, self.factor = of, float(factor)

    def _apply(self, x: Array) -> Array:
        return self.factor * self.of._apply(x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.factor * self.of._apply_adjoint(y)


class Zero(Operator):
    """The zero operator."""

    def _apply(self, x: Array) -> Array:
        return self.backend.zeros(self.shape[0], *x.shape[1:])

    def _apply_adjoint(self, y: Array) -> Array:
        return self.backend.zeros(self.shape[1], *y.shape[1:])


class IdentityMinus(Operator):
    """I - J for an operator J."""

    def __init__(self, of: Operator) -> None:
        super().__init__(of, of.shape)
        self.of, self.advice_for_entries = of, of.advice_for_entries

    def _apply(self, x: Array) -> Array:
        return x - self.of._apply(x)

    def _apply_adjoint(self, y: Array) -> Array:
        return y - self.of._apply_adjoint(y)

    def abs_apply(self, x: Array) -> Array:
        """Return |x| + |J| |x|, since x - J x may cancel."""
        if "_assembled" in vars(self):
            return super().abs_apply(x)
        return self.backend.xp.abs(x) + self.of.abs_apply(x)

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return J."""
        return self.of


class Matrix(Operator):
    """A dense or sparse matrix as an operator.

    Attributes
    ----------
    array : array or sparse matrix
        The entries.
    """

    def __init__(self, backend: Backend, array: Any) -> None:
        self.shape, self.array = tuple(array.shape), array
        if type(array) is host.ndarray:
            self._products, self._transposed = array, array.T

    @cached_property
    def _products(self) -> Any:
        array, backend = self.array, self.backend
        if backend.is_numpy and not is_dense(array) and math.prod(self.shape) <= MAX_SMALL_ENTRIES:
            return array.toarray()
        return backend.kernels.products(array)

    @cached_property
    def _transposed(self) -> Any:
        return self._products.T

    def _apply(self, x: Array) -> Array:
        return self._products @ x

    def _apply_adjoint(self, y: Array) -> Array:
        return self._transposed @ y

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x|."""
        sizes = self.sizes
        if sizes is None:
            sizes = Matrix(self.backend, abs(self.array))._products
        return sizes @ self.backend.xp.abs(x)

    @cached_property
    def sizes(self) -> Any:
        """|A| for products with it, if it is small enough to be kept; otherwise None."""
        array, (rows, columns) = self.array, self.shape
        if is_dense(array):
            return abs(array) if rows * columns <= MAX_KEPT_DENSE_SIZES else None
        small = array.nnz < MAX_KEPT_SIZES
        return Matrix(self.backend, magnitude(array))._products if small else None

    def _adjoint(self) -> Operator:
        return _Transposed(self)

    def __neg__(self) -> Operator:
        return Matrix(self.backend, negative(self.array))

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return I - J in the format of J, in place of a dense J if it is used no more."""
        backend, n = self.backend, self.shape[0]
        if is_dense(self.array):
            if not backend.is_numpy:
                return Matrix(backend, backend.eye(n, n) - self.array)
            # A contiguous array, whose diagonal is a slice of its entries.
            in_place = in_place and self.array.flags.forc
            difference = host.negative(self.array, out=self.array if in_place else None)
            difference.ravel("K")[:: n + 1] += 1.0
            return Matrix(backend, difference)
        if (difference := identity_minus(self.array)) is None:
            eye = backend.sparse.identity(n, dtype=backend.dtype, format=self.array.format)
            difference = eye - self.array
        return Matrix(backend, difference)

    def plus(self, other: Operator) -> Operator:
        """Return the sum of two sparse, or of two dense matrices."""
        if isinstance(other, Matrix) and is_dense(self.array) == is_dense(other.array):
            return Matrix(self.backend, self.array + other.array)
        return super().plus(other)

    def times(self, factor: float) -> Operator:
        """Return a multiple of the entries."""
        return Matrix(self.backend, factor * self.array)

    @property
    def has_single_entries(self) -> bool:
        """Whether the matrix is sparse."""
        return not is_dense(self.array)

    def plus_entries(self, rows: list[int], columns: list[int], values: list[float]) -> Operator:
        """Return a sparse matrix with numbers added to some entries."""
        backend, xp = self.backend, self.backend.xp
        numbers = xp.asarray(values, dtype=backend.dtype, device=backend.device)
        indices = tuple(xp.asarray(x, device=backend.device) for x in (rows, columns))
        update = backend.sparse.csr_matrix((numbers, indices), shape=self.shape)
        return Matrix(backend, (self.array + update).tocsr())


class _Transposed(Adjoint):
    """The adjoint of a `Matrix`, with known entries."""

    @property
    def array(self) -> Any:
        return self.of.array.T

    def abs_apply(self, x: Array) -> Array:
        return self._sizes._apply(self.backend.xp.abs(x))

    @cached_property
    def _sizes(self) -> Matrix:
        return Matrix(self.backend, magnitude(self.array))


class Diagonal(SelfAdjoint):
    """A diagonal matrix."""

    def __init__(self, backend: Backend, diagonal: Array) -> None:
        super().__init__(backend, (diagonal.shape[0], diagonal.shape[0]))
        self.diagonal = diagonal

    def _apply(self, x: Array) -> Array:
        return scale_rows(self.diagonal, x)


class Stacked(Operator):
    """The operator [I; Z], which maps a parameter direction to the stacked (dtheta, dh)."""

    def __init__(self, lower: Operator) -> None:
        rows, columns = lower.shape
        super().__init__(lower, (columns + rows, columns))
        self.lower = lower

    def _apply(self, x: Array) -> Array:
        return self.backend.xp.concat([x, self.lower._apply(x)], axis=0)

    def _apply_adjoint(self, y: Array) -> Array:
        columns = self.shape[1]
        return y[:columns, ...] + self.lower._apply_adjoint(y[columns:, ...])


class Congruence(SelfAdjoint):
    """The operator T' K T for a self-adjoint K."""

    def __init__(self, K: Operator, T: Operator) -> None:
        self.shape = (T.shape[1], T.shape[1])
        self.inner, self.outer = K, T

    def _apply(self, x: Array) -> Array:
        return self.outer._apply_adjoint(self.inner._apply(self.outer._apply(x)))


def _is_number(x: Any) -> bool:
    """Test whether `x` is a 0-dimensional array, such as cupy's reductions return."""
    return getattr(x, "ndim", None) == 0 and is_dense(x) and not isinstance(x, Complex)


def columnwise(function: Any, x: Array, backend: Backend, rows: int) -> Array:
    """Apply a function to a vector, or to each column of an (n, k) block to give (rows, k)."""
    if x.ndim == 1:
        return function(x)
    out = backend.zeros(rows, x.shape[1])
    for j in range(x.shape[1]):
        out[:, j] = function(x[:, j])
    return out
