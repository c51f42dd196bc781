"""Groundwater under real terrain: equilibrium, gradient, exact Hessian and its extreme eigenvalues.

Rain seeps into the hills of the Jacksboro fault (the elevation model that ships with matplotlib)
and leaves where the water table meets the ground. One unknown head and one unknown log
conductivity per cell, N = P = 138,632; the streams, read off the terrain itself, are the data.

    python examples/groundwater.py                # half a minute on two cores
    python examples/groundwater.py --size small   # seconds
"""

from __future__ import annotations

import argparse
import heapq
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from matplotlib import cbook, colors
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from scipy.ndimage import gaussian_filter
from scipy.special import expit

import mfdeq

METRES_PER_DEGREE = 111_320.0
CONDUCTIVITY = 5e-7  # m/s, the prior mean and the point at which everything here is computed
CHANNEL = 200  # cells upslope of a stream
ROWS = {"small": 80, "full": 344}


# --- terrain -------------------------------------------------------------------------------------


class Terrain(NamedTuple):
    """Elevations (ny, nx) in m, north up, and the cells' width and height in m."""

    elevation: np.ndarray
    dx: float
    dy: float


def load_terrain(rows: int = ROWS["full"]) -> Terrain:
    """Load matplotlib's elevation model, or the middle `rows` of it in the same proportions."""
    data = cbook.get_sample_data("jacksboro_fault_dem.npz")
    z = data["elevation"].astype(float)
    ny, nx = rows, round(rows * z.shape[1] / z.shape[0])
    top, left = (z.shape[0] - ny) // 2, (z.shape[1] - nx) // 2
    latitude = np.radians((data["ymin"] + data["ymax"]) / 2)
    dx = METRES_PER_DEGREE * float(data["dx"] * np.cos(latitude))
    dy = METRES_PER_DEGREE * float(data["dy"])
    return Terrain(z[top : top + ny, left : left + nx], dx, dy)


def upslope_area(elevation: np.ndarray) -> np.ndarray:
    """Count the cells that drain through each cell, itself included.

    Priority flood (Barnes, Lehman and Mulla, 2014): water rises from the rim inwards, always over
    the lowest cell next; it fills pits and crosses flats on its way. Every cell then drains to
    the neighbour from which it was flooded.
    """
    width = elevation.shape[1] + 2
    level = np.pad(elevation, 1).ravel().tolist()  # lists: a heap of Python floats is faster
    flooded = np.pad(np.zeros_like(elevation, bool), 1, constant_values=True)
    rim = np.pad(np.pad(np.zeros_like(flooded[2:-2, 2:-2]), 1, constant_values=True), 1)
    flooded = (flooded | rim).ravel().tolist()
    heap = [(level[i], i) for i in np.flatnonzero(rim)]
    heapq.heapify(heap)
    around = (-width, -1, 1, width, -width - 1, -width + 1, width - 1, width + 1)
    receiver, order = {}, []
    while heap:
        water, i = heapq.heappop(heap)
        order.append(i)
        for j in (i + step for step in around):
            if not flooded[j]:
                flooded[j] = True
                receiver[j] = i
                heapq.heappush(heap, (max(water, level[j]), j))
    area = [1] * len(level)
    for i in reversed(order):
        if i in receiver:
            area[receiver[i]] += area[i]
    return np.reshape(area, (-1, width))[1:-1, 1:-1]


# --- physics -------------------------------------------------------------------------------------


def softplus(x: np.ndarray, width: float) -> np.ndarray:
    """Return max(x, 0), rounded over `width`."""
    return width * np.logaddexp(0.0, x / width)


def diag(x: np.ndarray) -> sp.csr_array:
    """Return the diagonal matrix of `x`."""
    return sp.diags_array(x, format="csr")


