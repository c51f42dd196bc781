"""The cost of a Hessian product beyond its two solves, and the memory for a million unknowns.

    python -m tests.benchmarks.hessian [--size 256] [--million] [--peers]

Products and what they are compared with are timed alternately in one run; the ratio is the median
over the pairs. With Krylov methods, the target is 1.15 times the two bare solves, with the same
right-hand sides and the same factor; with Direct, it is 1.3 times two bare solves by the LU plus
one product each with B, B', K, A and A'. The target for the memory is 6 GB at N = P = 10^6, for a
gradient and ten products. With --peers, products are compared with JAX's and hIPPYlib's, on one
core.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time

import numpy as np

import mfdeq

from .linear import one_core
from .problems import Diffusion

SOLVERS = {
    "Direct": mfdeq.Direct(package="superlu"),
    "CG + AMG": mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()),
    "GMRES + AMG": mfdeq.Krylov("gmres", preconditioner=mfdeq.AMG()),
}


def paired(first, second, repeats):
    """Median seconds of two functions called in turn, and the median of their ratios."""
    first(), second()
    times = []
    for _ in range(repeats):
        marks = [time.perf_counter()]
        for function in (first, second):
            function()
            marks.append(time.perf_counter())
        times.append(np.diff(marks))
    a, b = np.transpose(times)
    return statistics.median(a), statistics.median(b), statistics.median(a / b)


def bare(eq, H, v, direct):
    """The solves of H @ v alone, with the right-hand sides that the product gives them."""
    factor, A, B, K = eq.factor, eq.state_operator, eq.param_operator, H.lagrangian
    rhs = B @ v
    z = factor.solve(rhs)
    stacked = np.concatenate([v, z])
    a_h = (K @ stacked)[v.shape[0] :]
    if not direct:
        return lambda: (factor.solve(rhs), factor.solve_adjoint(a_h))
    lu = factor.factorization.lu
    matrices = [op.array for op in (A, A.H, B)]
    return lambda: (
        lu.solve(rhs, "N"),
        lu.solve(a_h, "T"),
        [matrix @ z for matrix in matrices],
        B.H @ z,
        K @ stacked,
    )


def product_table(n, repeats):
    model = Diffusion(n)
    theta, loss = model.lognormal(), model.loss()
    v = np.random.default_rng(0).standard_normal(model.param_size)
    print(f"five-point diffusion, N = P = {n * n}, {repeats} pairs")
    heads = ("product ms", "bare ms", "ratio", "bound", "iterations")
    print(f"{'solver':<14}" + "".join(f"{head:>12}" for head in heads))
    for name, solver in SOLVERS.items():
        eq = mfdeq.solve(model, theta, solver=solver)
        H = eq.hessian(loss)
        direct = name == "Direct"
        product, solves, ratio = paired(lambda H=H: H @ v, bare(eq, H, v, direct), repeats)
        before = eq.report.linear.iterations
        _ = H @ v
        iterations = eq.report.linear.iterations - before
        bound = 1.3 if direct else 1.15
        print(
            f"{name:<14}{1e3 * product:>12.2f}{1e3 * solves:>12.2f}{ratio:>12.3f}{bound:>12}"
            f"{iterations:>12}"
        )
        columns = np.random.default_rng(1).standard_normal((model.param_size, 8))
        start = time.perf_counter()
        _ = H @ columns
        column = 1e3 * (time.perf_counter() - start) / 8
        print(f"{'':<14}{column:>12.2f} per column in a block of 8")


def million():
    model = Diffusion(1000)
    loss = model.loss()
    start = time.perf_counter()
    eq = mfdeq.solve(model, model.lognormal(), solver=SOLVERS["CG + AMG"])
    solved = time.perf_counter()
    gradient = eq.gradient(loss)
    first = time.perf_counter()
    H = eq.hessian(loss)
    for seed in range(10):
        _ = H @ np.random.default_rng(seed).standard_normal(gradient.shape[0])
    last = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"N = P = {model.state_size}: solve {solved - start:.1f} s, "
        f"gradient {first - solved:.1f} s, "
        f"ten products {last - first:.1f} s; peak memory {peak:.2f} GiB (bound 5.59 GiB = 6 GB)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="cells along a side")
    parser.add_argument("--pairs", type=int, default=15, help="pairs timed")
    parser.add_argument("--million", action="store_true", help="the memory of N = P = 10^6 alone")
    parser.add_argument("--peers", action="store_true", help="against JAX and hIPPYlib alone")
    options = parser.parse_args()
    if options.million:
        million()
    elif options.peers:
        one_core()  # of the process that takes the place of this one
        os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.hessian_peers"])
    else:
        product_table(options.size, options.pairs)


if __name__ == "__main__":
    main()
