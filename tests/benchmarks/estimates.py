"""Measure what error estimates add to the first gradient and product at an equilibrium.

    python -m tests.benchmarks.estimates [--rows 344]

The reduced functional of examples/groundwater.py is evaluated from its default start (the solve, a
gradient and a product with the Hessian) with and without error estimates. The target is a tenth of
the time. A second point nearby starts from the last state, as in an optimization.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import mfdeq

from .minimize import problem


def measure(model, loss, points, v, error_estimates):
    """Return the CPU seconds of a value, a gradient and a product at each point."""
    F = mfdeq.ReducedFunctional(model, loss, error_estimates=error_estimates)
    seconds = []
    for theta in points:
        start = time.process_time()
        F.gradient(theta), F.hessp(theta, v)
        seconds.append(time.process_time() - start)
    return np.array(seconds), F.equilibrium(points[-1]).report


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=344)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    functional, theta, _ = problem(options.rows)
    model, loss = functional().model, functional().loss
    v = np.random.default_rng(0).standard_normal(theta.shape[0])
    points = theta, theta + 0.1 * v / np.abs(v).max()
    measure(model, loss, points, v, False)
    best = {False: np.inf, True: np.inf}
    for _ in range(options.repeats):
        for error_estimates in best:
            seconds, report = measure(model, loss, points, v, error_estimates)
            best[error_estimates] = np.minimum(best[error_estimates], seconds)
    print(f"{model.state_size} unknowns, {report.solver}")
    print(f"{'point':<8} {'without, s':>10} {'with, s':>10} {'share':>8}")
    for name, without, estimated in zip(("first", "next"), best[False], best[True], strict=True):
        share = estimated / without - 1
        print(f"{name:<8} {without:>10.3f} {estimated:>10.3f} {share:>8.1%}")
    print(f"errors: gradient {report.gradient_error:.0e}, product {report.product_error:.0e}")


if __name__ == "__main__":
    main()
