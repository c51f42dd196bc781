"""Groundwater under real terrain: equilibrium, gradient, exact Hessian and its extreme eigenvalues.

Rain seeps into the hills of the Jacksboro fault (an elevation model that comes with matplotlib)
and leaves where the water table meets the ground. Each cell has one unknown head and one unknown
log conductivity, N = P = 138,632. The data of this inverse problem are the streams, which are
computed from the terrain itself.

    python examples/groundwater.py                # half a minute on two cores
    python examples/groundwater.py --size small   # seconds
    python examples/groundwater.py --device cuda --refine 8   # 8.9 million cells, on a GPU
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import importlib
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import cbook, colors
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from scipy.ndimage import gaussian_filter, zoom

import mfdeq

METRES_PER_DEGREE = 111_320.0
CONDUCTIVITY = 5e-7  # m/s, the prior mean and the point at which everything here is computed
CHANNEL = 200  # number of cells that drain through a cell, above which it is a stream
ROWS = {"small": 80, "full": 344}


# --- terrain -------------------------------------------------------------------------------------


class Terrain(NamedTuple):
    """Elevations (ny, nx) in m, north up, and the cells' width and height in m."""

    elevation: np.ndarray
    dx: float
    dy: float
    refined: int = 1  # number of cells per measured cell, in each direction


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


def refine(measured: Terrain, factor: int) -> Terrain:
    """Return the same terrain with `factor` times as many cells per side, by cubic splines."""
    if factor == 1:
        return measured
    z = zoom(measured.elevation, factor, order=3, mode="nearest", grid_mode=True)
    return Terrain(z, measured.dx / factor, measured.dy / factor, factor)


def streams(measured: Terrain, terrain: Terrain) -> np.ndarray:
    """Return the stream cells of the refined terrain: the lowest one in each measured stream cell.

    The splines add no information on where water flows, and flooding eight million cells is slow.
    """
    row, column = np.nonzero(upslope_area(measured.elevation) > CHANNEL)
    (ny, nx), f = measured.elevation.shape, terrain.refined
    within = terrain.elevation.reshape(ny, f, nx, f)[row, :, column].reshape(-1, f * f)
    down, right = np.divmod(within.argmin(axis=1), f)
    return np.sort((f * row + down) * f * nx + f * column + right)


def upslope_area(elevation: np.ndarray) -> np.ndarray:
    """Count the cells that drain through each cell, itself included.

    This is the priority flood of Barnes, Lehman and Mulla (2014): water rises from the boundary
    inwards, always over the lowest cell next, filling pits and crossing flats. Every cell then
    drains to the neighbour from which it was flooded.
    """
    width = elevation.shape[1] + 2
    level = np.pad(elevation, 1).ravel().tolist()  # a heap of Python floats is faster
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


