"""Compare Hessian products of a model from JAX with the same products written in JAX.

    python -m tests.benchmarks.jax_products [--sides N ...] [--rounds R]

The problem is -div(exp(theta) grad h) = 1 on N x N cells, as one JAX function. The program written
in JAX has A, A', B, B' and K by `jax.linearize` and `jax.vjp`, stored at the equilibrium, and
`jax.scipy.sparse.linalg.cg`, with all of a product in one compiled function. Both solve to a
relative residual of 1e-8 and are timed alternately. With the (detected) pattern, mfdeq may also
factorize.
"""

from __future__ import annotations

import argparse
import time

RTOL = 1e-8
TARGET = 1.1


def by_hand(f, h, theta, loss):
    """v -> H v, compiled, of a symmetric A."""
    import jax
    from jax.scipy.sparse.linalg import cg

    def solve(A, b):
        return cg(A, b, tol=RTOL)[0]

    A = jax.jit(lambda h, theta: jax.linearize(lambda h: f(h, theta), h)[1])(h, theta)
    B, Bt = jax.jit(
        lambda h, theta: (
            jax.linearize(lambda theta: f(h, theta), theta)[1],
            jax.vjp(lambda theta: f(h, theta), theta)[1],
        )
    )(h, theta)
    d_h = jax.grad(loss, argnums=0)(h, theta)
    lam = jax.jit(solve)(A, d_h)

    def lagrangian(theta, h):
        return loss(h, theta) - lam @ f(h, theta)

    K = jax.jit(lambda h, theta: jax.linearize(jax.grad(lagrangian, argnums=(0, 1)), theta, h)[1])(
        h, theta
    )

    @jax.jit
    def product(A, B, Bt, K, v):
        z = solve(A, -B(v))
        a_theta, a_h = K(v, z)
        return a_theta - Bt(solve(A, a_h))[0]

    return lambda v: product(A, B, Bt, K, v).block_until_ready()


def diffusion(n):
    """The residual as a JAX function of the cells of a square."""
    import jax.numpy as jnp

    def f(h, theta):
        H, T = jnp.pad(h.reshape(n, n), 1), jnp.pad(theta.reshape(n, n), 1, mode="edge")
        k = jnp.exp(T)
        east = 0.5 * (k[1:-1, 1:] + k[1:-1, :-1]) * (H[1:-1, 1:] - H[1:-1, :-1])
        north = 0.5 * (k[1:, 1:-1] + k[:-1, 1:-1]) * (H[1:, 1:-1] - H[:-1, 1:-1])
        divergence = east[:, 1:] - east[:, :-1] + north[1:] - north[:-1]
        return -(divergence * (n + 1) ** 2 + 1.0).ravel()

    return f


def compare(n, rounds):
    """Print the products of both in turns."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import mfdeq

    from .systems import lognormal

    f, theta = diffusion(n), lognormal((n, n)).ravel()

    def loss(h, theta):
        return 0.5 * 1e4 * (h[:: max(1, n // 8)] ** 2).sum()

    model = mfdeq.from_jax(f, theta, theta, "residual", sparsity="detect")
    eq = mfdeq.solve(model, theta)
    made = {"pattern": eq.hessian(mfdeq.loss_from_jax(loss, theta, theta))}
    free = mfdeq.from_jax(f, theta, theta, "residual")
    cg = mfdeq.Krylov("cg", rtol=RTOL, max_iterations=10_000)
    alone = mfdeq.equilibrium_at(free, theta, eq.state, solver=cg)
    made["products"] = alone.hessian(mfdeq.loss_from_jax(loss, theta, theta))
    hand = by_hand(f, jnp.asarray(eq.state), jnp.asarray(theta), loss)
    v = np.random.default_rng(0).standard_normal(theta.size)
    runs = {name: (lambda H=H: H @ v) for name, H in made.items()} | {"by hand": lambda: hand(v)}
    found = {name: np.asarray(run()) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    median = {name: float(np.median(t)) for name, t in times.items()}
    size = np.linalg.norm(found["pattern"])
    off = {name: np.linalg.norm(x - found["pattern"]) / size for name, x in found.items()}
    print(f"\nN = P = {n * n:,} ({jax.devices()[0].platform}); {eq.report.solver} with the pattern")
    for name, seconds in median.items():
        print(f"    {name:<10} {1e3 * seconds:10.1f} ms   off by {off[name]:.0e}")
    for name in made:
        ratio = median[name] / median["by hand"]
        verdict = "met" if ratio <= TARGET else "MISSED"
        print(f"    {name} / by hand = {ratio:.2f} (target <= {TARGET}: {verdict})", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    import jax

    jax.config.update("jax_enable_x64", True)
    for n in options.sides:
        compare(n, options.rounds)


if __name__ == "__main__":
    main()
