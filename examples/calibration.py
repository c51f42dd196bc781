"""Calibrating conductivities to heads in wells: Newton–CG beside L-BFGS, on solves and seconds.

The terrain, the model and the prior are those of groundwater.py. A field drawn from the prior is
the truth; heads under it are seen in some wells and in all streams, with noise. From the prior's
mean each method minimizes misfit and prior until the gradient has fallen by 1e-8: Newton–CG, whose
steps see the exact Hessian, and L-BFGS, both with the prior's precision as preconditioner, and
L-BFGS without, as far as it comes in ten times the equilibria of Newton–CG.

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
WELLS = 100  # cells to a well
NOISE = 1.0  # m, of heads
DEVIATION = 0.5  # of ln K, in the prior
GTOL = 1e-8
MOST = 100  # iterations of Newton–CG
TIMES = 10  # its equilibria, which L-BFGS may take


class Problem(NamedTuple):
    """A model, what was seen of its heads, the prior, and the truth."""

    model: Groundwater
    seen: np.ndarray
    data: np.ndarray
    loss: mfdeq.Loss
    prior: mfdeq.Precision
    mean: np.ndarray
    truth: np.ndarray


def twin(terrain: Terrain) -> Problem:
    """Draw a truth from the prior and see heads under it, with noise."""
    model = Groundwater(terrain)
    R = mfdeq.Precision(model.smoothness(DEVIATION))
    mean = np.full(model.param_size, np.log(CONDUCTIVITY))
    truth = mean + R.samples(seed=4)
    heads = mfdeq.solve(model, truth).state
    rng = np.random.default_rng(5)
    wells = rng.choice(heads.size, heads.size // WELLS, replace=False)
    streams = np.flatnonzero(upslope_area(terrain.elevation) > CHANNEL)
    seen = np.union1d(wells, streams)
    data = heads[seen] + NOISE * rng.standard_normal(seen.size)
    misfit = mfdeq.LeastSquares(seen, data, weights=NOISE**-2)
    return Problem(model, seen, data, misfit + mfdeq.QuadraticPrior(R, mean), R, mean, truth)


def calibrate(problem: Problem, method: str, most: int, **options) -> mfdeq.Minimum:
    """Minimize from the prior's mean; what there is when `most` equilibria are spent."""
    functional = mfdeq.ReducedFunctional(problem.model, problem.loss)

    def spent(theta, step):
        return functional.solves >= most

    try:
        return mfdeq.minimize(
            functional, problem.mean, method, gtol=GTOL, callback=spent, **options
        )
    except mfdeq.ConvergenceError as error:
        return error.best


def draw(path: Path, terrain: Terrain, problem: Problem, found: dict) -> None:
    """Save the figure: gradients over solves and seconds, the truth and what was calibrated."""
    z, dx, dy, _ = terrain
    extent = (0, z.shape[1] * dx / 1e3, z.shape[0] * dy / 1e3, 0)  # km
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    for ax, over in zip(axes[0], ("solves", "seconds"), strict=True):
        plot.convergence(found, ax, over=over)
        ax.set_title(f"Gradient over {ax.get_xlabel()}", loc="left")

    best = found["Newton–CG, prior"].params
    fields = {"ln K, the truth": problem.truth, "ln K, calibrated": best}
    largest = np.quantile(abs(problem.truth - problem.mean), 0.995)
    for ax, (title, field) in zip(axes[1], fields.items(), strict=True):
        style = {"vmin": -largest, "vmax": largest, "extent": extent}
        plot.field(field - problem.mean, z.shape, ax=ax, **style)
        ax.set_title(f"{title}, over the prior mean", loc="left")
        ax.set(xlabel="km east", ylabel="km south")
    row, column = np.divmod(problem.seen, z.shape[1])
    east, south = (column + 0.5) * dx / 1e3, (row + 0.5) * dy / 1e3
    ax.plot(east, south, ".", color="k", ms=2, mew=0, alpha=0.6, label="wells and streams")
    ax.legend(loc="lower right", markerscale=4)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Calibrate by all three and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="half")
    parser.add_argument("--output", type=Path, default="calibration.png", help="the figure")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    terrain = load_terrain(SIZES[options.size])
    problem = twin(terrain)
    say(
        "Problem",
        f"{problem.mean.size:,} log conductivities, {problem.seen.size:,} heads seen, "
        f"σ = {NOISE:g} m; the gradient is to fall by {GTOL:.0e}",
    )

    prior = {"preconditioner": problem.prior}
    newton = calibrate(problem, "newton-cg", 10**6, max_iterations=MOST, **prior)
    most = TIMES * newton.report.equilibria
    found = {
        "Newton–CG, prior": newton,
        "L-BFGS, prior": calibrate(problem, "l-bfgs", most, max_iterations=most, **prior),
        "L-BFGS": calibrate(problem, "l-bfgs", most, max_iterations=most),
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

    off = newton.equilibrium.state[problem.seen] - problem.data
    for name, field in (("prior mean", problem.mean), ("calibrated", newton.params)):
        rms = np.sqrt(np.mean((field - problem.truth) ** 2))
        say("Field", f"{name}: {rms:.3f} from the truth in ln K, rms")
    say("Heads", f"{np.sqrt(np.mean(off**2)):.2f} m off those seen, rms")
    draw(options.output, terrain, problem, found)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


if __name__ == "__main__":
    main()