class Groundwater(mfdeq.ResidualModel):
    """Steady unconfined flow: what rains in either flows on to the neighbours or drains away.

    R(h, θ) = Dᵀ q + C·softplus(h − z, w_d) − recharge,    q = c · exp(Mθ) · M t(h) · D h,

    in m/s (volume per area of ground and second). D takes differences and M averages from cells
    to faces, c = 1/spacing²; t = softplus(h − z_bottom, w_s) is the saturated thickness, averaged
    arithmetically; the conductivity exp(θ) is averaged geometrically. No flow crosses the rim.

    Parameters
    ----------
    terrain : Terrain
    recharge : float, m/s
    drain : float, 1/s
        C; keep drain · drain_width within five times the recharge, or the ground leaks everywhere.
    drain_width, thickness_width : float, m
        w_d and w_s.
    aquifer : float, m
        Depth of the aquifer's floor below the smoothed surface.
    """

    def __init__(
        self,
        terrain: Terrain,
        recharge: float = 1e-8,
        drain: float = 1e-7,
        drain_width: float = 0.5,
        thickness_width: float = 5.0,
        aquifer: float = 100.0,
    ):
        z, dx, dy = terrain
        self.state_size = self.param_size = z.size
        self.surface = z.ravel()
        self.bottom = np.minimum(gaussian_filter(z, 12), z).ravel() - aquifer
        self.recharge, self.drain = recharge, drain
        self.drain_width, self.thickness_width = drain_width, thickness_width

        cell = np.arange(z.size, dtype=np.int32).reshape(z.shape)
        here = np.concatenate([cell[:, :-1].ravel(), cell[:-1].ravel()])
        there = np.concatenate([cell[:, 1:].ravel(), cell[1:].ravel()])
        faces, ends = here.size, np.column_stack([here, there]).ravel()
        rows, shape = np.arange(0, 2 * faces + 1, 2, dtype=np.int32), (faces, z.size)
        self.D = sp.csr_array((np.tile([-1.0, 1.0], faces), ends, rows), shape=shape)
        self.M = sp.csr_array((np.full(2 * faces, 0.5), ends, rows), shape=shape)
        self.DT, self.MT = self.D.T.tocsr(), self.M.T.tocsr()
        across = cell[:, 1:].size
        self.c = np.repeat([dx**-2, dy**-2], [across, faces - across])

    def initial_state(self, theta: np.ndarray) -> np.ndarray:
        """Return the land surface: far below it no drain is active and A is nearly singular."""
        return self.surface.copy()

    def drainage(self, h: np.ndarray) -> np.ndarray:
        """Return the outflow at the surface, in m/s."""
        return self.drain * softplus(h - self.surface, self.drain_width)

    def residual(self, h: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Return the water lost by each cell, in m/s."""
        D, M = self.D, self.M
        t = softplus(h - self.bottom, self.thickness_width)
        q = self.c * np.exp(M @ theta) * (M @ t) * (D @ h)
        return self.DT @ q + self.drainage(h) - self.recharge

    def linearize(self, h: np.ndarray, theta: np.ndarray) -> mfdeq.Linearization:
        """Differentiate q = k · M t · D h, k = c · exp(Mθ), by the product rule."""
        D, M, DT, MT = self.D, self.M, self.DT, self.MT
        t = softplus(h - self.bottom, self.thickness_width)
        t1 = expit((h - self.bottom) / self.thickness_width)
        t2 = t1 * (1 - t1) / self.thickness_width
        s1 = self.drain * expit((h - self.surface) / self.drain_width)
        s2 = s1 * (1 - s1 / self.drain) / self.drain_width

        k, Mt, Dh = self.c * np.exp(M @ theta), M @ t, D @ h
        q = k * Mt * Dh
        dq_h = diag(k * Mt) @ D + diag(k * Dh) @ M @ diag(t1)
        dq_theta = diag(q) @ M

        def curvature(lam: np.ndarray) -> mfdeq.Curvature:
            g = D @ lam
            cross = DT @ diag(g * k) @ M @ diag(t1)
            return mfdeq.Curvature(
                params_params=MT @ diag(g) @ dq_theta,
                state_params=dq_h.T.tocsr() @ diag(g) @ M,
                state_state=cross + cross.T.tocsr() + diag(t2 * (MT @ (g * k * Dh)) + lam * s2),
            )

        def second(a, b):
            (a_theta, a_h), (b_theta, b_h) = a, b
            Ma, Mb = M @ a_theta, M @ b_theta
            q_theta = q * Ma * Mb + Ma * (dq_h @ b_h) + Mb * (dq_h @ a_h)
            q_h = (M @ (t1 * a_h)) * (D @ b_h) + (M @ (t1 * b_h)) * (D @ a_h)
            return DT @ (q_theta + k * (q_h + (M @ (t2 * a_h * b_h)) * Dh)) + s2 * a_h * b_h

        return mfdeq.Linearization(
            d_state=DT @ dq_h + diag(s1),
            d_params=DT @ dq_theta,
            curvature=curvature,
            second=second,
        )

    def smoothness(self, deviation: float = 1.0, length: float = 2000.0) -> sp.csr_array:
        """Return the precision of a Matérn field of θ, smoothness 1, correlated over `length` m.

        (κ² − ∇²) θ / τ = white noise (Lindgren, Rue and Lindström, 2011).
        """
        kappa2 = 8 / length**2
        area = 1 / np.sqrt(self.c[0] * self.c[-1])
        elliptic = self.DT @ diag(self.c) @ self.D + diag(np.full(self.param_size, kappa2))
        return (area / (4 * np.pi * kappa2 * deviation**2)) * (elliptic @ elliptic)


# --- figure --------------------------------------------------------------------------------------


def draw(path, terrain, depth, channels, gradient, values, vectors, full, smallest):
    """Save the figure: depth over hillshade, gradient, two eigenvectors close up, spectrum."""
    z, dx, dy = terrain
    ny, nx = z.shape
    extent = (0, nx * dx / 1e3, ny * dy / 1e3, 0)  # km from the north-west corner
    light = colors.LightSource(azdeg=315, altdeg=40)
    relief = light.hillshade(z, vert_exag=2, dx=dx, dy=dy)
    east, south = (np.arange(nx) + 0.5) * dx / 1e3, (np.arange(ny) + 0.5) * dy / 1e3
    row, column = np.divmod(channels, nx)

    def backdrop(ax, title):
        ax.imshow(relief, "gray", vmin=-0.4, vmax=1.05, extent=extent, interpolation="bilinear")
        ax.set_title(title, loc="left")

    def overlay(ax, field, norm):
        """Colour by sign, fading out towards zero so that the ground shows."""
        field = field.reshape(z.shape)
        alpha = np.clip(4 * np.abs(norm(field) - 0.5), 0, 0.9)
        style = {"alpha": alpha, "extent": extent, "interpolation": "nearest"}
        return ax.imshow(field, "RdBu_r", norm, **style)

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig = plt.figure(figsize=(16.5, 8.4), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    grid = fig.add_gridspec(2, 4)

    main = fig.add_subplot(grid[:, :2])
    norm = colors.PowerNorm(0.5, 0, np.percentile(depth, 99.5))
    ground = plt.get_cmap("YlGnBu_r")(norm(depth.reshape(z.shape)))[..., :3]
    shaded = ground * (0.45 + 0.75 * relief[..., None])
    main.imshow(np.clip(shaded, 0, 1), extent=extent, interpolation="bilinear")
    main.set_title("Depth of the water table below ground, m", loc="left")
    main.set(xlabel="km east", ylabel="km south")
    mappable = plt.cm.ScalarMappable(norm, "YlGnBu_r")
    fig.colorbar(mappable, ax=main, shrink=0.6, pad=0.01, extend="max")

    ax = fig.add_subplot(grid[0, 2])
    backdrop(ax, "Gradient of the loss")
    top = np.abs(gradient).max()
    image = overlay(ax, gradient, colors.SymLogNorm(1e-4 * top, vmin=-top, vmax=top))
    bar = {"shrink": 0.7, "pad": 0.01, "aspect": 30}
    decade = 10.0 ** np.floor(np.log10(top))
    ticks = [-decade, -decade / 100, 0, decade / 100, decade]
    fig.colorbar(image, ax=ax, label="per unit of ln K in one cell", ticks=ticks, **bar)

    reach = 0.9  # km; the leading eigenvectors live on a few cells
    for i, v in enumerate(vectors.T[:2]):
        ax = fig.add_subplot(grid[1, 2 + i])
        peak = np.abs(v).argmax()
        x, y = east[peak % nx], south[peak // nx]
        backdrop(ax, f"Eigenvector {i + 1}: λ = {values[i]:.3g}")
        heights = {"levels": np.arange(0, z.max(), 20), "colors": "0.25", "linewidths": 0.4}
        ax.contour(east, south, z, **heights)
        image = overlay(ax, v * np.sign(v[peak]), colors.CenteredNorm(0, np.abs(v[peak])))
        ax.plot(east[column], south[row], "o", color="navy", markersize=3, mew=0, label="stream")
        ax.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
        ax.legend(loc="lower right", handletextpad=0.1)
        fig.colorbar(image, ax=ax, label="of ln K", **bar)
        box = Rectangle((x - reach, y - reach), 2 * reach, 2 * reach, fill=False, ec="crimson")
        main.add_patch(box)
        where = (x - reach, y - reach, "bottom") if i == 0 else (x - reach, y + reach, "top")
        text = {"color": "white", "weight": "bold", "ha": "left", "va": where[2], "size": 10}
        text["bbox"] = {"fc": "crimson", "ec": "none", "pad": 1.5}
        main.text(where[0], where[1], str(i + 1), **text)

    ax = fig.add_subplot(grid[0, 3])
    number = np.arange(1, values.size + 1)
    ax.axhline(0, color="0.7", lw=0.8)
    ax.vlines(number, np.minimum(values, full), np.maximum(values, full), "0.75")
    ax.plot(number, values, "o", color="C0", label="Gauss–Newton eigenvalue")
    ax.plot(number, full, "D", mfc="white", color="C1", label="full Hessian along its vector")
    ax.axhline(smallest, color="crimson", label="smallest of the full Hessian")
    ax.set_title("Curvature of the misfit", loc="left")
    ax.set_box_aspect(1)
    ax.set(xlabel="leading eigenpair")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- the job -------------------------------------------------------------------------------------

SOLVERS = {
    "auto": lambda: "auto",
    "direct": lambda: mfdeq.Direct(),
    "amg": lambda: mfdeq.Krylov("gmres", preconditioner=mfdeq.AMG()),
}


def say(topic: str, *lines: str) -> None:
    """Print what there is to say about a topic."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


def timed(work):
    """Return what `work` returns, and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def meaning(smallest: float, bound: float, prior: float) -> list[str]:
    """Say what the smallest eigenvalue of the misfit's Hessian tells, and the prior's share."""
    if smallest > -bound:
        return ["not negative beyond its bound: as far as this can tell, the misfit is convex here"]
    share = "which outweighs it" if smallest + prior > 0 else "too little: the loss is not convex"
    return [
        "negative: along its vector the misfit bends down, so a plain Newton step would climb it,",
        "and Gauss–Newton, which is never negative, cannot see it;",
        f"the prior adds {prior:.2f} there, {share}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the job; every number comes with what it cost or how far it can be trusted."""
    options = parse(arguments)
    begin = time.perf_counter()

    terrain = load_terrain(options.size)
    z = terrain.elevation
    channels = np.flatnonzero(upslope_area(z) > CHANNEL)
    model = Groundwater(terrain)
    theta = np.full(model.param_size, np.log(CONDUCTIVITY))
    misfit = mfdeq.LeastSquares(channels, model.surface[channels])  # σ = 1 m
    precision = model.smoothness()
    loss = misfit + mfdeq.QuadraticPrior(precision, theta)
    say(
        "Terrain",
        f"{z.shape[0]} × {z.shape[1]} cells of {terrain.dx:.1f} × {terrain.dy:.1f} m, N = P = "
        f"{z.size:,}; {z.min():.0f} to {z.max():.0f} m high; {channels.size:,} stream cells",
    )

    solver = SOLVERS[options.solver]()
    eq, seconds = timed(lambda: mfdeq.solve(model, theta, solver=solver, progress=True))
    report = eq.report
    rain = model.recharge * model.state_size
    say(
        "Equilibrium",
        f"{report.iterations} iterations of {report.method}, {seconds:.1f} s; {report.reason}",
        f"water balance: outflow / recharge − 1 = {model.drainage(eq.state).sum() / rain - 1:.1e}",
    )
    _, seconds = timed(lambda: eq.inverse)
    say(
        "Factor",
        f"{report.solver}, {seconds:.1f} s, for all that follows; "
        f"{report.digits_left:.1f} digits are left in a solution of A x = b",
        *report.choices,
    )

    gradient, seconds = timed(lambda: eq.gradient(loss))
    rms = np.sqrt(np.mean((eq.state - model.surface)[channels] ** 2))
    say(
        "Gradient",
        f"norm {np.linalg.norm(gradient):.2f} of a loss of {loss.value(eq.state, theta):.1f} "
        f"(stream heads {rms:.2f} m off, rms); {seconds:.2f} s",
    )

    H = eq.hessian(misfit)
    G = H.gauss_newton
    v = gradient / np.linalg.norm(gradient)
    counts = report.linear
    columns, iterations = counts.columns, counts.iterations
    Hv, seconds = timed(lambda: H @ v)
    say(
        "Hessian",
        f"one product: {counts.columns - columns} solves, {counts.iterations - iterations} "
        f"iterations, {1e3 * seconds:.0f} ms",
    )
    Gv = G @ v
    say(
        "Gauss–Newton",
        f"along the gradient the misfit curves by {v @ Hv:.3f}, by Gauss–Newton {v @ Gv:.3f}; "
        f"‖Gv − Hv‖ / ‖Hv‖ = {np.linalg.norm(Gv - Hv) / np.linalg.norm(Hv):.2f}",
    )

    k = options.eigenpairs
    leading, seconds = timed(lambda: mfdeq.eigsh(G, k=k, which="LA", progress=True))
    order = np.argsort(-leading.values)
    values, vectors = leading.values[order], leading.vectors[:, order]
    full = np.sum(vectors * (H @ vectors), axis=0)
    rows = zip(range(1, k + 1), values, leading.error_bounds[order], full, strict=True)
    say(
        "Spectrum",
        "leading eigenvalues of Gauss–Newton ± bound; the full Hessian along their vectors; "
        f"{seconds:.1f} s",
        *(f"{i:3} {value:9.4f} ± {bound:.0e}   {curve:9.4f}" for i, value, bound, curve in rows),
    )

    least, seconds = timed(lambda: mfdeq.eigsh(H, k=1, which="SA", progress=True))
    smallest, bound, x = least.values[0], least.error_bounds[0], least.vectors[:, 0]
    say(
        "Smallest",
        f"eigenvalue of the full Hessian {smallest:.4f} ± {bound:.0e}; {seconds:.1f} s",
        *meaning(smallest, bound, x @ (precision @ x)),
    )

    depth = model.surface - eq.state
    draw(options.output, terrain, depth, channels, gradient, values, vectors, full, smallest)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


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
    parser.add_argument("--eigenpairs", type=int, default=8, help="how many (default: 8)")
    parser.add_argument("--solver", choices=SOLVERS, default="auto", help="linear solver")
    parser.add_argument("--output", type=Path, default="groundwater.png", help="the figure")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
