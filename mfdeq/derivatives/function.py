"""Models from a function of arrays, differentiated by the complex step or by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from ..arguments import count, one_of
from ..arrays.backend import Array
from ..errors import ArgumentError
from ..models.model import KINDS, Model
from .batched import check_batched
from .batched_function import FunctionBatchMap, FunctionBatchResidual
from .configured_model import ModelFields, takes_model_fields
from .function_model import FunctionMap, FunctionModel, FunctionResidual
from .steps import StepRule

# The classes of models by kind, of one function and of a batch.
CLASSES: dict[bool, dict[str, type[FunctionModel]]] = {
    False: {"map": FunctionMap, "residual": FunctionResidual},
    True: {"map": FunctionBatchMap, "residual": FunctionBatchResidual},
}


@takes_model_fields("(N,) array", "h", "theta")
def from_function(
    f: Callable[..., Array],
    state_size: int,
    param_size: int,
    kind: str,
    *,
    sparsity: Any = None,
    step: float | None = None,
    scale: tuple[Any, Any] | None = None,
    order: int = 2,
    args: Any = None,
    batched: bool = False,
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
    batched : bool, optional
        Whether f is for one sample of many: `state_size` is that of one, the arrays of `args` have
        a first axis for the samples, and the state of the model has N = samples · n entries, as in
        `from_jax`. f is called for each sample.
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
    check_batched(batched, sparsity, "mfdeq.from_function")
    cls = CLASSES[batched][kind]
    sizes = (count(state_size, "state_size"), count(param_size, "param_size"))
    if order not in (1, 2) or isinstance(order, bool):
        raise ArgumentError(f"order of mfdeq.from_function: expected 1 or 2, got {order!r}")
    model = cls(f, sizes, sparsity, StepRule(step, scale), order, args)
    model.configure("mfdeq.from_function", **fields)
    return model
