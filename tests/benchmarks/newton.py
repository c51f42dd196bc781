"""When to set up a new factor along Newton's steps: how much additional iterations may cost.

    python -m tests.benchmarks.newton [--sizes 128 256]

A strongly nonlinear diffusion problem is solved with several values of
`mfdeq.linear.reuse.MAX_EXCESS`, relative to a set-up; a negative one sets up a factor at every
step. Then a multigrid hierarchy is refreshed with the entries of a diffusion with another
coefficient, and the iterations with it are compared with those of a new hierarchy and of the
unchanged one.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import numpy as np
import scipy.sparse as sp

import mfdeq
from mfdeq.linear import reuse
from mfdeq.linear.operands import operator_of

from .problems import Diffusion
from .systems import diffusion

LIMITS = (-1.0, 0.25, 0.5, 1.0, 2.0, 4.0)


class Reacting(mfdeq.ResidualModel):
    """A h + theta sinh(h) = q, A lognormal diffusion on n x n cells."""

    param_size = 1

    def __init__(self, n: int) -> None:
        self.state_size = n * n
        A = diffusion(n, 2).A
        self.A = A / abs(A.diagonal()).mean() * 4.0
        self.q = 50.0 * np.sin(np.arange(n * n) / 97.0)

    def residual(self, h, theta):
        return self.A @ h + theta[0] * np.sinh(h) - self.q

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            d_state=(self.A + sp.diags(theta[0] * np.cosh(h))).tocsr(),
            d_params=np.sinh(h)[:, None],
            curvature=None,
        )


def refreshing(n, dimension, sigma, repeats):
    """A row: seconds of a set-up and of a refreshment, and iterations to 1e-8 with each."""
    model = Diffusion(n, dimension)
    zero = np.zeros(model.state_size)
    first, second = (
        operator_of(model.linearize(zero, theta).d_state)
        for theta in (zero, model.lognormal(sigma))
    )
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(), max_iterations=999)
    b = np.random.default_rng(0).standard_normal(model.state_size)

    def iterations(M):
        factor = mfdeq.Krylov("cg", preconditioner=M, block=1, max_iterations=999).setup(second)
        try:
            factor.solve(b, rtol=1e-8)
        except mfdeq.ConvergenceError:
            return "> 999"
        return factor.counts.iterations

    def timed(work):
        start = time.perf_counter()
        found = work()
        return found, time.perf_counter() - start

    kept = iterations(solver.setup(first).M)
    setups, refreshments = [], []
    for _ in range(repeats):
        held = solver.setup(first).M
        new, seconds = timed(lambda: solver.setup(second).M)
        setups.append(seconds)
        refreshments.append(timed(lambda held=held: held.refresh(second))[1])
    times = np.median(setups), np.median(refreshments)
    print(
        f"{f'{n}^{dimension}, sigma {sigma:g}':<18}{times[0]:>9.2f}{times[1]:>13.2f}"
        f"{times[1] / times[0]:>7.2f}{iterations(new):>7}{iterations(held):>11}{kept:>7}"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    solvers = {
        "Direct": mfdeq.Direct(),
        "CG + AMG": mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()),
    }
    print(
        f"{'n':>5} {'solver':<10}{'limit':>7}{'steps':>7}{'set-ups':>9}{'inner':>7}{'seconds':>9}"
    )
    for n in options.sizes:
        model = Reacting(n)
        for name, solver in solvers.items():
            times = {limit: [] for limit in LIMITS}
            for _ in range(options.repeats):  # in turn: noise affects all of them
                reports = {}
                for limit in LIMITS:
                    start = time.perf_counter()
                    with mock.patch.object(reuse, "MAX_EXCESS", limit):
                        reports[limit] = mfdeq.solve(model, np.ones(1), solver=solver).report
                    times[limit].append(time.perf_counter() - start)
            for limit, report in reports.items():
                inner = report.forward.iterations
                print(
                    f"{n:>5} {name:<10}{limit:>9.2f}{report.iterations:>9}"
                    f"{report.forward.setups:>9}{inner:>9}{np.median(times[limit]):>9.2f}"
                )
    print(
        f"\n{'AMG':<18}{'set-up s':>9}{'refreshed s':>13}{'ratio':>7}{'new':>7}{'refreshed':>11}"
        f"{'kept':>7}"
    )
    for n in options.sizes:
        refreshing(2 * n, 2, 1.0, options.repeats)
        refreshing(2 * n, 2, 0.3, options.repeats)
        refreshing(max(round((4 * n * n) ** (1 / 3)), 8), 3, 1.0, options.repeats)


if __name__ == "__main__":
    main()
