"""Models from a function of arrays, differentiated by the complex step or by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from ..arguments import count, one_of
from ..arrays.backend import Array, Backend
from ..errors import AccuracyWarning, ArgumentError, warn
from ..locks import Once
from ..models.linearization import DeferredLinearization, Linearization
from ..models.model import KINDS, FixedPointModel, Model, ResidualModel
from .configured_model import ConfiguredModel, ModelFields, takes_model_fields
from .data import PLAIN, convert_args
from .directional_derivatives import DirectionalDerivatives
from .numerical_jacobians import NumericalJacobians
from .references import references
from .second_derivatives import SecondDerivatives
from .sparsity import DETECT, Sparsity
from .steps import StepRule

MAX_COLUMNS = 5_000  # columns without a pattern, each of which takes an evaluation of f
COMPARISON_STEP_FACTOR = 2.0  # factor of the steps of `linearize_for_comparison`


@takes_model_fields("(N,) array", "h", "theta")
def from_function(
    f: Callable[[Array, Array], Array],
    state_size: int,
    param_size: int,
    kind: str,
    *,
    sparsity: Any = None,
    step: float | None = None,
    scale: tuple[Any, Any] | None = None,
    order: int = 2,
    args: Any = None,
    **fields: Unpack[ModelFields],
) -> Model:
    """Create a model from a function of (state, params) by numerical differentiation.

    Parameters
    ----------
    f : callable
        The map or residual f(h, theta) of (N,) and (P,) arrays, which returns an (N,) array. If f
        is analytic and accepts complex arrays, first derivatives are exact to rounding. This is
        tested at every linearization by comparison with a difference.
    state_size, param_size : int
        The number of unknowns N and of parameters P.
    kind : {"map", "residual"}
        Whether an equilibrium is h = f(h, theta) or f(h, theta) = 0.
    sparsity : pair of sparse matrices or "detect", optional
        The patterns of the derivatives with respect to the state, (N, N), and to the parameters,
        (N, P). The number of evaluations of f in a linearization is then proportional to the
        number of colours. With "detect", for both or as an entry of the pair, patterns are
        detected by products near the first point. The default, None, detects them if
        N + P <= 5,000, and raises an error otherwise.
    step : float, optional
        The relative step s of central differences. By default it follows from the noise of f,
        eps^(1/3) for a function that is accurate to rounding. Second derivatives computed from
        values use 4 s^(3/4). If a step is passed, the complex step is not tried.
    scale : pair of floats or arrays, optional
        Sizes of the entries of h and of theta, to which steps are relative. By default each
        variable has its own: its magnitude, or a longer one over which f is found to be smooth.
    order : {1, 2}, optional
        With 1 the model has first derivatives alone: equilibria, gradients and sensitivities.
    args : object, optional
        An example of data beside the parameters, which f takes as a third argument: f(h, theta,
        args). ``model.with_args(other)`` returns the model with other data.
    **fields
        The keywords of `ModelFields`.

    Returns
    -------
    FixedPointModel or ResidualModel

    Raises
    ------
    ArgumentError
        If an argument has a wrong type, or N + P is too large for a model without patterns.
    DerivativeError
        At a linearization, if a pattern lacks entries of the derivative.
    ModelError
        At a derivative, if f has changed since the equilibrium was computed: its value, or what it
        refers to and its value.

    See Also
    --------
    from_jax, from_torch, mixed : Other sources of derivatives.

    Notes
    -----
    First derivatives are Im f(x + i e a) / e with a tiny e (the complex step [1]_), or central
    differences with relative errors of about eps^(2/3). Second derivatives are differences of
    first ones, with relative errors of about eps^(2/3) or eps^(1/2), respectively; they are
    evaluated only when a Hessian or another second-order result asks for them. If the patterns
    have few colours, all second derivatives at an equilibrium are computed once, and the curvature
    is a sparse matrix; otherwise each product takes two evaluations of f' for each column of f'.
    Checks and error estimates take these errors into account, and ``report.derivatives`` states
    the digits.

    The noise of f is measured [2]_, and every variable has steps that follow from its own size and
    from its effect on f relative to that noise, so that the units of the variables do not
    matter. If f raises an exception or is not finite at a point of a difference, the difference
    takes the other side, or a shorter step.

    References
    ----------
    .. [1] W. Squire and G. Trapp, "Using complex variables to estimate derivatives of real
       functions", SIAM Review 40 (1998), 110-112.
    .. [2] J. J. Moré and S. M. Wild, "Estimating computational noise", SIAM Journal on Scientific
       Computing 33 (2011), 1292-1314.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, "map")
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> print(f"{eq.state[0]:.6f} {eq.sensitivity.toarray()[0, 0]:.6f}")
    0.739085 0.597510
    >>> eq.report.derivatives["d_state"]
    'the complex step'
    """
    one_of(kind, KINDS, "kind of mfdeq.from_function")
    if not callable(f):
        raise ArgumentError(
            f"f of mfdeq.from_function: expected a function, got {type(f).__name__}"
        )
    cls = FunctionMap if kind == "map" else FunctionResidual
    sizes = (count(state_size, "state_size"), count(param_size, "param_size"))
    if order not in (1, 2) or isinstance(order, bool):
        raise ArgumentError(f"order of mfdeq.from_function: expected 1 or 2, got {order!r}")
    model = cls(f, sizes, sparsity, StepRule(step, scale), order, args)
    model.configure("mfdeq.from_function", **fields)
    return model


class FunctionModel(ConfiguredModel):
    """Common base class of maps and residuals that are differentiated numerically."""

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        sizes: tuple[int, int],
        sparsity: Any,
        step_rule: StepRule,
        order: int = 2,
        args: Any = None,
    ) -> None:
        self.f = f
        self._set_data(convert_args(PLAIN, args))
        self.state_size, self.param_size = sizes
        self.step_rule, self.order = step_rule, order
        self._refusal = ""  # why the complex step is not valid for f, once that is known
        self._warned = self._warned_of_second = False
        self._sparsity = Sparsity(sparsity, *sizes)
        patterns = self._sparsity.patterns
        columns = sum(n for n, pattern in zip(sizes, patterns, strict=True) if pattern is None)
        if columns > MAX_COLUMNS:
            raise ArgumentError(
                f"mfdeq.from_function: expected at most {MAX_COLUMNS:,} columns without a sparsity "
                f"pattern, got {columns:,}. Pass sparsity=(state pattern, parameter pattern), or "
                'sparsity="detect" to detect them. For dense derivatives define '
                "linearize(h, theta), or use mfdeq.from_jax, whose adjoint products cost a few "
                "evaluations"
            )
        self._sparsity.patterns = tuple(DETECT if p is None else p for p in patterns)

    caller = "mfdeq.from_function"

    def evaluate(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta), with the data as a third argument if there are any."""
        return self.f(h, theta, *self._data)

    @property
    def display_name(self) -> str:
        """The name of the public function that created the model, and that of f."""
        return f"mfdeq.from_function({getattr(self.f, '__name__', 'f')})"

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Differentiate at (h, theta) by the complex step or by differences."""
        return self._linearize(h, theta, 1.0)

    def linearize_for_comparison(self, h: Array, theta: Array) -> Linearization:
        """Differentiate in the same way with larger steps."""
        return self._linearize(h, theta, COMPARISON_STEP_FACTOR)

    def _linearize(self, h: Array, theta: Array, step_factor: float) -> Linearization:
        duplicate = Backend.of(h, theta).xp.asarray
        derivatives = DirectionalDerivatives(
            self.evaluate,
            f"{self.function_name} of mfdeq.from_function",
            duplicate(h, copy=True),
            duplicate(theta, copy=True),
            self.step_rule,
            step_factor,
            state_scale=self._state_scale(h, theta),
            refusal=self._refusal,
        )
        if derivatives.verdict.lasting:
            self._refusal = derivatives.verdict.reason
        jacobians = NumericalJacobians(derivatives, self._sparsity)

        def first_derivative(which: int) -> Any:
            matrix = jacobians.matrix(which)
            if not self._warned and (message := jacobians.describe_lost_digits()):
                self._warned = True
                warn(f"{self.display_name}: {message}", AccuracyWarning)
            return matrix

        found = references(self.f)

        def unchanged() -> None:
            nonlocal found
            # An evaluation for a comparison is spent only where there is a reason.
            if any(reference.is_replaced for reference in found):
                jacobians.check_unchanged()
                found = references(self.f)

        once = Once[SecondDerivatives]()

        def second_derivatives() -> SecondDerivatives:
            return once(
                lambda: SecondDerivatives(
                    jacobians.second_differences(self._warn_of_second), unchanged
                )
            )

        second_order: dict[str, Any] = {
            "curvature": lambda lam: second_derivatives().curvature(lam),
            "second": lambda a, b: second_derivatives().along(a, b),
        }

        return DeferredLinearization(
            first_derivative(0),
            lambda: first_derivative(1),
            **(second_order if self.order == 2 else {}),
            sources=lambda: jacobians.sources(self.order),
            accuracy=lambda: jacobians.accuracy,
            state_accuracy=jacobians.state_accuracy,
            unchanged=unchanged,
        )

    def _warn_of_second(self, message: str) -> None:
        if not self._warned_of_second:
            self._warned_of_second = True
            warn(f"{self.display_name}: {message}", AccuracyWarning)

    def _state_scale(self, h: Array, theta: Array) -> Array | None:
        scale = self.state_scale(theta)
        return None if scale is None else abs(Backend.of(h).asarray(scale)) + 0.0 * h


class FunctionMap(FunctionModel, FixedPointModel):
    """A fixed-point map with numerical derivatives."""

    def map(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta)."""
        return self.evaluate(h, theta)


class FunctionResidual(FunctionModel, ResidualModel):
    """A residual with numerical derivatives."""

    def residual(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta)."""
        return self.evaluate(h, theta)
