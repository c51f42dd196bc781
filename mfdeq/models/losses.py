"""Scalar losses of (h, theta) with gradients and curvature, and their linear combinations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, is_dense, native
from ..arrays.collective import collective
from ..errors import ArgumentError, DerivativeError, MfdeqError, ModelError
from .curvature import (
    BlockCurvature,
    CurvatureOperator,
    add_curvatures,
    as_curvature,
    scale_curvature,
)
from .linear_combinations import LinearCombinations


def check_loss(loss: Any, model: Any) -> None:
    """Raise `ArgumentError` unless `loss` is a loss that can be used with the model."""
    if not isinstance(loss, LossBase):
        raise ArgumentError(
            "the loss: expected an mfdeq.Loss, mfdeq.LeastSquares, mfdeq.QuadraticPrior or a "
            f"linear combination of these, got {type(loss).__name__}"
        )
    if (error := construction_error(loss)) is not None:
        raise error
    model.check_loss(loss)


def construction_error(loss: LossBase) -> Exception | None:
    """Return the error that a constructor in the loss has kept for its first use, if any."""
    for _, term in loss.weighted_terms:
        if term.construction_error is not None:
            return term.construction_error
    return None


class LossBase(LinearCombinations):
    """Base class of losses.

    To add a kind of loss, derive from this class and implement `_evaluate`, `gradients` and
    `curvature_operator`. They are called with checked arrays h and theta of one array library.

    Losses can be added, subtracted, and multiplied and divided by real numbers.

    Attributes
    ----------
    construction_error : MfdeqError or None
        What was wrong with the arguments, where the constructor could not raise it on all of
        several processes (see `mfdeq.arrays.collective.defer_error`).
    """

    construction_error: MfdeqError | None = None

    @collective
    def value(self, h: Array, theta: Array) -> float:
        """Return L(h, theta).

        Parameters
        ----------
        h : (N,) array or Vec
        theta : (P,) array or Vec

        Returns
        -------
        float
        """
        if (error := construction_error(self)) is not None:
            raise error
        return self._evaluate(native(h), native(theta))

    def _evaluate(self, h: Array, theta: Array) -> float:
        """Return L(h, theta) for arrays."""
        raise NotImplementedError

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return the partial gradients of L with respect to the parameters and the state.

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        d_params : (P,) array
            ∂L/∂θ at constant h.
        d_state : (N,) array
            ∂L/∂h.
        """
        raise NotImplementedError

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return the Hessian ∇²_(θ,h) L.

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        CurvatureOperator, (P+N, P+N)
            The Hessian, which acts on stacked directions (dtheta, dh).
        """
        raise NotImplementedError

    def without_unknowns(self, kept: Any) -> LossBase:
        """Return the loss without what it has of some unknowns, as those of failed samples.

        A loss whose parts belong to unknowns defines it, and one that does not depend on the state
        returns itself.

        Parameters
        ----------
        kept : (N,) array of bool on the host
            The unknowns that still count.

        Raises
        ------
        ArgumentError
            If the loss has no such parts, which is the default.
        """
        raise ArgumentError(
            f"{type(self).__name__}: a loss in which failed samples have no weight is expected for "
            "on_failure='mask': mfdeq.loss_from_jax(..., batched=True), mfdeq.LeastSquares or a "
            "linear combination of these with a prior"
        )

    def accuracy(self, h: Array, theta: Array) -> tuple[float, float]:
        """Return the relative accuracy of the gradients and of the curvature at a point.

        The default, zeros, means that they are exact to rounding.
        """
        return 0.0, 0.0

    def for_comparison(self) -> LossBase:
        """Return the same loss with derivatives whose errors are independent of these.

        Error estimates compare the two. A loss with exact derivatives returns itself.
        """
        return self

    @property
    def terms(self) -> tuple[LossBase, ...]:
        """The losses in this linear combination, without their factors."""
        return tuple(term for _, term in self.weighted_terms)

    @property
    def weighted_terms(self) -> tuple[tuple[float, LossBase], ...]:
        """The pairs of a factor and a loss in this linear combination."""
        return ((1.0, self),)

    def __add__(self, other: Any) -> LossBase:
        if not isinstance(other, LossBase):
            return NotImplemented
        return SumLoss(self, other)

    def _times(self, factor: float) -> LossBase:
        return ScaledLoss(self, factor)


class Loss(LossBase):
    """A loss given by functions of (h, theta) for its value and its derivatives.

    Parameters
    ----------
    value : callable
        ``value(h, theta)`` returns the number L.
    d_state : callable, optional
        ``d_state(h, theta)`` returns the (N,) gradient ∂L/∂h. Omit it if L does not depend on h.
    d_params : callable, optional
        ``d_params(h, theta)`` returns the (P,) partial gradient ∂L/∂θ at constant h. Omit it if L
        depends on theta only through h.
    curvature : callable, optional
        ``curvature(h, theta)`` returns the Hessian of L with respect to (theta, h), as a
        `Curvature` or a callable ``(dtheta, dh) -> (a_theta, a_h)``. Omit it if L is linear in
        (h, theta).

    Raises
    ------
    ModelError
        If an argument is not callable.

    See Also
    --------
    LeastSquares, QuadraticPrior : Losses with built-in derivatives.
    loss_from_function, loss_from_jax, loss_from_torch : Losses from a function alone.

    Notes
    -----
    An omitted derivative is taken to be zero only after a test at a second point. If the value or
    the gradient differs there, a `DerivativeError` names the derivative to pass.

    Examples
    --------
    The loss h² / 2 + theta at the equilibrium h = cos(h) + theta:

    >>> import numpy as np
    >>> import mfdeq
    >>> loss = mfdeq.Loss(
    ...     value=lambda h, theta: 0.5 * h @ h + theta.sum(),
    ...     d_state=lambda h, theta: h,
    ...     d_params=lambda h, theta: np.ones_like(theta),
    ...     curvature=lambda h, theta: mfdeq.Curvature(state_state=np.eye(h.size)),
    ... )
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, "map")
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> print(f"{loss.value(eq.state, eq.params):.5f} {eq.gradient(loss)[0]:.5f}")
    0.27312 1.44161
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
                    f"{name} of the loss: expected a function of (h, theta), got "
                    f"{type(part).__name__}"
                )
        if not callable(value):
            raise ModelError(
                f"value of the loss: expected a function of (h, theta), got {type(value).__name__}"
            )
        self._value, self._d_state, self._d_params = value, d_state, d_params
        self._curvature = curvature
        self._known_zero: set[str] = set()  # omitted gradients that have passed the test for zero

    def _evaluate(self, h: Array, theta: Array) -> float:
        backend = Backend.of(h)
        out = self._call(backend, "value", self._value, h, theta)
        with backend.user_call("value of the loss"):
            if is_dense(out) and math.prod(out.shape) == 1:
                out = out[(0,) * out.ndim]  # the only entry, of an array of any dimension
            value = float(backend.check_array(out, (), "value of the loss"))
        return backend.same_on_all_ranks(value, "value of the loss")

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (∂L/∂θ, ∂L/∂h), after checking them."""
        backend = Backend.of(h)
        return (
            self._gradient(backend, "d_params", self._d_params, h, theta, theta.shape[0]),
            self._gradient(backend, "d_state", self._d_state, h, theta, h.shape[0]),
        )

    def _call(
        self,
        backend: Backend,
        field: str,
        function: Any,
        h: Array,
        theta: Array,
        size: int | None = None,
    ) -> Any:
        """Call one of the user's functions; `size` is the length of the result if a vector."""
        with backend.user_call(
            f"{field} of the loss, of (h, theta) of shapes {h.shape}, {theta.shape}"
        ):
            return backend.from_user(function(*map(backend.to_user, (h, theta))), size)

    def _gradient(
        self, backend: Backend, field: str, function: Any, h: Array, theta: Array, size: int
    ) -> Array:
        if function is not None:
            gradient = self._call(backend, field, function, h, theta, size)
            return backend.vector(gradient, size, f"{field} of the loss")
        if field not in self._known_zero:
            other = (nearby_point(h), theta) if field == "d_state" else (h, nearby_point(theta))
            if self.value(h, theta) != self.value(*other):
                raise DerivativeError(
                    f"{field} of the loss is missing, but the value depends on "
                    f"{'the state' if field == 'd_state' else 'the parameters'}: pass {field}="
                )
            self._known_zero.add(field)
        return backend.zeros(size)

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²_(θ,h) L, after checking that it is symmetric."""
        backend = Backend.of(h)
        N, P = h.shape[0], theta.shape[0]
        if self._curvature is not None:
            curvature = self._call(backend, "curvature", self._curvature, h, theta)
            return as_curvature(backend, curvature, P, N, "curvature of the loss")
        gradients = self.gradients(h, theta)
        others = self.gradients(nearby_point(h), nearby_point(theta))
        for gradient, other in zip(gradients, others, strict=True):
            if backend.norm(gradient - other) > 100 * backend.eps * backend.norm(gradient):
                raise DerivativeError(
                    "curvature of the loss is missing, but the gradient depends on (h, theta): "
                    "pass curvature=lambda h, theta: mfdeq.Curvature(...)"
                )
        return BlockCurvature(backend, P, N, [None, None, None])


class SumLoss(LossBase):
    """The sum of two losses."""

    def __init__(self, left: LossBase, right: LossBase) -> None:
        self.left, self.right = left, right

    @property
    def weighted_terms(self) -> tuple[tuple[float, LossBase], ...]:
        """The pairs of a factor and a loss in the sum."""
        return self.left.weighted_terms + self.right.weighted_terms

    def without_unknowns(self, kept: Any) -> LossBase:
        """Return the sum of both losses without some unknowns."""
        return SumLoss(self.left.without_unknowns(kept), self.right.without_unknowns(kept))

    def accuracy(self, h: Array, theta: Array) -> tuple[float, float]:
        """Return the relative accuracy of the less accurate of the two."""
        left, right = self.left.accuracy(h, theta), self.right.accuracy(h, theta)
        return max(left[0], right[0]), max(left[1], right[1])

    def for_comparison(self) -> LossBase:
        """Return the sum of both losses with independent errors."""
        return SumLoss(self.left.for_comparison(), self.right.for_comparison())

    def _evaluate(self, h: Array, theta: Array) -> float:
        return self.left.value(h, theta) + self.right.value(h, theta)

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (∂L/∂θ, ∂L/∂h)."""
        left, right = self.left.gradients(h, theta), self.right.gradients(h, theta)
        return left[0] + right[0], left[1] + right[1]

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²_(θ,h) L."""
        left = self.left.curvature_operator(h, theta)
        return add_curvatures(left, self.right.curvature_operator(h, theta))


class ScaledLoss(LossBase):
    """A real multiple of a loss."""

    def __init__(self, of: LossBase, factor: float) -> None:
        if not math.isfinite(factor):
            raise ArgumentError(f"the factor of a loss: expected a finite number, got {factor}")
        self.of, self.factor = of, factor

    @property
    def weighted_terms(self) -> tuple[tuple[float, LossBase], ...]:
        """The pairs of a factor and a loss in the multiple."""
        return tuple((self.factor * factor, term) for factor, term in self.of.weighted_terms)

    def without_unknowns(self, kept: Any) -> LossBase:
        """Return the multiple of the loss without some unknowns."""
        return ScaledLoss(self.of.without_unknowns(kept), self.factor)

    def accuracy(self, h: Array, theta: Array) -> tuple[float, float]:
        """Return the relative accuracy of the loss."""
        return self.of.accuracy(h, theta)

    def for_comparison(self) -> LossBase:
        """Return the multiple of the loss with independent errors."""
        return ScaledLoss(self.of.for_comparison(), self.factor)

    def _evaluate(self, h: Array, theta: Array) -> float:
        return self.factor * self.of.value(h, theta)

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (∂L/∂θ, ∂L/∂h)."""
        d_params, d_state = self.of.gradients(h, theta)
        return self.factor * d_params, self.factor * d_state

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²_(θ,h) L."""
        return scale_curvature(self.of.curvature_operator(h, theta), self.factor)


def nearby_point(x: Array) -> Array:
    """Return a point near x, but far enough away to reveal a dependence on x."""
    backend = Backend.of(x)
    return x + 0.01 * (1.0 + backend.xp.abs(x)) * backend.random(x.shape[0], seed=7)
