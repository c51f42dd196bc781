"""Calibrating conductivities under real terrain: Newton's method beside L-BFGS.

The model, the terrain and the prior are those of groundwater.py. A field of log conductivities is
drawn from the prior, the heads it makes are observed in wells, with noise, and the field is sought
from those: by Newton's method in trust regions, 100 iterations at most, with exact products of the
Hessian and the prior as preconditioner; by L-BFGS with the same preconditioner; and by L-BFGS
without one. Beside each other stand the linear solves and the seconds that they take.

    python examples/calibration.py                # minutes on two cores
    python examples/calibration.py --size small   # seconds
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from groundwater import CONDUCTIVITY, SOLVERS, Groundwater, Terrain, load_terrain, say, timed
from groundwater import ROWS as MEASURED_ROWS
from identifiability import Problem
from matplotlib import pyplot as plt

import mfdeq
from mfdeq import plot

ROWS = {"small": 40, "full": 160}
MEASURED = MEASURED_ROWS["full"]
CELLS_A_WELL = 40
NOISE = 0.5  # m
GTOL = 1e-6  # of the gradient at the prior's mean
ITERATIONS = {"newton-cg": 100, "l-bfgs": 300}
METHODS = {  # and whether the prior preconditions
    "Newton–CG, prior": ("newton-cg", True),
    "L-BFGS, prior": ("l-bfgs", True),
    "L-BFGS": ("l-bfgs", False),
}


# --- the problem ---------------------------------------------------------------------------------


class Observed(NamedTuple):
    """A problem whose answer is known."""

    problem: Problem
    wells: np.ndarray  # cells
    truth: np.ndarray  # log conductivities


def observed(terrain: Terrain, seed: int = 0) -> Observed:
    """Draw a field from the prior, and observe the heads it makes."""
    rng = np.random.default_rng(seed)
    model = Groundwater(terrain)
    prior = mfdeq.Precision(model.smoothness())
    mean = np.full(model.param_size, np.log(CONDUCTIVITY))
    truth = mean + prior.samples(seed=seed)
    wells = np.sort(rng.choice(model.state_size, model.state_size // CELLS_A_WELL, replace=False))
    heads = mfdeq.solve(model, truth).state[wells] + NOISE * rng.standard_normal(wells.size)
    misfit = mfdeq.LeastSquares(wells, heads, weights=NOISE**-2)
    return Observed(Problem(model, wells, misfit, prior, mean), wells, truth)


def calibrate(problem: Problem, method: str, preconditioned: bool, solver="auto") -> mfdeq.Minimum:
    """Minimize the loss from the prior's mean, or come as far as the iterations allow."""
    functional = mfdeq.ReducedFunctional(problem.model, problem.loss, solver=solver)
    try:
        return mfdeq.minimize(
            functional,
            problem.mean,
            method,
            preconditioner=problem.prior if preconditioned else None,
            gtol=GTOL,
            max_iterations=ITERATIONS[method],
        )
    except mfdeq.ConvergenceError as error:
        return error.best


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, terrain: Terrain, known: Observed, minima: dict[str, mfdeq.Minimum]) -> None:
    """Save the figure: how the gradients fall; the true field, the prior's mean, the calibrated."""
    z, dx, dy, _ = terrain
    extent = (0, z.shape[1] * dx / 1e3, z.shape[0] * dy / 1e3, 0)  # km
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig = plt.figure(figsize=(14, 9), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    above, below = fig.subfigures(2, 1)

    left, right = above.subplots(1, 2, sharey=True)
    plot.convergence(minima, left)
    plot.convergence(minima, right, over="seconds")
    target = GTOL * next(iter(minima.values())).report.steps[0].gradient_norm
    for ax, title in ((left, "Gradient over linear solves (×: stopped)"), (right, "and over time")):
        ax.axhline(target, color="0.5", ls=":", lw=1, label="target")
        ax.set_title(title, loc="left")
        ax.set_xlim(left=0)
    left.legend(frameon=False)
    right.get_legend().remove()
    right.set(ylabel="")

    found = next(iter(minima.values())).params
    fields = {
        "True ln K, K in m/s": known.truth,
        "Mean of the prior, and the wells": known.problem.mean,
        "Calibrated": found,
    }
    scale = {"vmin": known.truth.min(), "vmax": known.truth.max(), "extent": extent}
    axes = below.subplots(1, len(fields), sharey=True)
    for ax, (title, field) in zip(axes, fields.items(), strict=True):
        plot.field(field, z.shape, ax=ax, symmetric=False, **scale)
        ax.set_title(title, loc="left")
        ax.set(xlabel="km east")
    axes[0].set(ylabel="km south")
    row, column = np.divmod(known.wells, z.shape[1])
    dots = {"color": "white", "markersize": 2, "mew": 0}
    axes[1].plot((column + 0.5) * dx / 1e3, (row + 0.5) * dy / 1e3, "o", **dots)
    fig.savefig(path, dpi=110)
    plt.close(fig)


# --- the job -------------------------------------------------------------------------------------

HEADER = (
    f"{'':16}iterations  equilibria  gradients  products  solves  seconds  |g| / |g₀|      loss"
    "  wells off  ln K off"
)


def line(name: str, found: mfdeq.Minimum, known: Observed) -> str:
    """Return one line under `HEADER`."""
    report, mark = found.report, "" if found.converged else " *"
    fell = report.steps[-1].gradient_norm / report.steps[0].gradient_norm
    return (
        f"{name:16}{len(report.steps) - 1:10}  {report.equilibria:10}  {report.gradients:9}  "
        f"{report.products:8}  {report.solves:6}  {report.seconds:7.1f}  {fell:10.1e}  "
        f"{found.value:8.3f}  {wells_off(known, found.equilibrium):7.2f} σ  "
        f"{rms(found.params - known.truth):8.3f}{mark}"
    )


def wells_off(known: Observed, eq: mfdeq.Equilibrium) -> float:
    """Return how far heads are from those observed, rms, in standard deviations of the noise."""
    return (2 * known.problem.misfit.value(eq.state, eq.params) / known.wells.size) ** 0.5


def rms(x: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(x**2)))


