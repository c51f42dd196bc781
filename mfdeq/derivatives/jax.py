"""Models and losses from JAX functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from ..models.model import Model
from .automatic import model_from
from .automatic_loss import AutomaticLoss, loss_from
from .batched import classes_of
from .configured_model import ModelFields, takes_model_fields
from .jax_source import JaxSource


@takes_model_fields("array, pytree", "state", "params")
def from_jax(
    f: Callable[..., Any],
    state: Any,
    params: Any,
    kind: str,
    *,
    sparsity: Any = None,
    args: Any = None,
    batched: bool = False,
    **fields: Unpack[ModelFields],
) -> Model:
    """Create a model from a JAX function of (state, params).

    Parameters
    ----------
    f : callable
        The map or residual f(state, params), whose result has the structure, shapes and dtypes of
        `state`; for the kind "argmin" a scalar. It must be traceable by `jax.jit` and
        differentiable by `jax.vjp`.
    state, params : array or pytree of arrays
        Examples that define the structure, shapes and dtype; their values do not matter. N and P
        are the numbers of their entries.
    kind : {"map", "residual", "argmin"}
        Whether an equilibrium is state = f(state, params), f(state, params) = 0, or a stationary
        point of the scalar f with respect to the state, such as a minimum. The residual is then
        its gradient, whose derivative is symmetric.
    sparsity : pair of sparse matrices or "detect", optional
        The patterns of the derivatives with respect to the state, (N, N), and to the parameters,
        (N, P). Each may also be "detect", to detect it by products near the first point, or None,
        the default, for a derivative that is not assembled. A derivative with a pattern becomes a
        sparse matrix, which `mfdeq.Direct`, `mfdeq.ILU` and `mfdeq.AMG` require. So does the
        curvature, where a factorization of the Lagrangian system asks for it
        (`mfdeq.ShiftedInverse`, ``method="newton"`` of `mfdeq.minimize`), with a pattern that is
        detected.
    args : pytree of arrays, optional
        An example of data beside the parameters, such as a minibatch, which f takes as a third
        argument, f(state, params, args). They are not differentiated. ``model.with_args(other)``
        returns the model with other data of the same structure, shapes and dtypes, without
        compiling anything again.
    batched : bool, optional
        Whether f is for one sample of many: `state` is the state of one, the arrays of `args` have
        a first axis for the samples, and the state of the model has N = samples · n entries. The
        samples share their parameters and nothing else. See `BatchedEquilibrium`.
    **fields
        The keywords of `ModelFields`.

    Returns
    -------
    FixedPointModel or ResidualModel
        Its methods ``flat_state(tree)``, ``flat_params(tree)``, ``state_tree(h)`` and
        ``params_tree(theta)`` convert between pytrees and the (N,) and (P,) vectors that mfdeq
        uses.

    Raises
    ------
    ArgumentError
        If JAX is not installed, or if an argument has a wrong type.
    ModelError
        If JAX computes in lower precision than that of the examples, if f does not return the
        structure of `state` or mixes dtypes, or if an example has leaves that are not real floats.
        At a linearization, if a derivative is NaN or infinite, or has no mode of differentiation.
    DerivativeError
        At a linearization, if a pattern lacks entries of the derivative.

    See Also
    --------
    loss_from_jax : A loss from a JAX function.
    from_torch, from_function, mixed : Other sources of derivatives.

    Notes
    -----
    Products with first derivatives are computed by `jax.linearize` (forward mode) and `jax.vjp`
    (reverse mode), those with second derivatives by forward over reverse mode; all are exact to
    rounding. Where f has no forward mode (`jax.custom_vjp`), reverse mode is differentiated in
    reverse mode. Intermediate values at an equilibrium are stored and reused. Assembling a
    derivative takes one product for each colour of its columns [1]_, and one to check the pattern.

    JAX computes in float32 unless ``jax.config.update("jax_enable_x64", True)`` is called first.

    References
    ----------
    .. [1] A. R. Curtis, M. J. D. Powell and J. K. Reid, "On the estimation of sparse Jacobian
       matrices", IMA Journal of Applied Mathematics 13 (1974), 117-119.

    Examples
    --------
    >>> import jax
    >>> jax.config.update("jax_enable_x64", True)
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_jax(lambda h, theta: jnp.cos(h) + theta, np.zeros(1), np.zeros(1), "map")
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> print(f"{eq.state[0]:.6f} {eq.sensitivity.toarray()[0, 0]:.6f}")
    0.739085 0.597510
    """
    return model_from(
        JaxSource(),
        f,
        state,
        params,
        kind,
        sparsity,
        args,
        classes_of(batched, sparsity, "mfdeq.from_jax"),
        **fields,
    )


def loss_from_jax(
    L: Callable[..., Any], state: Any, params: Any, *, args: Any = None, batched: bool = False
) -> AutomaticLoss:
    """Create a loss from a JAX function of (state, params).

    Parameters
    ----------
    L : callable
        ``L(state, params)`` returns a scalar that `jax.grad` can differentiate twice.
    state, params : array or pytree of arrays
        Examples, as for `from_jax`.
    args : pytree of arrays, optional
        An example of data beside the parameters, which L takes as a third argument, L(state,
        params, args). ``loss.with_args(other)`` returns the loss with other data.
    batched : bool, optional
        Whether L is for one sample of a batch, whose state and data are the examples. The loss is
        the sum over the samples that have an equilibrium.

    Returns
    -------
    Loss

    Raises
    ------
    ArgumentError
        If JAX is not installed.
    ModelError
        If JAX computes in lower precision than that of the examples.

    Notes
    -----
    The Hessian is known by its products. Where a factorization asks for its entries, they are
    computed by a product for each colour of its columns, with a pattern that is detected.

    Examples
    --------
    >>> import jax
    >>> jax.config.update("jax_enable_x64", True)
    >>> import numpy as np
    >>> import mfdeq
    >>> loss = mfdeq.loss_from_jax(lambda h, theta: (theta * h**2).sum(), np.zeros(1), np.zeros(1))
    >>> loss.value(np.array([3.0]), np.array([2.0]))
    18.0
    >>> loss.gradients(np.array([3.0]), np.array([2.0]))
    (array([9.]), array([12.]))
    """
    return loss_from(JaxSource(), L, state, params, args, batched)
