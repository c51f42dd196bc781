"""Small problems: the cost of a solve, a gradient and one Hessian product, checks included.

    python -m tests.benchmarks.small [--sizes 1 10 100] [--large 1000] [--repeats 30]

The map h = tanh(W h + B theta) is solved from zero, by derivatives by hand, from a function of JAX
or PyTorch, and from a plain function, each by `mfdeq.solve` with its defaults. The peers compute
the same without checks, error estimates or operators: `scipy.optimize.root` and LAPACK by hand, and
a compiled function of JAX. Times are the least of many in processor time, in turn; calls are those
of Python functions, built-in ones included. The first call of JAX is compared with the time that
JAX itself takes to trace, lower and compile.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse as sp

import mfdeq

AIMS = {"hand": 1.0, "JAX": 3.0, "plain": 3.0}  # milliseconds at N = P = 10
TRIDIAGONAL_AIM, DENSE_AIM, FIRST_AIM = 5.0, 1.2, 1.2


class Network(mfdeq.FixedPointModel):
    """h = tanh(W h + B theta), with dense or tridiagonal W."""

    def __init__(self, n: int, tridiagonal: bool = False) -> None:
        self.state_size = self.param_size = n
        rng = np.random.default_rng(0)
        if tridiagonal:
            diagonals = [np.full(n - 1, -0.3), np.full(n, 0.5), np.full(n - 1, 0.2)]
            self.W = sp.diags_array(diagonals, offsets=[-1, 0, 1]).tocsr()
            self.B = sp.eye_array(n).tocsr()
            self.rows = [np.repeat(np.arange(n), np.diff(x.indptr)) for x in (self.W, self.B)]
        else:
            self.W = 0.5 * rng.standard_normal((n, n)) / n**0.5
            self.B = rng.standard_normal((n, n)) / n**0.5
        self.theta, self.v = rng.standard_normal(n), rng.standard_normal(n)

    def map(self, h, theta):
        return np.tanh(self.W @ h + self.B @ theta)

    def scaled(self, factors, matrix):
        if not sp.issparse(matrix):
            return factors[:, None] * matrix
        data = factors[self.rows[matrix is self.B]] * matrix.data
        return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)

    def linearize(self, h, theta):
        f = self.map(h, theta)
        first, second = 1.0 - f * f, -2.0 * f * (1.0 - f * f)

        def curvature(lam):
            def apply(dtheta, dh):
                s = second * lam * (self.B @ dtheta + self.W @ dh)
                return self.B.T @ s, self.W.T @ s

            return mfdeq.Curvature(apply=apply)

        d_state, d_params = self.scaled(first, self.W), self.scaled(first, self.B)
        return mfdeq.Linearization(d_state, d_params, curvature)


def run(model, theta, v, loss):
    """Solve, and compute a gradient and one product, by mfdeq."""
    eq = mfdeq.solve(model, theta)
    return eq.state, eq.gradient(loss), eq.hessian(loss) @ v


def by_mfdeq(problem: Network, model: mfdeq.FixedPointModel) -> Callable[[], Any]:
    loss = mfdeq.LeastSquares(np.arange(problem.state_size), np.zeros(problem.state_size))
    return lambda: run(model, problem.theta, problem.v, loss)


def by_scipy(problem: Network) -> Callable[[], Any]:
    """The same by scipy.optimize.root and LAPACK, by hand; of a tridiagonal W by SuperLU."""
    n, W, B = problem.state_size, problem.W, problem.B
    theta, v, sparse = problem.theta, problem.v, sp.issparse(problem.W)

    def factorize(h):
        f = problem.map(h, theta)
        J = problem.scaled(1.0 - f * f, W)
        if sparse:
            lu = sp.linalg.splu((sp.eye_array(n) - J).tocsc())
            return f, lu.solve, lambda b: lu.solve(b, "T")
        lu = scipy.linalg.lu_factor(np.eye(n) - J)
        return f, lambda b: scipy.linalg.lu_solve(lu, b), lambda b: scipy.linalg.lu_solve(lu, b, 1)

    def root():
        if not sparse:
            return scipy.optimize.root(
                lambda h: h - problem.map(h, theta),
                np.zeros(n),
                jac=lambda h: np.eye(n) - (1.0 - problem.map(h, theta) ** 2)[:, None] * W,
                tol=1e-12,
            ).x
        h = np.zeros(n)
        for _ in range(20):
            f, solve, _ = factorize(h)
            step = solve(h - f)
            h = h - step
            if abs(step).max() < 1e-10:
                return h
        return h

    def everything():
        h = root()
        f, solve, adjoint = factorize(h)
        first, second = 1.0 - f * f, -2.0 * f * (1.0 - f * f)
        lam = adjoint(h)
        z = solve(first * (B @ v))
        s = second * lam * (B @ v + W @ z)
        w = adjoint(z + W.T @ s)
        return h, B.T @ (first * lam), B.T @ (s + first * w)

    return everything


def jax_function(problem: Network) -> Callable[..., Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    return lambda h, theta: jax.numpy.tanh(problem.W @ h + problem.B @ theta)


def by_jax(problem: Network) -> Callable[[], Any]:
    """The same in one compiled function of JAX: Newton's method and implicit derivatives."""
    import jax

    f, n = jax_function(problem), problem.state_size

    def loss(theta):
        def residual(h):
            return h - f(h, theta)

        def newton(residual, h):
            def step(carry):
                h, _ = carry
                d = jax.numpy.linalg.solve(jax.jacobian(residual)(h), residual(h))
                return h - d, abs(d).max()

            return jax.lax.while_loop(lambda carry: carry[1] > 1e-10, step, (h, 1.0))[0]

        def tangent_solve(g, y):
            return jax.numpy.linalg.solve(jax.jacobian(g)(y), y)

        h = jax.lax.custom_root(residual, jax.numpy.zeros(n), newton, tangent_solve)
        return 0.5 * h @ h, h

    @jax.jit
    def everything(theta, v):
        gradient = jax.grad(loss, has_aux=True)
        (g, h), (product, _) = jax.jvp(gradient, (theta,), (v,))
        return h, g, product

    return lambda: jax.block_until_ready(everything(problem.theta, problem.v))


