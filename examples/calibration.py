"""Calibrating conductivities to heads in wells: Newton–CG compared with L-BFGS.

The terrain, the model and the prior are those of groundwater.py. The true field is drawn from the
prior, and its heads are observed with noise in some wells and in all streams. Starting at the prior
mean, each method minimizes the misfit plus the prior until the gradient has decreased by 1e-8:
Newton–CG with the exact Hessian, L-BFGS, both preconditioned by the precision of the prior, and
L-BFGS without a preconditioner. L-BFGS may solve for ten times as many equilibria as Newton–CG.

    python examples/calibration.py                # 34,744 cells, a minute
    python examples/calibration.py --size small   # 1,880 cells, seconds
    python examples/calibration.py --size full    # 138,632 cells, minutes
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from groundwater import (
    CHANNEL,
    CONDUCTIVITY,
    ROWS,
    Groundwater,
    Terrain,
    load_terrain,
    say,
    upslope_area,
)
from matplotlib import pyplot as plt

import mfdeq
from mfdeq import plot

SIZES = {"small": 40, "half": 172, "full": ROWS["full"]}
CELLS_PER_WELL = 100
NOISE = 1.0  # m, standard deviation of the observed heads
DEVIATION = 0.5  # standard deviation of ln K in the prior
GTOL = 1e-8
MAX_NEWTON_ITERATIONS = 100
MAX_EQUILIBRIA_RATIO = 10  # equilibria of L-BFGS over those of Newton–CG


class Problem(NamedTuple):
    """A model, the observed heads, the prior, and the truth."""

    model: Groundwater
    observed: np.ndarray  # indices of the cells whose heads are observed
    data: np.ndarray
    loss: mfdeq.Loss
    prior: mfdeq.Precision
    mean: np.ndarray
    truth: np.ndarray


def synthetic_problem(terrain: Terrain) -> Problem:
    """Draw the truth from the prior and observe its heads, with noise."""
    model = Groundwater(terrain)
    R = mfdeq.Precision(model.smoothness(DEVIATION))
    mean = np.full(model.param_size, np.log(CONDUCTIVITY))
    truth = mean + R.samples(seed=4)
    heads = mfdeq.solve(model, truth).state
    rng = np.random.default_rng(5)
    wells = rng.choice(heads.size, heads.size // CELLS_PER_WELL, replace=False)
    streams = np.flatnonzero(upslope_area(terrain.elevation) > CHANNEL)
    observed = np.union1d(wells, streams)
    data = heads[observed] + NOISE * rng.standard_normal(observed.size)
    misfit = mfdeq.LeastSquares(observed, data, weights=NOISE**-2)
    return Problem(model, observed, data, misfit + mfdeq.QuadraticPrior(R, mean), R, mean, truth)


def calibrate(problem: Problem, method: str, max_equilibria: int, **options) -> mfdeq.Minimum:
    """Minimize from the prior mean; return what is reached within `max_equilibria` solves."""
    functional = mfdeq.ReducedFunctional(problem.model, problem.loss)

    def exhausted(theta, step):
        return functional.solves >= max_equilibria

    try:
        return mfdeq.minimize(
            functional, problem.mean, method, gtol=GTOL, callback=exhausted, **options
        )
    except mfdeq.ConvergenceError as error:
        return error.best


def draw(path: Path, terrain: Terrain, problem: Problem, found: dict) -> None:
    """Save the figure: gradients over solves and seconds, the true and the calibrated field."""
    z, dx, dy, _ = terrain
    extent = (0, z.shape[1] * dx / 1e3, z.shape[0] * dy / 1e3, 0)  # km
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    for ax, over in zip(axes[0], ("solves", "seconds"), strict=True):
        plot.convergence(found, ax, over=over)
        ax.set_title(f"Gradient over {ax.get_xlabel()}", loc="left")

    best = found["Newton–CG, prior"].params
    fields = {"True ln K": problem.truth, "Calibrated ln K": best}
    largest = np.quantile(abs(problem.truth - problem.mean), 0.995)
    for ax, (title, field) in zip(axes[1], fields.items(), strict=True):
        style = {"vmin": -largest, "vmax": largest, "extent": extent}
        plot.field(field - problem.mean, z.shape, ax=ax, **style)
        ax.set_title(f"{title}, relative to the prior mean", loc="left")
        ax.set(xlabel="km east", ylabel="km south")
    row, column = np.divmod(problem.observed, z.shape[1])
    east, south = (column + 0.5) * dx / 1e3, (row + 0.5) * dy / 1e3
    ax.plot(east, south, ".", color="k", ms=2, mew=0, alpha=0.6, label="wells and streams")
    ax.legend(loc="lower right", markerscale=4)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Calibrate by all three methods and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="half")
    parser.add_argument("--output", type=Path, default="calibration.png", help="file of the figure")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    terrain = load_terrain(SIZES[options.size])
    problem = synthetic_problem(terrain)
    say(
        "Problem",
        f"{problem.mean.size:,} log conductivities, {problem.observed.size:,} observed heads, "
        f"σ = {NOISE:g} m; target: the gradient decreases by {GTOL:.0e}",
    )

    prior = {"preconditioner": problem.prior}
    identity = sp.identity(problem.mean.size, format="csr")
    newton = calibrate(problem, "newton-cg", 10**6, max_iterations=MAX_NEWTON_ITERATIONS, **prior)
    budget = MAX_EQUILIBRIA_RATIO * newton.report.equilibria
    found = {
        "Newton–CG, prior": newton,
        "L-BFGS, prior": calibrate(problem, "l-bfgs", budget, max_iterations=budget, **prior),
        "L-BFGS": calibrate(
            problem, "l-bfgs", budget, max_iterations=budget, preconditioner=identity
        ),
    }
    rows = ["                  iterations equilibria gradients products  solves  seconds  |g|/|g0|"]
    for name, minimum in found.items():
        report = minimum.report
        fell = report.steps[-1].gradient_norm / report.steps[0].gradient_norm
        rows.append(
            f"{name:<18}{len(report.steps) - 1:>10} {report.equilibria:>10} "
            f"{report.gradients:>9} {report.products:>8} {report.solves:>7} "
            f"{report.seconds:>8.1f} {fell:>9.1e}" + ("" if minimum.converged else "  stopped")
        )
    say("Methods", *rows)

    residual = newton.equilibrium.state[problem.observed] - problem.data
    for name, field in (("prior mean", problem.mean), ("calibrated", newton.params)):
        rms = np.sqrt(np.mean((field - problem.truth) ** 2))
        say("Field", f"{name}: rms error of ln K {rms:.3f}")
    say("Heads", f"rms difference from the observed heads {np.sqrt(np.mean(residual**2)):.2f} m")
    draw(options.output, terrain, problem, found)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
