"""Time equilibria as nodes of JAX and PyTorch programs, beside those of other libraries.

python -m tests.benchmarks.node [--sizes 16 1000] [--grid 256] [--repeats 20]

Each row is the median of runs that alternate between the libraries: state, gradient and one product
with the Hessian, at new parameters in every run, compiled before. The peers are optimistix
(its Newton's method with implicit differentiation), a node by hand with `jax.lax.custom_root` and,
for the diffusion problem, conjugate gradients in `jax.lax.custom_linear_solve`; for layers in
PyTorch, a fixed-point iteration and a hook for the adjoint by hand.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import mfdeq

from .problems import Diffusion

LAYER = 64, 16  # samples and unknowns


def medians(runs: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of functions of the number of the run, which alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(0)  # compile
    for i in range(1, repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(i)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def table(title: str, seconds: dict[str, float]) -> None:
    """Print the times, and their ratios to the first."""
    print(title)
    first = next(iter(seconds.values()))
    for name, s in seconds.items():
        print(f"  {name:<24} {1e3 * s:10.2f} ms {s / first:8.2f}")


def whole(loss: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Return the compiled value, gradient and product of a loss."""
    jax = importlib.import_module("jax")

    @jax.jit
    def run(theta: Any, v: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(theta)
        return value, gradient, jax.jvp(jax.grad(loss), (theta,), (v,))[1]

    return lambda theta, v: jax.block_until_ready(run(theta, v))


def small_nodes(n: int) -> dict[str, Callable[[int], Any]]:
    """A dense layer of n unknowns and n + 4 parameters, in JAX."""
    jax = importlib.import_module("jax")
    jnp = jax.numpy
    rng = np.random.default_rng(0)
    P = n + 4
    W, U = rng.standard_normal((n, n)) / (2.0 * n**0.5), rng.standard_normal((n, P)) / P**0.5
    thetas = rng.standard_normal((50, P))

    def f(h: Any, theta: Any) -> Any:
        return jnp.tanh(W @ h + U @ theta)

    node = mfdeq.to_jax(mfdeq.from_jax(f, np.zeros(n), np.zeros(P), "map"))

    def by_hand(theta: Any) -> Any:
        def newton(g: Any, h: Any) -> Any:
            def step(at: Any) -> Any:
                h, d = at
                d = jnp.linalg.solve(jax.jacfwd(g)(h), g(h))
                return h - d, d

            start = h, jnp.ones_like(h)
            unfinished = lambda at: jnp.abs(at[1]).max() > 1e-10  # noqa: E731
            return jax.lax.while_loop(unfinished, step, start)[0]

        def solve(g: Any, b: Any) -> Any:
            return jnp.linalg.solve(jax.jacfwd(g)(jnp.zeros_like(b)), b)

        return jax.lax.custom_root(lambda h: h - f(h, theta), jnp.zeros(n), newton, solve)

    nodes = {"mfdeq": node, "custom_root by hand": by_hand}
    if importlib.util.find_spec("optimistix"):
        optx = importlib.import_module("optimistix")
        solver = optx.Newton(rtol=1e-10, atol=1e-10)

        def peer(theta: Any) -> Any:
            return optx.root_find(lambda h, t: h - f(h, t), solver, jnp.zeros(n), theta).value

        nodes["optimistix"] = peer
    found = {}
    for name, state in nodes.items():
        run = whole(lambda theta, state=state: jnp.sum(jnp.sin(state(theta))))
        found[name] = lambda i, run=run: run(thetas[i], thetas[i + 1 - 2 * (i % 2)])
    return found


def diffusion_nodes(n: int) -> dict[str, Callable[[int], Any]]:
    """The diffusion problem on n cells each way by hand, in a program of JAX."""
    jax = importlib.import_module("jax")
    jnp = jax.numpy
    model = Diffusion(n)
    rng = np.random.default_rng(0)
    thetas = 0.1 * rng.standard_normal((50, model.param_size))
    weights = rng.standard_normal(model.state_size)
    node = mfdeq.to_jax(model)

    def product(theta: Any, h: Any) -> Any:
        """A h, by differences over the faces."""
        k, h = theta.reshape(n, n), h.reshape(n, n)
        total = jnp.zeros((n, n))
        for axis in range(2):
            k1, h1 = (jnp.moveaxis(x, axis, 0) for x in (k, h))
            inner = jnp.exp(0.5 * (k1[1:] + k1[:-1]))
            weight = jnp.concatenate([jnp.exp(k1[:1]), inner, jnp.exp(k1[-1:])])
            padded = jnp.pad(h1, ((1, 1), (0, 0)))
            flux = weight * (padded[1:] - padded[:-1])
            total += jnp.moveaxis(flux[:-1] - flux[1:], 0, axis)
        return ((n + 1) ** 2 * total).reshape(-1)

    def by_cg(theta: Any) -> Any:
        def cg(matvec: Any, b: Any) -> Any:
            return jax.scipy.sparse.linalg.cg(matvec, b, tol=1e-10, maxiter=20 * n)[0]

        def matvec(h: Any) -> Any:
            return product(theta, h)

        return jax.lax.custom_linear_solve(matvec, jnp.ones(n * n), cg, symmetric=True)

    found = {}
    for name, state in {"mfdeq": node, "CG in JAX": by_cg}.items():
        run = whole(lambda theta, state=state: jnp.sum(weights * state(theta) ** 2))
        found[name] = lambda i, run=run: run(thetas[i], thetas[i + 1])
    return found


def layers(dtype: str) -> dict[str, Callable[[int], Any]]:
    """A layer of 16 unknowns for 64 samples, forward and backward, in PyTorch."""
    torch = importlib.import_module("torch")
    samples, n = LAYER
    tolerance = 1e-10 if dtype == "float64" else 1e-6

    class Cell(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.state, self.input = torch.nn.Linear(n, n), torch.nn.Linear(8, n)

        def forward(self, h: Any, x: Any) -> Any:
            return torch.tanh(0.5 * self.state(h) + self.input(x))

    cell = Cell().to(getattr(torch, dtype))

    def iterate(step: Any, x: Any) -> Any:
        for _ in range(200):
            last, x = x, step(x)
            if (x - last).norm() <= tolerance * x.norm():
                break
        return x

    def by_hand(x: Any) -> Any:
        with torch.no_grad():
            h = iterate(lambda h: cell(h, x), x.new_zeros(samples, n))
        out = cell(h, x)
        at = out.detach().requires_grad_()
        again = cell(at, x)

        def adjoint(g: Any) -> Any:
            return iterate(lambda w: g + torch.autograd.grad(again, at, w, retain_graph=True)[0], g)

        out.register_hook(adjoint)
        return out

    inputs = torch.randn(50, samples, 8, dtype=getattr(torch, dtype))
    found = {}
    options: dict[str, dict[str, Any]] = {
        "mfdeq": {},
        'mfdeq, "one_step"': {"backward": "one_step"},
    }
    nodes: dict[str, Any] = {
        name: mfdeq.torch_layer(cell, warm_start=False, **more) for name, more in options.items()
    }
    for name, state in {**nodes, "by hand": by_hand}.items():
        found[name] = lambda i, state=state: (
            state(inputs[i].clone().requires_grad_()).pow(2).sum().backward()
        )
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[16, 1000])
    parser.add_argument("--grid", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if importlib.util.find_spec("jax"):
        importlib.import_module("jax").config.update("jax_enable_x64", True)
        for n in options.sizes:
            title = f"JAX, dense layer of {n}: state, gradient and product"
            table(title, medians(small_nodes(n), options.repeats if n < 500 else 3))
        title = f"JAX, diffusion on {options.grid}² cells by hand: state, gradient and product"
        table(title, medians(diffusion_nodes(options.grid), 2))
    if importlib.util.find_spec("torch"):
        for dtype in ("float64", "float32"):
            title = f"PyTorch, layer of {LAYER[0]} x {LAYER[1]} in {dtype}: forward and backward"
            table(title, medians(layers(dtype), options.repeats))


if __name__ == "__main__":
    main()
