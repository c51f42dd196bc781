"""Models and losses from PyTorch functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from ..models.model import Model
from .automatic import model_from
from .automatic_loss import AutomaticLoss, loss_from
from .batched import classes_of
from .configured_model import ModelFields, takes_model_fields
from .torch_source import TorchSource


@takes_model_fields("tensor, pytree", "state", "params")
def from_torch(
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
    """Create a model from a PyTorch function of (state, params).

    Parameters
    ----------
    f : callable
        The map or residual f(state, params), whose result has the structure, shapes and dtypes of
        `state`; for the kind "argmin" a scalar. It must have a derivative in reverse mode.
        Forward mode (`torch.func.jvp`) and `torch.func.vmap` are used where it supports them.
    state, params : tensor, array or pytree of those
        Examples that define the structure, shapes and dtype; their values do not matter. N and P
        are the numbers of their entries. For the parameters of a module pass
        ``dict(module.named_parameters())``, and use `torch.func.functional_call` in f.
    kind : {"map", "residual", "argmin"}
        Whether an equilibrium is state = f(state, params), f(state, params) = 0, or a stationary
        point of the scalar f with respect to the state, as for `from_jax`.
    sparsity : pair of sparse matrices or "detect", optional
        The patterns of the derivatives, as for `from_jax`. With one, the curvature is assembled
        where a factorization asks for it.
    args : pytree of tensors or arrays, optional
        An example of data beside the parameters, such as a minibatch, which f takes as a third
        argument, f(state, params, args). They are not differentiated. ``model.with_args(other)``
        returns the model with other data of the same structure, shapes and dtypes.
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
        ``params_tree(theta)`` convert between pytrees of tensors and the (N,) and (P,) vectors
        that mfdeq uses.

    Raises
    ------
    ArgumentError
        If PyTorch is not installed, or if an argument has a wrong type.
    ModelError
        If f does not return the structure of `state` or mixes dtypes, if an example has leaves
        that are not real floats, or if two values of f at one point differ. At a linearization, if
        a derivative is NaN or infinite or has no mode of differentiation, or if f changes tensors
        that it uses; afterwards, if these have been changed in place, or anything that f refers to
        has been replaced.
    DerivativeError
        At a linearization, if a pattern lacks entries of the derivative.

    See Also
    --------
    loss_from_torch : A loss from a PyTorch function.
    from_jax, from_function, mixed : Other sources of derivatives.

    Notes
    -----
    Nothing is compiled. Adjoint products use the values stored by `torch.func.vjp` at the
    equilibrium; other products evaluate f again in forward mode. Curvatures use forward over
    reverse mode. Where f has no forward mode, reverse mode is differentiated in reverse mode. All
    derivatives are exact to rounding.

    Modules must be in evaluation mode (``module.eval()``) if they draw random numbers or change
    their buffers in training, as dropout and BatchNorm do.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import mfdeq
    >>> model = mfdeq.from_torch(
    ...     lambda h, theta: torch.cos(h) + theta, np.zeros(1), np.zeros(1), "map"
    ... )
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> print(f"{eq.state[0]:.6f} {eq.sensitivity.toarray()[0, 0]:.6f}")
    0.739085 0.597510
    """
    return model_from(
        TorchSource(),
        f,
        state,
        params,
        kind,
        sparsity,
        args,
        classes_of(batched, sparsity, "mfdeq.from_torch"),
        **fields,
    )


def loss_from_torch(
    L: Callable[..., Any], state: Any, params: Any, *, args: Any = None, batched: bool = False
) -> AutomaticLoss:
    """Create a loss from a PyTorch function of (state, params).

    Parameters
    ----------
    L : callable
        ``L(state, params)`` returns a scalar tensor that `torch.func.grad` can differentiate
        twice.
    state, params : tensor, array or pytree of those
        Examples, as for `from_torch`.
    args : pytree of tensors or arrays, optional
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
        If PyTorch is not installed.

    Notes
    -----
    The Hessian is known by its products, and assembled where a factorization asks for its entries,
    as that of `loss_from_jax`.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> def misfit(h, theta):
    ...     return (theta * h**2).sum()
    >>> loss = mfdeq.loss_from_torch(misfit, np.zeros(1), np.zeros(1))
    >>> loss.value(np.array([3.0]), np.array([2.0]))
    18.0
    >>> loss.gradients(np.array([3.0]), np.array([2.0]))
    (array([9.]), array([12.]))
    """
    return loss_from(TorchSource(), L, state, params, args, batched)
