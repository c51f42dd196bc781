"""Scalar losses of (h, theta): a value, two gradients and a curvature. They add and scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from ..arrays.backend import Array, Backend, as_array, is_dense, is_sparse, native
from ..arrays.library import library_of
from ..errors import ArgumentError, DerivativeError, ModelError
from ..operators.dot_tests import check_symmetric
from ..operators.operator import Diagonal, Matrix, Operator, Product
from ..operators.user_operators import as_operator
from .curvature import (
    BlockCurvature,
    CurvatureOperator,
    add_curvatures,
    as_curvature,
    scale_curvature,
)


def check_loss(loss: Any, model: Any) -> None:
    """Raise an `ArgumentError` for what is no loss, or none for equilibria of a model."""
    if not isinstance(loss, LossBase):
        raise ArgumentError(
            f"the loss is a {type(loss).__name__}; an mfdeq.Loss, mfdeq.LeastSquares, "
            "mfdeq.QuadraticPrior or a sum of those was expected"
        )
    model.check_loss(loss)


class LossBase:
    """What every loss has; the arguments are checked (h, theta) of one backend."""

    def value(self, h: Array, theta: Array) -> float:
        """L(h, theta), of PETSc's Vecs, too."""
        return self._evaluate(native(h), native(theta))

    def _evaluate(self, h: Array, theta: Array) -> float:
        raise NotImplementedError

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """(dL/dtheta, dL/dh), of shapes (P,) and (N,)."""
        raise NotImplementedError

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """∇²_(θ,h) L, (P+N, P+N)."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[LossBase, ...]:
        """What it is the sum of, without factors."""
        return (self,)

    def __add__(self, other: Any) -> LossBase:
        if not isinstance(other, LossBase):
            return NotImplemented
        return _SumLoss(self, other)

    def __mul__(self, factor: Any) -> LossBase:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return _ScaledLoss(self, float(factor))

    __rmul__ = __mul__

    def __radd__(self, other: Any) -> LossBase:
        return self if isinstance(other, Real) and other == 0 else NotImplemented  # of sum()

    def __truediv__(self, factor: Any) -> LossBase:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        return self * (1.0 / float(factor))

    def __neg__(self) -> LossBase:
        return -1.0 * self

    def __sub__(self, other: Any) -> LossBase:
        return self + (-other)


class Loss(LossBase):
    """A loss from its callables of (h, theta).

    Parameters
    ----------
    value : callable
        L(h, theta), a scalar.
    d_state, d_params : callable, optional
        dL/dh of shape (N,) and dL/dtheta of shape (P,). None where L does not read that one.
    curvature : callable, optional
        ``curvature(h, theta)``, the Hessian over (theta, h), as an `mfdeq.Curvature` or a
        callable ``(dtheta, dh) -> (a_theta, a_h)``. None where L is linear.

    Notes
    -----
    A part that is missing is taken for zero only where a probe at a second point agrees;
    otherwise using it is a `DerivativeError` that names it.
    """

    def __init__(
        self,
        value: Callable[[Array, Array], Any],
        d_state: Callable[[Array, Array], Array] | None = None,
        d_params: Callable[[Array, Array], Array] | None = None,
        curvature: Callable[[Array, Array], Any] | None = None,
    ) -> None:
        for name, part in (("d_state", d_state), ("d_params", d_params), ("curvature", curvature)):
            if part is not None and not callable(part):
                raise ModelError(
                    f"{name} of the loss is a {type(part).__name__}; a callable of (h, theta) "
                    "was expected"
                )
        if not callable(value):
            raise ModelError(f"value of the loss is a {type(value).__name__}, not a callable")
        self._value, self._d_state, self._d_params = value, d_state, d_params
        self._curvature = curvature
        self._missing_is_zero: set[str] = set()

    def _evaluate(self, h: Array, theta: Array) -> float:
        backend = Backend.of(h)
        out = self._of(backend, "value", self._value, h, theta)
        with backend.user_call("value of the loss"):
            if is_dense(out) and math.prod(out.shape) == 1:
                out = out[(0,) * out.ndim]  # of whatever library
            value = float(backend.checked(out, (), "value of the loss"))
        return backend.same_on_all_ranks(value, "value of the loss")

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """(dL/dtheta, dL/dh), checked."""
        backend = Backend.of(h)
        return (
            self._partial(backend, "d_params", self._d_params, h, theta, theta.shape[0]),
            self._partial(backend, "d_state", self._d_state, h, theta, h.shape[0]),
        )

    def _of(
        self,
        backend: Backend,
        field: str,
        function: Any,
        h: Array,
        theta: Array,
        size: int | None = None,
    ) -> Any:
        """What a function of the user's returns; of a vector `size` is that of it."""
        with backend.user_call(
            f"{field} of the loss, of (h, theta) of shapes {h.shape}, {theta.shape}"
        ):
            out = function(*map(backend.to_user, (h, theta)))
            return out if size is None else backend.from_user(out, size)

    def _partial(
        self, backend: Backend, field: str, function: Any, h: Array, theta: Array, size: int
    ) -> Array:
        if function is not None:
            given = self._of(backend, field, function, h, theta, size)
            return backend.vector(given, size, f"{field} of the loss")
        if field not in self._missing_is_zero:
            moved = (_moved(h), theta) if field == "d_state" else (h, _moved(theta))
            if self.value(h, theta) != self.value(*moved):
                raise DerivativeError(
                    f"the loss has no {field}, but its value depends on it: give it"
                )
            self._missing_is_zero.add(field)
        return backend.zeros(size)

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """The curvature, checked to be symmetric."""
        backend = Backend.of(h)
        N, P = h.shape[0], theta.shape[0]
        if self._curvature is not None:
            given = self._of(backend, "curvature", self._curvature, h, theta)
            return as_curvature(backend, given, P, N, "curvature of the loss")
        for here, there in zip(
            self.gradients(h, theta), self.gradients(_moved(h), _moved(theta)), strict=True
        ):
            if backend.norm(here - there) > 100 * backend.eps * backend.norm(here):
                raise DerivativeError(
                    "the loss has no curvature, but its derivatives change with (h, theta): give "
                    "curvature=lambda h, theta: mfdeq.Curvature(...)"
                )
        return BlockCurvature(backend, P, N, [None, None, None])


