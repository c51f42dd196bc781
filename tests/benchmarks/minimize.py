"""Compare Newton's method with L-BFGS for the conductivities under real terrain.

    python -m tests.benchmarks.minimize [--rows 344]

The loss of examples/groundwater.py, misfit plus prior, is minimized from the prior mean until the
gradient has decreased by 1e-8: by Newton-CG, and by L-BFGS with and without the precision of the
prior as its preconditioner, within ten times the equilibria of Newton-CG. The target is a fifth of
the equilibria of L-BFGS, in less time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.sparse as sp

import mfdeq

from .systems import example_named

GTOL = 1e-8


def problem(rows):
    """A functional's maker, the start, and the precision of the prior."""
    example = example_named("groundwater")
    terrain = example.load_terrain(rows)
    model = example.Groundwater(terrain)
    streams = np.flatnonzero(example.upslope_area(terrain.elevation) > example.CHANNEL)
    start = np.full(model.param_size, np.log(example.CONDUCTIVITY))
    R = mfdeq.Precision(model.smoothness())
    misfit = mfdeq.LeastSquares(streams, model.surface[streams])
    loss = misfit + mfdeq.QuadraticPrior(R, start)
    return lambda: mfdeq.ReducedFunctional(model, loss), start, R


def run(functional, start, method, most, **options):
    """The minimum, or how far it came, and the seconds; `most` is of equilibria."""
    begin = time.perf_counter()
    try:
        found = mfdeq.minimize(
            functional,
            start,
            method,
            gtol=GTOL,
            max_iterations=10_000,
            callback=lambda *_: functional.solves >= most,
            **options,
        )
    except mfdeq.ConvergenceError as error:
        found = error.best
    return found, time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=344, help="of cells, 40 to 344")
    options = parser.parse_args()
    functional, start, R = problem(options.rows)
    print(f"N = P = {start.shape[0]:,}; gradient to fall by {GTOL:.0e}")
    newton, newton_seconds = run(functional(), start, "newton-cg", 1000, preconditioner=R)
    most = 10 * newton.report.equilibria
    plain = sp.identity(start.shape[0], format="csr")
    rows = [("Newton-CG, prior", newton, newton_seconds)]
    for name, M in (("L-BFGS, prior", R), ("L-BFGS", plain)):
        rows.append((name, *run(functional(), start, "l-bfgs", most, preconditioner=M)))
    heads = ("equilibria", "products", "seconds", "loss", "|g| / |g0|")
    print(f"{'':<18}" + "".join(f"{head:>14}" for head in heads))
    for name, found, seconds in rows:
        steps, report = found.report.steps, found.report
        fell = steps[-1].gradient_norm / steps[0].gradient_norm
        print(
            f"{name:<18}{report.equilibria:>14}{report.products:>14}{seconds:>14.1f}"
            f"{found.value:>14.8g}{fell:>14.1e}"
        )
    best, seconds = min(
        ((found, seconds) for _, found, seconds in rows[1:]),
        key=lambda pair: (not pair[0].converged, pair[0].report.equilibria, pair[0].value),
    )
    share = newton.report.equilibria / best.report.equilibria
    reached = "" if best.converged else ", which did not get there"
    print(
        f"equilibria over the best L-BFGS{reached}: {share:.2f} "
        f"(at most 0.2: {'met' if share <= 0.2 else 'MISSED'}), "
        f"time {newton_seconds / seconds:.2f} (below 1: "
        f"{'met' if newton_seconds < seconds else 'MISSED'})"
    )


if __name__ == "__main__":
    main()
