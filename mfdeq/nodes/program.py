"""Losses of programs in JAX and PyTorch, with products with their Hessians batch by batch."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError, ModelError, short_repr

CALLER = "mfdeq.hessian_of"
ADVICE = "Return a real number, such as a mean or a sum"


def program_of(loss: Callable[..., Any], params: Any) -> Program:
    """Return the program of a loss in the library of its parameters.

    Raises
    ------
    ArgumentError
        If the parameters are neither tensors that require gradients nor real arrays.
    """
    given = params
    if not isinstance(params, (dict, list, tuple)) and not hasattr(params, "shape"):
        params = list(params) if isinstance(params, Iterable) else [params]
    first = params
    while isinstance(first, (dict, list, tuple)) and first:
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    torch: Any = sys.modules.get("torch")
    modules = [x for x in (given, first) if torch and isinstance(x, torch.nn.Module)]
    if modules and not torch.is_tensor(first):  # as it is in a ParameterList
        raise ArgumentError(
            f"params of {CALLER}: expected tensors that require gradients, got "
            f"{short_repr(modules[0])}: pass its parameters, such as network.parameters()"
        )
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
    loss : callable
        The user's function.
    takes_params : bool
        Whether the loss takes the parameters before a batch.
    """

    size: int
    backend: Backend
    loss: Callable[..., Any]
    takes_params = False

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
        if not self.torch.is_tensor(value):
            raise _unexpected(short_repr(value), "Return the tensor alone, not its .item()")
        if value.numel() != 1 or not value.is_floating_point():
            dtype = str(value.dtype).removeprefix("torch.")
            raise _unexpected(f"shape {tuple(value.shape)} of {dtype}", ADVICE)
        if self.torch.is_grad_enabled() and not value.requires_grad:
            raise _unexpected(
                "one without derivatives",
                "It may come from .detach(), torch.no_grad() or another network's parameters",
            )
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


def _unexpected(got: str, advice: str) -> ModelError:
    """Return the error for what a loss returns in place of a scalar."""
    return ModelError(
        f"loss of {CALLER}: expected it to return a scalar that depends on the parameters, got "
        f"{got}. {advice}"
    )


class JaxProgram(Program):
    """A loss of a pytree of JAX arrays."""

    takes_params = True

    def __init__(self, loss: Callable[..., Any], params: Any) -> None:
        jax: Any = import_optional("jax", "jax")
        self._jnp = jax.numpy
        flatten: Any = import_optional("jax.flatten_util", "jax")
        self.loss = loss
        try:
            self.theta, self._to_tree = flatten.ravel_pytree(params)
        except TypeError as error:
            raise _wrong_params(jax, params) from error
        if self.theta.dtype.kind != "f" or not self.theta.size:
            raise _wrong_params(jax, params)
        self.size = self.theta.size
        self.backend = Backend.of(host.asarray(self.theta[:0]))

        def flat(theta: Any, batch: Any) -> Any:
            try:
                value = loss(self._to_tree(theta), *batch)
            except jax.errors.JAXTypeError as error:
                error.add_note(
                    f"mfdeq: the loss of {CALLER} must be a function that JAX can trace, and "
                    "return a scalar of JAX: not its .item() or float(...)"
                )
                raise
            if not isinstance(value, (float, jax.Array)):
                raise _unexpected(short_repr(value), "Return an array of JAX alone")
            shape, dtype = jax.numpy.shape(value), jax.numpy.result_type(value)
            if jax.numpy.size(value) != 1 or dtype.kind != "f":
                raise _unexpected(f"shape {shape} of {dtype}", ADVICE)
            return jax.numpy.reshape(value, ())

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


def _wrong_params(jax: Any, params: Any) -> ArgumentError:
    """Return the error that names the first leaf that is no array of real numbers."""
    dtypes = [(x, getattr(x, "dtype", None)) for x in jax.tree_util.tree_leaves(params)]
    wrong = [(x, dtype) for x, dtype in dtypes if getattr(dtype, "kind", "") != "f"]
    got, dtype = wrong[0] if wrong else (params, None)
    return ArgumentError(
        f"params of {CALLER}: expected tensors of PyTorch or a pytree of real arrays of JAX, got "
        f"{short_repr(got)}{f' and {dtype}' if dtype else ''}"
    )
