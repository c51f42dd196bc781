"""Derivatives by PyTorch: `torch.func`, and the graph of autograd where that fails."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..errors import ModelError
from .alternatives import (
    Alternatives,
    check_hessian_product,
    check_linear,
    check_reverse_products,
    first_line,
    missing_mode_error,
    partial_function,
)
from .references import References
from .source import (
    DerivativeSource,
    Function,
    JacobianProducts,
    TreeLayout,
    not_scalar_error,
)
from .torch_graph import GraphGradient, GraphProducts, second_by_graph
from .torch_modes import for_blocks, forward_mode, import_torch, with_math_attention
from .torch_tensors import (
    CALLER,
    describe,
    pytree,
    tensor_layout,
    to_torch_data,
    watch_tensors,
)

ADVICE = (
    "Write it with operations that have a derivative in forward mode, or that can be "
    "differentiated twice in reverse mode, or give this derivative by hand with mfdeq.mixed"
)
TRAINING_ERROR = re.compile("when training")  # of BatchNorm and InstanceNorm
DTYPE_ERROR = re.compile(r"(?i)\bdtype\b|scalar type|input type")


class TorchSource(DerivativeSource):
    """A source of derivatives by PyTorch, without compilation."""

    name, caller = "PyTorch", CALLER
    cuts = "detach(), item(), numpy(), torch.no_grad(), or a custom backward that is wrong"

    def __init__(self) -> None:
        self.torch = import_torch()
        self.func: Any = self.torch.func

    def __reduce__(self) -> tuple[Any, ...]:
        return TorchSource, ()

    def layout(self, tree: Any, name: str) -> TreeLayout:
        """Return the layout of an example: `name` is "state" or "params"."""
        return tensor_layout(self.torch, tree, name)

    def data(self, args: Any) -> Any:
        """Convert the arrays of a pytree to tensors without gradients; others are unchanged."""
        return to_torch_data(self.torch, args)

    def data_leaves(self, data: Any) -> Mapping[str, Any]:
        """Return the leaves of a pytree by their paths."""
        leaves, _ = pytree().tree_flatten_with_path(data)
        return {pytree().keystr(path): leaf for path, leaf in leaves}

    def map_data(self, function: Function, data: Any) -> Any:
        """Return a pytree with a function of each leaf."""
        return pytree().tree_map(function, data)

    def vectorized(self, function: Function, axes: tuple[int | None, ...]) -> Function:
        """Return a function that maps another over an axis of its arguments.

        `torch.func.vmap` does it, or a loop for functions that vmap does not support.
        """

        def loop(*x: Any) -> Any:
            count = next(
                len(leaf)
                for part, axis in zip(x, axes, strict=True)
                if axis is not None
                for leaf in pytree().tree_leaves(part)
            )

            def of_one(i: int) -> Any:
                parts = zip(x, axes, strict=True)
                return function(
                    *(p if a is None else self.map_data(_entry(i), p) for p, a in parts)
                )

            return pytree().tree_map(lambda *y: self.torch.stack(y), *map(of_one, range(count)))

        return Alternatives(
            [self.func.vmap(function, in_dims=axes), loop],
            loop,
            self._missing("the map over samples"),
        )

    def sample_blocks(self, function: Function) -> Function:
        """Return a function (H, theta, data) -> (values, Jacobians) of samples."""

        def blocks(differentiate: Function) -> Function:
            def of_one(h: Any, theta: Any, data: Any) -> Any:
                def twice(h: Any) -> Any:
                    value = function(h, theta, data)
                    return value, value

                jacobian, value = differentiate(twice, has_aux=True)(h)
                return value, jacobian

            mapped = self.vectorized(of_one, (0, None, 0))

            def at(*x: Any) -> Any:
                with forward_mode, self.torch.no_grad():
                    return mapped(*x)

            return at

        return Alternatives(
            [blocks(self.func.jacrev), blocks(self.func.jacfwd)],
            self.vectorized(function, (0, None, 0)),
            self._missing("the derivative"),
        )

    def describe_output(self, f: Function, state: Any, params: Any, *data: Any) -> Any:
        """Describe the output of f by evaluating it for the examples."""
        return describe(self._evaluate(f, state, params, *data))

    def check_scalar(self, f: Function, caller: str, state: Any, params: Any, *data: Any) -> None:
        """Raise `ModelError` unless f returns one real number for the examples."""
        output = self._evaluate(f, state, params, *data)
        is_tensor = self.torch.is_tensor(output)
        if not is_tensor or output.numel() != 1 or not output.is_floating_point():
            raise not_scalar_error(caller, output)

    def _evaluate(self, function: Function, *x: Any) -> Any:
        """Evaluate without recording a graph, and explain errors about dtypes."""
        try:
            with self.torch.no_grad():
                return function(*x)
        except ValueError as error:
            if not TRAINING_ERROR.search(str(error)):
                raise
            raise ModelError(
                f"f of {self.caller}: expected modules in evaluation mode, got a normalization in "
                f"training mode ({first_line(error)}): call module.eval() first"
            ) from error
        except RuntimeError as error:
            if not DTYPE_ERROR.search(str(error)):
                raise
            raise ModelError(
                f"f of {self.caller} mixes dtypes, where its arguments are in "
                f"{' and '.join(_dtypes(x))} ({first_line(error)}). Convert the tensors that it "
                "uses (module.double(), tensor.to(dtype)), or pass the examples and params in "
                "their dtype"
            ) from error

    def to_library(self, *arrays: Array) -> list[Any]:
        """Convert numpy arrays to copies, and cupy arrays to tensors that share their memory."""
        return [
            self.torch.tensor(x) if isinstance(x, host.ndarray) else self.torch.from_dlpack(x)
            for x in arrays
        ]

    def from_library(self, backend: Backend, x: Any) -> Array:
        """Convert a tensor to a new array of the backend."""
        return backend.copy_from(x.detach())

    def value(self, function: Function) -> Function:
        """Return a function (h, theta) -> f(h, theta) that records no graph."""
        return functools.partial(self._evaluate, function)

    def watch(self, function: Function, references: References, *x: Any) -> Function:
        """Return a function that raises `ModelError` if what f uses has changed."""
        return watch_tensors(functools.partial(self._evaluate, function), references, *x)

    def gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> (dL/dh, dL/dtheta)."""

        def reverse(h: Any, theta: Any, *data: Any) -> Any:
            f = functools.partial(_with_data, scalar, data)
            return GraphGradient(self.torch, f, h, theta).gradient()

        return Alternatives(
            [self.func.grad(scalar, argnums=(0, 1)), reverse], scalar, self._missing("the gradient")
        )

    def state_gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> dL/dh."""
        return self.func.grad(scalar)

    def _random(self, *like: Any) -> list[Any]:
        """Return vectors of random numbers like others."""
        numbers = host.random.default_rng(0).standard_normal
        return [self.torch.as_tensor(numbers(tuple(x.shape))).to(x) for x in like]

    def _missing(self, what: str) -> Function:
        return functools.partial(missing_mode_error, self.caller, what, ADVICE)

    def jacobians(self, function: Function) -> list[Function]:
        """Return functions (h, theta) -> the products with df/dh and with df/dtheta.

        A function without forward mode is differentiated twice in reverse mode, by the graph of
        autograd, which also supports functions that `torch.func` does not.
        """
        return [self._jacobian(function, which) for which in range(2)]

    def _jacobian(self, function: Function, which: int) -> Function:
        def products(make: Function, function: Function) -> Function:
            return lambda *x: make(partial_function(function, x, which), x[which])

        def use_products(products: JacobianProducts, *x: Any) -> None:
            v, u = self._random(x[which], x[0])
            product, adjoint = products.product, products.adjoint_product
            assert adjoint is not None
            if product is None:
                check_linear(adjoint, u)
            else:
                check_reverse_products(product, adjoint, v, u)

        with_math = with_math_attention(self.torch, function)
        return Alternatives(
            [
                products(self._forward_products, function),
                products(self._forward_products, with_math),
                products(self._reverse_products, function),
                products(self._reverse_products, with_math),
                products(self._adjoint_products, function),
            ],
            function,
            self._missing("the derivative"),
            probe=use_products,
        )

    def _forward_products(self, function: Function, x: Any) -> JacobianProducts:
        with self.torch.no_grad():  # no graph of the parameters of modules
            pullback = self.func.vjp(function, x)[1]
        return JacobianProducts(
            self._for_blocks(self._forward_derivative(function, x)),
            self._for_blocks(lambda y: pullback(y)[0]),
        )

    def _reverse_products(self, function: Function, x: Any) -> JacobianProducts:
        graph = GraphProducts(self.torch, function, x)
        graph.differentiate_adjoint()
        return JacobianProducts(
            self._for_blocks(graph.product), self._for_blocks(graph.adjoint_product)
        )

    def _adjoint_products(self, function: Function, x: Any) -> JacobianProducts:
        graph = GraphProducts(self.torch, function, x)
        return JacobianProducts(None, self._for_blocks(graph.adjoint_product))

    def second_derivative(self, function: Function) -> Function:
        """Return a function (h, theta, a, b) -> f''[a, b].

        It uses forward over forward mode, or reverse mode three times.
        """
        jvp = self.func.jvp

        def forward(function: Function) -> Function:
            def second_derivative(h: Any, theta: Any, a: Any, b: Any, *data: Any) -> Any:
                def along_a(h: Any, theta: Any) -> Any:
                    f = functools.partial(_with_data, function, data)
                    return jvp(f, (h, theta), (a[1], a[0]))[1]

                with forward_mode, self.torch.no_grad():
                    return jvp(along_a, (h, theta), (b[1], b[0]))[1]

            return second_derivative

        def reverse(function: Function) -> Function:
            return lambda h, theta, a, b, *data: second_by_graph(
                self.torch, functools.partial(_with_data, function, data), h, theta, a, b
            )

        with_math = with_math_attention(self.torch, function)
        return Alternatives(
            [forward(function), forward(with_math), reverse(function), reverse(with_math)],
            lambda h, theta, a, b, *data: function(h, theta, *data),
            self._missing("the second derivative"),
        )

    def curvature(self, scalar: Function) -> Function:
        """Return a function (h, theta, lam) -> product with the Hessian.

        It uses forward over reverse mode, or reverse over reverse mode.
        """

        def forward(scalar: Function) -> Function:
            def curvature(h: Any, theta: Any, lam: Any, *data: Any) -> Any:
                gradient = self.func.grad(
                    lambda theta, h: scalar(h, theta, lam, *data), argnums=(0, 1)
                )
                return self._for_blocks(self._forward_derivative(gradient, theta, h))

            return curvature

        def gradient_at(scalar: Function, lam: Any, data: Any) -> Function:
            return lambda theta, h: GraphGradient(
                self.torch, lambda theta, h: scalar(h, theta, lam, *data), theta, h
            )

        def reverse(scalar: Function) -> Function:
            checked: list[bool] = []  # whether the products were compared with differences

            def curvature(h: Any, theta: Any, lam: Any, *data: Any) -> Any:
                if not checked:
                    (weights,) = self._random(lam)
                    at = gradient_at(scalar, weights, data)
                    product = at(theta, h).hessian_product
                    check_hessian_product(
                        lambda *x: at(*x).gradient(),
                        product,
                        (theta, h),
                        self._random(theta, h),
                    )
                    checked.append(True)
                return self._for_blocks(gradient_at(scalar, lam, data)(theta, h).hessian_product)

            return curvature

        with_math = with_math_attention(self.torch, scalar)
        return Alternatives(
            [forward(scalar), forward(with_math), reverse(scalar), reverse(with_math)],
            scalar,
            self._missing("the second derivative"),
            probe=lambda product, h, theta, *_: product(0.0 * theta, 0.0 * h),
        )

    def _forward_derivative(self, function: Function, *x: Any) -> Function:
        # torch.func.linearize traces f, and so does not support branches that depend on values.
        def product(*v: Any) -> Any:
            with forward_mode, self.torch.no_grad():
                return self.func.jvp(function, x, v)[1]

        return product

    def _for_blocks(self, product: Function) -> Function:
        """Extend a product with vectors to blocks."""
        return for_blocks(self.torch, product, self._missing("the product with a block"))


def _entry(i: int) -> Function:
    return lambda leaf: leaf[i]


def _with_data(function: Function, data: Any, h: Any, theta: Any) -> Any:
    return function(h, theta, *data)


def _dtypes(x: Any) -> list[str]:
    dtypes = (getattr(leaf, "dtype", None) for leaf in pytree().tree_leaves(x))
    return sorted({str(dtype).removeprefix("torch.") for dtype in dtypes if dtype is not None})
