"""Constraints c(h, theta) = 0 that make an equilibrium unique, for `mfdeq.constrain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host, is_dense, is_sparse
from ..errors import ArgumentError, DerivativeError, ModelError
from ..operators.operator import Matrix
from ..operators.user_operators import as_operator
from .curvature import BlockCurvature, CurvatureOperator, add_curvatures, as_curvature
from .losses import nearby_point
from .quadratic_losses import copy_of_matrix, copy_of_numbers

MAX_CHANGE_ROUNDINGS = 100.0  # of a derivative that is the same at another point


class ConstraintBase:
    """Base class of constraints: m equations c(h, theta) = 0.

    Attributes
    ----------
    is_linear : bool
        Whether c is linear in the state.
    """

    is_linear = False
    size: int | None = None  # m, once it is known

    def value(self, backend: Backend, h: Array, theta: Array) -> Array:
        """Return c(h, theta), (m,)."""
        raise NotImplementedError

    def d_state(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return ∂c/∂h as an (m, N) array or sparse matrix."""
        raise NotImplementedError

    def d_params(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return ∂c/∂θ as an (m, P) array or sparse matrix, or None if it is zero."""
        raise NotImplementedError

    def curvature(
        self, backend: Backend, h: Array, theta: Array, nu: Array
    ) -> CurvatureOperator | None:
        """Return ∇²_(θ,h) (νᵀc), or None if it is zero."""
        raise NotImplementedError

    def second(self, backend: Backend, h: Array, theta: Array, a: Array, b: Array) -> Array:
        """Return c''[a, b], (m,), along stacked (P+N,) directions, from the curvature."""
        value = backend.zeros(self.known_size)
        for k in range(self.known_size):
            nu = backend.zeros(self.known_size)
            nu[k] = 1.0
            K = self.curvature(backend, h, theta, nu)
            if K is not None:
                value[k] = backend.xp.vecdot(a, K._apply(b))
        return value

    @property
    def known_size(self) -> int:
        """The number m of equations, after the first evaluation."""
        assert self.size is not None
        return self.size

    def _sized(self, backend: Backend, value: Array, name: str) -> Array:
        """Return a value of c as an (m,) array, with the m of the first evaluation."""
        value = backend.check_array(value, None, name, convert=True)
        value = backend.xp.reshape(value, (1,)) if value.ndim == 0 else value
        if self.size is None and value.ndim == 1:
            self.size = value.shape[0]
        if value.ndim != 1 or value.shape[0] != self.size:
            expected = "(m,)" if self.size is None else f"({self.size},)"
            raise ModelError(
                f"{name}: expected an array of shape {expected}, got shape {tuple(value.shape)}"
            )
        return value


class Constraint(ConstraintBase):
    """Equations c(h, theta) = 0 that make an equilibrium unique.

    Parameters
    ----------
    value : callable
        ``value(h, theta)`` returns c, an (m,) array, or a number if m = 1.
    d_state : callable
        ``d_state(h, theta)`` returns ∂c/∂h as an (m, N) array, sparse matrix or LinearOperator; an
        (N,) array if m = 1.
    d_params : callable, optional
        ``d_params(h, theta)`` returns ∂c/∂θ, (m, P). Omit it if c does not depend on theta.
    curvature : callable, optional
        ``curvature(h, theta, nu)`` returns the Hessian of the scalar nuᵀc with respect to
        (theta, h) for an (m,) array nu, as a `Curvature` or a callable
        ``(dtheta, dh) -> (a_theta, a_h)``. Omit it if c is linear in (h, theta).
    second : callable, optional
        ``second(h, theta, a, b)`` returns the (m,) second derivative c''[a, b] along
        a = (dtheta, dh) and b. By default it is computed from `curvature`.

    Raises
    ------
    ModelError
        If an argument is not callable.

    See Also
    --------
    LinearConstraint : A constraint C h = total.
    constrain : The model with its constraints.

    Notes
    -----
    An omitted derivative is taken to be zero only after a test at a second point; if it is not, a
    `DerivativeError` names the derivative to pass.

    Examples
    --------
    A vector of unit length in the direction of theta, whose length the equations leave open:

    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(
    ...     lambda h, theta: (h[0] * theta[1] - h[1] * theta[0]) * np.array([1.0, -1.0]),
    ...     *(2, 2, "residual"),
    ...     initial_state=np.ones(2),
    ... )
    >>> length = mfdeq.Constraint(
    ...     value=lambda h, theta: (h @ h - 1.0) / 2.0,
    ...     d_state=lambda h, theta: h,
    ...     curvature=lambda h, theta, nu: mfdeq.Curvature(state_state=nu[0] * np.eye(2)),
    ... )
    >>> eq = mfdeq.solve(mfdeq.constrain(model, length), np.array([3.0, 4.0]))
    >>> print(eq.state.round(4))
    [0.6 0.8]
    """

    def __init__(
        self,
        value: Callable[[Array, Array], Any],
        d_state: Callable[[Array, Array], Any],
        d_params: Callable[[Array, Array], Any] | None = None,
        curvature: Callable[[Array, Array, Array], Any] | None = None,
        second: Callable[[Array, Array, Any, Any], Any] | None = None,
    ) -> None:
        given = {"value": value, "d_state": d_state}
        optional = {"d_params": d_params, "curvature": curvature, "second": second}
        for name, function in {**given, **optional}.items():
            if not callable(function) and (name in given or function is not None):
                raise ModelError(
                    f"{name} of the Constraint: expected a function, got {type(function).__name__}"
                )
        self._value, self._d_state, self._d_params = value, d_state, d_params
        self._curvature, self._second = curvature, second
        self._known_zero: set[str] = set()  # omitted derivatives that have passed the test for zero

    def _call(self, backend: Backend, field: str, function: Any, *arguments: Array) -> Any:
        with backend.user_call(f"{field} of the Constraint"):
            return backend.from_user(function(*map(backend.to_user, arguments)))

    def value(self, backend: Backend, h: Array, theta: Array) -> Array:
        """Return c(h, theta), (m,), after checking it."""
        out = self._call(backend, "value", self._value, h, theta)
        return self._sized(backend, out, "value of the Constraint")

    def _matrix(self, backend: Backend, field: str, function: Any, h: Array, theta: Array) -> Any:
        if self.size is None:
            self.value(backend, h, theta)
        columns = h.shape[0] if field == "d_state" else theta.shape[0]
        given = self._call(backend, field, function, h, theta)
        name = f"{field} of the Constraint"
        return matrix_of(backend, given, (self.known_size, columns), name)

    def d_state(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return ∂c/∂h, (m, N), after checking it."""
        return self._matrix(backend, "d_state", self._d_state, h, theta)

    def d_params(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return ∂c/∂θ, (m, P), after checking it, or None."""
        if self._d_params is not None:
            return self._matrix(backend, "d_params", self._d_params, h, theta)
        if "d_params" not in self._known_zero:
            here, there = (self.value(backend, h, x) for x in (theta, nearby_point(theta)))
            if not backend.all(here == there):
                raise DerivativeError(
                    "d_params of the Constraint is missing, but the value depends on the "
                    "parameters: pass d_params=",
                    field="d_params",
                )
            self._known_zero.add("d_params")
        return None

    def curvature(
        self, backend: Backend, h: Array, theta: Array, nu: Array
    ) -> CurvatureOperator | None:
        """Return ∇²_(θ,h) (νᵀc), after checking that it is symmetric, or None."""
        if self._curvature is not None:
            given = self._call(backend, "curvature", self._curvature, h, theta, nu)
            sizes = theta.shape[0], h.shape[0]
            return as_curvature(backend, given, *sizes, "curvature of the Constraint")
        if "curvature" not in self._known_zero:
            self._check_linear(backend, h, theta)
        return None

    def _check_linear(self, backend: Backend, h: Array, theta: Array) -> None:
        other = nearby_point(h), nearby_point(theta)
        for derivative, size in ((self.d_state, h.shape[0]), (self.d_params, theta.shape[0])):
            x = backend.random(size, seed=11)
            here, there = (derivative(backend, *point) for point in ((h, theta), other))
            if here is None or there is None:
                continue
            size_here = backend.norm(here @ x)
            if backend.norm(here @ x - there @ x) > MAX_CHANGE_ROUNDINGS * backend.eps * size_here:
                raise DerivativeError(
                    "curvature of the Constraint is missing, but its derivatives depend on "
                    "(h, theta): pass curvature=lambda h, theta, nu: mfdeq.Curvature(...)",
                    field="curvature",
                )
        self._known_zero.add("curvature")

    def second(self, backend: Backend, h: Array, theta: Array, a: Array, b: Array) -> Array:
        """Return c''[a, b], (m,)."""
        if self._second is None:
            return super().second(backend, h, theta, a, b)
        P = theta.shape[0]
        a, b = ((backend.to_user(x[:P]), backend.to_user(x[P:])) for x in (a, b))
        with backend.user_call("second of the Constraint"):
            h, theta = backend.to_user(h), backend.to_user(theta)
            value = backend.from_user(self._second(h, theta, a, b))
        return self._sized(backend, value, "second of the Constraint")


class LinearConstraint(ConstraintBase):
    """Linear equations C h = total: conserved totals, a mean, a reference value.

    Parameters
    ----------
    matrix : (m, N) array, sparse matrix or LinearOperator, or (N,) array
        C.
    total : float or (m,) array or callable, optional
        The right-hand side, by default zero; ``total(theta)`` if it depends on the parameters.
    d_total : callable, optional
        ``d_total(theta)`` returns the (m, P) derivative of ``total(theta)``, a (P,) array if m = 1.
    curvature : callable, optional
        ``curvature(theta, nu)`` returns the (P, P) Hessian of nuᵀtotal for an (m,) array nu. Omit
        it if total is linear in theta.

    Raises
    ------
    ModelError
        If an array has a wrong shape or dtype or non-finite entries.

    See Also
    --------
    Constraint : A nonlinear constraint.
    constrain : The model with its constraints.

    Examples
    --------
    The total of two species that turn into each other is the last parameter:

    >>> import mfdeq, numpy as np
    >>> def residual(h, theta):
    ...     rate = theta[0] * h[0] - theta[1] * h[1]
    ...     return rate * np.array([1.0, -1.0])
    >>> model = mfdeq.from_function(residual, 2, 3, "residual")
    >>> total = mfdeq.LinearConstraint(
    ...     np.ones(2), lambda theta: theta[2], d_total=lambda theta: np.array([0.0, 0.0, 1.0])
    ... )
    >>> eq = mfdeq.solve(mfdeq.constrain(model, total), np.array([1.0, 3.0, 8.0]))
    >>> print(eq.state.round(4))
    [6. 2.]
    """

    is_linear = True

    def __init__(
        self,
        matrix: Any,
        total: Any = 0.0,
        d_total: Callable[[Array], Any] | None = None,
        curvature: Callable[[Array, Array], Any] | None = None,
    ) -> None:
        for name, function in (("d_total", d_total), ("curvature", curvature)):
            if function is not None and not callable(function):
                raise ModelError(
                    f"{name} of the LinearConstraint: expected a function of theta, got "
                    f"{type(function).__name__}"
                )
        matrix = host.asarray(matrix) if isinstance(matrix, (list, tuple)) else matrix
        if not hasattr(matrix, "shape") or len(matrix.shape) not in (1, 2):
            raise ModelError(
                "matrix of the LinearConstraint: expected an array, a sparse matrix or a "
                f"LinearOperator of shape (m, N), got {_described(matrix)}"
            )
        self.matrix = copy_of_matrix(matrix)
        self.size = 1 if len(matrix.shape) == 1 else int(matrix.shape[0])
        self._d_total, self._curvature = d_total, curvature
        if not callable(total):
            total = copy_of_numbers(total, "total of the LinearConstraint")
            shape = tuple(getattr(total, "shape", ()))
            if shape not in ((), (self.size,)):
                raise ModelError(
                    f"total of the LinearConstraint: expected a number or an array of shape "
                    f"({self.size},), got shape {shape}"
                )
        self.total = total
        self._known_zero: set[str] = set()
        self._cache: tuple[Backend, int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def value(self, backend: Backend, h: Array, theta: Array) -> Array:
        """Return C h − total(theta), (m,)."""
        return self.d_state(backend, h, theta) @ h - self._total(backend, theta)

    def _total(self, backend: Backend, theta: Array) -> Array:
        if callable(self.total):
            total = self._call(backend, "total", self.total, theta)
            return self._sized(backend, total, "total of the LinearConstraint")
        if isinstance(self.total, float):
            return self.total + backend.zeros(self.known_size)
        name = "total of the LinearConstraint"
        return backend.vector(self.total, self.known_size, name, convert=True)

    def _call(self, backend: Backend, field: str, function: Any, *arguments: Any) -> Any:
        with backend.user_call(f"{field} of the LinearConstraint"):
            return backend.from_user(function(*map(backend.to_user, arguments)))

    def d_state(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return C."""
        n = h.shape[0]
        latest = self._cache  # which another thread may replace
        if latest is None or latest[:2] != (backend, n):
            name = "matrix of the LinearConstraint"
            matrix = matrix_of(backend, self.matrix, (self.known_size, n), name)
            latest = self._cache = backend, n, matrix
        return latest[2]

    def d_params(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return −∂total/∂θ, (m, P), or None."""
        if not callable(self.total):
            return None
        if self._d_total is not None:
            given = self._call(backend, "d_total", self._d_total, theta)
            name = "d_total of the LinearConstraint"
            return -matrix_of(backend, given, (self.known_size, theta.shape[0]), name)
        if "d_total" not in self._known_zero:
            here, there = (self._total(backend, x) for x in (theta, nearby_point(theta)))
            if not backend.all(here == there):
                raise DerivativeError(
                    "d_total of the LinearConstraint is missing, but the total depends on the "
                    "parameters: pass d_total=",
                    field="d_total",
                )
            self._known_zero.add("d_total")
        return None

    def curvature(
        self, backend: Backend, h: Array, theta: Array, nu: Array
    ) -> CurvatureOperator | None:
        """Return the Hessian of −νᵀtotal, or None."""
        if not callable(self.total):
            return None
        P, N = theta.shape[0], h.shape[0]
        if self._curvature is not None:
            given = self._call(backend, "curvature", self._curvature, theta, nu)
            name = "curvature of the LinearConstraint"
            block = -as_operator(backend, given, (P, P), name, convert=True)
            return BlockCurvature(backend, P, N, [block, None, None])
        if "curvature" not in self._known_zero and self._d_total is not None:
            x = backend.random(P, seed=11)
            here, there = (self.d_params(backend, h, y) @ x for y in (theta, nearby_point(theta)))
            limit = MAX_CHANGE_ROUNDINGS * backend.eps * backend.norm(here)
            if backend.norm(here - there) > limit:
                raise DerivativeError(
                    "curvature of the LinearConstraint is missing, but d_total depends on the "
                    "parameters: pass curvature=lambda theta, nu: ..., the (P, P) Hessian of nu "
                    "times total",
                    field="curvature",
                )
            self._known_zero.add("curvature")
        return None


class Constraints:
    """Several constraints as one of m equations.

    Parameters
    ----------
    parts : tuple of Constraint or LinearConstraint
    """

    def __init__(self, parts: tuple[ConstraintBase, ...]) -> None:
        self.parts = parts

    @classmethod
    def of(cls, given: Any) -> Constraints:
        """Return the constraints that a user passes: one, or a sequence of them."""
        parts = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        for part in parts:
            if not isinstance(part, ConstraintBase):
                raise ArgumentError(
                    "constraints: expected an mfdeq.Constraint, an mfdeq.LinearConstraint or a "
                    f"list of them, got {_described(part)}"
                )
        if not parts:
            raise ArgumentError("constraints: expected at least one constraint, got an empty list")
        return cls(parts)

    @property
    def is_linear(self) -> bool:
        """Whether all of them are linear in the state."""
        return all(part.is_linear for part in self.parts)

    @property
    def size(self) -> int:
        """The number m of all equations, after the first evaluation."""
        return sum(part.known_size for part in self.parts)

    def value(self, backend: Backend, h: Array, theta: Array) -> Array:
        """Return c(h, theta), (m,)."""
        values = [part.value(backend, h, theta) for part in self.parts]
        return values[0] if len(values) == 1 else backend.xp.concat(values)

    def d_state(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return C = ∂c/∂h as an (m, N) array, or as a sparse matrix if all parts are."""
        return _stack(backend, [part.d_state(backend, h, theta) for part in self.parts])

    def d_params(self, backend: Backend, h: Array, theta: Array) -> Any:
        """Return ∂c/∂θ as an (m, P) array or sparse matrix, or None if it is zero."""
        blocks = [part.d_params(backend, h, theta) for part in self.parts]
        if all(block is None for block in blocks):
            return None
        sizes = [part.known_size for part in self.parts]
        P = theta.shape[0]
        some_dense = any(block is not None and is_dense(block) for block in blocks)
        for k, block in enumerate(blocks):
            if block is None:
                shape = sizes[k], P
                zeros = backend.sparse.csr_matrix(shape, dtype=backend.dtype)
                blocks[k] = backend.zeros(*shape) if some_dense else zeros
        return _stack(backend, blocks)

    def _split(self, x: Array) -> list[Array]:
        """Split an (m,) array among the parts."""
        pieces, start = [], 0
        for part in self.parts:
            pieces.append(x[start : start + part.known_size])
            start += part.known_size
        return pieces

    def curvature(
        self, backend: Backend, h: Array, theta: Array, nu: Array
    ) -> CurvatureOperator | None:
        """Return ∇²_(θ,h) (νᵀc), or None if it is zero."""
        total: CurvatureOperator | None = None
        for part, own in zip(self.parts, self._split(nu), strict=True):
            K = part.curvature(backend, h, theta, own)
            if K is not None:
                total = K if total is None else add_curvatures(total, K)
        return total

    def second(self, backend: Backend, h: Array, theta: Array, a: Array, b: Array) -> Array:
        """Return c''[a, b], (m,)."""
        values = [part.second(backend, h, theta, a, b) for part in self.parts]
        return values[0] if len(values) == 1 else backend.xp.concat(values)


def matrix_of(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Any:
    """Return a user's few rows as an array or sparse matrix of a shape, after checking them.

    An operator is applied to unit vectors; a vector is accepted for one row.
    """
    if is_dense(given) and getattr(given, "ndim", 2) == 1 and shape[0] == 1:
        given = given[None, :]
    operator = as_operator(backend, given, shape, name, convert=True)
    if operator.array is not None:
        return operator.array
    return operator._apply_adjoint(backend.eye(shape[0], shape[0])).T


def _stack(backend: Backend, blocks: list[Any]) -> Any:
    if len(blocks) == 1:
        return blocks[0]
    if all(is_sparse(block) for block in blocks):
        return backend.sparse.vstack(blocks).tocsr()
    dense = [block.toarray() if is_sparse(block) else block for block in blocks]
    return backend.xp.concat(dense, axis=0)


def magnitudes(backend: Backend, matrix: Any, x: Array) -> Array:
    """Return |C| |x| for the few rows of a matrix."""
    return Matrix(backend, matrix).abs_apply(x)


def _described(x: Any) -> str:
    shape = getattr(x, "shape", None)
    return f"a {type(x).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")
