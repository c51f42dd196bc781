"""Quadratic losses for least squares and Gaussian priors."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ..arrays.backend import Array, Backend, as_array, host, is_dense, is_sparse
from ..arrays.collective import defer_error
from ..arrays.library import library_of
from ..errors import ModelError
from ..locks import cached_property
from ..operators.dot_tests import check_symmetric
from ..operators.matrix_operator import Diagonal, Matrix
from ..operators.operator import Operator, Product
from ..operators.user_operators import as_operator, backend_of
from .curvature import BlockCurvature, CurvatureOperator
from .losses import LossBase
from .vectors import is_foreign, tensor_on_host


class QuadraticLoss(LossBase):
    """A loss with one matrix, which is converted once for the latest array library and size."""

    _cache: tuple[Backend, int, Any] | None = None

    def converted(self, backend: Backend, size: int) -> Any:
        """Return the loss's arrays for vectors of `size`, as `_convert` makes them."""
        latest = self._cache  # which another thread may replace
        if latest is None or latest[:2] != (backend, size):
            latest = self._cache = (backend, size, self._convert(backend, size))
        return latest[2]

    def _convert(self, backend: Backend, size: int) -> Any:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # The cached operator is recreated rather than pickled.
        return {**self.__dict__, "_cache": None}


class LeastSquares(QuadraticLoss):
    """The weighted sum of squares of the differences between observations and data.

    Parameters
    ----------
    observe : (m, N) array, sparse matrix or LinearOperator, or (m,) array of int, or (N,) of bool
        The linear map from the state to the observations. An array or a list of indices, or a
        mask, selects entries of the state.
    data : (m,) array
        The measured values.
    weights : float or (m,) array, optional
        The weights w, by default 1.0; zero leaves a datum out. For independent errors of standard
        deviations σ, use 1/σ², which makes the loss dimensionless.

    Raises
    ------
    ModelError
        If an array has a wrong shape or dtype or non-finite entries, if a weight is negative, or
        if an index is outside 0 … N − 1.

    See Also
    --------
    QuadraticPrior : The regularization term of an inverse problem.

    Notes
    -----
    For an observation operator O, data d and W = diag(w),

        L = ½ (O h − d)ᵀ W (O h − d),    ∂L/∂h = Oᵀ W (O h − d),    ∇²_hh L = Oᵀ W O.

    Up to a constant, this is the negative log likelihood of Gaussian errors. Arrays are copied, and
    converted to the dtype of the parameters when they are used.

    Examples
    --------
    Two of three entries of the state are observed, with standard deviations of 0.5:

    >>> import numpy as np
    >>> import mfdeq
    >>> loss = mfdeq.LeastSquares(np.array([0, 2]), data=np.array([1.0, 2.0]), weights=4.0)
    >>> h, theta = np.array([1.5, 7.0, 1.0]), np.zeros(1)
    >>> loss.value(h, theta)
    2.5
    >>> loss.gradients(h, theta)[1]
    array([ 2.,  0., -4.])
    """

    _kept: Any = None  # the unknowns that count, where some do not

    def __init__(self, observe: Any, data: Array, weights: Any = 1.0) -> None:
        with defer_error(self):
            self.data = copy_of_numbers(data, "data of LeastSquares")
            shape = tuple(getattr(self.data, "shape", ()))
            if len(shape) != 1:
                raise ModelError(f"data of LeastSquares: expected shape (m,), got shape {shape}")
            self.observe = copy_of_matrix(observe)
            self.weights = copy_of_numbers(weights, "weights of LeastSquares")
            _check_not_negative(self.weights, "weights of LeastSquares")
            self._check_sizes()

    def _check_sizes(self) -> None:
        """Raise a `ModelError` unless there are as many data and weights as observations."""
        m, observe = self.data.shape[0], self.observe
        shape = tuple(getattr(observe, "shape", ()))
        if _is_list_of_integers(observe) and not isinstance(observe[0], bool):
            shape = (len(observe),)
        elif len(shape) == 1 and str(getattr(observe, "dtype", "")) == "bool":
            shape = (int(observe.sum()),)  # a mask
        if shape and shape[0] != m:
            raise ModelError(
                f"observe of LeastSquares ({m} data): expected shape ({m}, N), or {m} indices, one "
                f"for each datum, got shape {shape}"
            )
        weights = getattr(self.weights, "shape", (m,))
        if tuple(weights) not in ((m,), ()):
            raise ModelError(
                f"weights of LeastSquares: expected a number or shape ({m},), got {tuple(weights)}"
            )

    def without_unknowns(self, kept: Any) -> LeastSquares:
        """Return the loss without the data that depend on some unknowns."""
        other = copy.copy(self)
        other._kept, other._cache = kept, None
        return other

    def _convert(self, backend: Backend, state_size: int) -> _Observations:
        # First, since on ranks it decides where the observations are.
        operator = self._operator(backend, state_size)
        m = self.data.shape[0]
        data = backend.vector(self.data, m, "data of LeastSquares", convert=True)
        weights = self._weights(backend)
        if self._kept is not None:
            left_out = backend.from_host((~self._kept).astype(str(backend.dtype)), state_size)
            weights = backend.xp.where(operator.abs_apply(left_out) > 0.0, 0.0, weights)
        return _Observations(operator, data, weights)

    def _operator(self, backend: Backend, state_size: int) -> Operator:
        observe = self.observe
        if _is_list_of_integers(observe) or (is_dense(observe) and observe.ndim == 1):
            observe = _selection(backend, observe, state_size)
        shape = (self.data.shape[0], state_size)
        name = f"observe of LeastSquares ({shape[0]} data)"
        return as_operator(backend, observe, shape, name, convert=True)

    def _weights(self, backend: Backend) -> Array:
        m = self.data.shape[0]
        if isinstance(self.weights, float):
            return self.weights * backend.xp.ones(m, dtype=backend.dtype, device=backend.device)
        return backend.vector(self.weights, m, "weights of LeastSquares", convert=True)

    def _evaluate(self, h: Array, theta: Array) -> float:
        backend = Backend.of(h)
        observations = self.converted(backend, h.shape[0])
        misfit = observations.misfit(h)
        return 0.5 * backend.dot(observations.weights * misfit, misfit)

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (0, Oᵀ W (O h − d))."""
        backend = Backend.of(h)
        observations = self.converted(backend, h.shape[0])
        weighted = observations.weights * observations.misfit(h)
        return backend.zeros(theta.shape[0]), observations.operator._apply_adjoint(weighted)

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²L, whose only nonzero block is the state block Oᵀ W O."""
        backend, n = Backend.of(h), h.shape[0]
        block = self.converted(backend, n).curvature
        return BlockCurvature(backend, theta.shape[0], n, [None, None, block])


