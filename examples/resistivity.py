"""Electrical resistivity tomography: the conductivity of the ground from electrodes on its surface.

One electrode after another feeds a current into the ground, and all others measure the potential
(pole–pole arrays). Each source is an equilibrium of its own over the same conductivities: a sum of
functionals. Their matrix is the same, so that one factorization serves all sources, which are
solved as one block. Newton's method by conjugate gradients finds the most probable conductivities
(the MAP point). The eigenvalues of the exact Hessian beside the prior show how many directions the
data determine, and give the standard deviations of the posterior.

The ground is a vertical section, along which nothing changes in the third dimension.

    python examples/resistivity.py                # 64 electrodes, 3,072 cells, two minutes
    python examples/resistivity.py --size small   # 16 electrodes, 768 cells, seconds
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from matplotlib import pyplot as plt

import mfdeq

BACKGROUND = 0.01  # S/m, the conductivity of the prior's mean
NOISE = 0.05  # relative standard deviation of a potential
WIDTH = 128.0  # m
DEVIATION, LENGTH = 1.0, 30.0  # of log conductivity in the prior, and its correlation length in m


class Size(NamedTuple):
    """Cells across and down, the number of electrodes, and of eigenpairs."""

    nx: int
    nz: int
    electrodes: int
    pairs: int


SIZES = {"small": Size(48, 16, 16, 60), "full": Size(128, 24, 64, 150)}


# --- physics -------------------------------------------------------------------------------------


class Ground:
    """A section of cells: -div(exp(theta) grad u), insulated at the surface, u = 0 far away.

    Parameters
    ----------
    nx, nz : int
        The number of cells across and down. They are squares.
    """

    def __init__(self, nx: int, nz: int) -> None:
        self.nx, self.nz, self.size = nx, nz, nx * nz
        self.cell = WIDTH / nx

        def differences(n: int, ends: tuple[int, int]) -> sp.csr_array:
            """Differences across the faces of n cells, at the ends only where they are open."""
            whole = sp.diags_array([np.ones(n), -np.ones(n)], offsets=[0, -1], shape=(n + 1, n))
            return whole.tocsr()[1 - ends[0] : n + ends[1]]

        across, down = differences(nx, (1, 1)), differences(nz, (0, 1))
        self.D = sp.vstack(
            [sp.kron(sp.eye_array(nz), across), sp.kron(down, sp.eye_array(nx))]
        ).tocsr()  # from cells to faces
        cells = abs(self.D)
        self.M = (sp.diags_array(1.0 / cells.sum(axis=1)) @ cells).tocsr()  # their means
        self._last: tuple[np.ndarray, np.ndarray, sp.csr_array] | None = None

    def matrix(self, theta: np.ndarray) -> tuple[np.ndarray, sp.csr_array]:
        """Return the conductivities of the faces and the matrix, which all sources share."""
        last = self._last
        if last is None or not np.array_equal(last[0], theta):
            k = np.exp(self.M @ theta)
            A = (self.D.T @ sp.diags_array(k) @ self.D).tocsr()
            last = self._last = theta.copy(), k, A
        return last[1:]

    def precision(self) -> sp.csr_array:
        """Return the precision of a Matérn prior of smoothness 1 (Lindgren et al., 2011)."""
        kappa2 = 8.0 / LENGTH**2
        faces = self.D[abs(self.D).sum(axis=1) == 2.0]
        laplacian = faces.T @ faces / self.cell**2
        elliptic = laplacian + kappa2 * sp.eye_array(self.size)
        return (self.cell**2 / (4 * np.pi * kappa2 * DEVIATION**2) * (elliptic @ elliptic)).tocsr()


class Source(mfdeq.ResidualModel):
    """The potential of a unit current into one cell: R(u, θ) = Dᵀ exp(Mθ) D u − e_cell.

    Parameters
    ----------
    ground : Ground
    cell : int
    """

    def __init__(self, ground: Ground, cell: int) -> None:
        self.ground, self.cell = ground, cell
        self.state_size = self.param_size = ground.size

    def residual(self, u, theta):
        """Return the net outflow of each cell."""
        out = self.ground.matrix(theta)[1] @ u
        out[self.cell] -= 1.0
        return out

    def linearize(self, u, theta) -> mfdeq.Linearization:
        """Differentiate the currents q = k · D u, k = exp(Mθ)."""
        D, M, diag = self.ground.D, self.ground.M, sp.diags_array
        k, A = self.ground.matrix(theta)
        q = k * (D @ u)

        def curvature(lam) -> mfdeq.Curvature:
            g = D @ lam
            return mfdeq.Curvature(
                params_params=(M.T @ diag(g * q) @ M).tocsr(),
                state_params=(D.T @ diag(g * k) @ M).tocsr(),
            )

        return mfdeq.Linearization(A, (D.T @ diag(q) @ M).tocsr(), curvature)


# --- the inverse problem -------------------------------------------------------------------------


class Problem(NamedTuple):
    """The ground, its electrodes, the true parameters, the misfit of all sources and the prior."""

    ground: Ground
    electrodes: np.ndarray
    truth: np.ndarray
    misfit: mfdeq.SumFunctional
    precision: mfdeq.Precision
    mean: np.ndarray

    @property
    def functional(self) -> mfdeq.SumFunctional:
        """The negative logarithm of the posterior."""
        return self.misfit + mfdeq.QuadraticPrior(self.precision, self.mean)


def true_ground(ground: Ground) -> np.ndarray:
    """Return the log conductivity of a ground with a layer, a wet lens and a resistive block."""
    x = (np.arange(ground.nx) + 0.5) * ground.cell
    z = (np.arange(ground.nz) + 0.5) * ground.cell
    X, Z = np.meshgrid(x, z)
    log = np.full(X.shape, np.log(BACKGROUND))
    log[4.0 + 2.0 * np.sin(X / 15.0) > Z] += 0.7
    log[((X - 42.0) / 14.0) ** 2 + ((Z - 12.0) / 5.0) ** 2 < 1.0] += 1.6
    log[(abs(X - 88.0) < 9.0) & (abs(Z - 13.0) < 6.0)] -= 1.6
    return log.ravel()


def synthetic_problem(size: Size, seed: int = 0) -> Problem:
    """Return a problem whose data are computed from a known ground, with noise."""
    rng = np.random.default_rng(seed)
    ground = Ground(size.nx, size.nz)
    step = size.nx // size.electrodes
    electrodes = np.arange(step // 2, size.nx, step)[: size.electrodes]  # in the topmost cells
    truth = true_ground(ground)
    experiments, names = [], []
    for i, cell in enumerate(electrodes):
        model = Source(ground, int(cell))
        others = np.delete(electrodes, i)
        exact = mfdeq.solve(model, truth, solver=mfdeq.Direct()).state[others]
        sigma = NOISE * exact
        data = exact + sigma * rng.standard_normal(others.size)
        loss = mfdeq.LeastSquares(others, data, sigma**-2)
        experiments.append(mfdeq.ReducedFunctional(model, loss))
        names.append(f"electrode {i}")
    misfit = mfdeq.SumFunctional(experiments, names=names)
    mean = np.full(ground.size, np.log(BACKGROUND))
    return Problem(ground, electrodes, truth, misfit, mfdeq.Precision(ground.precision()), mean)


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, problem: Problem, mode, deviations, exact, gauss_newton) -> None:
    """Save the figure: the true ground, the mode, its standard deviations and the spectrum."""
    ground, depth = problem.ground, WIDTH * problem.ground.nz / problem.ground.nx
    extent = (0.0, WIDTH, depth, 0.0)
    at = (problem.electrodes + 0.5) * ground.cell
    shape = (ground.nz, ground.nx)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(2, 2, figsize=(13.0, 6.4), layout="constrained")
    resistivity = {"cmap": "Spectral", "vmin": 1.0, "vmax": 3.0}  # decimal logarithm of Ω m
    pictures = (
        ("The ground: resistivity", -problem.truth / np.log(10), resistivity, "log10 Ω m"),
        ("Most probable resistivity", -mode / np.log(10), resistivity, "log10 Ω m"),
        (
            "Standard deviation of ln conductivity",
            deviations,
            {"cmap": "viridis", "vmin": 0.0, "vmax": DEVIATION},
            "",
        ),
    )
    for ax, (title, field, options, label) in zip(axes.ravel(), pictures, strict=False):
        image = ax.imshow(field.reshape(shape), extent=extent, interpolation="nearest", **options)
        ax.plot(at, np.zeros_like(at), "v", color="k", markersize=3, clip_on=False)
        ax.set_title(title, loc="left")
        ax.set(xlabel="m", ylabel="depth, m")
        fig.colorbar(image, ax=ax, label=label, shrink=0.7, pad=0.01)
    ax = axes[1, 1]
    for values, marker, label in (
        (exact[exact > 0], "o", "exact Hessian"),
        (gauss_newton, "x", "Gauss–Newton"),
    ):
        ax.semilogy(np.arange(1, values.size + 1), values, marker, ms=4, label=label)
    ax.axhline(1.0, color="0.6", lw=0.8)
    ax.set_title("Data beside the prior", loc="left")
    ax.set(xlabel="direction", ylabel="eigenvalue μ of H v = μ R v")
    ax.legend(frameon=False)
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for i, line in enumerate(lines):
        print(f"{'' if i else topic:<12}{line}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    options = parse(arguments)
    size, begin = SIZES[options.size], time.perf_counter()
    problem = synthetic_problem(size)
    ground, F = problem.ground, problem.functional
    say(
        "Experiments",
        f"{len(F)} sources with {size.electrodes - 1} potentials each, N = P = {ground.size:,}",
    )

    start = time.perf_counter()
    found = mfdeq.minimize(F, problem.mean, gtol=1e-5)
    parts = found.equilibrium.parts
    setups = sum(eq.report.forward.setups + eq.report.linear.setups for eq in parts)
    misfits = F.values(found.params)
    say(
        "Mode",
        f"{found.reason}; {len(found.report.steps) - 1} steps, {found.report.products} products "
        f"with the Hessian, {time.perf_counter() - start:.1f} s",
        f"at the mode {setups} factorization serves {len(parts)} sources",
        f"squared misfit per potential {2 * misfits.mean() / (size.electrodes - 1):.2f} (noise: "
        f"1); the largest is of {F.names[int(misfits.argmax())]}",
    )

    start = time.perf_counter()
    H = problem.misfit.hessian(found.params)
    pairs = mfdeq.eigsh(H, size.pairs, "LM", M=problem.precision, rtol=1e-8)
    few = size.pairs // 4
    approximate = mfdeq.eigsh(H.gauss_newton, few, "LA", M=problem.precision, rtol=1e-8)
    exact, gauss_newton = np.sort(pairs.values)[::-1], np.sort(approximate.values)[::-1]
    say(
        "Spectrum",
        f"{int((exact > 1).sum())} directions in which the data say more than the prior; "
        f"{time.perf_counter() - start:.1f} s",
        f"largest eigenvalues {', '.join(f'{value:.3g}' for value in exact[:4])}",
        f"Gauss–Newton's {', '.join(f'{value:.3g}' for value in gauss_newton[:4])}",
    )

    posterior = mfdeq.LowRank(pairs)
    deviations = np.sqrt(posterior.variances())
    at_top = deviations[: ground.nx].mean()
    at_bottom = deviations[-ground.nx :].mean()
    say(
        "Posterior",
        f"standard deviation of ln conductivity {at_top:.2f} at the surface, {at_bottom:.2f} at "
        f"the bottom",
    )
    draw(options.output, problem, found.params, deviations, exact, gauss_newton)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="(default: full)")
    parser.add_argument("--output", type=Path, default="resistivity.png", help="the figure's file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
