"""A study of 200 random recharge fields: how wet the ground gets, and what streams tell of it.

Rain is neither uniform nor known. Each case draws a field of recharge of some mean and correlation
length, solves for the water table of groundwater.py under it, and asks what the streams' misfit
there says of the conductivities: its gradient and the leading eigenvalue of its Gauss–Newton
Hessian. Every result is on disk when its case is done: stop the script at any instant, start it
again, and it goes on. At the end there is a report, one HTML page.

    python examples/recharge.py                # 200 cases of 13,608 cells, a minute on two cores
    python examples/recharge.py --size small   # 12 cases of 1,880 cells, seconds
    python -m mfdeq run examples/recharge.toml # the same from a file, without this script's main
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from groundwater import CHANNEL, CONDUCTIVITY, Groundwater, load_terrain, upslope_area
from matplotlib import pyplot as plt
from scipy.ndimage import gaussian_filter
from scipy.stats import loguniform

import mfdeq
from mfdeq.studies import sample

MEAN = 1e-8  # m/s
SPREAD = 0.7  # standard deviation of the logarithm of recharge
NOISE = 3.0  # m, of the heads seen in streams
WET = 0.5  # m below ground, down to which ground counts as wet


class Size(NamedTuple):
    """How many cases, rows of the terrain, and processes."""

    cases: int
    rows: int
    workers: int | None


SIZES = {"small": Size(12, 40, 0), "full": Size(200, 108, None)}


# --- one case ------------------------------------------------------------------------------------


def valley(rng, rows: int, wetness: float = 1.0, length: float = 1000.0) -> Groundwater:
    """Return the model under a random field of recharge.

    Parameters
    ----------
    rng : numpy.random.Generator
    rows : int
        Of the terrain.
    wetness : float
        The mean of the recharge, of `MEAN`.
    length : float, m
        Its correlation length.
    """
    terrain = load_terrain(rows)
    noise = rng.standard_normal(terrain.elevation.shape)
    field = gaussian_filter(noise, (length / terrain.dy, length / terrain.dx))
    rain = np.exp(SPREAD * field / field.std()).ravel()
    return Groundwater(terrain, wetness * MEAN * rain / rain.mean())


def conductivities(model: Groundwater) -> np.ndarray:
    """Return the prior mean of their logarithms."""
    return np.full(model.param_size, np.log(CONDUCTIVITY))


def streams(model: Groundwater, rows: int) -> mfdeq.LeastSquares:
    """Return the misfit of the heads in streams, which stand at the surface."""
    channels = np.flatnonzero(upslope_area(load_terrain(rows).elevation) > CHANNEL)
    return mfdeq.LeastSquares(channels, model.surface[channels], weights=NOISE**-2)


def told(eq: mfdeq.Equilibrium, loss: mfdeq.LeastSquares) -> dict:
    """Return the numbers of a case."""
    depth = eq.model.surface - eq.state
    leading = mfdeq.eigsh(eq.hessian(loss).gauss_newton, 1, "LA", rtol=1e-4)
    return {
        "depth": depth.astype(np.float32),
        "mean_depth": depth.mean(),
        "wet_share": np.mean(depth < WET),
        "misfit": loss.value(eq.state, eq.params),
        "gradient_norm": np.linalg.norm(eq.gradient(loss)),
        "leading_eigenvalue": leading.values[0],
        "its_bound": leading.error_bounds[0],
    }


def case(rng, rows: int, wetness: float, length: float, start=None) -> dict:
    """Return all that is kept of a case; `start` is the heads of a case nearby."""
    model = valley(rng, rows, wetness, length)
    eq = mfdeq.solve(model, conductivities(model), start)
    return {"heads": eq.state, **told(eq, streams(model, rows))}


# --- the study -----------------------------------------------------------------------------------


def draw(path: Path, records: list, rows: int) -> None:
    """Save the figure: what wetness does, and how far the depth of the water table is known."""
    wetness = np.array([record.params["wetness"] for record in records])
    length = np.array([record.params["length"] for record in records])
    shape = load_terrain(rows).elevation.shape
    depths = np.stack([record.outputs["depth"] for record in records])

    fig, axes = plt.subplots(1, 3, figsize=(14, 3.9), layout="constrained")
    shown = (("mean_depth", "mean depth of the water table, m"), ("wet_share", "wet ground, %"))
    for ax, (name, label) in zip(axes, shown, strict=False):
        y = np.array([record.outputs[name] for record in records])
        points = ax.scatter(wetness, 100 * y if "%" in label else y, c=length, s=14)
        ax.set(xscale="log", xlabel="mean recharge, of 1e-8 m/s", ylabel=label)
    fig.colorbar(points, ax=axes[1], label="correlation length, m")
    image = axes[2].imshow(depths.std(axis=0).reshape(shape), "magma")
    axes[2].set_title("deviation of the depth over all cases, m", fontsize=10)
    axes[2].set_axis_off()
    fig.colorbar(image, ax=axes[2], shrink=0.8)
    fig.savefig(path, dpi=120)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Run the study, or what is left of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--directory", type=Path, help="of the study; recharge_SIZE by default")
    options = parser.parse_args(arguments)
    size = SIZES[options.size]
    study = mfdeq.Study(options.directory or f"recharge_{options.size}")
    params = {"wetness": loguniform(0.4, 2.5), "length": loguniform(200, 1500), "rows": size.rows}
    cases = sample(params, size.cases, method="halton")
    records = study.map(case, cases, workers=size.workers, warm={"start": "heads"})

    done = [record for record in records if record.status == "done"]
    print(study.status())
    for name in ("mean_depth", "wet_share", "misfit", "gradient_norm", "leading_eigenvalue"):
        values = np.array([record.outputs[name] for record in done])
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
        print(f"{name:<18} median {middle:9.4g}, 10 % to 90 %: {low:.4g} to {high:.4g}")
    draw(Path("recharge.png"), done, size.rows)
    page = study.store.directory / "report.html"
    page.write_text(study.to_html(), "utf-8")
    print(f"figure in recharge.png, report in {page}")


if __name__ == "__main__":
    main()