@dataclass
class _Observations:
    """The operator O, the data d and the weights w of least squares, for states of one kind."""

    operator: Operator
    data: Array
    weights: Array

    def misfit(self, h: Array) -> Array:
        """Return O h − d."""
        return self.operator._apply(h) - self.data

    @cached_property
    def curvature(self) -> Operator:
        """Oᵀ W O, as a matrix if O is a sparse one."""
        observe, backend = self.operator, self.operator.backend
        if isinstance(observe, Matrix) and is_sparse(observe.array):
            W = backend.sparse.diags(self.weights)
            return Matrix(backend, (observe.array.T @ W @ observe.array).tocsr())
        return Product(observe.H, Product(Diagonal(backend, self.weights), observe))  # type: ignore[attr-defined]


class QuadraticPrior(QuadraticLoss):
    """The quadratic penalty of a Gaussian prior, or of Tikhonov regularization.

    Parameters
    ----------
    precision : float or (P, P) array, sparse matrix or LinearOperator
        The symmetric precision matrix R, the inverse of the covariance. A number denotes that
        multiple of the identity; zero, no prior.
    mean : float or (P,) array, optional
        The mean of the prior: the guess before there are data, by default 0.0. Parameters in
        physical units need one.

    Raises
    ------
    ModelError
        If an array has a wrong shape or dtype or non-finite entries, or if the precision is a
        negative number or, when it is first used, has a negative number on its diagonal.
    DerivativeError
        If the precision is not symmetric; this is raised when it is first used.

    See Also
    --------
    Precision : A precision with solves and samples.
    LeastSquares : The misfit term of an inverse problem.

    Notes
    -----
    For a precision R and a mean μ,

        L = ½ (θ − μ)ᵀ R (θ − μ),    ∂L/∂θ = R (θ − μ),    ∇²_θθ L = R.

    Up to a constant, this is the negative logarithm of a Gaussian density. The minimizer of its
    sum with a `LeastSquares` is the MAP point. Arrays are copied, and converted to the dtype of the
    parameters when they are used.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> prior = mfdeq.QuadraticPrior(np.diag([1.0, 4.0]), mean=1.0)
    >>> h, theta = np.zeros(3), np.array([2.0, 2.0])
    >>> prior.value(h, theta)
    2.5
    >>> prior.gradients(h, theta)[0]
    array([1., 4.])
    """

    def without_unknowns(self, kept: Any) -> QuadraticPrior:
        """Return the prior, which does not depend on the state."""
        return self

    def __init__(self, precision: Any, mean: Any = 0.0) -> None:
        with defer_error(self):
            self.precision = copy_of_matrix(precision)
            if isinstance(precision, Real):
                _check_not_negative(precision, "precision of QuadraticPrior")
            self.mean = copy_of_numbers(mean, "mean of QuadraticPrior")

    @property
    def has_host_arrays(self) -> bool:
        """Whether the precision or the mean is an array, which is not distributed over ranks."""
        given = [x for x in (self.precision, self.mean) if not isinstance(x, Real)]
        return any(not backend_of(x).library.distributed for x in given)

    def _convert(self, backend: Backend, param_size: int) -> tuple[Operator, Any]:
        """Return R and μ."""
        operator, mean = self._operator(backend, param_size), self.mean
        if not isinstance(mean, float):
            mean = backend.vector(mean, param_size, "mean of QuadraticPrior", convert=True)
        return operator, mean

    def _operator(self, backend: Backend, param_size: int) -> Operator:
        precision = self.precision
        if isinstance(precision, Real):
            precision = precision * backend.sparse.identity(
                param_size, dtype=backend.dtype, format="csr"
            )
        # A matrix can be factorized together with those of other terms; an operator cannot.
        if isinstance(precision, Operator) and precision.has_entries:
            precision = precision.array
        name = "precision of QuadraticPrior"
        block = as_operator(backend, precision, (param_size, param_size), name, convert=True)
        check_symmetric(block, name, "it")
        if block.array is not None:
            array = block.array
            diagonal = array.diagonal() if is_sparse(array) else backend.xp.linalg.diagonal(array)
            _check_not_negative(backend.asarray(diagonal), f"diagonal of the {name}")
        return block

    def operator(self, backend: Backend, param_size: int) -> Operator:
        """Return R as an operator."""
        return self.converted(backend, param_size)[0]

    def _deviation(self, theta: Array) -> tuple[Operator, Array]:
        """Return R and θ − μ."""
        precision, mean = self.converted(Backend.of(theta), theta.shape[0])
        return precision, theta - mean

    def _evaluate(self, h: Array, theta: Array) -> float:
        precision, deviation = self._deviation(theta)
        return 0.5 * Backend.of(theta).dot(deviation, precision._apply(deviation))

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (R (θ − μ), 0)."""
        precision, deviation = self._deviation(theta)
        return precision._apply(deviation), Backend.of(h).zeros(h.shape[0])

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²L, whose only nonzero block is the parameter block R."""
        backend = Backend.of(theta)
        block = self.operator(backend, theta.shape[0])
        return BlockCurvature(backend, theta.shape[0], h.shape[0], [block, None, None])


