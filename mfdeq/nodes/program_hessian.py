"""The Hessian of the loss of a whole program in JAX or PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import one_of
from ..arrays.backend import Array
from ..errors import ArgumentError
from ..operators.operator import SelfAdjoint
from .loss_over_data import LossOverData, check_data
from .program import CALLER, program_of
from .program_functional import ProgramFunctional

REDUCTIONS = ("mean", "sum")


def hessian_of(
    loss: Callable[..., Any], params: Any, data: Any = None, *, reduction: str = "mean"
) -> ProgramHessian:
    """Return the Hessian of the loss of a program in JAX or PyTorch, as an operator.

    The program may contain equilibria (`to_jax`, `to_torch`, `torch_layer`).

    Parameters
    ----------
    loss : callable
        In PyTorch ``loss(*batch)`` returns a scalar tensor that depends on `params`, such as the
        loss of a network. In JAX ``loss(params, *batch)`` returns a scalar.
    params : iterable of tensors or pytree of JAX arrays
        The parameters, such as ``network.parameters()``: not the network itself. P is the number of
        their entries.
    data : iterable of batches, optional
        A list or a `torch.utils.data.DataLoader` of batches, such as ``[(x, y)]`` for one batch and
        a loss of x and y. Each batch is a tuple of arrays whose first axis is that of the samples,
        or one array, or a dict of them; parts of a tuple may be nested. The first array tells the
        number of samples. The batches are iterated once for each product, so that a DataLoader must
        give the same samples each time, in any order. By default the loss has no data, ``loss()``
        or ``loss(params)``.
    reduction : {"mean", "sum"}, optional
        Whether the loss of a batch is a mean over its samples, so that batches count by their
        numbers of samples, or a sum.

    Returns
    -------
    ProgramHessian, (P, P)
        A symmetric LinearOperator on arrays of numpy, for `mfdeq.eigsh`, `trace`,
        `spectral_density` and the solvers of scipy. Entries are in the order of the parameters,
        each flattened. ``value()`` and ``gradient()`` are those of the same loss, and
        ``functional`` is the loss as a function of the parameters, for `mfdeq.minimize`.
        ``flat_params()`` and ``set_params(theta)`` read and write the parameters.

    Raises
    ------
    ArgumentError
        If the parameters are not tensors or arrays of JAX, or if data are not batches that the loss
        takes.
    ModelError
        If the loss does not return a scalar that depends on the parameters; at the first product,
        if the Hessian changes from product to product, as with dropout in training mode or with
        batches of other samples.

    See Also
    --------
    eigsh, spectral_density, trace, minimize : what to do with it.

    Notes
    -----
    Products are those of double backward passes in PyTorch, and of forward over reverse mode in
    JAX. A product costs about four evaluations of the loss over all data for each column, and a
    block shares the first backward pass. The parameters are read at each product: an optimizer's
    step changes the operator.

    Conventions are those of curvlinops: products are accumulated over the batches, the mean counts
    each sample once whatever the sizes of batches, and the entries of a vector are those of the
    parameters, flattened one after the other. What is passed is the loss of a batch, instead of a
    module and a loss function.

    ``mfdeq.minimize(H.functional, H.flat_params())`` uses the exact Hessian in each step, and
    evaluates the loss over all data: it is for the end of a training, after a stochastic method.
    The parameters of the program remain as they were; ``H.set_params(found.params)`` replaces them.
    With `max_iterations` it raises a `ConvergenceError` once they are used up, whose `best` has the
    parameters so far.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> import mfdeq
    >>> weight = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    >>> data = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 2.0]])]
    >>> def loss(x):
    ...     return (x.double() @ weight).pow(4).mean()
    >>> H = mfdeq.hessian_of(loss, [weight], data)
    >>> print(H @ np.eye(2))
    [[  4.   0.]
     [  0. 272.]]
    >>> print(mfdeq.eigsh(H, k=1).values)
    [272.]
    >>> found = mfdeq.minimize(H.functional, H.flat_params())
    >>> bool(found.value < 1e-3 * H.value())
    True
    """
    one_of(reduction, REDUCTIONS, f"reduction of {CALLER}")
    if not callable(loss):
        raise ArgumentError(f"loss of {CALLER}: expected a function, got {type(loss).__name__}")
    program = program_of(loss, params)
    if data is not None:
        check_data(data)
    return ProgramHessian(program.backend, LossOverData(program, data, reduction))


class ProgramHessian(SelfAdjoint):
    """The Hessian of the loss of a program; see `hessian_of`."""

    def __init__(self, source: Any, loss: LossOverData) -> None:
        size = loss.program.size
        super().__init__(source, (size, size))
        self._loss = loss

    def value(self) -> float:
        """Return the loss over all data."""
        return self._loss.value()

    def gradient(self) -> Array:
        """Return the gradient of the loss over all data, (P,)."""
        return self._loss.gradient()

    @property
    def params(self) -> Any:
        """The parameters of the program: a list of tensors, or a pytree of arrays."""
        return self._loss.program.params

    def flat_params(self) -> Array:
        """Return the parameters of the program as a vector, (P,)."""
        return self._loss.program.flat_params()

    def set_params(self, theta: Array) -> None:
        """Give the program other parameters, such as those of a minimum.

        Parameters
        ----------
        theta : (P,) array
        """
        self._loss.program.set_params(self.backend.vector(theta, self.shape[0], "theta"))

    @property
    def functional(self) -> ProgramFunctional:
        """The loss as a function of the parameters, for `mfdeq.minimize`.

        Its methods leave the parameters of the program as they are.
        """
        return ProgramFunctional(self.backend, self._loss)

    def _apply(self, x: Array) -> Array:
        return self._loss.products(x.reshape(x.shape[0], -1)).reshape(x.shape)
