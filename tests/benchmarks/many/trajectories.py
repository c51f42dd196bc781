"""The heat equation in time, one matrix for all steps and one for each, beside scipy by hand."""

from __future__ import annotations

from math import isqrt

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

import mfdeq

from .comparison import Comparison

DT = 1e-3


class Heat(mfdeq.StepModel):
    """R = h − previous + dt (c_k exp(theta_0) K h − G theta_rest) on m x m points.

    Parameters
    ----------
    m, steps : int
    changing : bool
        Whether c_k differs from step to step.
    """

    def __init__(self, m: int, steps: int, changing: bool) -> None:
        line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
        self.K = (m * m * sp.kronsum(line, line)).tocsr()
        self.mass = sp.eye_array(m * m, format="csr")
        self.minus = -self.mass
        self.factors = DT * (1.0 + 0.5 * np.sin(np.arange(steps)) * changing)
        x = (np.arange(m) + 0.5) / m
        centres = [(a, b) for a in np.linspace(0.1, 0.9, 4) for b in np.linspace(0.1, 0.9, 4)]
        self.G = np.stack([bump(x, a, b, 0.02) for a, b in centres], axis=1)
        self.start = bump(x, 0.5, 0.5, 0.05)
        self.state_size, self.param_size = m * m, 1 + self.G.shape[1]
        self.at: tuple = (None, None)

    def matrix(self, theta, k):
        """D_k, which is kept for steps and parameters that share it."""
        key = self.factors[k] * np.exp(theta[0])
        if self.at[0] != key:
            self.at = key, (self.mass + key * self.K).tocsr()
        return self.at[1]

    def residual(self, h, previous, theta, k):
        return self.matrix(theta, k) @ h - previous - self.G @ (DT * theta[1:])

    def linearize(self, h, previous, theta, k):
        size = self.factors[k] * np.exp(theta[0])
        column = size * (self.K @ h)

        def forward(u):
            return column * u[0] - self.G @ (DT * u[1:])

        def adjoint(y):
            return np.concatenate([[column @ y], -DT * (self.G.T @ y)])

        B = spla.LinearOperator(
            (self.state_size, self.param_size), matvec=forward, rmatvec=adjoint, dtype=h.dtype
        )

        def curvature(lam):
            of_lam = size * (self.K @ lam)
            both = of_lam @ h

            def apply(u, q, z):
                a = np.zeros_like(u)
                a[0] = of_lam @ z + both * u[0]
                return a, 0.0 * q, u[0] * of_lam

            return apply

        return mfdeq.StepLinearization(self.matrix(theta, k), self.minus, B, curvature)


def bump(x, a, b, width):
    return np.exp(-((x[:, None] - a) ** 2 + (x[None, :] - b) ** 2) / width).ravel()


