"""The Hessian of the loss of a whole program in JAX or PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from ..arguments import one_of
from ..arrays.backend import Array, Backend, host
from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError, ModelError
from ..operators.operator import SelfAdjoint

CALLER = "mfdeq.hessian_of"
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
        The parameters, such as ``network.parameters()``. P is the number of their entries.
    data : iterable of batches, optional
        Each batch is a tuple of arrays whose first axis is that of the samples, or one array. It is
        iterated once for each product, so that a `torch.utils.data.DataLoader` must give the same
        samples each time, in any order. By default the loss has no data, ``loss()`` or
        ``loss(params)``.
    reduction : {"mean", "sum"}, optional
        Whether the loss of a batch is a mean over its samples, so that batches count by their
        numbers of samples, or a sum.

    Returns
    -------
    ProgramHessian, (P, P)
        A symmetric LinearOperator on arrays of numpy, for `mfdeq.eigsh`, `trace`,
        `spectral_density` and the solvers of scipy. Entries are in the order of the parameters,
        each flattened. ``value()`` and ``gradient()`` are those of the same loss.

    Raises
    ------
    ArgumentError
        If the parameters are not tensors or arrays of JAX.

    See Also
    --------
    eigsh, spectral_density, trace : what to do with it.

    Notes
    -----
    Products are those of double backward passes in PyTorch, and of forward over reverse mode in
    JAX. They are accumulated over the batches, and so is the mean, as in curvlinops. The parameters
    are read at each product: an optimizer's step changes the operator.

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
    """
    one_of(reduction, REDUCTIONS, f"reduction of {CALLER}")
    if not callable(loss):
        raise ArgumentError(f"loss of {CALLER}: expected a function, got {type(loss).__name__}")
    program = _program(loss, params)
    if data is not None and iter(data) is data:
        raise ArgumentError(
            f"data of {CALLER}: expected a list or a DataLoader, which can be iterated for each "
            f"product, got a {type(data).__name__}, which can be iterated once"
        )
    return ProgramHessian(program.backend, program, data, reduction)


def _program(loss: Callable[..., Any], params: Any) -> Program:
    if not isinstance(params, (dict, list, tuple)) and not hasattr(params, "shape"):
        params = list(params) if isinstance(params, Iterable) else [params]
    first = params
    while isinstance(first, (dict, list, tuple)) and first:
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    package = type(first).__module__.partition(".")[0]
    if package == "torch":
        return TorchProgram(loss, params)
    return JaxProgram(loss, params)


class Program(ABC):
    """A loss whose gradient and products with the Hessian are computed batch by batch.

    Attributes
    ----------
    size : int
        P.
    backend : Backend
        That of the arrays of numpy.
    """

    size: int
    backend: Backend

    @abstractmethod
    def value(self, batch: tuple[Any, ...]) -> float:
        """Return the loss of a batch."""

    @abstractmethod
    def gradient(self, batch: tuple[Any, ...]) -> Array:
        """Return the gradient of the loss of a batch, (P,)."""

    @abstractmethod
    def products(self, batch: tuple[Any, ...], V: Array) -> Array:
        """Return the products with the Hessian of the loss of a batch, (P, k)."""


class ProgramHessian(SelfAdjoint):
    """The Hessian of the loss of a program; see `hessian_of`."""

    def __init__(self, source: Any, program: Program, data: Any, reduction: str) -> None:
        super().__init__(source, (program.size, program.size))
        self.program, self.data, self.reduction = program, data, reduction

    def value(self) -> float:
        """Return the loss over all data."""
        return self._accumulate(self.program.value)

    def gradient(self) -> Array:
        """Return the gradient of the loss over all data, (P,)."""
        return self._accumulate(self.program.gradient)

    def _apply(self, x: Array) -> Array:
        block = x.reshape(x.shape[0], -1)
        product = self._accumulate(lambda batch: self.program.products(batch, block))
        return product.reshape(x.shape)

    def _accumulate(self, of_batch: Callable[[tuple[Any, ...]], Any]) -> Any:
        """Return the sum of a function of the batches, or its mean over the samples."""
        if self.data is None:
            return of_batch(())
        total: Any = None
        samples = 0
        for batch in self.data:
            arrays = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            size = len(arrays[0]) if self.reduction == "mean" else 1
            part = size * of_batch(arrays)
            total, samples = part if total is None else total + part, samples + size
        if total is None:
            raise ArgumentError(f"data of {CALLER}: expected at least one batch, got none")
        return total / samples if self.reduction == "mean" else total