class _Quadratic(LossBase):
    """A loss with one matrix, which is made an operator once per backend and size."""

    _made: tuple[Backend, int, Operator] | None = None

    def operator(self, backend: Backend, size: int) -> Operator:
        """The loss's matrix on that backend, for that many columns."""
        if self._made is None or self._made[:2] != (backend, size):
            self._made = (backend, size, self._operator(backend, size))
        return self._made[2]

    def _operator(self, backend: Backend, size: int) -> Operator:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # an operator is made again, not pickled


class LeastSquares(_Quadratic):
    """½ Σ weights · (observe h − data)².

    Parameters
    ----------
    observe : (m, N) operator, sparse matrix or array, or (m,) integer array
        What is observed; an index array picks components of the state.
    data : (m,) array
    weights : float or (m,) array, optional
        Usually 1/σ², so that the loss has no units.
    """

    def __init__(self, observe: Any, data: Array, weights: Any = 1.0) -> None:
        self.data = _kept(data, "data of LeastSquares")
        shape = tuple(getattr(self.data, "shape", ()))
        if len(shape) != 1:
            raise ModelError(f"data of LeastSquares has shape {shape}; (m,) was expected")
        self.observe, self.weights = _own(observe), _kept(weights, "weights of LeastSquares")

    def _operator(self, backend: Backend, state_size: int) -> Operator:
        observe = self.observe
        if is_dense(observe) and observe.ndim == 1:
            observe = _selection(backend, observe, state_size)
        shape = (self.data.shape[0], state_size)
        return as_operator(backend, observe, shape, f"observe of LeastSquares ({shape[0]} data)")

    def _weights(self, backend: Backend) -> Array:
        m = self.data.shape[0]
        if isinstance(self.weights, float):
            return self.weights * backend.xp.ones(m, dtype=backend.dtype, device=backend.device)
        return backend.vector(self.weights, m, "weights of LeastSquares")

    def _misfit(self, h: Array) -> tuple[Operator, Array, Array]:
        backend = Backend.of(h)
        observe = self.operator(backend, h.shape[0])
        data = backend.vector(self.data, self.data.shape[0], "data of LeastSquares")
        return observe, self._weights(backend), observe._apply(h) - data

    def _evaluate(self, h: Array, theta: Array) -> float:
        """½ Σ weights · (observe h − data)²."""
        _, weights, misfit = self._misfit(h)
        return 0.5 * float(Backend.of(h).xp.vecdot(weights * misfit, misfit))

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """(0, O' (weights · (O h - data)))."""
        observe, weights, misfit = self._misfit(h)
        return Backend.of(h).zeros(theta.shape[0]), observe._apply_adjoint(weights * misfit)

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """O' diag(weights) O over the state."""
        observe, weights, _ = self._misfit(h)
        backend = Backend.of(h)
        block: Operator
        if isinstance(observe, Matrix) and is_sparse(observe.array):
            weigh = backend.sparse.diags(weights)
            block = Matrix(backend, (observe.array.T @ weigh @ observe.array).tocsr())
        else:
            block = Product(observe.H, Product(Diagonal(backend, weights), observe))  # type: ignore[attr-defined]
        return BlockCurvature(backend, theta.shape[0], h.shape[0], [None, None, block])


