"""When to set a factor up anew along Newton's steps: iterations that its age may cost first.

    python -m tests.benchmarks.newton [--sizes 128 256]

The solve of a strongly nonlinear diffusion problem by limits of `mfdeq.linear.reuse.SETUP`; a
negative one sets up at every step.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import numpy as np
import scipy.sparse as sp

import mfdeq
from mfdeq.linear import reuse

from .systems import diffusion

LIMITS = (-1.0, 10.0, 20.0, 40.0, 80.0, 160.0)


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
            for _ in range(options.repeats):  # in turn: noise hits all alike
                reports = {}
                for limit in LIMITS:
                    start = time.perf_counter()
                    with mock.patch.object(reuse, "SETUP", limit):
                        reports[limit] = mfdeq.solve(model, np.ones(1), solver=solver).report
                    times[limit].append(time.perf_counter() - start)
            for limit, report in reports.items():
                inner = report.forward.iterations
                print(
                    f"{n:>5} {name:<10}{limit:>9.0f}{report.iterations:>9}"
                    f"{report.forward.setups:>9}{inner:>9}{np.median(times[limit]):>9.2f}"
                )


if __name__ == "__main__":
    main()