class TorchProgram(Program):
    """A loss of PyTorch tensors that require gradients."""

    def __init__(self, loss: Callable[..., Any], params: Any) -> None:
        self.torch: Any = import_optional("torch", "torch")
        leaves = list(params.values()) if isinstance(params, dict) else list(params)
        if not all(self.torch.is_tensor(p) and p.requires_grad for p in leaves):
            raise ArgumentError(
                f"params of {CALLER}: expected tensors that require gradients, such as "
                "[p for p in network.parameters() if p.requires_grad]"
            )
        self.loss, self.params = loss, leaves
        self.size = sum(p.numel() for p in leaves)
        self.backend = Backend.of(self._vector(leaves[:1]))

    def _loss(self, batch: tuple[Any, ...]) -> Any:
        value = self.loss(*batch)
        if value.numel() != 1:
            raise ModelError(f"loss of {CALLER}: expected a scalar, got {tuple(value.shape)}")
        return value.reshape(())

    def _vector(self, parts: Any) -> Array:
        flat = [p.detach().reshape(-1) for p in parts]
        return self.torch.cat(flat).cpu().numpy()

    def _gradients(self, batch: tuple[Any, ...], create_graph: bool) -> list[Any]:
        gradients = self.torch.autograd.grad(
            self._loss(batch), self.params, create_graph=create_graph, allow_unused=True
        )
        return [
            self.torch.zeros_like(p) if g is None else g
            for g, p in zip(gradients, self.params, strict=True)
        ]

    def value(self, batch: tuple[Any, ...]) -> float:
        """Return the loss of a batch."""
        with self.torch.no_grad():
            return float(self._loss(batch))

    def gradient(self, batch: tuple[Any, ...]) -> Array:
        """Return the gradient of the loss of a batch, (P,)."""
        return self._vector(self._gradients(batch, False))

    def products(self, batch: tuple[Any, ...], V: Array) -> Array:
        """Return the products with the Hessian, by one backward pass for each column."""
        flat = self.torch.cat([g.reshape(-1) for g in self._gradients(batch, True)])
        columns = []
        for i in range(V.shape[1]):
            v = self.torch.tensor(V[:, i]).to(flat)
            if not flat.requires_grad:  # a loss that is linear in the parameters
                columns.append(host.zeros_like(V[:, i]))
                continue
            parts = self.torch.autograd.grad(
                flat, self.params, v, retain_graph=True, allow_unused=True
            )
            filled = [
                self.torch.zeros_like(p) if g is None else g
                for g, p in zip(parts, self.params, strict=True)
            ]
            columns.append(self._vector(filled))
        return host.stack(columns, axis=1)


class JaxProgram(Program):
    """A loss of a pytree of JAX arrays."""

    def __init__(self, loss: Callable[..., Any], params: Any) -> None:
        jax: Any = import_optional("jax", "jax")
        flatten: Any = import_optional("jax.flatten_util", "jax")
        self.theta, to_tree = flatten.ravel_pytree(params)
        if self.theta.dtype.kind != "f" or not self.theta.size:
            raise ArgumentError(
                f"params of {CALLER}: expected tensors of PyTorch or a pytree of real arrays of "
                f"JAX, got {type(params).__name__}"
            )
        self.size = self.theta.size
        self.backend = Backend.of(host.asarray(self.theta[:0]))

        def flat(theta: Any, batch: Any) -> Any:
            return loss(to_tree(theta), *batch)

        def product(theta: Any, batch: Any, v: Any) -> Any:
            return jax.jvp(lambda theta: jax.grad(flat)(theta, batch), (theta,), (v,))[1]

        self._value, self._gradient = jax.jit(flat), jax.jit(jax.grad(flat))
        self._products = jax.jit(jax.vmap(product, in_axes=(None, None, 1), out_axes=1))

    def value(self, batch: tuple[Any, ...]) -> float:
        """Return the loss of a batch."""
        return float(self._value(self.theta, batch))

    def gradient(self, batch: tuple[Any, ...]) -> Array:
        """Return the gradient of the loss of a batch, (P,)."""
        return host.array(self._gradient(self.theta, batch))

    def products(self, batch: tuple[Any, ...], V: Array) -> Array:
        """Return the products with the Hessian, as one block."""
        return host.array(self._products(self.theta, batch, V))
