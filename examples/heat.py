"""Heat in time: the temperature of the start and the conductivity, from a few sensors.

A plate of n × n cells, insulated at its edges, cools by implicit Euler steps. Unknown are the
temperature at the start and the log conductivity of every cell; known are the temperatures at a few
sensors, every fifth step. All steps share one matrix, and so one factor; `checkpoints` bounds how
many linearizations are held.

    python examples/heat.py                # 64 × 64 cells, 200 steps: some ten minutes
    python examples/heat.py --size small   # 16 × 16 cells, 40 steps
"""

from __future__ import annotations

import argparse
import math
import time
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

import mfdeq

SIZES = {"small": (16, 40), "full": (64, 200)}  # cells per side, steps
SENSORS = 36
EVERY = 5  # steps between measurements
NOISE = 0.003
DURATION = 0.1
PLATE = (0.0, 1.0, 1.0, 0.0)  # left, right, bottom and top: the first row is at the top


class Heat(mfdeq.StepModel):
    """One step h − previous + dt Dᵀ diag(exp(M κ)) D h = 0, for θ = (start, κ).

    D takes differences across the inner faces, divided by the spacing; M averages the log
    conductivities κ of the two cells of a face.

    Parameters
    ----------
    n : int
        Number of cells per side of the unit square.
    dt : float
        The length of a step.
    """

    def __init__(self, n: int, dt: float):
        self.n, self.dt = n, dt
        self.state_size, self.param_size = n * n, 2 * n * n
        d = sp.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(n - 1, n)) * n
        eye = sp.eye_array(n)
        self.D = sp.vstack([sp.kron(d, eye), sp.kron(eye, d)], format="csr")
        self.M = abs(self.D) / (2.0 * n)
        self.eye = sp.eye_array(n * n, format="csr")
        self.previous = -self.eye
        self._at = (None, None, None)

    def at(self, kappa):
        """Return the conductivity of the faces and the matrix of a step, kept for the latest κ."""
        if self._at[0] is None or not np.array_equal(self._at[0], kappa):
            k = np.exp(self.M @ kappa)
            stiffness = self.D.T @ sp.diags_array(k) @ self.D
            self._at = kappa.copy(), k, (self.eye + self.dt * stiffness).tocsr()
        return self._at[1:]

    def residual(self, h, previous, theta, k):
        """Return R of one step, which is the same for all k."""
        return self.at(theta[self.n**2 :])[1] @ h - previous

    def linearize(self, h, previous, theta, k) -> mfdeq.StepLinearization:
        """Differentiate the flux q = k · D h, k = exp(Mκ)."""
        D, M, N = self.D, self.M, self.n**2
        conductivity, matrix = self.at(theta[N:])
        q = self.dt * conductivity * (D @ h)

        def curvature(lam):
            g = D @ lam
            both, mixed = g * q, self.dt * g * conductivity

            def apply(u, p, z):
                face = M @ u[N:]
                a = M.T @ (both * face + mixed * (D @ z))
                return np.concatenate([np.zeros(N), a]), np.zeros(N), D.T @ (mixed * face)

            return apply

        d_params = LinearOperator(
            (N, 2 * N),
            matvec=lambda u: D.T @ (q * (M @ u[N:])),
            rmatvec=lambda y: np.concatenate([np.zeros(N), M.T @ (q * (D @ y))]),
            dtype=h.dtype,
        )
        return mfdeq.StepLinearization(matrix, self.previous, d_params, curvature)

    def start(self) -> mfdeq.Start:
        """Return the start, the first half of the parameters."""
        N = self.n**2
        first = sp.eye_array(N, 2 * N, format="csr")
        return mfdeq.Start(lambda theta: theta[:N], lambda theta: first)

    def smoothness(self):
        """Return the precision matrix of two smooth fields."""
        one = 0.3 * self.D.T @ self.D / self.n + 10.0 * self.eye / self.n
        return sp.block_diag([one, 0.3 * one], format="csr")


def bump(n: int, x: float, y: float, width: float) -> np.ndarray:
    """Return a Gaussian bump on the cells, (n²,)."""
    c = (np.arange(n) + 0.5) / n
    return np.exp(-((c[:, None] - x) ** 2 + (c[None, :] - y) ** 2) / width**2).ravel()


class Problem(NamedTuple):
    """The trajectory with its truth, its data and its loss."""

    model: mfdeq.ResidualModel
    truth: np.ndarray
    cells: np.ndarray
    data: np.ndarray  # (measurements, sensors)
    misfit: mfdeq.LeastSquares
    prior: mfdeq.QuadraticPrior


