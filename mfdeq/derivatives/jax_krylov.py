"""CG and GMRES as one compiled function of JAX, for products that JAX compiles.

The methods are those of `linear.krylov.cg` and `linear.krylov.gmres` for one column, without a
preconditioner; blocks are their `vmap`. One call solves a whole system, where a method outside
would call JAX at every iteration.

References
----------
M. R. Hestenes and E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res.
Nat. Bur. Standards 49 (1952).

Y. Saad and M. H. Schultz, GMRES: a generalized minimal residual algorithm for solving nonsymmetric
linear systems, SIAM J. Sci. Stat. Comput. 7 (1986).
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

STAGNATION_RATIO = 0.999  # of the residuals after and before a cycle, above which GMRES stops


def compile_solve(jax: ModuleType, method: str) -> Callable[..., Any]:
    """Compile a Krylov method for the columns of a block.

    Parameters
    ----------
    jax : module
    method : {"cg", "gmres"}

    Returns
    -------
    solve : callable
        ``solve(product, B, weights, rtol, max_iterations, restart)`` returns (X, residuals,
        iterations, definite) as `operators.compiled_solves.CompiledSolve` does. `product` is a
        callable pytree (`jax.tree_util.Partial`), so that one compilation serves all matrices of a
        shape.
    """
    solve = {"cg": _cg, "gmres": _gmres}[method](jax)

    def columns(
        product: Any, B: Any, weights: Any, rtol: float, max_iterations: int, restart: int
    ) -> Any:
        def weighted(x: Any) -> Any:
            return weights * product(x)

        def one(b: Any) -> Any:
            return solve(weighted, b, rtol, max_iterations, restart)

        if B.shape[1] == 1:  # A batch would add masks.
            x, *rest = one(B[:, 0])
            return x[:, None], *rest
        return jax.vmap(one, in_axes=1, out_axes=(1, 0, 0, 0))(B)

    return jax.jit(columns, static_argnums=5)


def _cg(jax: ModuleType) -> Callable[..., Any]:
    jnp = jax.numpy

    def solve(product: Any, b: Any, rtol: float, max_iterations: int, restart: int) -> Any:
        target = (rtol * jnp.linalg.norm(b)) ** 2

        def continues(state: Any) -> Any:
            _, _, _, square, iterations, definite = state
            return (square > target) & (iterations < max_iterations) & definite

        def step(state: Any) -> Any:
            x, r, p, square, iterations, _ = state
            q = product(p)
            definite = p @ q > 0
            alpha = jnp.where(definite, square / (p @ q), 0.0)
            x, r = x + alpha * p, r - alpha * q
            new = r @ r
            return x, r, r + new / square * p, new, iterations + 1, definite

        start = (jnp.zeros_like(b), b, b, b @ b, 0, jnp.asarray(True))
        x, _, _, square, iterations, definite = jax.lax.while_loop(continues, step, start)
        return x, jnp.sqrt(square), iterations, definite

    return solve


def _gmres(jax: ModuleType) -> Callable[..., Any]:
    jnp, lax = jax.numpy, jax.lax

    def rotate(j: Any, column: Any, rotations: Any) -> Any:
        def one(i: Any, column: Any) -> Any:
            (c, s), a, b = rotations[i], column[i], column[i + 1]
            return column.at[i].set(c * a + s * b).at[i + 1].set(c * b - s * a)

        return lax.fori_loop(0, j, one, column)

    def cycle(product: Any, r: Any, target: Any, budget: Any, m: int) -> Any:
        """The correction with the smallest residual in a Krylov space of up to m directions."""
        size = jnp.linalg.norm(r)
        V = jnp.zeros((m + 1, r.shape[0]), r.dtype).at[0].set(r / jnp.where(size > 0, size, 1.0))
        start = (
            V,
            jnp.eye(m + 1, m, dtype=r.dtype),  # R of H = Q R, the identity where not built yet
            jnp.zeros(m + 1, r.dtype).at[0].set(size),
            jnp.zeros((m, 2), r.dtype),
            0,
        )

        def continues(state: Any) -> Any:
            _, _, rhs, _, j = state
            return (j < jnp.minimum(m, budget)) & (jnp.abs(rhs[j]) > target)

        def step(state: Any) -> Any:
            V, R, rhs, rotations, j = state
            w = product(V[j])
            h = V @ w
            w = w - h @ V
            again = V @ w
            w = w - again @ V
            below = jnp.linalg.norm(w)
            column = rotate(j, (h + again).at[j + 1].set(below), rotations)
            length = jnp.hypot(column[j], column[j + 1])
            c, s = column[j] / length, column[j + 1] / length
            V = V.at[j + 1].set(w / jnp.where(below > 0, below, 1.0))
            R = R.at[:, j].set(column.at[j].set(length).at[j + 1].set(0.0))
            rhs = rhs.at[j + 1].set(-s * rhs[j]).at[j].set(c * rhs[j])
            return V, R, rhs, rotations.at[j].set(jnp.stack([c, s])), j + 1

        V, R, rhs, _, j = lax.while_loop(continues, step, start)
        used = jnp.where(jnp.arange(m) < j, rhs[:m], 0.0)
        y = jax.scipy.linalg.solve_triangular(R[:m], used)
        return y @ V[:m], j

    def solve(product: Any, b: Any, rtol: float, max_iterations: int, restart: int) -> Any:
        m = min(restart, b.shape[0])
        target = rtol * jnp.linalg.norm(b)

        def continues(state: Any) -> Any:
            _, _, now, before, iterations = state
            progress = now < STAGNATION_RATIO * before
            return (now > target) & (iterations < max_iterations) & progress

        def step(state: Any) -> Any:
            x, r, now, _, iterations = state
            d, steps = cycle(product, r, target, max_iterations - iterations, m)
            r = r - product(d)
            return x + d, r, jnp.linalg.norm(r), now, iterations + steps

        infinite = jnp.asarray(jnp.inf, b.dtype)
        start = (jnp.zeros_like(b), b, jnp.linalg.norm(b), infinite, 0)
        x, _, now, _, iterations = lax.while_loop(continues, step, start)
        return x, now, iterations, jnp.asarray(True)

    return solve
