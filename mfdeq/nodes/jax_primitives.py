"""Primitives of JAX for equilibria and for the products with their derivatives.

All operands are vectors along their last axis, with equal numbers of leading axes, which are
broadcast: a batch is one call of the host. Under `jax.jit` the call is a callback; elsewhere it is
a plain function call, so that errors of mfdeq reach the caller as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..arrays.backend import host
from ..arrays.optional_packages import import_optional
from ..errors import ModelError
from .jax_callback import as_callback
from .products import DERIVATIVES, TRANSPOSES

THIRD_ORDER_ADVICE = (
    "create the model by mfdeq.from_jax, whose nodes are differentiated to any order"
)


class Primitives:
    """The primitives of all nodes.

    ``state`` is h*(theta). For models that JAX can differentiate, ``solve`` is A^-1 b or A'^-1 b,
    and its derivatives are those of A by JAX. For other models ``product`` is one of Z u, Z' y,
    h''[u, v] and the Hessian of y'h* times v, each of which is a derivative of the one before.
    """

    def __init__(self) -> None:
        self.jax: ModuleType = import_optional("jax", "jax")
        self.core = import_optional("jax.extend.core", "jax")
        self.ad = import_optional("jax.interpreters.ad", "jax")
        self.state = self._primitive("mfdeq_state", _host_state, _state_size, self._state_jvp)
        self.solve = self._primitive("mfdeq_solve", _host_solve, _last_size, self._solve_jvp)
        self.product = self._primitive(
            "mfdeq_product", _host_product, _product_size, self._product_jvp
        )
        self.ad.primitive_transposes[self.solve] = self._solve_transpose
        self.ad.primitive_transposes[self.product] = self._product_transpose

    def _primitive(
        self, name: str, on_host: Callable[..., Any], size: Callable[..., int], jvp: Any
    ) -> Any:
        jax, jnp = self.jax, self.jax.numpy
        batching = import_optional("jax.interpreters.batching", "jax")
        mlir = import_optional("jax.interpreters.mlir", "jax")
        primitive = self.core.Primitive(name)

        def call(*operands: Any, **params: Any) -> Any:
            return jnp.asarray(on_host(*map(host.asarray, operands), **params))

        def shape(*operands: Any, **params: Any) -> Any:
            batch = host.broadcast_shapes(*(x.shape[:-1] for x in operands))
            return jax.core.ShapedArray((*batch, size(*operands, **params)), operands[0].dtype)

        def lowered(ctx: Any, *operands: Any, **params: Any) -> Any:
            # Unlike `jax.pure_callback` this leaves the operands arrays of numpy. To make arrays of
            # JAX of them takes a thread, and all threads may be waiting in such callbacks.
            program = ctx.module_context
            results, _, callback = mlir.emit_python_callback(
                ctx,
                as_callback(jax, functools.partial(on_host, **params), program.get_backend()),
                None,
                list(operands),
                ctx.avals_in,
                ctx.avals_out,
                has_side_effect=False,
                returns_token=False,
            )
            program.add_keepalive(callback)
            return results

        def batched(operands: Any, axes: Any, **params: Any) -> Any:
            moved = [
                x[None] if axis is None else jnp.moveaxis(x, axis, 0)
                for x, axis in zip(operands, axes, strict=True)
            ]
            return primitive.bind(*moved, **params), 0

        primitive.def_impl(call)
        primitive.def_abstract_eval(shape)
        mlir.register_lowering(primitive, lowered)
        batching.primitive_batchers[primitive] = batched
        self.ad.primitive_jvps[primitive] = jvp
        return primitive

    def _is_zero(self, tangent: Any) -> bool:
        return type(tangent) is self.ad.Zero

    def _zero(self, value: Any) -> Any:
        return self.ad.Zero.from_primal_value(value)

    def _filled(self, tangents: Any) -> list[Any]:
        """Return tangents with arrays of zeros in place of symbolic zeros."""
        return [self.ad.instantiate_zeros(tangent) for tangent in tangents]

    def _sum(self, terms: list[Any], value: Any) -> Any:
        """Return the sum of the terms that exist, or a symbolic zero like a value."""
        return functools.reduce(lambda x, y: x + y, terms) if terms else self._zero(value)

    # h*(theta): operands theta and h0, which has no derivative.

    def _state_jvp(self, primals: Any, tangents: Any, *, node: Any) -> Any:
        theta, _ = primals
        h = self.state.bind(*primals, node=node)
        if self._is_zero(tangents[0]):
            return h, self._zero(h)
        (u,) = self._filled(tangents[:1])
        if node.residual is None:
            return h, self.product.bind(theta, h, u, node=node, name="sensitivity")
        rhs = self._along_params(node.residual, h, theta, u)
        return h, self.solve.bind(theta, h, -rhs, node=node, adjoint=False)

    def _along_params(self, residual: Any, h: Any, theta: Any, u: Any) -> Any:
        """Return dR/dtheta u."""
        jax = self.jax

        def product(h: Any, theta: Any, u: Any) -> Any:
            return jax.jvp(lambda theta: residual(h, theta), (theta,), (u,))[1]

        return jax.numpy.vectorize(product, signature="(n),(p),(p)->(n)")(h, theta, u)

    # A^-1 b and A'^-1 b: operands theta, h and b.

    def _solve_jvp(self, primals: Any, tangents: Any, *, node: Any, adjoint: bool) -> Any:
        theta, h, _ = primals
        bind = functools.partial(self.solve.bind, theta, h, node=node, adjoint=adjoint)
        x = bind(primals[2])
        terms = [] if self._is_zero(tangents[2]) else [tangents[2]]
        if not all(map(self._is_zero, tangents[:2])):
            # A x = b, so that A dx = db - dA x.
            along = self._state_product(node.residual, adjoint)
            d_theta, d_h = self._filled(tangents[:2])
            terms.append(
                -self.jax.jvp(lambda theta, h: along(h, theta, x), (theta, h), (d_theta, d_h))[1]
            )
        if not terms:
            return x, self._zero(x)
        return x, bind(self._sum(terms, x))

    def _state_product(self, residual: Any, adjoint: bool) -> Any:
        """Return the function (h, theta, x) -> A x, or A' x."""
        jax = self.jax

        def product(h: Any, theta: Any, x: Any) -> Any:
            def at(h: Any) -> Any:
                return residual(h, theta)

            return jax.vjp(at, h)[1](x)[0] if adjoint else jax.jvp(at, (h,), (x,))[1]

        return jax.numpy.vectorize(product, signature="(n),(p),(n)->(n)")

    def _solve_transpose(
        self, cotangent: Any, theta: Any, h: Any, b: Any, *, node: Any, adjoint: bool
    ) -> Any:
        if self._is_zero(cotangent):
            return [None, None, cotangent]
        x = self.solve.bind(theta, h, cotangent, node=node, adjoint=not adjoint)
        return [None, None, self._like(x, b.aval.shape)]

    def _like(self, x: Any, shape: tuple[int, ...]) -> Any:
        """Sum a cotangent over the leading axes along which its operand was broadcast."""
        axes = tuple(i for i, (m, n) in enumerate(zip(x.shape, shape, strict=True)) if n == 1 != m)
        return self.jax.numpy.sum(x, axis=axes, keepdims=True) if axes else x

    # Products with derivatives of h*(theta): operands theta, h and vectors in which they are
    # linear. All are functions of theta alone, so that a tangent of h does not count.

    def _product_jvp(self, primals: Any, tangents: Any, *, node: Any, name: str) -> Any:
        theta, h, *vectors = primals
        bind = functools.partial(self.product.bind, theta, h, node=node)
        value = bind(*vectors, name=name)
        terms = []
        for i, tangent in enumerate(tangents[2:]):
            if not self._is_zero(tangent):
                terms.append(bind(*vectors[:i], tangent, *vectors[i + 1 :], name=name))
        if not self._is_zero(tangents[0]):
            if name not in DERIVATIVES:
                raise ModelError(
                    f"{node.name}: expected at most second derivatives of a node whose model is "
                    f"not a function of JAX, got third ones: {THIRD_ORDER_ADVICE}"
                )
            terms.append(bind(*vectors, *self._filled(tangents[:1]), name=DERIVATIVES[name]))
        return value, self._sum(terms, value)

    def _product_transpose(
        self, cotangent: Any, theta: Any, h: Any, *vectors: Any, node: Any, name: str
    ) -> Any:
        unknown = [self.ad.is_undefined_primal(x) for x in vectors]
        i = unknown.index(True)
        result: list[Any] = [None] * (2 + len(vectors))
        if self._is_zero(cotangent):
            result[2 + i] = cotangent
            return result
        others = [x for x, is_unknown in zip(vectors, unknown, strict=True) if not is_unknown]
        transposed, swap = TRANSPOSES[name][i]
        operands = [*others, cotangent] if swap else [cotangent, *others]
        x = self.product.bind(theta, h, *operands, node=node, name=transposed)
        result[2 + i] = self._like(x, vectors[i].aval.shape)
        return result


def _host_state(theta: Any, h0: Any, *, node: Any) -> Any:
    return node.host.states(theta, h0)


def _host_solve(theta: Any, h: Any, b: Any, *, node: Any, adjoint: bool) -> Any:
    return node.host.products("solve_adjoint" if adjoint else "solve", theta, h, b)


def _host_product(theta: Any, h: Any, *vectors: Any, node: Any, name: str) -> Any:
    return node.host.products(name, theta, h, *vectors)


def _state_size(theta: Any, h0: Any, *, node: Any) -> int:
    return node.host.model.state_size


def _last_size(theta: Any, h: Any, b: Any, **params: Any) -> int:
    return h.shape[-1]


def _product_size(theta: Any, h: Any, *vectors: Any, node: Any, name: str) -> int:
    return (theta if name in ("sensitivity_adjoint", "component_hessian") else h).shape[-1]


@functools.cache
def primitives() -> Primitives:
    """Return the primitives, which are made once."""
    return Primitives()
