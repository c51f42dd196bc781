"""Derivatives by JAX, which are compiled once for each model.

Jacobians are computed by `jax.linearize` and `jax.vjp`, and applied to blocks by `jax.vmap`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..arrays.optional_packages import import_optional
from ..errors import ModelError
from .alternatives import (
    Alternatives,
    check_linear,
    check_reverse_products,
    first_line,
    missing_mode_error,
    partial_function,
)
from .jax_arrays import array_layout, describe, to_jax_array, to_jax_data
from .jax_krylov import compile_solve
from .source import (
    DerivativeSource,
    Function,
    JacobianProducts,
    TreeLayout,
    not_scalar_error,
)

ADVICE = (
    "Define custom derivatives by jax.custom_jvp, which serves both modes, or give this derivative "
    "by hand with mfdeq.mixed"
)


class JaxSource(DerivativeSource):
    """A source of derivatives by JAX, which compiles each function once for each model."""

    name, caller = "JAX", "mfdeq.from_jax"
    cuts = "jax.lax.stop_gradient, numpy in a callback, or a custom derivative that is wrong"

    def __init__(self) -> None:
        self.jax = jax = _import_jax()
        self._apply = _for_blocks(jax, lambda linear, x: linear(x), (None, 1))
        self._adjoint = _for_blocks(jax, lambda transposed, y: transposed(y)[0], (None, 1))
        self._along = _for_blocks(jax, lambda linear, u, z: linear(u, z), (None, 1, 1))
        self._lu = import_optional("jax.scipy.linalg", "jax")
        self._solve_blocks = jax.jit(jax.vmap(self._lu.lu_solve))
        self._krylov = functools.cache(functools.partial(compile_solve, jax))

    def __reduce__(self) -> tuple[Any, ...]:
        return JaxSource, ()

    def layout(self, tree: Any, name: str) -> TreeLayout:
        """Return the layout of an example: `name` is "state" or "params"."""
        return array_layout(self.jax, tree, name)

    def data(self, args: Any) -> Any:
        """Convert a pytree to JAX arrays, which compiled functions take without a copy."""
        return to_jax_data(self.jax, args)

    def data_leaves(self, data: Any) -> Mapping[str, Any]:
        """Return the leaves of a pytree by their paths."""
        leaves, _ = self.jax.tree_util.tree_flatten_with_path(data)
        return {self.jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    def map_data(self, function: Function, data: Any) -> Any:
        """Return a pytree with a function of each leaf."""
        return self.jax.tree_util.tree_map(function, data)

    def vectorized(self, function: Function, axes: tuple[int | None, ...]) -> Function:
        """Return a function that maps another over an axis of its arguments."""
        return self.jax.vmap(function, in_axes=axes)

    def sample_blocks(self, function: Function) -> Function:
        """Return a compiled function (H, theta, data) -> (values, Jacobians) of samples."""
        jax, axes = self.jax, (0, None, 0)
        # Compiled on their own: XLA takes twice the time for Jacobians beside values.
        values = jax.jit(jax.vmap(function, in_axes=axes))

        def blocks(differentiate: Function) -> Function:
            jacobians = jax.jit(jax.vmap(differentiate(function), in_axes=axes))
            return lambda h, theta, data: (values(h, theta, data), jacobians(h, theta, data))

        return self._either_mode(blocks, function)

    def sample_step(self, function: Function, is_map: bool) -> Function:
        """Return a function that computes Newton's steps of all samples in one compiled call."""
        jax = self.jax
        factorize, solve = self._lu.lu_factor, self._lu.lu_solve

        def steps(differentiate: Function) -> Function:
            def of_one(h: Any, theta: Any, data: Any, sizes: Any) -> Any:
                R, A = _value_and_jacobian(differentiate, function, h, theta, data)
                if is_map:
                    R, A = h - R, jax.numpy.eye(A.shape[0], dtype=A.dtype) - A
                factors, size = factorize(A), abs(A)
                D = solve(factors, R)
                return R, size @ sizes, size @ jax.numpy.maximum(sizes, abs(D)), D, factors

            return jax.jit(jax.vmap(of_one, in_axes=(0, None, 0, 0)))

        compiled = self._either_mode(steps, lambda h, theta, data, _: function(h, theta, data))

        def step(H: Any, theta: Any, data: Any, sizes: Any) -> Any:
            *arrays, factors = compiled(H, theta, data, sizes)
            return *arrays, functools.partial(self._solve_blocks, factors)

        return step

    def _either_mode(self, make: Function, function: Function) -> Function:
        return Alternatives(
            [make(self.jax.jacfwd), make(self.jax.jacrev)],
            lambda h, theta, data, *rest: self.jax.vmap(
                function, in_axes=(0, None, 0, *[0] * len(rest))
            )(h, theta, data, *rest),
            functools.partial(missing_mode_error, self.caller, "the derivative", ADVICE),
        )

    def describe_output(self, f: Function, state: Any, params: Any, *data: Any) -> Any:
        """Describe the output of f by an abstract evaluation."""
        return describe(self.jax, self._shapes(f, state, params, *data))

    def to_library(self, *arrays: Array) -> list[Any]:
        """Convert arrays to JAX arrays, without a copy if possible."""
        return [to_jax_array(self.jax, x) for x in arrays]

    def operands(self, *arrays: Array) -> list[Any]:
        """Return arrays of numpy as they are, since compiled functions convert them faster."""
        dtypes = (host.float32, host.float64)[: 1 + self.jax.config.jax_enable_x64]
        if all(type(x) is host.ndarray and x.dtype in dtypes for x in arrays):
            return list(arrays)
        return self.to_library(*arrays)

    def from_library(self, backend: Backend, x: Any) -> Array:
        """Convert a JAX array to a new array of the backend."""
        return backend.copy_from(x)

    def view(self, backend: Backend, x: Any) -> Array:
        """Return a JAX array as a read-only array of numpy, which shares its memory."""
        return host.asarray(x) if backend.is_numpy else self.from_library(backend, x)

    def check_scalar(self, f: Function, caller: str, state: Any, params: Any, *data: Any) -> None:
        """Raise `ModelError` unless f returns one real number for the examples."""
        output = self._shapes(f, state, params, *data)
        if not hasattr(output, "shape") or output.size != 1 or output.dtype.kind != "f":
            raise not_scalar_error(caller, output)

    def _shapes(self, f: Function, state: Any, params: Any, *data: Any) -> Any:
        try:
            return self.jax.eval_shape(f, state, params, *data)
        except self.jax.errors.JAXTypeError as error:
            error.add_note(
                "mfdeq: f must be a function that JAX can trace. A function that needs the values "
                "of its arguments, or numpy arrays, is one for mfdeq.from_function"
            )
            raise
        except TypeError as error:
            if "dtype" not in str(error):
                raise
            raise ModelError(
                f"f of {self.caller} mixes dtypes, where its arguments are in "
                f"{describe(self.jax, state)} and {describe(self.jax, params)} "
                f"({first_line(error)}). Convert the arrays that it uses to one dtype"
            ) from error

    def trace_once(self, function: Function) -> Function:
        """Return the function as JAX traces it at its first use."""
        return self.jax.jit(function, inline=True)

    def value(self, function: Function) -> Function:
        """Return a compiled function (h, theta) -> f(h, theta)."""
        return self.jax.jit(function)

    def gradient(self, scalar: Function) -> Function:
        """Return a compiled function (h, theta) -> (dL/dh, dL/dtheta)."""
        return self.jax.jit(self.jax.grad(scalar, argnums=(0, 1)))

    def state_gradient(self, scalar: Function) -> Function:
        """Return a function (h, theta) -> dL/dh."""
        return self.jax.grad(scalar)

    def _random(self, *like: Any) -> list[Any]:
        """Return vectors of random numbers like others."""
        numbers = host.random.default_rng(0).standard_normal
        return [self.jax.numpy.asarray(numbers(x.shape), dtype=x.dtype) for x in like]

    def jacobians(self, function: Function) -> list[Function]:
        """Return functions (h, theta) -> the products with df/dh and with df/dtheta.

        A function without forward mode (`jax.custom_vjp`) is differentiated twice in reverse mode,
        and one without reverse mode (`jax.lax.while_loop`) has no adjoint products.
        """
        return [self._jacobian(function, which) for which in range(2)]

    def _jacobian(self, function: Function, which: int) -> Function:
        jax = self.jax

        def linear_maps(product: Function | None, adjoint: Function | None) -> Function:
            @jax.jit
            def maps(*x: Any) -> Any:
                part = partial_function(function, x, which)
                return product and product(part, x[which]), adjoint and adjoint(part, x[which])

            return maps

        def forward(part: Function, x: Any) -> Any:
            return jax.linearize(part, x)[1]

        def reverse(part: Function, x: Any) -> Any:
            y, transposed = jax.vjp(part, x)
            jax.eval_shape(transposed, y)  # a missing mode may show only here
            return transposed

        def reverse_twice(part: Function, x: Any) -> Any:
            y, transposed = jax.vjp(part, x)
            zero = jax.numpy.zeros_like(y)
            twice = jax.vjp(lambda y: transposed(y)[0], zero)[1]
            return jax.tree_util.Partial(_adjoint, twice)

        def use_products(maps: Any, *x: Any) -> None:
            linear, transposed = maps
            v, u = self._random(x[which], x[0])
            if linear is None:
                check_linear(functools.partial(self._adjoint, transposed), u)
                return
            self._apply(linear, v)
            if getattr(linear, "func", None) is _adjoint:  # derived from reverse mode
                check_reverse_products(
                    functools.partial(self._apply, linear),
                    functools.partial(self._adjoint, transposed),
                    v,
                    u,
                )

        find_maps = Alternatives(
            [
                linear_maps(forward, reverse),
                linear_maps(reverse_twice, reverse),
                linear_maps(None, reverse),
                linear_maps(forward, None),
            ],
            function,
            functools.partial(missing_mode_error, self.caller, "the derivative", ADVICE),
            probe=use_products,
        )

        def jacobian(*x: Any) -> JacobianProducts:
            linear, transposed = find_maps(*x)
            return JacobianProducts(
                linear and functools.partial(self._apply, linear),
                transposed and functools.partial(self._adjoint, transposed),
                (linear, transposed) if linear and transposed else None,
            )

        return jacobian

    def second_derivative(self, function: Function) -> Function:
        """Return a compiled function (h, theta, a, b) -> f''[a, b].

        It uses forward over forward mode, or reverse mode three times.
        """
        jax = self.jax

        @jax.jit
        def forward(h: Any, theta: Any, a: Any, b: Any, *data: Any) -> Any:
            def along_a(h: Any, theta: Any) -> Any:
                f = functools.partial(_with_data, function, data)
                return jax.jvp(f, (h, theta), (a[1], a[0]))[1]

            return jax.jvp(along_a, (h, theta), (b[1], b[0]))[1]

        @jax.jit
        def reverse(h: Any, theta: Any, a: Any, b: Any, *data: Any) -> Any:
            def hessian_entry(y: Any) -> Any:  # b'(Hessian of y'f) a, whose gradient is f''[a, b]
                gradient = jax.grad(lambda h, theta: y @ function(h, theta, *data), argnums=(0, 1))
                along_a = jax.vjp(gradient, h, theta)[1]((a[1], a[0]))
                return along_a[0] @ b[1] + along_a[1] @ b[0]

            return jax.grad(hessian_entry)(jax.numpy.zeros_like(h))

        return Alternatives(
            [forward, reverse],
            lambda h, theta, a, b, *data: function(h, theta, *data),
            functools.partial(missing_mode_error, self.caller, "the second derivative", ADVICE),
        )

    def curvature(self, scalar: Function) -> Function:
        """Return a function (h, theta, lam) -> product with the Hessian.

        It uses forward over reverse mode, or reverse over reverse mode.
        """
        jax = self.jax

        def linear_map(differentiate: Function) -> Function:
            def at(h: Any, theta: Any, lam: Any, *data: Any) -> Any:
                gradient = jax.grad(lambda theta, h: scalar(h, theta, lam, *data), argnums=(0, 1))
                return differentiate(gradient, theta, h)

            return jax.jit(at)

        def forward(gradient: Function, theta: Any, h: Any) -> Any:
            return jax.linearize(gradient, theta, h)[1]

        def reverse(gradient: Function, theta: Any, h: Any) -> Any:
            return jax.tree_util.Partial(_symmetric, jax.vjp(gradient, theta, h)[1])

        find_map = Alternatives(
            [linear_map(forward), linear_map(reverse)],
            scalar,
            functools.partial(missing_mode_error, self.caller, "the second derivative", ADVICE),
            probe=lambda linear, h, theta, *_: self._along(linear, 0.0 * theta, 0.0 * h),
        )
        return lambda *x: functools.partial(self._along, find_map(*x))

    def compiled_krylov(self, compiled: Any, method: str, identity_minus: bool) -> Any:
        """Return a compiled solve with the Jacobian J or with I − J."""
        partial, (linear, transposed) = self.jax.tree_util.Partial, compiled
        sides = [
            partial(_identity_minus if identity_minus else _plain, linear),
            partial(_identity_minus_adjoint if identity_minus else _adjoint, transposed),
        ]
        if method == "cg":
            sides[1] = sides[0]  # A is symmetric, and its product is cheaper than its adjoint's
        solve = self._krylov(method)
        return lambda B, weights, rtol, max_iterations, restart, adjoint: solve(
            sides[adjoint], B, weights, rtol, max_iterations, restart
        )


