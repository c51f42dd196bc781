"""Losses of programs in JAX and PyTorch, with products with their Hessians batch by batch."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError, ModelError

CALLER = "mfdeq.hessian_of"
REPEATED_RTOL = 1e-3  # of a product that is repeated, far above the tolerance of equilibria


def program_of(loss: Callable[..., Any], params: Any) -> Program:
    """Return the program of a loss in the library of its parameters."""
    if not isinstance(params, (dict, list, tuple)) and not hasattr(params, "shape"):
        params = list(params) if isinstance(params, Iterable) else [params]
    first = params
    while isinstance(first, (dict, list, tuple)) and first:
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    package = type(first).__module__.partition(".")[0]
    if package == "torch":
        return TorchProgram(loss, [params] if params is first else params)
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

    @property
    @abstractmethod
    def params(self) -> Any:
        """The parameters: tensors, or a pytree of arrays."""

    @abstractmethod
    def flat_params(self) -> Array:
        """Return the parameters as a vector, (P,)."""

    @abstractmethod
    def set_params(self, theta: Array) -> None:
        """Replace the parameters."""

    @abstractmethod
    def value(self, batch: tuple[Any, ...]) -> float:
        """Return the loss of a batch."""

    @abstractmethod
    def gradient(self, batch: tuple[Any, ...]) -> Array:
        """Return the gradient of the loss of a batch, (P,)."""

    @abstractmethod
    def products(self, batch: tuple[Any, ...], V: Array) -> Array:
        """Return the products with the Hessian of the loss of a batch, (P, k)."""


class LossOverData:
    """The loss of a program over all batches, and its derivatives.

    Parameters
    ----------
    program : Program
    data : iterable of batches or None
    reduction : {"mean", "sum"}
    """

    def __init__(self, program: Program, data: Any, reduction: str) -> None:
        self.program, self.data, self.reduction = program, data, reduction
        self._is_repeatable = False

    @contextlib.contextmanager
    def at(self, theta: Array | None) -> Iterator[None]:
        """Give the program other parameters for a while, unless theta is None."""
        if theta is None:
            yield
            return
        own = self.program.flat_params()
        self.program.set_params(theta)
        try:
            yield
        finally:
            self.program.set_params(own)

    def value(self) -> float:
        """Return the loss."""
        return self._accumulate(self.program.value)

    def gradient(self) -> Array:
        """Return the gradient, (P,)."""
        return self._accumulate(self.program.gradient)

    def products(self, V: Array) -> Array:
        """Return the products with the Hessian, (P, k); the first call checks that they repeat."""
        if not self._is_repeatable:
            self._check_repeated_product()
        return self._products(V)

    def _products(self, V: Array) -> Array:
        return self._accumulate(lambda batch: self.program.products(batch, V))

    def _check_repeated_product(self) -> None:
        """Raise `ModelError` if the product with a random vector differs when it is repeated."""
        v = host.random.default_rng(0).standard_normal((self.program.size, 1))
        v = v.astype(self.program.backend.dtype)
        first, second = self._products(v), self._products(v)
        change, size = host.linalg.norm(second - first), host.linalg.norm(first)
        if change > REPEATED_RTOL * size:
            raise ModelError(
                f"loss of {CALLER}: expected the same Hessian each time, got products with one "
                f"vector that differ by {change / size:.1e} of their size. Put the network into "
                "evaluation mode if it has dropout or BatchNorm (network.eval()), draw no random "
                "numbers in the loss, and pass data that are the same samples in each iteration: "
                "no DataLoader with shuffle=True and drop_last=True, and no random augmentation"
            )
        self._is_repeatable = True

    def _accumulate(self, of_batch: Callable[[tuple[Any, ...]], Any]) -> Any:
        """Return the sum of a function of the batches, or its mean over the samples."""
        if self.data is None:
            return of_batch(())
        total: Any = None
        samples = 0
        for batch in self.data:
            arrays = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            size = number_of_samples(arrays) if self.reduction == "mean" else 1
            part = size * of_batch(arrays)
            total, samples = part if total is None else total + part, samples + size
        if total is None:
            raise ArgumentError(f"data of {CALLER}: expected at least one batch, got none")
        return total / samples if self.reduction == "mean" else total


def number_of_samples(batch: Any) -> int:
    """Return the length of the first axis of the first array of a batch, which may be nested."""
    for array in _arrays(batch):
        if len(array.shape):
            return int(array.shape[0])
    parts = ", ".join(type(part).__name__ for part in batch)
    raise ArgumentError(
        f"data of {CALLER}: expected batches with an array whose first axis is that of the "
        f'samples, got a batch of {parts}: pass reduction="sum" for a loss that is a sum, or '
        "tuples or dicts of arrays"
    )


def _arrays(tree: Any) -> Iterator[Any]:
    """Iterate over the arrays of nested tuples, lists and mappings."""
    if hasattr(tree, "shape"):
        yield tree
    elif isinstance(tree, (tuple, list, Mapping)):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _arrays(part)


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
        self.loss, self._leaves = loss, leaves
        self.size = sum(p.numel() for p in leaves)
        self.backend = Backend.of(self._vector(leaves[:1]))

    @property
    def params(self) -> Any:
        """The tensors."""
        return self._leaves

    def flat_params(self) -> Array:
        """Return the parameters as a vector, (P,)."""
        return self._vector(self._leaves)

    def set_params(self, theta: Array) -> None:
        """Replace the values of the tensors."""
        sizes = [p.numel() for p in self._leaves]
        with self.torch.no_grad():
            for p, part in zip(self._leaves, self.torch.tensor(theta).split(sizes), strict=True):
                p.copy_(part.view(p.shape))

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
            self._loss(batch), self._leaves, create_graph=create_graph, allow_unused=True
        )
        return [
            self.torch.zeros_like(p) if g is None else g
            for g, p in zip(gradients, self._leaves, strict=True)
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
                flat, self._leaves, v, retain_graph=True, allow_unused=True
            )
            filled = [
                self.torch.zeros_like(p) if g is None else g
                for g, p in zip(parts, self._leaves, strict=True)
            ]
            columns.append(self._vector(filled))
        return host.stack(columns, axis=1)


class JaxProgram(Program):
    """A loss of a pytree of JAX arrays."""

    def __init__(self, loss: Callable[..., Any], params: Any) -> None:
        jax: Any = import_optional("jax", "jax")
        self._jnp = jax.numpy
        flatten: Any = import_optional("jax.flatten_util", "jax")
        self.theta, self._to_tree = flatten.ravel_pytree(params)
        if self.theta.dtype.kind != "f" or not self.theta.size:
            raise ArgumentError(
                f"params of {CALLER}: expected tensors of PyTorch or a pytree of real arrays of "
                f"JAX, got {type(params).__name__}"
            )
        self.size = self.theta.size
        self.backend = Backend.of(host.asarray(self.theta[:0]))

        def flat(theta: Any, batch: Any) -> Any:
            return loss(self._to_tree(theta), *batch)

        def product(theta: Any, batch: Any, v: Any) -> Any:
            return jax.jvp(lambda theta: jax.grad(flat)(theta, batch), (theta,), (v,))[1]

        self._value, self._gradient = jax.jit(flat), jax.jit(jax.grad(flat))
        self._products = jax.jit(jax.vmap(product, in_axes=(None, None, 1), out_axes=1))

    @property
    def params(self) -> Any:
        """The pytree of arrays."""
        return self._to_tree(self.theta)

    def flat_params(self) -> Array:
        """Return the parameters as a vector, (P,)."""
        return host.array(self.theta)

    def set_params(self, theta: Array) -> None:
        """Replace the values of the arrays."""
        self.theta = self._jnp.asarray(theta, self.theta.dtype)

    def value(self, batch: tuple[Any, ...]) -> float:
        """Return the loss of a batch."""
        return float(self._value(self.theta, batch))

    def gradient(self, batch: tuple[Any, ...]) -> Array:
        """Return the gradient of the loss of a batch, (P,)."""
        return host.array(self._gradient(self.theta, batch))

    def products(self, batch: tuple[Any, ...], V: Array) -> Array:
        """Return the products with the Hessian, as one block."""
        return host.array(self._products(self.theta, batch, V))
