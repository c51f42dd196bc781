"""What several processors and compiled loops save, with the extra ``fast``.

    python -m tests.benchmarks.threads [--small] [--threads 2]

Each row compares three ways to do the same, measured in turns: by numpy and scipy on one core, by
compiled loops on one core, and by compiled loops in several threads. The last lines show how busy
the processors are after a product in several threads, which should be not at all. The machine must
be idle: two threads need two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import scipy.sparse as sp
import threadpoolctl

import mfdeq
from mfdeq.arrays import compiled, jit, kernels
from mfdeq.arrays.library import HOST

from .systems import diffusion

SECONDS = 1.5  # for the repetitions of each row
TARGET = 1.7  # of several threads, over one


@contextlib.contextmanager
def plain():
    """Compute by numpy and scipy alone."""
    with (
        mock.patch.object(jit, "min_entries", return_value=2**62),
        mock.patch.object(jit, "min_rows", return_value=2**62),
    ):
        yield


@contextlib.contextmanager
def one_core():
    with mfdeq.threads(1), threadpoolctl.threadpool_limits(1):
        yield


def medians(jobs: list[tuple[Callable, Callable[[], object]]]) -> list[float]:
    """The median seconds of each job in its context, in turns."""
    for context, job in jobs:
        with context():
            job()  # compiles, and touches memory
    times: list[list[float]] = [[] for _ in jobs]
    stop = time.perf_counter() + SECONDS * len(jobs)
    while time.perf_counter() < stop or len(times[0]) < 5:
        for (context, job), seconds in zip(jobs, times, strict=True):
            with context():
                start = time.perf_counter()
                job()
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def products(A, dtype, columns):
    """Products with A and with its transpose, by scipy and by loops."""
    A = sp.csr_array(A.astype(dtype))
    x = np.random.default_rng(0).standard_normal((A.shape[0], columns)[: 1 + (columns > 1)])
    x, rows = x.astype(dtype), compiled.products(A)
    At = A.T.tocsr()
    for _ in range(compiled.COLUMNS_BEFORE_CONVERSION + 1):
        rows.T @ x
    yield "A x", lambda: A @ x, lambda: rows @ x
    yield "A' x", lambda: At @ x, lambda: rows.T @ x


def updates(n):
    X, R, P, Q = np.random.default_rng(0).standard_normal((4, n, 1))
    V = np.random.default_rng(1).standard_normal((20, n)) / n**0.5  # nearly orthonormal
    step = np.array([1e-9])

    def conjugate_gradients(loops):
        loops.column_dots(np, P, Q)
        loops.advance(np, X, R, P, Q, step)
        loops.redirect(np, P, R, step)

    def gram_schmidt(loops):
        loops.subtract_combination(X, V, loops.inner_products(V, X))

    for name, job in (("updates of CG", conjugate_gradients), ("Gram-Schmidt", gram_schmidt)):
        yield name, lambda job=job: job(kernels), lambda job=job: job(compiled)


def solves(A):
    """CG and GMRES with AMG, to 1e-8."""
    b = np.random.default_rng(0).standard_normal(A.shape[0])
    for method in ("cg", "gmres"):
        solver = mfdeq.Krylov(method, preconditioner=mfdeq.AMG(), rtol=1e-8)
        with plain():
            by_numpy = solver.setup(A)
        by_loops = solver.setup(A)

        def without(factor=by_numpy):
            with plain():
                factor.solve(b)

        yield f"{method.upper()} + AMG", without, lambda factor=by_loops: factor.solve(b)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="sizes that take seconds")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    if HOST.kernels is not compiled:
        raise SystemExit('install the extra: pip install -e ".[fast]"')
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{given.threads} threads on {cores} cores; load before: {load:.1f}\n")
    print(f"{'':34}{'compiled over numpy,':>22}{'threads over one':>20}")
    print(f"{'':34}{'one core':>22}{'':>20}")
    problems = [("320 x 320", 320, 2), ("1024 x 1024", 1024, 2), ("64 x 64 x 64", 64, 3)]
    if given.small:
        problems = [("230 x 230", 230, 2)]
    for name, n, dimension in problems:
        A = sp.csr_array(diffusion(n, dimension).A)
        print(f"{name}: {A.shape[0]} unknowns, {A.nnz} entries")
        rows = [
            (f"{what}, {dtype}" + (f", {columns} columns" if columns > 1 else ""), *jobs)
            for dtype in ("float32", "float64")
            for columns in (1, 8)
            for what, *jobs in products(A, dtype, columns)
        ]
        rows += [*updates(A.shape[0]), *solves(A)]
        for what, by_numpy, by_loops in rows:
            threads = lambda: mfdeq.threads(given.threads)  # noqa: E731
            numpy_one, one, several = medians(
                [(one_core, by_numpy), (one_core, by_loops), (threads, by_loops)]
            )
            met = "met" if one / several >= TARGET else "missed"
            print(f"  {what:32}{numpy_one / one:22.2f}{one / several:12.2f} ({TARGET}: {met})")
    with mfdeq.threads(given.threads):
        compiled.products(A) @ np.ones(A.shape[0])
        before = time.process_time()
        time.sleep(0.5)
        busy = (time.process_time() - before) / 0.5
    print(f"processors kept busy in the half second after a product: {busy:.0%} of one")


if __name__ == "__main__":
    main()
