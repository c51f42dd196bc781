"""How many directions of log conductivity do streams determine? A posterior of 138,632 parameters.

The model, the terrain and the prior are those of groundwater.py. At the mode of the posterior (the
MAP point), the Hessian H of the misfit is compared with the precision R of the prior:

    H v = μ R v,    vᵀ R v = 1

Along a v with μ > 1, the data say more than the prior. The leading pairs give a Gaussian
approximation of the posterior, with precision H + R, whose standard deviations and samples need no
further solve with the model. This is Laplace's approximation with the exact Hessian. It says
nothing about the posterior far from the mode. Gauss–Newton is shown for comparison.

    python examples/identifiability.py                # minutes on one core
    python examples/identifiability.py --size small   # seconds
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
    SOLVERS,
    Groundwater,
    Terrain,
    load_terrain,
    say,
    timed,
    upslope_area,
)
from matplotlib import pyplot as plt
from scipy.sparse.linalg import cg

import mfdeq
from mfdeq import plot

NOISE = 3.0  # m: standard deviation of a stream's level from the mean elevation of its 80 m cell
GTOL = 1e-7  # decrease of the gradient, from the prior mean to the mode
PROBES = 8  # random directions that estimate what further pairs would add


# --- the posterior -------------------------------------------------------------------------------


class Problem(NamedTuple):
    """Model, misfit of the streams, prior, and the parameters at the prior's mean."""

    model: Groundwater
    channels: np.ndarray
    misfit: mfdeq.LeastSquares
    prior: mfdeq.Precision
    mean: np.ndarray

    @property
    def loss(self) -> mfdeq.Loss:
        """The negative log posterior, up to a constant."""
        return self.misfit + mfdeq.QuadraticPrior(self.prior, self.mean)


def stream_problem(terrain: Terrain, noise: float = NOISE) -> Problem:
    """Return the problem with the data that streams are at the surface, up to noise."""
    model = Groundwater(terrain)
    channels = np.flatnonzero(upslope_area(terrain.elevation) > CHANNEL)
    misfit = mfdeq.LeastSquares(channels, model.surface[channels], weights=noise**-2)
    mean = np.full(model.param_size, np.log(CONDUCTIVITY))
    return Problem(model, channels, misfit, mfdeq.Precision(model.smoothness()), mean)


def find_mode(problem: Problem, solver="auto") -> mfdeq.Minimum:
    """Minimize the loss by Newton's method, with trust regions shaped by the prior."""
    functional = mfdeq.ReducedFunctional(problem.model, problem.loss, solver=solver)
    return mfdeq.minimize(functional, problem.mean, preconditioner=problem.prior, gtol=GTOL)


def count_above(H: mfdeq.ReducedHessian, R: mfdeq.Precision, mu: float) -> int | None:
    """Count the eigenvalues above μ by an inertia; None if its signs are uncertain."""
    below = mfdeq.ShiftedInverse(H, mu, R.array).below
    return None if below is None else H.shape[0] - below


class Remainder(NamedTuple):
    """What further pairs would add, estimated with standard errors."""

    determined: float
    determined_error: float
    variance: float  # average over all cells
    variance_error: float


def remainder(posterior, low: mfdeq.LowRank) -> Remainder:
    """Compare `low` with preconditioned solves with H + R along random directions."""
    rng = np.random.default_rng(1)
    white = rng.standard_normal((low.shape[0], PROBES))
    data = low.prior @ low.prior.samples(PROBES, seed=2)  # E[y yᵀ] = R

    def excess(B):
        starts = low @ B
        pairs = zip(B.T, starts.T, strict=True)
        exact = [cg(posterior, b, x0=start, rtol=1e-4, M=low)[0] for b, start in pairs]
        found = np.sum(B * (starts - np.column_stack(exact)), axis=0)
        return found.mean(), found.std(ddof=1) / np.sqrt(PROBES)

    determined, error = excess(data)
    variance, spread = excess(white)
    return Remainder(determined, error, variance / low.shape[0], spread / low.shape[0])


# --- figure --------------------------------------------------------------------------------------