def main(arguments: list[str] | None = None) -> None:
    """Calibrate by every method; every number comes with what it cost."""
    options = parse(arguments)
    begin = time.perf_counter()
    terrain = load_terrain(options.size)
    known, seconds = timed(lambda: observed(terrain))
    start = mfdeq.solve(known.problem.model, known.problem.mean)
    say(
        "Problem",
        f"{known.truth.size:,} log conductivities, drawn from the prior, a Matérn field correlated "
        f"over 2 km: {rms(known.truth - known.problem.mean):.3f} off its mean, rms",
        f"heads in {known.wells.size:,} wells, σ = {NOISE:g} m; at the mean of the prior they are "
        f"{wells_off(known, start):.1f} σ off, rms; {seconds:.1f} s",
    )
    say("Calibration", f"from the mean of the prior, until |gradient| has fallen by {GTOL:g}")
    print(HEADER)
    minima = {}
    for name, (method, preconditioned) in METHODS.items():
        solver = SOLVERS[options.solver]()
        minima[name] = calibrate(known.problem, method, preconditioned, solver)
        print(line(name, minima[name], known), flush=True)
    say(
        "*",
        f"stopped after {ITERATIONS['l-bfgs']} iterations. A solve is one right-hand side; those "
        "of the equilibria are included",
    )
    draw(options.output, terrain, known, minima)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""

    def size(text: str) -> int:
        rows = ROWS.get(text) or int(text)
        if not 40 <= rows <= MEASURED:
            raise argparse.ArgumentTypeError(f"{rows} rows; 40 to {MEASURED} were expected")
        return rows

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    rows = f"{', '.join(ROWS)}, or a number of rows from 40 to {MEASURED}"
    parser.add_argument("--size", type=size, default="full", help=f"{rows} (default: full)")
    parser.add_argument("--solver", choices=SOLVERS, default="auto", help="linear solver")
    parser.add_argument("--output", type=Path, default="calibration.png", help="the figure")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