def models(problem: Network) -> dict[str, mfdeq.FixedPointModel]:
    """Return the models by the source of their derivatives; those whose package is installed."""
    n = problem.state_size
    found = {"hand": problem, "plain": mfdeq.from_function(problem.map, n, n, "map")}
    if importlib.util.find_spec("jax"):
        found["JAX"] = mfdeq.from_jax(jax_function(problem), np.zeros(n), np.zeros(n), kind="map")
    if importlib.util.find_spec("torch"):
        import torch

        W, B = torch.as_tensor(problem.W), torch.as_tensor(problem.B)
        zero = torch.zeros(n, dtype=torch.float64)
        found["torch"] = mfdeq.from_torch(
            lambda h, theta: torch.tanh(W @ h + B @ theta), zero, zero, kind="map"
        )
    return found


def calls(function: Callable[[], Any], folder: str = "") -> int:
    """Return the number of Python and built-in functions that are called by files of a folder."""
    count = 0

    def profile(frame, event, _):
        nonlocal count
        if event in ("call", "c_call"):
            caller = frame if event == "c_call" else frame.f_back
            count += caller.f_code.co_filename.startswith(folder)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count - (not folder)  # sys.setprofile itself


def least_times(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the least processor time of each function, in milliseconds, called in turn."""
    best = dict.fromkeys(functions, np.inf)
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def rows(problem: Network, functions: dict[str, Callable[[], Any]], title: str, repeats: int):
    """Print a row for each function, with its results compared with those of scipy."""
    expected = by_scipy(problem)()
    for name, function in functions.items():
        for x, y in zip(function(), expected, strict=True):
            np.testing.assert_allclose(np.asarray(x), y, rtol=1e-6, atol=1e-8, err_msg=name)
    times = least_times(functions, repeats)
    for name, function in functions.items():
        of_jax = f"{times[name] / times['JAX alone']:9.1f}" if "JAX alone" in times else " " * 9
        print(
            f"{title:<18}{name:<12}{times[name]:>9.2f}{calls(function):>9}"
            f"{times[name] / times['scipy']:>9.1f}{of_jax}"
        )
    return times


def first_call(n: int) -> tuple[float, float]:
    """Return the seconds of a model's first call from JAX, and of JAX's own compilation in it."""
    import jax

    spent = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: spent.append(seconds) if "/compile/" in event else None
    )
    problem = Network(n)
    f = jax_function(problem)
    start = time.perf_counter()
    by_mfdeq(problem, mfdeq.from_jax(f, np.zeros(n), np.zeros(n), kind="map"))()
    return time.perf_counter() - start, sum(spent)


def lu_time(n: int, repeats: int) -> float:
    """Return the least time of scipy's factorization of a dense matrix, in milliseconds."""
    A = np.random.default_rng(0).standard_normal((n, n))
    return least_times({"lu": lambda: scipy.linalg.lu_factor(A)}, repeats)["lu"]


def verdict(text: str, value: float, aim: float) -> None:
    print(f"{text}: {value:.2f} (aim <= {aim:g}: {'met' if value <= aim else 'missed'})")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--large", type=int, default=1000, help="unknowns of the large problems")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args(argv)
    has_jax = importlib.util.find_spec("jax") is not None
    compiled = first_call(10) if has_jax else None  # before anything else is compiled
    print(f"{'problem':<18}{'by':<12}{'ms':>9}{'calls':>9}{'/ scipy':>9}{'/ JAX':>9}")
    for n in options.sizes:
        problem = Network(n)
        functions = {name: by_mfdeq(problem, model) for name, model in models(problem).items()}
        functions["scipy"] = by_scipy(problem)
        if has_jax:
            functions["JAX alone"] = by_jax(problem)
        times = rows(problem, functions, f"N = P = {n}", options.repeats)
        if n == 10:
            aims = [(name, times[name], aim) for name, aim in AIMS.items() if name in times]
    n, repeats = options.large, max(options.repeats // 6, 2)
    large = {}
    for tridiagonal in (True, False):
        problem = Network(n, tridiagonal)
        functions = {"hand": by_mfdeq(problem, problem), "scipy": by_scipy(problem)}
        title = f"{'tridiagonal' if tridiagonal else 'dense'} {n}"
        large[tridiagonal] = rows(problem, functions, title, repeats)["hand"]
    eq = mfdeq.solve(problem, problem.theta)
    eq.gradient(mfdeq.LeastSquares(np.arange(n), np.zeros(n)))
    setups = eq.report.forward.setups + eq.report.linear.setups
    print()
    if 10 in options.sizes:
        for name, value, aim in aims:
            verdict(f"N = P = 10 by {name}, ms", value, aim)
    verdict(f"tridiagonal {n}, ms", large[True], TRIDIAGONAL_AIM)
    ratio = large[False] / (setups * lu_time(n, repeats))
    verdict(f"dense {n}, over {setups} factorizations of scipy", ratio, DENSE_AIM)
    if compiled is not None:
        verdict("first call from JAX, over its compilation", compiled[0] / compiled[1], FIRST_AIM)


if __name__ == "__main__":
    main()
