"""Constraints c(h, theta) = 0 that make an equilibrium unique, for `mfdeq.constrain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host, is_dense, shape_of
from ..errors import DerivativeError, ModelError
from ..operators.user_operators import as_operator
from .curvature import CurvatureOperator, as_curvature
from .losses import nearby_point

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
    _known_zero: set[str]  # omitted derivatives that have passed the test for zero

    def value(self, h: Array, theta: Array) -> Array:
        """Return c(h, theta), (m,)."""
        raise NotImplementedError

    def d_state(self, h: Array, theta: Array) -> Any:
        """Return ∂c/∂h as an (m, N) array or sparse matrix."""
        raise NotImplementedError

    def d_params(self, h: Array, theta: Array) -> Any:
        """Return ∂c/∂θ as an (m, P) array or sparse matrix, or None if it is zero."""
        raise NotImplementedError

    def curvature(self, h: Array, theta: Array, nu: Array) -> CurvatureOperator | None:
        """Return ∇²_(θ,h) (νᵀc), or None if it is zero."""
        raise NotImplementedError

    def second(self, h: Array, theta: Array, a: Array, b: Array) -> Array:
        """Return c''[a, b], (m,), along stacked (P+N,) directions, from the curvature."""
        backend = Backend.of(h)
        unit = host.eye(self.known_size)
        value = backend.coefficients(0.0 * unit[0])
        for k in range(self.known_size):
            nu = backend.coefficients(unit[k])
            K = self.curvature(h, theta, nu)
            if K is not None:
                value[k] = backend.xp.vecdot(a, K._apply(b))
        return value

    @property
    def known_size(self) -> int:
        """The number m of equations, after the first evaluation."""
        assert self.size is not None
        return self.size

    def _call(self, field: str, function: Any, *arguments: Array) -> Any:
        """Call one of the user's functions."""
        backend = Backend.of(arguments[0])
        with backend.user_call(self._name(field)):
            return backend.from_user(function(*map(backend.to_user, arguments)))

    def _name(self, field: str) -> str:
        return f"{field} of the {type(self).__name__}"

    def _check_no_params(
        self, field: str, what: str, function: Callable[[Array], Array], theta: Array
    ) -> None:
        """Raise `DerivativeError` if a value depends on the parameters, without a derivative."""
        if field in self._known_zero:
            return
        here, there = (function(x) for x in (theta, nearby_point(theta)))
        if not Backend.of(theta).all(here == there):
            raise DerivativeError(
                f"{self._name(field)} is missing, but the {what} depends on the parameters: pass "
                f"{field}=",
                field=field,
            )
        self._known_zero.add(field)

    def _sized(self, backend: Backend, value: Any, field: str) -> Array:
        """Return a value of c as an (m,) array, with the m of the first evaluation."""
        name = self._name(field)
        value = backend.replicated(backend.check_array(value, None, name, convert=True))
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
        self._known_zero = set()

    def value(self, h: Array, theta: Array) -> Array:
        """Return c(h, theta), (m,), after checking it."""
        out = self._call("value", self._value, h, theta)
        return self._sized(Backend.of(h), out, "value")

    def _matrix(self, field: str, function: Any, h: Array, theta: Array) -> Any:
        if self.size is None:
            self.value(h, theta)
        columns = h.shape[0] if field == "d_state" else theta.shape[0]
        given = self._call(field, function, h, theta)
        return matrix_of(Backend.of(h), given, (self.known_size, columns), self._name(field))

    def d_state(self, h: Array, theta: Array) -> Any:
        """Return ∂c/∂h, (m, N), after checking it."""
        return self._matrix("d_state", self._d_state, h, theta)

    def d_params(self, h: Array, theta: Array) -> Any:
        """Return ∂c/∂θ, (m, P), after checking it, or None."""
        if self._d_params is not None:
            return self._matrix("d_params", self._d_params, h, theta)
        self._check_no_params("d_params", "value", lambda x: self.value(h, x), theta)
        return None

    def curvature(self, h: Array, theta: Array, nu: Array) -> CurvatureOperator | None:
        """Return ∇²_(θ,h) (νᵀc), after checking that it is symmetric, or None."""
        if self._curvature is not None:
            given = self._call("curvature", self._curvature, h, theta, nu)
            sizes = theta.shape[0], h.shape[0]
            return as_curvature(Backend.of(h), given, *sizes, self._name("curvature"))
        if "curvature" not in self._known_zero:
            self._check_linear(h, theta)
        return None

    def _check_linear(self, h: Array, theta: Array) -> None:
        backend = Backend.of(h)
        other = nearby_point(h), nearby_point(theta)
        for derivative, size in ((self.d_state, h.shape[0]), (self.d_params, theta.shape[0])):
            x = backend.random(size, seed=11)
            here, there = (derivative(*point) for point in ((h, theta), other))
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

    def second(self, h: Array, theta: Array, a: Array, b: Array) -> Array:
        """Return c''[a, b], (m,)."""
        if self._second is None:
            return super().second(h, theta, a, b)
        backend, P = Backend.of(h), theta.shape[0]
        a, b = ((backend.to_user(x[:P]), backend.to_user(x[P:])) for x in (a, b))
        with backend.user_call(self._name("second")):
            h, theta = backend.to_user(h), backend.to_user(theta)
            value = backend.from_user(self._second(h, theta, a, b))
        return self._sized(backend, value, "second")


def matrix_of(backend: Backend, given: Any, shape: tuple[int, int], name: str) -> Any:
    """Return a user's few rows as an array or sparse matrix of a shape, after checking them.

    An operator is applied to unit vectors; a vector is accepted for one row.
    """
    try:
        own = backend.library.rows_of(backend, given, *shape)
    except ModelError as error:
        raise ModelError(f"{name}: {error}", non_finite=error.non_finite) from None
    if own is not None:
        return own
    if is_dense(given) and getattr(given, "ndim", 2) == 1 and shape[0] == 1:
        given = given[None, :]
    operator = as_operator(backend, given, shape, name, convert=True)
    if operator.array is not None:
        return operator.array
    return operator._apply_adjoint(backend.eye(shape[0], shape[0])).T


def magnitudes(backend: Backend, matrix: Any, x: Array) -> Array:
    """Return |C| |x| for the few rows of a matrix."""
    return abs(matrix) @ backend.xp.abs(x)


def described(x: Any) -> str:
    """Describe a wrong argument in an error message."""
    shape = shape_of(x)
    return f"a {type(x).__name__}" + (f" of shape {tuple(shape)}" if shape else "")