def draw(path, terrain, channels, spectra, deviations, fields):
    """Save the figure: spectra, prior and posterior standard deviations, mode, two samples."""
    z, dx, dy, _ = terrain
    extent = (0, z.shape[1] * dx / 1e3, z.shape[0] * dy / 1e3, 0)  # km
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(2, 3, figsize=(15, 8.4), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)

    ax = plot.spectrum(spectra, ax=axes[0, 0])
    ax.axhline(1.0, color="0.5", lw=0.8)
    place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    ax.text(0.99, 1.03, "as much as the prior", color="0.4", **place)
    ax.get_legend().set_loc("center right")
    ax.set_title("Information of the data relative to the prior: |μ|", loc="left")
    ax.set(ylabel="")

    scale = {"vmin": deviations[1].min(), "vmax": np.quantile(deviations[0], 0.99)}
    for ax, of, deviation in zip(axes[0, 1:], ("prior", "posterior"), deviations, strict=True):
        plot.field(deviation, z.shape, ax=ax, symmetric=False, extent=extent, **scale)
        ax.set_title(f"Standard deviation of ln K: {of}", loc="left")
    row, column = np.divmod(channels, z.shape[1])
    east, south = (column + 0.5) * dx / 1e3, (row + 0.5) * dy / 1e3
    ax.plot(east, south, ".", color="white", markersize=1, alpha=0.6, mew=0)

    largest = max(np.quantile(abs(field), 0.999) for field in fields.values())
    for ax, (title, field) in zip(axes[1], fields.items(), strict=True):
        plot.field(field, z.shape, ax=ax, vmin=-largest, vmax=largest, extent=extent)
        ax.set_title(title, loc="left")
    for ax in (axes[0, 1], axes[1, 0]):
        ax.set(ylabel="km south")
    for ax in axes[1]:
        ax.set(xlabel="km east")
    fig.savefig(path, dpi=110)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Run the example and print every number with its cost or its error bound."""
    options = parse(arguments)
    begin = time.perf_counter()

    terrain = load_terrain(options.size)
    problem, seconds = timed(lambda: stream_problem(terrain))
    R, channels, mean = problem.prior, problem.channels, problem.mean
    before = np.sqrt(R.variances())
    say(
        "Problem",
        f"{len(mean):,} log conductivities; {channels.size:,} stream cells with water at the "
        f"surface, σ = {NOISE:g} m",
        f"prior: Matérn field, standard deviation 1 (median {np.median(before):.2f}, at most "
        f"{before.max():.2f}), correlation length 2 km; factorized in {seconds:.1f} s",
    )

    fit, seconds = timed(lambda: find_mode(problem, SOLVERS[options.solver]()))
    eq = fit.equilibrium
    off = np.sqrt(np.mean((eq.state - problem.model.surface)[channels] ** 2))
    shift = eq.params - mean
    say(
        "Mode",
        *str(fit.report).splitlines(),
        f"{fit.reason}; rms error of the stream heads {off:.2f} m",
    )

    H, k = eq.hessian(problem.misfit), options.eigenpairs
    found = {}
    for name, operator in (("Gauss–Newton", H.gauss_newton), ("exact Hessian", H)):
        pairs, seconds = timed(lambda op=operator: mfdeq.eigsh(op, k, M=R, progress=True))
        found[name] = pairs
        over = int(np.sum(pairs.values > 1.0))
        say(
            name,
            f"|μ| from {pairs.values[-1]:.3g} to {abs(pairs.values).min():.2g}, "
            f"± {pairs.error_bounds.max():.0e}; {pairs.report.products} products, {seconds:.0f} s",
            f"{over} of {k} directions have μ > 1, {int(np.sum(pairs.values < 0))} have μ < 0"
            + ("; there are more: raise --eigenpairs" if over == k else ""),
        )

    (directions, defined), seconds = timed(
        lambda: (count_above(H, R, 1.0), count_above(H, R, -1.0))
    )
    say(
        "Count",
        f"directions with μ > 1: {number(directions)} in all, by the inertia of a factorization",
        f"with μ > −1: {number(defined)} of {len(mean):,}, so the mode is "
        + ("a minimum" if defined == len(mean) else "not known to be a minimum")
        + f"; {seconds:.0f} s",
    )

    low = mfdeq.LowRank(found["exact Hessian"])
    rest, seconds = timed(lambda: remainder(eq.hessian(problem.loss), low))
    gain = mfdeq.LowRank(found["Gauss–Newton"]).expected_information_gain()
    after = np.sqrt(low.variances(before**2))
    ratio = after / before
    determined = float(np.sum(low.values / (1.0 + low.values)))
    say(
        "Posterior",
        f"the data determine Σ μ/(1 + μ) = {determined:.1f} parameters; the remaining μ would add "
        f"{rest.determined:z.1f} ± {rest.determined_error:.1f}",
        f"posterior over prior standard deviation: minimum {ratio.min():.2f}, median "
        f"{np.median(ratio):.2f}, in stream cells {np.median(ratio[channels]):.2f}; without the "
        f"remaining μ these are too large on average by "
        f"{100 * rest.variance / np.mean(2 * after**2):z.1f} ± "
        f"{100 * rest.variance_error / np.mean(2 * after**2):.1f} % ({seconds:.0f} s)",
        f"information gain at least {low.information_gain(shift):.0f} nats; its expectation, by "
        f"Gauss–Newton, at least {gain:.0f}",
    )

    fields = {
        "Mode of ln K, relative to the prior mean": shift,
        "Sample of the prior": R.samples(seed=2),
        "Sample of the posterior, same noise": low.samples(seed=2, mean=shift),
    }
    draw(options.output, terrain, channels, found, (before, after), fields)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


def number(count: int | None) -> str:
    """Format a count, or say that it is unknown."""
    return "unknown" if count is None else f"{count:,}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""

    def size(text: str) -> int:
        rows = ROWS.get(text) or int(text)
        if not 40 <= rows <= ROWS["full"]:
            raise argparse.ArgumentTypeError(f"{rows} rows; 40 to {ROWS['full']} were expected")
        return rows

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    rows = f"{', '.join(ROWS)}, or a number of rows from 40 to {ROWS['full']}"
    parser.add_argument("--size", type=size, default="full", help=f"{rows} (default: full)")
    parser.add_argument("--eigenpairs", type=int, default=100, help="how many pairs (default: 100)")
    parser.add_argument("--solver", choices=SOLVERS, default="auto", help="linear solver")
    parser.add_argument("--output", type=Path, default="identifiability.png", help="figure file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
