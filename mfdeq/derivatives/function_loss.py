"""Losses from a function of arrays, differentiated by the complex step or by differences.

The function returns the loss or its terms. Terms are the rows of a function that
`NumericalJacobians` differentiates; the gradient of the loss is the sum of the rows, and its
curvature that of the terms with weights of one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, Backend, as_array, is_dense
from ..errors import AccuracyWarning, ArgumentError, ModelError, note_origin, warn
from ..locks import cached_property, state_to_pickle
from ..models.curvature import CurvatureOperator, as_curvature
from ..models.losses import LossBase
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .data import PLAIN, DataHolder, convert_args
from .directional_derivatives import DirectionalDerivatives
from .function_model import COMPARISON_STEP_FACTOR, MAX_COLUMNS
from .hessians import MAX_DENSE_SIZE
from .nearby_points import nearby_point, typical_sizes
from .numerical_jacobians import Advice, NumericalJacobians
from .references import References, Unchanged
from .second_derivatives import SecondDerivatives
from .sparsity import DETECT, Sparsity
from .steps import StepRule

PATTERN_RTOL_FACTOR = 100.0  # tolerance of the test of the Hessian's pattern, in errors of products
ADVICE = Advice("mfdeq.loss_from_jax", "give the curvature by hand with mfdeq.Loss")
EXPECTED = "a number or a vector of terms"
POINTS = 2  # whose derivatives are kept: an equilibrium, and the corrected state of its estimates


def loss_from_function(
    L: Callable[..., Any],
    state_size: int,
    param_size: int,
    *,
    sparsity: Any = None,
    step: float | None = None,
    scale: tuple[Any, Any] | None = None,
    args: Any = None,
) -> FunctionLoss:
    """Create a loss from a function of (state, params) by numerical differentiation.

    Parameters
    ----------
    L : callable
        ``L(h, theta)`` of (N,) and (P,) arrays returns the loss, a number, or a vector of terms,
        whose sum is the loss. If L is analytic and accepts complex arrays, gradients are exact to
        rounding. This is tested at every point by comparison with a difference.
    state_size, param_size : int
        The number of unknowns N and of parameters P.
    sparsity : pair of sparse matrices or "detect", optional
        The patterns of the derivatives of the m terms with respect to the state, (m, N), and to
        the parameters, (m, P), each of which may be "detect". For a number m is 1. By default
        those of terms are detected, and a number depends on all variables.
    step : float, optional
        The relative step of central differences, as in `from_function`. If it is passed, the
        complex step is not tried.
    scale : pair of floats or arrays, optional
        Sizes of the entries of h and of theta, as in `from_function`.
    args : object, optional
        An example of data beside the parameters, which L takes as a third argument.
        ``loss.with_args(other)`` returns the loss with other data.

    Returns
    -------
    FunctionLoss
        ``loss.derivatives`` states how its derivatives are computed, and their digits.

    Raises
    ------
    ArgumentError
        If an argument has a wrong type.
    DerivativeError
        At a gradient, if a pattern lacks entries.
    ModelError
        If L returns neither a real number nor a vector of numbers, or at a derivative, if L has
        changed since it was first differentiated at the point.

    See Also
    --------
    loss_from_jax, loss_from_torch : Gradients at the cost of a few evaluations, of any size.
    from_function : Models from a function.

    Notes
    -----
    A gradient takes N + P evaluations of a number, and one for each colour of the patterns of
    terms: a sum over grid points or measurements takes a few if L returns the array of what it adds
    up. A product with the curvature takes twice as many, and again as many for each longer step
    that rounding asks for. Up to 64 variables or colours, all second derivatives are tabulated once
    that is cheaper; those of terms are then a sparse matrix. For a number of more variables, the
    pattern is detected where a factorization asks for entries. The first gradient and the first
    product at an equilibrium are computed twice, for estimates of their errors.

    Derivatives are the complex step or differences with steps for the measured noise of L, with the
    accuracy that `from_function` documents. Error estimates and `verify` take it into account.

    Examples
    --------
    The loss theta h², and a sum of squares by its terms:

    >>> import numpy as np
    >>> import mfdeq
    >>> loss = mfdeq.loss_from_function(lambda h, theta: theta[0] * h @ h, 2, 1)
    >>> d_params, d_state = loss.gradients(np.array([3.0, 1.0]), np.array([2.0]))
    >>> print(d_params, d_state)
    [10.] [12.  4.]
    >>> loss.derivatives["d_state"]
    'the complex step'
    >>> misfit = mfdeq.loss_from_function(lambda h, theta: 0.5 * (h - 1.0) ** 2, 100, 1)
    >>> print(misfit.value(np.zeros(100), np.zeros(1)))
    50.0
    """
    if not callable(L):
        raise ArgumentError(
            f"L of mfdeq.loss_from_function: expected a function, got {type(L).__name__}"
        )
    sizes = count(state_size, "state_size"), count(param_size, "param_size")
    return FunctionLoss(L, sizes, sparsity, StepRule(step, scale), convert_args(PLAIN, args))


class _Point:
    """The derivatives of a loss at one point, which are kept while L has the same value there."""

    def __init__(
        self,
        loss: FunctionLoss,
        h: Array,
        theta: Array,
        value: Array,
        jacobians: NumericalJacobians,
    ) -> None:
        self.h, self.theta, self.value, self.jacobians = h, theta, value, jacobians
        self._loss = loss
        self._unchanged = Unchanged(loss.references, jacobians.check_unchanged)

    def is_at(self, h: Array, theta: Array, value: Array) -> bool:
        """Whether this is the point (h, theta), where L has the given value."""
        backend = self.jacobians.backend
        if Backend.of(h, theta) != backend or self.value.shape != value.shape:
            return False
        pairs = (self.h, h), (self.theta, theta), (self.value, value)
        return all(backend.all(before == now) for before, now in pairs)

    @cached_property
    def second_derivatives(self) -> SecondDerivatives:
        """The second derivatives of the terms."""
        differences = self.jacobians.second_differences(self._loss.warn_once)
        return SecondDerivatives(differences, self._unchanged)


class FunctionLoss(DataHolder, LossBase):
    """A loss with numerical derivatives, which `loss_from_function` returns."""

    caller = "mfdeq.loss_from_function"

    def __init__(
        self,
        L: Callable[..., Any],
        sizes: tuple[int, int],
        sparsity: Any,
        step_rule: StepRule,
        data: tuple[Any, ...] = (),
        step_factor: float = 1.0,
    ) -> None:
        self.L, self.sizes, self.step_rule, self.step_factor = L, sizes, step_rule, step_factor
        self.references = References(L, data)
        self._data, self._given = data, sparsity
        self._sparsity: Sparsity | None = None  # once the number of terms is known
        self._curvature_sparsity: Sparsity | None = None  # once entries are asked for
        self._refusal = ""  # why the complex step is not valid for L, once that is known
        self._warned = False
        self._points: tuple[_Point, ...] = ()
        if sparsity is not None:  # a pattern says how many terms there are
            rows = [p.shape[0] for p in _pair(sparsity) if getattr(p, "shape", ())]
            Sparsity(sparsity, *sizes, rows=rows[0] if rows else 1)

    def _with_data(self, data: tuple[Any, ...]) -> FunctionLoss:
        return FunctionLoss(self.L, self.sizes, self._given, self.step_rule, data, self.step_factor)

    @property
    def display_name(self) -> str:
        """The name of the public function that created the loss, and that of L."""
        return f"{self.caller}({getattr(self.L, '__name__', 'L')})"

    def __getstate__(self) -> dict[str, Any]:
        return state_to_pickle(self) | {"_points": ()}

    @property
    def derivatives(self) -> dict[str, str]:
        """How ``d_state``, ``d_params`` and ``curvature`` are computed, with the digits known yet.

        It is empty before the first gradient.
        """
        if not self._points:
            return {}
        sources = self._points[0].jacobians.sources(order=2)
        return {name: sources[name] for name in ("d_state", "d_params", "curvature")}

    def _evaluate(self, h: Array, theta: Array) -> float:
        backend = self._checked(h, theta)
        value = float(backend.xp.sum(self._value_at(backend, h, theta)))
        if not math.isfinite(value):
            raise ModelError(
                f"L of {self.caller}: the sum of its terms is {value}", non_finite=True
            )
        return value

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (∂L/∂θ, ∂L/∂h), by one evaluation of L for each colour of its derivatives."""
        backend, jacobians = self._checked(h, theta), self._at(h, theta).jacobians
        gradients = []
        for which in (1, 0):
            matrix = as_operator(
                backend,
                jacobians.matrix(which),
                (jacobians.derivatives.size, self.sizes[which]),
                f"the gradient of {self.caller}",
            )
            gradients.append(matrix._apply_adjoint(self._ones(backend, jacobians)))
        if message := jacobians.describe_lost_digits():
            self.warn_once(message)
        return gradients[0], gradients[1]

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²_(θ,h) L, by differences of first derivatives."""
        backend, point = self._checked(h, theta), self._at(h, theta)
        given = point.second_derivatives.curvature(self._ones(backend, point.jacobians))

        def entries(K: Operator) -> Any:
            found = given.compute_entries(K)
            return self._detected_entries(K, point) if found is None else found

        curvature = replace(given, compute_entries=entries)
        N, P = self.sizes
        name = f"the curvature of {self.caller}"
        return as_curvature(backend, curvature, P, N, name, check_symmetry=False)

    def _detected_entries(self, K: Operator, point: _Point) -> Any:
        """Return the entries of a curvature by a product for each colour of a detected pattern."""
        backend, size = K.backend, K.shape[0]
        if self._curvature_sparsity is None:
            self._curvature_sparsity = Sparsity((DETECT, None), size, 0)
        rtol = max(backend.eps**0.5, PATTERN_RTOL_FACTOR * point.jacobians.accuracy[1])
        sizes = typical_sizes(point.h), typical_sizes(point.theta)
        other = self.for_comparison()

        def operator_near(i: int) -> Operator:
            value = functools.partial(self._value_at, backend)
            return other.curvature_operator(*nearby_point(value, point.h, point.theta, sizes, i))

        found = self._curvature_sparsity.assemble(0, K, operator_near, rtol).array
        return None if is_dense(found) and size > MAX_DENSE_SIZE else found

    def accuracy(self, h: Array, theta: Array) -> tuple[float, float]:
        """Return the relative accuracy of the gradients and of the curvature at a point."""
        self._checked(h, theta)
        return self._at(h, theta).jacobians.accuracy

    def for_comparison(self) -> FunctionLoss:
        """Return the same loss with larger steps."""
        other = FunctionLoss(
            self.L,
            self.sizes,
            self._given,
            self.step_rule,
            self._data,
            COMPARISON_STEP_FACTOR * self.step_factor,
        )
        other._sparsity, other._refusal, other._warned = self._sparsity, self._refusal, True
        return other

    def warn_once(self, message: str) -> None:
        """Warn of derivatives with few digits, once for each loss."""
        if not self._warned:
            self._warned = True
            warn(f"{self.display_name}: {message}", AccuracyWarning)

    def _ones(self, backend: Backend, jacobians: NumericalJacobians) -> Array:
        return backend.zeros(jacobians.derivatives.size) + 1.0

    def _checked(self, h: Array, theta: Array) -> Backend:
        """Return the backend of (h, theta), or raise `ModelError` if they have other sizes."""
        for x, size, name in zip((h, theta), self.sizes, ("state", "parameters"), strict=True):
            if tuple(x.shape) != (size,):
                raise ModelError(
                    f"{self.display_name}: expected {name} of shape {(size,)}, got "
                    f"{tuple(x.shape)}: pass the sizes of the model to {self.caller}"
                )
        backend = Backend.of(h, theta)
        if backend.library.distributed:
            raise ArgumentError(
                f"{self.display_name}: expected a distributed loss, got one of numpy arrays: give "
                "model.loss(loss), where model is what mfdeq.petsc.distributed returned"
            )
        return backend

    def _terms(self, backend: Backend, h: Array, theta: Array) -> Array:
        """Return what L returns as a vector of terms; h and theta may be complex."""
        out, name = self.L(h, theta, *self._data), f"L of {self.caller}"
        if isinstance(out, tuple):
            raise ModelError(
                f"{name}: expected {EXPECTED}, got a tuple of {len(out)}. Return the loss alone"
            )
        out = as_array(backend, out, name, ModelError, EXPECTED)
        shape = tuple(out.shape)
        if len(shape) > 1 and math.prod(shape) != 1:
            raise ModelError(
                f"{name}: expected {EXPECTED}, got an array of shape {shape}, as arrays of shapes "
                "(n,) and (n, 1) have when they are broadcast. Return its .sum() if all of it is "
                "meant"
            )
        return backend.xp.reshape(out, (-1,))

    def _value_at(self, backend: Backend, h: Array, theta: Array) -> Array:
        """Return the checked vector of terms."""
        name = f"L of {self.caller}"
        with note_origin(f"{name}, of shapes {tuple(h.shape)}, {tuple(theta.shape)}"):
            out = self._terms(backend, backend.copied(h), backend.copied(theta))
        return backend.check_array(out, tuple(out.shape), name)

    def _at(self, h: Array, theta: Array) -> _Point:
        """Return the derivatives at a point, which are kept for the last few points.

        They are reused only if L still has the same value there.
        """
        backend = Backend.of(h, theta)
        h, theta = backend.copied(h), backend.copied(theta)
        value = self._value_at(backend, h, theta)
        for point in self._points:
            if point.is_at(h, theta, value):
                return point
        derivatives = DirectionalDerivatives(
            functools.partial(self._terms, backend),
            f"L of {self.caller}",
            h,
            theta,
            self.step_rule,
            self.step_factor,
            refusal=self._refusal,
            size=value.shape[0],
        )
        if derivatives.verdict.lasting:
            self._refusal = derivatives.verdict.reason
        jacobians = NumericalJacobians(derivatives, self._patterns(value.shape[0]), ADVICE)
        point = _Point(self, h, theta, value, jacobians)
        self._points = (point, *self._points)[:POINTS]
        return point

    def _patterns(self, terms: int) -> Sparsity:
        """Return the patterns of the terms, the number of which is known now."""
        known = self._sparsity
        if known is None or known.shapes[0][0] != terms:
            given = self._given
            if given is None and terms > 1:
                given = DETECT
                if sum(self.sizes) > MAX_COLUMNS:
                    raise ArgumentError(
                        f"{self.display_name}: expected at most {MAX_COLUMNS:,} variables without "
                        f"sparsity patterns of its {terms:,} terms, got {sum(self.sizes):,}. Pass "
                        'sparsity=(state pattern, parameter pattern), or sparsity="detect" to '
                        "detect them"
                    )
            known = self._sparsity = Sparsity(given, *self.sizes, rows=terms)
        return known


def _pair(sparsity: Any) -> tuple[Any, ...]:
    return tuple(sparsity) if isinstance(sparsity, (tuple, list)) else ()
