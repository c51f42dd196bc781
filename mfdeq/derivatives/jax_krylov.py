"""CG and GMRES compiled by JAX, for products that JAX compiles: a whole solve is one call.

The methods of `linear.cg` and `linear.gmres` for one column; blocks are their `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


def compiled(jax: ModuleType, method: str) -> Callable[..., Any]:
    """solve(product, B, rtol, most, restart) -> (X, residuals, iterations, definite), by columns.

    `product` is a callable pytree (`jax.tree_util.Partial`), so that one compilation serves all.
    """
    solve = {"cg": _cg, "gmres": _gmres}[method](jax)

    def columns(product: Any, B: Any, rtol: float, most: int, restart: int) -> Any:
        def one(b: Any) -> Any:
            return solve(product, b, rtol, most, restart)

        if B.shape[1] == 1:  # without the masks of a batch
            x, *rest = one(B[:, 0])
            return x[:, None], *rest
        return jax.vmap(one, in_axes=1, out_axes=(1, 0, 0, 0))(B)

    return jax.jit(columns, static_argnums=4)


def _cg(jax: ModuleType) -> Callable[..., Any]:
    jnp = jax.numpy

    def solve(product: Any, b: Any, rtol: float, most: int, restart: int) -> Any:
        target = (rtol * jnp.linalg.norm(b)) ** 2

        def goes_on(carried: Any) -> Any:
            _, _, _, square, iterations, definite = carried
            return (square > target) & (iterations < most) & definite

        def step(carried: Any) -> Any:
            x, r, p, square, iterations, _ = carried
            q = product(p)
            definite = p @ q > 0
            alpha = jnp.where(definite, square / (p @ q), 0.0)
            x, r = x + alpha * p, r - alpha * q
            new = r @ r
            return x, r, r + new / square * p, new, iterations + 1, definite

        start = (jnp.zeros_like(b), b, b, b @ b, 0, jnp.asarray(True))
        x, _, _, square, iterations, definite = jax.lax.while_loop(goes_on, step, start)
        return x, jnp.sqrt(square), iterations, definite

    return solve


def _gmres(jax: ModuleType) -> Callable[..., Any]:
    jnp, lax = jax.numpy, jax.lax

    def rotated(j: Any, column: Any, rotations: Any) -> Any:
        def one(i: Any, column: Any) -> Any:
            (c, s), a, b = rotations[i], column[i], column[i + 1]
            return column.at[i].set(c * a + s * b).at[i + 1].set(c * b - s * a)

        return lax.fori_loop(0, j, one, column)

    def cycle(product: Any, r: Any, target: Any, left: Any, m: int) -> Any:
        """The correction of smallest residual in a space of up to m directions."""
        size = jnp.linalg.norm(r)
        V = jnp.zeros((m + 1, r.shape[0]), r.dtype).at[0].set(r / jnp.where(size > 0, size, 1.0))
        start = (
            V,
            jnp.eye(m + 1, m, dtype=r.dtype),  # its triangle, the identity where not yet built
            jnp.zeros(m + 1, r.dtype).at[0].set(size),
            jnp.zeros((m, 2), r.dtype),
            0,
        )

        def goes_on(carried: Any) -> Any:
            _, _, rhs, _, j = carried
            return (j < jnp.minimum(m, left)) & (jnp.abs(rhs[j]) > target)

        def step(carried: Any) -> Any:
            V, R, rhs, rotations, j = carried
            w = product(V[j])
            h = V @ w
            w = w - h @ V
            again = V @ w
            w = w - again @ V
            below = jnp.linalg.norm(w)
            column = rotated(j, (h + again).at[j + 1].set(below), rotations)
            length = jnp.hypot(column[j], column[j + 1])
            c, s = column[j] / length, column[j + 1] / length
            V = V.at[j + 1].set(w / jnp.where(below > 0, below, 1.0))
            R = R.at[:, j].set(column.at[j].set(length).at[j + 1].set(0.0))
            rhs = rhs.at[j + 1].set(-s * rhs[j]).at[j].set(c * rhs[j])
            return V, R, rhs, rotations.at[j].set(jnp.stack([c, s])), j + 1

        V, R, rhs, _, j = lax.while_loop(goes_on, step, start)
        used = jnp.where(jnp.arange(m) < j, rhs[:m], 0.0)
        y = jax.scipy.linalg.solve_triangular(R[:m], used)
        return y @ V[:m], j

    def solve(product: Any, b: Any, rtol: float, most: int, restart: int) -> Any:
        m = min(restart, b.shape[0])
        target = rtol * jnp.linalg.norm(b)

        def goes_on(carried: Any) -> Any:
            _, _, now, before, iterations = carried
            return (now > target) & (iterations < most) & (now < 0.999 * before)

        def step(carried: Any) -> Any:
            x, r, now, _, iterations = carried
            d, taken = cycle(product, r, target, most - iterations, m)
            r = r - product(d)
            return x + d, r, jnp.linalg.norm(r), now, iterations + taken

        infinite = jnp.asarray(jnp.inf, b.dtype)
        start = (jnp.zeros_like(b), b, jnp.linalg.norm(b), infinite, 0)
        x, _, now, _, iterations = lax.while_loop(goes_on, step, start)
        return x, now, iterations, jnp.asarray(True)

    return solve
