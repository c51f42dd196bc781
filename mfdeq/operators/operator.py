"""The algebra of linear operators on arrays of any library.

An operator defines `_apply` and `_apply_adjoint` for (n,) vectors and (n, k) blocks. The public
methods `dot`, `matvec` and so on validate their operands; within this package operators call
`_apply` directly.
"""

from __future__ import annotations

from numbers import Complex, Real
from typing import Any

from ..arrays.backend import Array, Backend, is_dense
from ..errors import ArgumentError
from .library_operator import LibraryOperator


class Operator(LibraryOperator):
    """Base class of mfdeq's operators, with their algebra.

    Parameters
    ----------
    source, shape
        As of `LibraryOperator`.

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
    own_processes : object or None
        `processes` of an operator that is not composed of others.
    """

    array: Any = None
    known_symmetric = False
    scales: tuple[Any, Any] | None = None
    null_space: Any = None
    own_processes: Any = None
    singular: Operator | None = None
    product_size: float | None = None
    declared_null_spaces: Any = None
    advice_for_entries: str = "pass a sparse or dense matrix (in a model: as d_state)"

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
    def processes(self) -> Any:
        """The processes that compute products together, if each has the vectors whole, or None.

        The first of them writes files for all. Those of a composed operator are those of its parts,
        which may refer to it in turn.
        """
        seen: set[int] = set()
        waiting: list[Operator] = [self]
        while waiting:
            part = waiting.pop()
            if id(part) in seen:
                continue
            if part.own_processes is not None:
                return part.own_processes
            seen.add(id(part))
            waiting += part.inner_operators()
        return None

    def inner_operators(self) -> list[Operator]:
        """Return the operators of which this one is composed, and others that it refers to."""
        return [part for part in vars(self).values() if isinstance(part, Operator)]

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

    def __neg__(self) -> Operator:
        return self.of if self.factor == -1.0 else Scaled(self.of, -self.factor)


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
