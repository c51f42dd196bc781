"""A study of 200 random recharge fields: how wet the ground gets, and what streams tell about it.

Rain is neither uniform nor known. Each case draws a random field of recharge with some mean and
correlation length, solves for the water table of groundwater.py, and computes the misfit of the
streams, its gradient and the leading eigenvalue of its Gauss–Newton Hessian. The result of a case
is written to disk as soon as it is complete: stop the script at any time, start it again, and it
continues. At the end it writes a report, one HTML page.

    python examples/recharge.py                # 200 cases of 13,608 cells, a minute on two cores
    python examples/recharge.py --size small   # 12 cases of 1,880 cells, seconds
    mfdeq status recharge_full                 # from another terminal: how far it is
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from groundwater import CHANNEL, CONDUCTIVITY, Groundwater, load_terrain, upslope_area
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter
from scipy.ndimage import gaussian_filter
from scipy.stats import loguniform

import mfdeq
from mfdeq.studies import sample

MEAN = 1e-8  # m/s
SPREAD = 0.7  # standard deviation of the logarithm of recharge
NOISE = 3.0  # m, standard deviation of the heads in streams
WET_DEPTH = 0.5  # m; ground with a shallower water table counts as wet


class Size(NamedTuple):
    """The numbers of cases, rows of the terrain, and worker processes."""

    cases: int
    rows: int
    workers: int | None


SIZES = {"small": Size(12, 40, 0), "full": Size(200, 108, None)}


# --- one case ------------------------------------------------------------------------------------


def valley(rng, rows: int, wetness: float = 1.0, length: float = 1000.0) -> Groundwater:
    """Return the model with a random field of recharge.

    Parameters
    ----------
    rng : numpy.random.Generator
    rows : int
        Number of rows of the terrain.
    wetness : float
        Mean recharge, as a multiple of `MEAN`.
    length : float, m
        Correlation length of the recharge.
    """
    terrain = load_terrain(rows)
    noise = rng.standard_normal(terrain.elevation.shape)
    field = gaussian_filter(noise, (length / terrain.dy, length / terrain.dx))
    rain = np.exp(SPREAD * field / field.std()).ravel()
    return Groundwater(terrain, wetness * MEAN * rain / rain.mean())


def conductivities(model: Groundwater) -> np.ndarray:
    """Return the prior mean of the log conductivities."""
    return np.full(model.param_size, np.log(CONDUCTIVITY))


def streams(model: Groundwater, rows: int) -> mfdeq.LeastSquares:
    """Return the misfit of the heads in streams to the surface."""
    channels = np.flatnonzero(upslope_area(load_terrain(rows).elevation) > CHANNEL)
    return mfdeq.LeastSquares(channels, model.surface[channels], weights=NOISE**-2)


def summary(eq: mfdeq.Equilibrium, loss: mfdeq.LeastSquares, rows: int) -> dict:
    """Return the quantities of interest of a case."""
    depth = eq.model.surface - eq.state
    leading = mfdeq.eigsh(eq.hessian(loss).gauss_newton, 1, "LA", rtol=1e-4)
    return {
        "depth": depth.astype(np.float32).reshape(rows, -1),  # the report shows maps
        "mean_depth": depth.mean(),
        "wet_share": np.mean(depth < WET_DEPTH),
        "misfit": loss.value(eq.state, eq.params),
        "gradient_norm": np.linalg.norm(eq.gradient(loss)),
        "leading_eigenvalue": leading.values[0],
        "its_bound": leading.error_bounds[0],
    }


def case(rng, rows: int, wetness: float, length: float, start=None) -> dict:
    """Return the results of a case; `start` holds the heads of a similar case."""
    model = valley(rng, rows, wetness, length)
    eq = mfdeq.solve(model, conductivities(model), start)
    return {"heads": eq.state, **summary(eq, streams(model, rows), rows)}


# --- the study -----------------------------------------------------------------------------------


def draw(path: Path, records: list) -> None:
    """Save the figure: the effect of the recharge, and the scatter of the water table."""
    wetness = np.array([record.params["wetness"] for record in records])
    length = np.array([record.params["length"] for record in records])
    depths = np.stack([record.outputs["depth"] for record in records])

    fig, axes = plt.subplots(1, 3, figsize=(14, 3.9), layout="constrained")
    shown = (("mean_depth", "mean depth of the water table, m"), ("wet_share", "wet ground, %"))
    for ax, (name, label) in zip(axes, shown, strict=False):
        y = np.array([record.outputs[name] for record in records])
        points = ax.scatter(wetness, 100 * y if "%" in label else y, c=length, s=14)
        ax.set(xscale="log", xlabel="mean recharge, 1e-8 m/s", ylabel=label)
        ax.set_xticks([0.5, 1.0, 2.0], ["0.5", "1", "2"])
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_title("More rain raises the water table", loc="left")
    axes[1].set_title("and wets more of the ground", loc="left")
    fig.colorbar(points, ax=axes[1], label="correlation length, m")
    image = axes[2].imshow(depths.std(axis=0), "magma")
    axes[2].set_title(f"Where it varies most, {len(records)} cases", loc="left")
    axes[2].set_axis_off()
    fig.colorbar(image, ax=axes[2], shrink=0.8, label="standard deviation of the depth, m")
    fig.savefig(path, dpi=120)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Run the study, or the rest of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--directory", type=Path, help="of the study (default: recharge_SIZE)")
    options = parser.parse_args(arguments)
    size = SIZES[options.size]
    study = mfdeq.Study(options.directory or f"recharge_{options.size}")
    params = {"wetness": loguniform(0.4, 2.5), "length": loguniform(200, 1500), "rows": size.rows}
    cases = sample(params, size.cases, method="halton")
    units = {"wetness": "1e-8 m/s", "length": "m", "depth": "m", "mean_depth": "m", "heads": "m"}
    records = study.map(case, cases, workers=size.workers, warm={"start": "heads"}, units=units)

    done = [record for record in records if record.status == "done"]
    print(study.status())
    for name in ("mean_depth", "wet_share", "misfit", "gradient_norm", "leading_eigenvalue"):
        values = np.array([record.outputs[name] for record in done])
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
        print(f"{name:<18} median {middle:9.4g}, 10 % to 90 %: {low:.4g} to {high:.4g}")
    draw(Path("recharge.png"), done)
    page = study.store.directory / "report.html"
    page.write_text(study.to_html(), "utf-8")
    print(f"figure: recharge.png; report: {page}")


if __name__ == "__main__":
    main()