class Groundwater(mfdeq.ResidualModel):
    """Steady unconfined flow: recharge either flows to the neighbouring cells or drains away.

    R(h, θ) = Dᵀ q + C·softplus(h − z, w_d) − recharge,    q = c · exp(Mθ) · M t(h) · D h,

    in m/s (volume per area of ground and second). D takes differences and M averages from cells
    to faces, c = 1/spacing²; t = softplus(h − z_bottom, w_s) is the saturated thickness, averaged
    arithmetically; the conductivity exp(θ) is averaged geometrically. No flow crosses the boundary.

    Parameters
    ----------
    terrain : Terrain
    recharge : float, m/s
    drain : float, 1/s
        C. Keep drain · drain_width below five times the recharge, or the ground leaks everywhere.
    drain_width, thickness_width : float, m
        w_d and w_s.
    aquifer : float, m
        Depth of the floor of the aquifer below the smoothed surface.
    xp : module
        numpy, or cupy for a model on a GPU.
    """

    def __init__(
        self,
        terrain: Terrain,
        recharge: float = 1e-8,
        drain: float = 1e-7,
        drain_width: float = 0.5,
        thickness_width: float = 5.0,
        aquifer: float = 100.0,
        xp=np,
    ):
        scipy = "scipy" if xp is np else "cupyx.scipy"
        self.xp, self.sparse = xp, importlib.import_module(f"{scipy}.sparse")
        self.expit = importlib.import_module(f"{scipy}.special").expit
        z = terrain.elevation
        self.state_size = self.param_size = z.size
        floor = np.minimum(gaussian_filter(z, 12 * terrain.refined), z).ravel() - aquifer
        self.surface, self.bottom = xp.asarray(z.ravel()), xp.asarray(floor)
        self.recharge, self.drain = recharge, drain
        self.drain_width, self.thickness_width = drain_width, thickness_width

        cell = xp.arange(z.size, dtype=xp.int32).reshape(z.shape)
        here = xp.concatenate([cell[:, :-1].ravel(), cell[:-1].ravel()])
        there = xp.concatenate([cell[:, 1:].ravel(), cell[1:].ravel()])
        faces, ends = here.size, xp.stack([here, there], axis=1).ravel()
        rows, shape = xp.arange(0, 2 * faces + 1, 2, dtype=xp.int32), (faces, z.size)
        signs = xp.tile(xp.asarray([-1.0, 1.0]), faces)
        self.D = self.sparse.csr_array((signs, ends, rows), shape=shape)
        self.M = self.sparse.csr_array((abs(signs) / 2, ends, rows), shape=shape)
        self.DT, self.MT = self.D.T.tocsr(), self.M.T.tocsr()
        across, self.cell_area = cell[:, 1:].size, terrain.dx * terrain.dy
        self.c = xp.full(faces, terrain.dx**-2)
        self.c[across:] = terrain.dy**-2

    def softplus(self, x, width: float):
        """Return max(x, 0), smoothed over `width`."""
        return width * self.xp.logaddexp(0.0, x / width)

    def diag(self, x):
        """Return the diagonal matrix of `x`."""
        return self.sparse.diags_array(x, format="csr")

    def initial_state(self, theta):
        """Return the land surface: far below it, no drain is active and A is nearly singular."""
        return self.surface.copy()

    def drainage(self, h):
        """Return the outflow at the surface, in m/s."""
        return self.drain * self.softplus(h - self.surface, self.drain_width)

    def residual(self, h, theta):
        """Return the net outflow of each cell, in m/s."""
        D, M = self.D, self.M
        t = self.softplus(h - self.bottom, self.thickness_width)
        q = self.c * self.xp.exp(M @ theta) * (M @ t) * (D @ h)
        return self.DT @ q + self.drainage(h) - self.recharge

    def linearize(self, h, theta) -> mfdeq.Linearization:
        """Differentiate q = k · M t · D h, k = c · exp(Mθ), by the product rule."""
        D, M, DT, MT, diag, expit = self.D, self.M, self.DT, self.MT, self.diag, self.expit
        t = self.softplus(h - self.bottom, self.thickness_width)
        t1 = expit((h - self.bottom) / self.thickness_width)
        t2 = t1 * (1 - t1) / self.thickness_width
        s1 = self.drain * expit((h - self.surface) / self.drain_width)
        s2 = s1 * (1 - s1 / self.drain) / self.drain_width

        k, Mt, Dh = self.c * self.xp.exp(M @ theta), M @ t, D @ h
        q = k * Mt * Dh
        dq_h = diag(k * Mt) @ D + diag(k * Dh) @ M @ diag(t1)
        dq_theta = diag(q) @ M

        def curvature(lam) -> mfdeq.Curvature:
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

    def smoothness(self, deviation: float = 1.0, length: float = 2000.0):
        """Return the precision matrix of a Matérn prior for θ, of smoothness 1.

        `length` is the correlation length in m. The field solves (κ² − ∇²) θ / τ = white noise
        (Lindgren, Rue and Lindström, 2011).
        """
        kappa2 = 8 / length**2
        laplacian = self.DT @ self.diag(self.c) @ self.D
        elliptic = laplacian + self.diag(self.xp.full(self.param_size, kappa2))
        return (self.cell_area / (4 * np.pi * kappa2 * deviation**2)) * (elliptic @ elliptic)