class QuadraticPrior(_Quadratic):
    """½ (θ − mean)ᵀ precision (θ − mean).

    Parameters
    ----------
    precision : (P, P) operator, sparse matrix or array, or float
        Symmetric; a number is that multiple of the identity.
    mean : (P,) array or float, optional
    """

    def __init__(self, precision: Any, mean: Any = 0.0) -> None:
        self.precision, self.mean = _own(precision), _kept(mean, "mean of QuadraticPrior")

    def _operator(self, backend: Backend, param_size: int) -> Operator:
        precision = self.precision
        if isinstance(precision, Real):
            precision = precision * backend.sparse.identity(
                param_size, dtype=backend.dtype, format="csr"
            )
        # By its entries where they are known: those are what can be factorized with the rest.
        if isinstance(precision, Operator) and precision.array is not None:
            precision = precision.array
        name = "precision of QuadraticPrior"
        block = as_operator(backend, precision, (param_size, param_size), name)
        check_symmetric(block, name, "it")
        return block

    def _deviation(self, theta: Array) -> tuple[Operator, Array]:
        backend = Backend.of(theta)
        mean = self.mean
        if not isinstance(mean, float):
            mean = backend.vector(mean, theta.shape[0], "mean of QuadraticPrior")
        return self.operator(backend, theta.shape[0]), theta - mean

    def _evaluate(self, h: Array, theta: Array) -> float:
        """½ (θ − mean)ᵀ precision (θ − mean)."""
        precision, deviation = self._deviation(theta)
        return 0.5 * float(Backend.of(theta).xp.vecdot(deviation, precision._apply(deviation)))

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """(precision (θ − mean), 0)."""
        precision, deviation = self._deviation(theta)
        return precision._apply(deviation), Backend.of(h).zeros(h.shape[0])

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """The precision over the parameters."""
        backend = Backend.of(h)
        block = self.operator(backend, theta.shape[0])
        return BlockCurvature(backend, theta.shape[0], h.shape[0], [block, None, None])


class _SumLoss(LossBase):
    def __init__(self, left: LossBase, right: LossBase) -> None:
        self.left, self.right = left, right

    @property
    def parts(self) -> tuple[LossBase, ...]:
        return self.left.parts + self.right.parts

    def _evaluate(self, h: Array, theta: Array) -> float:
        return self.left.value(h, theta) + self.right.value(h, theta)

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        left, right = self.left.gradients(h, theta), self.right.gradients(h, theta)
        return left[0] + right[0], left[1] + right[1]

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        left = self.left.curvature_operator(h, theta)
        return add_curvatures(left, self.right.curvature_operator(h, theta))


class _ScaledLoss(LossBase):
    def __init__(self, of: LossBase, factor: float) -> None:
        if not math.isfinite(factor):
            raise ArgumentError(f"a loss times {factor}: a finite number was expected")
        self.of, self.factor = of, factor

    @property
    def parts(self) -> tuple[LossBase, ...]:
        return self.of.parts

    def _evaluate(self, h: Array, theta: Array) -> float:
        return self.factor * self.of.value(h, theta)

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        d_params, d_state = self.of.gradients(h, theta)
        return self.factor * d_params, self.factor * d_state

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        return scale_curvature(self.of.curvature_operator(h, theta), self.factor)


def _selection(backend: Backend, index: Array, state_size: int) -> Any:
    xp = backend.xp
    index = as_array(backend, index, "observe of LeastSquares (an array of indices)", ModelError)
    if xp.isdtype(index.dtype, "bool"):
        if index.shape[0] != state_size:
            raise ModelError(
                f"observe of LeastSquares is a mask of {index.shape[0]} for a state of {state_size}"
            )
        index = xp.nonzero(index)[0]
    if not xp.isdtype(index.dtype, "integral"):
        raise ModelError(
            f"observe of LeastSquares is a 1-D array of {index.dtype}; integer indices or a mask "
            "were expected"
        )
    if bool(xp.any(index < 0)) or bool(xp.any(index >= state_size)):
        raise ModelError(f"observe of LeastSquares has indices outside 0 … {state_size - 1}")
    m = index.shape[0]
    ones = xp.ones(m, dtype=backend.dtype, device=backend.device)
    rows = xp.arange(m, device=backend.device)
    return backend.sparse.csr_matrix((ones, (rows, index)), shape=(m, state_size))


def _kept(x: Any, name: str) -> Any:
    """A user's number as a float, an array as a copy, both finite."""
    kept = Backend.of(x, name=name).checked(x, None, name)
    return kept if kept.ndim else float(kept)


def _own(matrix: Any) -> Any:
    """A copy that the caller cannot change; an operator as it is."""
    if library_of(matrix).is_product_only(matrix):
        return matrix
    if is_dense(matrix) and not hasattr(matrix, "copy"):  # which the standard does not have
        return Backend.of(matrix).xp.asarray(matrix, copy=True)
    return matrix.copy() if hasattr(matrix, "copy") else matrix


def _moved(x: Array) -> Array:
    """Another point near x, at a distance that a dependence would show at."""
    backend = Backend.of(x)
    return x + 0.01 * (1.0 + backend.xp.abs(x)) * backend.random(x.shape[0], seed=7)