def _for_blocks(jax: ModuleType, product: Function, axes: tuple[Any, ...]) -> Function:
    """Compile a product for vectors and for blocks of them."""
    vector = jax.jit(product)
    block = jax.jit(jax.vmap(product, in_axes=axes, out_axes=1))
    return lambda linear, *x: (vector if x[0].ndim == 1 else block)(linear, *x)


def _value_and_jacobian(
    differentiate: Function, function: Function, h: Any, theta: Any, data: Any
) -> Any:
    def twice(h: Any) -> Any:
        value = function(h, theta, data)
        return value, value

    jacobian, value = differentiate(twice, has_aux=True)(h)
    return value, jacobian


def _with_data(function: Function, data: Any, h: Any, theta: Any) -> Any:
    return function(h, theta, *data)


def _plain(linear: Any, x: Any) -> Any:
    return linear(x)


def _adjoint(transposed: Any, y: Any) -> Any:
    return transposed(y)[0]


def _symmetric(transposed: Any, u: Any, z: Any) -> Any:
    return transposed((u, z))


def _identity_minus(linear: Any, x: Any) -> Any:
    return x - linear(x)


def _identity_minus_adjoint(transposed: Any, y: Any) -> Any:
    return y - transposed(y)[0]


def _import_jax() -> ModuleType:
    jax = import_optional("jax", "jax")
    for module in ("jax.flatten_util", "jax.dlpack"):  # `import jax` may not load these
        import_optional(module, "jax")
    return jax