class Setup:
    """Sensors at every fifth step, over one heat equation."""

    def __init__(self, m: int, steps: int, changing: bool, checkpoints: int | None) -> None:
        self.step, self.steps, self.n = Heat(m, steps, changing), steps, m * m
        rng = np.random.default_rng(0)
        sensors = rng.choice(self.n, 25, replace=False)
        self.observe = (np.arange(4, steps, 5)[:, None] * self.n + sensors).ravel()
        self.data = rng.random(self.observe.size)
        self.loss = mfdeq.LeastSquares(self.observe, self.data)
        self.model = mfdeq.trajectory(self.step, steps, self.step.start, checkpoints=checkpoints)
        self.theta = 0.3 * rng.standard_normal(self.step.param_size)
        self.v = rng.standard_normal(self.step.param_size)
        self.results: dict = {}

    # This library.

    def gradient(self):
        F = mfdeq.ReducedFunctional(self.model, self.loss)
        self.results["gradient"] = F.gradient(self.theta)
        self.eq = F.equilibrium(self.theta)

    def product(self):
        if not hasattr(self, "H"):
            self.gradient()
            self.H = self.eq.hessian(self.loss)
        self.before = self.eq.report.linear.setups
        self.results["product"] = self.H @ self.v

    def note(self):
        held = self.eq.factor.working.factors
        steps = self.eq.linearized.linearization.d_state.linearized
        return (
            f"({len(held.current)} factors of {held.nbytes / 2**20:.0f} MiB and {len(steps._held)} "
            f"linearizations held)"
        )

    def product_note(self):
        return f"{self.note()} {self.eq.report.linear.setups - self.before} refactorizations"

    # By hand.

    def factors(self):
        """The factor of each step, one for all if they share their matrix."""
        found: dict = {}
        for k in range(self.steps):
            key = self.step.factors[k]
            if key not in found:
                found[key] = spla.splu(self.step.matrix(self.theta, k).tocsc())
            yield found[key]

    def hand_gradient(self):
        step, theta, n = self.step, self.theta, self.n
        self.lus = list(self.factors())
        h, source = step.start, step.G @ (DT * theta[1:])
        self.h = np.empty((self.steps, n))
        for k in range(self.steps):
            h = self.h[k] = self.lus[k].solve(h + source)
        side = np.zeros((self.steps, n))
        side.ravel()[self.observe] = self.h.ravel()[self.observe] - self.data
        self.lam = self.back(side)
        g = np.zeros(step.param_size)
        for k in range(self.steps):
            g[0] -= step.factors[k] * np.exp(theta[0]) * (self.lam[k] @ (step.K @ self.h[k]))
        g[1:] = DT * (step.G.T @ self.lam.sum(axis=0))
        self.compare("gradient", g)

    def back(self, side):
        out, carried = np.empty_like(side), 0.0
        for k in reversed(range(self.steps)):
            carried = out[k] = self.lus[k].solve(side[k] + carried, "T")
        return out

    def hand_product(self):
        if not hasattr(self, "lam"):
            self.hand_gradient()
        step, theta, v, n = self.step, self.theta, self.v, self.n
        z, source = np.zeros(n), step.G @ (DT * v[1:])
        Z, side, sizes = np.empty((self.steps, n)), np.zeros((self.steps, n)), step.factors
        sizes = sizes * np.exp(theta[0])
        Hv = np.zeros(step.param_size)
        of_h, of_lam = np.empty_like(Z), np.empty_like(Z)
        for k in range(self.steps):
            of_h[k] = sizes[k] * (step.K @ self.h[k])
            z = Z[k] = self.lus[k].solve(z - v[0] * of_h[k] + source)
        side.ravel()[self.observe] = Z.ravel()[self.observe]
        for k in range(self.steps):
            of_lam[k] = sizes[k] * (step.K @ self.lam[k])
            side[k] -= v[0] * of_lam[k]
        w = self.back(side)
        Hv[0] = -np.vdot(of_lam, Z) - v[0] * np.vdot(of_lam, self.h) - np.vdot(w, of_h)
        Hv[1:] = DT * (step.G.T @ w.sum(axis=0))
        self.compare("product", Hv)

    def compare(self, name, value):
        if name in self.results:
            np.testing.assert_allclose(
                self.results[name], value, rtol=1e-7, atol=1e-9 * np.abs(value).max()
            )


def comparisons(small: bool):
    m = 40 if small else 100
    for steps in (20, 50) if small else (50, 500):
        for changing in (False, True):
            for checkpoints in (None, isqrt(steps)):
                yield from rows(m, steps, changing, checkpoints)


def rows(m, steps, changing, checkpoints):
    setup = Setup(m, steps, changing, checkpoints)
    what = f"heat, {steps} steps x {m * m:,}, {'changing' if changing else 'constant'} A"
    what += f", {checkpoints} checkpoints" if checkpoints else ""
    target = 1.5 if checkpoints is None else 2.5
    yield Comparison(
        f"{what}: gradient", setup.gradient, setup.hand_gradient, target, note=setup.note
    )
    if checkpoints and changing:  # counted and printed: no bound on the ratio
        target = np.inf
    yield Comparison(
        f"{what}: product", setup.product, setup.hand_product, target, note=setup.product_note
    )