def synthetic_problem(n: int, steps: int) -> Problem:
    """Measure a known plate with noise."""
    rng = np.random.default_rng(0)
    step = Heat(n, DURATION / steps)
    model = mfdeq.trajectory(step, steps, step.start(), checkpoints=math.isqrt(steps))
    hot = bump(n, 0.3, 0.3, 0.12) + 0.7 * bump(n, 0.7, 0.6, 0.15)
    kappa = -1.5 * bump(n, 0.65, 0.3, 0.2) + bump(n, 0.3, 0.75, 0.2)
    truth = np.concatenate([hot, kappa])
    side = math.isqrt(SENSORS)
    at = ((np.arange(side) + 0.5) * n / side).astype(int)
    cells = (at[:, None] * n + at[None, :]).ravel()
    observe = np.arange(0, steps, EVERY)[:, None] * n * n + cells
    exact = mfdeq.solve(model, truth).state[observe]
    data = exact + NOISE * rng.standard_normal(exact.shape)
    misfit = mfdeq.LeastSquares(observe.ravel(), data.ravel(), weights=1.0 / NOISE**2)
    return Problem(model, truth, cells, data, misfit, mfdeq.QuadraticPrior(step.smoothness()))


def fit(problem: Problem) -> mfdeq.Minimum:
    """Find the most probable parameters, by Newton's method with conjugate gradients."""
    F = mfdeq.ReducedFunctional(problem.model, problem.misfit + problem.prior)
    precision = mfdeq.Precision(problem.model.step.smoothness())
    return mfdeq.minimize(
        F, np.zeros(problem.truth.size), method="newton-cg", preconditioner=precision
    )


def draw(path: str, problem: Problem, eq) -> None:
    """Save the figure: the fields beside the truth, and the sensors in time."""
    import matplotlib.pyplot as plt

    from mfdeq import plot

    n = problem.model.step.n
    fig, axes = plt.subplots(2, 3, figsize=(12, 7.4), layout="constrained")
    fields = list(zip(np.split(problem.truth, 2), np.split(eq.params, 2), strict=True))
    hottest, largest = np.abs(fields[0]).max(), np.abs(fields[1][0]).max()
    for row, name, limits in (
        (0, "temperature at the start", {"symmetric": False, "cmap": "magma", "vmax": hottest}),
        (1, "log conductivity", {"vmin": -largest, "vmax": largest}),
    ):
        for ax, x, what in zip(axes[row], fields[row], ("truth", "estimate"), strict=False):
            plot.field(x, (n, n), ax=ax, extent=PLATE, **limits)
            ax.set_title(f"{name}, {what}", loc="left")
    y, x = (np.stack(np.divmod(problem.cells, n)) + 0.5) / n
    axes[0, 0].plot(x, y, "w.", ms=3)
    steps = np.arange(0, problem.model.count, EVERY)
    for i in (7, 21, 28):
        axes[0, 2].plot(steps, problem.data[:, i], ".", ms=4)
        line = eq.steps[:, problem.cells[i]]
        axes[0, 2].plot(line, color=axes[0, 2].lines[-1].get_color(), lw=1)
    axes[0, 2].set(xlabel="step", ylabel="temperature")
    axes[0, 2].set_title("three sensors, measured and fitted", loc="left")
    plot.field(eq.steps[-1], (n, n), ax=axes[1, 2], symmetric=False, cmap="magma", extent=PLATE)
    axes[1, 2].set_title("temperature at the end, fitted", loc="left")
    for ax in (*axes[0, :2], *axes[1]):
        ax.set(xlabel="x", ylabel="y")
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Measure, fit, and print what was found at which cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--output", default="heat.png", help="file of the figure")
    options = parser.parse_args(arguments)

    n, steps = SIZES[options.size]
    problem = synthetic_problem(n, steps)
    begin = time.process_time()
    found = fit(problem)
    eq, report = found.equilibrium, found.report
    H = eq.hessian(problem.misfit)
    pairs = mfdeq.eigsh(H, 10, "LA", M=problem.model.step.smoothness())
    seconds = time.process_time() - begin
    misfit = math.sqrt(2.0 * problem.misfit.value(eq.state, eq.params) / problem.data.size)
    error = [
        np.linalg.norm(x - y) / np.linalg.norm(y)
        for x, y in zip(np.split(eq.params, 2), np.split(problem.truth, 2), strict=True)
    ]
    largest = pairs.values[-3:]
    held = eq.linearized.linearization.d_state.linearized
    print(
        f"{n} × {n} cells, {steps} steps, {problem.data.size} data: {eq.report.reason}\n"
        f"{report.equilibria} equilibria, {report.products} Hessian products in {seconds:.0f} s; "
        f"{eq.factor.name}, at most {held.limit} of {steps} linearizations held\n"
        f"misfit {misfit:.3f} standard deviations of the noise; relative errors of the start "
        f"{error[0]:.2f}, of the log conductivity {error[1]:.2f}\n"
        f"the data outweigh the prior most in three directions, by {np.round(largest, 1)}, "
        f"± {pairs.error_bounds.max():.0e}"
    )
    draw(options.output, problem, eq)


if __name__ == "__main__":
    main()