# --- figure --------------------------------------------------------------------------------------


def draw(path, terrain, channels, depth, gradient, vectors, values, full, smallest):
    """Save the figure: depth over hillshade, gradient, details of two eigenvectors, spectrum."""
    z, dx, dy, _ = terrain
    ny, nx = z.shape
    extent = (0, nx * dx / 1e3, ny * dy / 1e3, 0)  # km from the north-west corner
    relief = colors.LightSource(azdeg=315, altdeg=40).hillshade(z, vert_exag=2, dx=dx, dy=dy)
    east, south = (np.arange(nx) + 0.5) * dx / 1e3, (np.arange(ny) + 0.5) * dy / 1e3
    row, column = np.divmod(channels, nx)

    def backdrop(ax, title):
        ax.imshow(relief, "gray", vmin=-0.4, vmax=1.05, extent=extent, interpolation="bilinear")
        ax.set_title(title, loc="left")

    def overlay(ax, field, norm):
        """Colour by sign, transparent near zero so that the terrain shows."""
        field = field.reshape(z.shape)
        alpha = np.clip(4 * np.abs(norm(field) - 0.5), 0, 0.9)
        return ax.imshow(field, "RdBu_r", norm, alpha=alpha, extent=extent, interpolation="nearest")

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
    deep = plt.cm.ScalarMappable(norm, "YlGnBu_r")
    fig.colorbar(deep, ax=main, shrink=0.6, pad=0.01, extend="max")

    ax = fig.add_subplot(grid[0, 2])
    backdrop(ax, "Gradient of the loss")
    top = np.abs(gradient).max()
    image = overlay(ax, gradient, colors.SymLogNorm(1e-4 * top, vmin=-top, vmax=top))
    bar = {"shrink": 0.7, "pad": 0.01, "aspect": 30}
    ticks = 10.0 ** np.floor(np.log10(top)) * np.array([-1, -0.01, 0, 0.01, 1])
    fig.colorbar(image, ax=ax, label="per unit of ln K in one cell", ticks=ticks, **bar)

    reach = 0.9  # km; the leading eigenvectors live on a few cells
    for i, v in enumerate(vectors.T):
        ax = fig.add_subplot(grid[1, 2 + i])
        peak = np.abs(v).argmax()
        x, y = east[peak % nx], south[peak // nx]
        backdrop(ax, f"Eigenvector {i + 1}: λ = {values[i]:.3g}")
        ax.contour(east, south, z, np.arange(0, z.max(), 20), colors="0.25", linewidths=0.4)
        image = overlay(ax, v * np.sign(v[peak]), colors.CenteredNorm(0, np.abs(v[peak])))
        ax.plot(east[column], south[row], "o", color="navy", markersize=3, mew=0, label="stream")
        ax.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
        ax.legend(loc="lower right", handletextpad=0.1)
        fig.colorbar(image, ax=ax, label="of ln K", **bar)
        box = Rectangle((x - reach, y - reach), 2 * reach, 2 * reach, fill=False, ec="crimson")
        main.add_patch(box)
        edge, va = (y - reach, "bottom") if i == 0 else (y + reach, "top")
        text = {"color": "white", "weight": "bold", "ha": "left", "va": va, "size": 10}
        label = {"fc": "crimson", "ec": "none", "pad": 1.5}
        main.text(x - reach, edge, str(i + 1), bbox=label, **text)

    ax = fig.add_subplot(grid[0, 3])
    number = np.arange(1, values.size + 1)
    ax.axhline(0, color="0.7", lw=0.8)
    ax.vlines(number, np.minimum(values, full), np.maximum(values, full), "0.75")
    ax.plot(number, values, "o", color="C0", label="Gauss–Newton eigenvalue")
    ax.plot(number, full, "D", mfc="white", color="C1", label="full Hessian along its vector")
    ax.axhline(smallest, color="crimson", label="smallest of the full Hessian")
    ax.set_title("Curvature of the misfit", loc="left")
    ax.set(xlabel="leading eigenpair", box_aspect=1)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------

SOLVERS = {
    "auto": lambda: "auto",
    "direct": lambda: mfdeq.Direct(),
    "amg": lambda: mfdeq.Krylov("gmres", preconditioner=mfdeq.AMG()),
}


def arrays_on(device: str):
    """Return numpy, or cupy if that finds a device."""
    if device == "cpu":
        return np
    with contextlib.suppress(ImportError):
        if (cupy := importlib.import_module("cupy")).is_available():
            return cupy
    raise SystemExit("--device cuda needs an NVIDIA driver, and the extra cuda12 or cuda13 (cupy)")


def on_host(x) -> np.ndarray:
    """Return a numpy array with the values of an array that may be on a device."""
    return x.get() if hasattr(x, "get") else x


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


def timed(work):
    """Return the result of `work` and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def meaning(smallest: float, bound: float, prior: float) -> list[str]:
    """Explain the smallest eigenvalue of the Hessian of the misfit, and what the prior adds."""
    if smallest > -bound:
        return ["not negative beyond its bound: no direction of negative curvature was found"]
    share = "which outweighs it" if smallest + prior > 0 else "which does not make up for it"
    return [
        "negative: along its vector the misfit is concave, so a plain Newton step would ascend;",
        "Gauss–Newton is positive semidefinite and cannot show this;",
        f"the prior adds {prior:.2f} there, {share}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Run the example and print every number with its cost or its error bound."""
    options = parse(arguments)
    begin = time.perf_counter()

    xp = arrays_on(options.device)
    measured = load_terrain(options.size)
    terrain = refine(measured, options.refine)
    z, channels = terrain.elevation, streams(measured, terrain)
    model = Groundwater(terrain, xp=xp)
    theta = xp.full(model.param_size, np.log(CONDUCTIVITY))
    observed = xp.asarray(channels)
    misfit = mfdeq.LeastSquares(observed, model.surface[observed])  # σ = 1 m
    precision = model.smoothness()
    loss = misfit + mfdeq.QuadraticPrior(precision, theta)
    if options.petsc:
        return on_ranks(model, loss, theta, options.eigenpairs)
    say(
        "Terrain",
        f"{z.shape[0]} × {z.shape[1]} cells of {terrain.dx:.1f} × {terrain.dy:.1f} m, N = P = "
        f"{z.size:,}; elevations {z.min():.0f} to {z.max():.0f} m; {channels.size:,} stream cells",
    )

    solver = SOLVERS[options.solver]()
    eq, seconds = timed(lambda: mfdeq.solve(model, theta, solver=solver, progress=True))
    report = eq.report
    outflow, rain = float(model.drainage(eq.state).sum()), model.recharge * model.state_size
    say(
        "Equilibrium",
        f"{report.iterations} iterations of {report.method}, {seconds:.1f} s; {report.reason}",
        f"water balance: outflow / recharge − 1 = {outflow / rain - 1:.1e}",
    )
    _, seconds = timed(lambda: eq.inverse)
    say(
        "Factor",
        f"{report.solver}, {seconds:.1f} s, used from here on; "
        f"a solution of A x = b has {report.digits_left:.1f} digits",
        *report.choices,
    )

    gradient, seconds = timed(lambda: eq.gradient(loss))
    norm = float(xp.linalg.norm(gradient))
    rms = float(xp.mean((eq.state - model.surface)[observed] ** 2)) ** 0.5
    say(
        "Gradient",
        f"norm {norm:.2f}, loss {loss.value(eq.state, theta):.1f} "
        f"(rms error of the stream heads {rms:.2f} m); {seconds:.2f} s",
    )

    H, v, counts = eq.hessian(misfit), gradient / norm, report.linear
    columns, iterations = counts.columns, counts.iterations
    Hv, seconds = timed(lambda: H @ v)
    say(
        "Hessian",
        f"one product: {counts.columns - columns} solves, {counts.iterations - iterations} "
        f"iterations, {1e3 * seconds:.0f} ms",
    )
    G = H.gauss_newton
    Gv = G @ v
    neglected = float(xp.linalg.norm(Gv - Hv) / xp.linalg.norm(Hv))
    curves = f"{float(v @ Hv):.3f}, by Gauss–Newton {float(v @ Gv):.3f}; ‖Gv − Hv‖ / ‖Hv‖"
    say("Gauss–Newton", f"curvature of the misfit along its gradient {curves} = {neglected:.2f}")

    k = options.eigenpairs
    leading, seconds = timed(lambda: mfdeq.eigsh(G, k=k, which="LA", progress=True))
    order = xp.argsort(-leading.values)
    vectors = leading.vectors[:, order]
    full = on_host(xp.sum(vectors * (H @ vectors), axis=0))
    values, bounds = on_host(leading.values[order]), on_host(leading.error_bounds[order])
    rows = zip(range(1, k + 1), values, bounds, full, strict=True)
    say(
        "Spectrum",
        "leading eigenvalues of Gauss–Newton ± bound; the full Hessian along their vectors; "
        f"{seconds:.1f} s",
        *(f"{i:3} {value:9.4f} ± {bound:.0e}   {curve:9.4f}" for i, value, bound, curve in rows),
    )

    least, seconds = timed(lambda: mfdeq.eigsh(H, k=1, which="SA", progress=True))
    smallest, bound, x = float(least.values[0]), float(least.error_bounds[0]), least.vectors[:, 0]
    say(
        "Smallest",
        f"eigenvalue of the full Hessian {smallest:.4f} ± {bound:.0e}; {seconds:.1f} s",
        *meaning(smallest, bound, float(x @ (precision @ x))),
    )

    fields = (on_host(x) for x in (model.surface - eq.state, gradient, vectors[:, :2]))
    draw(options.output, terrain, channels, *fields, values, full, smallest)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


def on_ranks(model, loss, theta, k: int) -> None:
    """Run the first half of the example on PETSc's matrices, on all ranks."""
    from petsc4py import PETSc

    from mfdeq import petsc

    begin = time.perf_counter()
    model = petsc.distributed(model)
    # In two dimensions a factorization is also what "auto" chooses on one machine.
    lu = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    solver = petsc.KSP(options=lu)
    eq = mfdeq.solve(model, model.params(theta), solver=solver)
    gradient, H = eq.gradient(model.loss(loss)), eq.hessian(model.loss(loss))
    pairs = mfdeq.eigsh(H, k, "LA")
    # Norms are sums over all ranks: every rank takes part, and one prints.
    state, slope, product = map(eq.backend.norm, (eq.state, gradient, H @ gradient))
    if PETSc.COMM_WORLD.getRank() == 0:
        say("Equilibrium", f"‖h‖ {state:.12g}; {eq.report.reason}", eq.report.solver)
        say("Gradient", f"norm {slope:.12g}; of its product with H {product:.12g}")
        largest = zip(pairs.values, pairs.error_bounds, strict=True)
        say("Largest", *(f"{x:.12g} ± {e:.0e}" for x, e in largest))
        say("Time", f"{time.perf_counter() - begin:.1f} s on {PETSc.COMM_WORLD.getSize()} ranks")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""

    def size(text: str) -> int:
        rows = ROWS.get(text) or int(text)
        if 40 <= rows <= ROWS["full"]:
            return rows
        raise argparse.ArgumentTypeError(f"{rows} rows; 40 to {ROWS['full']} were expected")

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    rows = f"{', '.join(ROWS)}, or a number of rows from 40 to {ROWS['full']}"
    parser.add_argument("--size", type=size, default="full", help=f"{rows} (default: full)")
    refined = {"type": int, "choices": range(1, 17), "metavar": "1-16", "default": 1}
    parser.add_argument("--refine", **refined, help="cells per measured cell, in each direction")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute")
    parser.add_argument("--petsc", action="store_true", help="use PETSc, under MPI; no figure")
    parser.add_argument("--eigenpairs", type=int, default=8, help="how many pairs (default: 8)")
    parser.add_argument("--solver", choices=SOLVERS, default="auto", help="linear solver")
    parser.add_argument("--output", type=Path, default="groundwater.png", help="file of the figure")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