def _selection(backend: Backend, index: Array, state_size: int) -> Any:
    """Return the sparse matrix that selects entries of the state, by indices or by a mask."""
    xp, name = backend.xp, "observe of LeastSquares"
    index = as_array(backend, index, f"{name} (an array of indices)", ModelError)
    if xp.isdtype(index.dtype, "bool"):
        if index.shape[0] != state_size:
            raise ModelError(
                f"{name}: expected a mask of {state_size} entries, one for each entry of the "
                f"state, got a mask of {index.shape[0]}"
            )
        index = xp.nonzero(index)[0]
    if not xp.isdtype(index.dtype, "integral"):
        raise ModelError(
            f"{name} (a 1-D array): expected integer indices or a mask, got dtype {index.dtype}"
        )
    if bool(xp.any(index < 0)) or bool(xp.any(index >= state_size)):
        raise ModelError(
            f"{name}: expected indices between 0 and {state_size - 1}, got "
            f"{int(xp.min(index))} … {int(xp.max(index))}"
        )
    m = index.shape[0]
    ones = xp.ones(m, dtype=backend.dtype, device=backend.device)
    rows = xp.arange(m, device=backend.device)
    return backend.sparse.csr_matrix((ones, (rows, index)), shape=(m, state_size))


def _is_list_of_integers(x: Any) -> bool:
    return isinstance(x, (list, tuple)) and bool(x) and all(isinstance(i, Integral) for i in x)


def _check_not_negative(x: Any, name: str) -> None:
    """Raise `ModelError` if a number or an entry of an array is negative."""
    if isinstance(x, Real):
        least = float(x)
    else:
        xp = Backend.of(x).xp
        least = float(xp.min(x)) if bool(xp.any(x < 0.0)) else 0.0
    if least < 0.0:
        raise ModelError(f"{name}: expected numbers that are not negative, got {least:.6g}")


def copy_of_numbers(x: Any, name: str) -> Any:
    """Return a number as a float, or an array as a copy, after checking that it is finite.

    Arrays are converted to the dtype of the parameters when they are used.
    """
    x = tensor_on_host(x) if is_foreign(x) else x
    if isinstance(x, host.ndarray | host.floating) and x.dtype.kind == "f":
        x = x if x.dtype in (host.float32, host.float64) else x.astype(host.float64)
    copy = Backend.of(x, name=name).check_array(x, None, name)
    return copy if copy.ndim else float(copy)


def copy_of_matrix(matrix: Any) -> Any:
    """Return a copy of a matrix; operators are returned unchanged."""
    if library_of(matrix).is_product_only(matrix):
        return matrix
    if is_dense(matrix) and not hasattr(matrix, "copy"):  # not a method of the array API standard
        return Backend.of(matrix).xp.asarray(matrix, copy=True)
    return matrix.copy() if hasattr(matrix, "copy") else matrix
