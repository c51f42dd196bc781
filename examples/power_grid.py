"""AC power flow on a real grid: derivatives of losses and voltages, on the way to collapse.

The state is the voltage angles and magnitudes that are not prescribed, the parameters are the
power injected at the buses and the reactances of the lines; the balance of power at every bus is
one JAX function, and every derivative comes from it. Grids and the power flow that is compared
with are pandapower's.

    python examples/power_grid.py                # 9,241 buses of Europe (PEGASE), minutes
    python examples/power_grid.py --size small   # IEEE's 118 buses, seconds
"""

from __future__ import annotations

import argparse
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scipy.sparse as sp

import mfdeq

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy

CASES = {"small": "case118", "full": "case9241pegase"}
DEVIATION = 10.0  # weight of the squared deviations of voltages from 1, against losses in MW
EIGENPAIRS = 4
FIRST_STEP, LAST_STEP = 0.1, 1e-4  # of the load, on the way to collapse


# --- the grid -----------------------------------------------------------------------------------


class Grid(NamedTuple):
    """What pandapower makes of a grid, per unit: buses, branches, and its own solution."""

    name: str
    base: float  # MVA of one unit
    voltage: np.ndarray  # complex, pandapower's solution
    injected: np.ndarray  # complex power
    shunt: np.ndarray  # complex admittance to ground
    start: np.ndarray  # branch: from this bus
    end: np.ndarray
    series: np.ndarray  # r + jx
    charging: np.ndarray  # g + jb
    tap: np.ndarray
    shift: np.ndarray  # radians
    angles: np.ndarray  # buses whose angle is unknown
    magnitudes: np.ndarray  # and whose magnitude is


def load_grid(name: str) -> Grid:
    """Load a case, and solve it as pandapower does."""
    import pandapower as pp
    import pandapower.networks as networks
    from pandapower.pypower import idx_brch as column
    from pandapower.pypower.makeYbus import branch_vectors

    net = getattr(networks, name)()
    pp.runpp(net, tolerance_mva=1e-9, numba=False)
    solved = net._ppc["internal"]
    branch = solved["branch"]
    start, end = (np.real(branch[:, k]).astype(int) for k in (column.F_BUS, column.T_BUS))
    lines, buses = len(branch), len(solved["V"])
    from_to, to_to = (
        sp.csr_matrix((np.ones(lines), (at, np.arange(lines))), (buses, lines))
        for at in (start, end)
    )
    at_end, at_start, *_ = branch_vectors(branch, lines)
    of_branches = from_to @ at_start + to_to @ at_end
    tap = np.real(branch[:, column.TAP])
    return Grid(
        name,
        float(solved["baseMVA"]),
        solved["V"],
        solved["Sbus"],
        solved["Ybus"].diagonal() - of_branches,
        start,
        end,
        branch[:, column.BR_R] + 1j * branch[:, column.BR_X],
        branch[:, column.BR_G] + 1j * branch[:, column.BR_B],
        np.where(tap == 0, 1.0, tap),
        np.deg2rad(np.real(branch[:, column.SHIFT])),
        np.concatenate([solved["pv"], solved["pq"]]),
        np.asarray(solved["pq"]),
    )


class PowerFlow:
    """The equations of a grid, in real numbers, for JAX.

    With V exp(j a) the voltages, y = 1/(r + j x exp(t)) the admittance of a branch, c its charging,
    τ exp(j σ) its tap and ψ = a_from − a_to − σ, what flows into it at its ends is

        S_from = V_from² (y + c/2)*/τ² − V_from V_to y* exp(jψ)/τ
        S_to   = V_to² (y + c/2)*      − V_from V_to y* exp(−jψ)/τ.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.state_size = len(grid.angles) + len(grid.magnitudes)
        self.param_size = self.state_size + len(grid.start)

    def voltages(self, h):
        """Angles and magnitudes at all buses."""
        grid, n = self.grid, len(self.grid.angles)
        angle = jnp.asarray(np.angle(grid.voltage)).at[grid.angles].set(h[:n])
        return angle, jnp.asarray(abs(grid.voltage)).at[grid.magnitudes].set(h[n:])

    def flows(self, h, theta):
        """Active and reactive power into every branch, at its start and at its end."""
        grid = self.grid
        angle, V = self.voltages(h)
        r, x = grid.series.real, grid.series.imag * jnp.exp(theta[self.state_size :])
        g, b = r / (r**2 + x**2), -x / (r**2 + x**2)
        gc, bc = g + grid.charging.real / 2, b + grid.charging.imag / 2
        psi = angle[grid.start] - angle[grid.end] - grid.shift
        start, end = V[grid.start] / grid.tap, V[grid.end]
        c, s = start * end * jnp.cos(psi), start * end * jnp.sin(psi)
        return (
            start**2 * gc - g * c - b * s,
            -(start**2) * bc - g * s + b * c,
            end**2 * gc - g * c + b * s,
            -(end**2) * bc + g * s + b * c,
        )

    def residual(self, h, theta):
        """What flows out of each bus less what is injected, where power is prescribed."""
        grid, n = self.grid, len(self.grid.angles)
        _, V = self.voltages(h)
        p_start, q_start, p_end, q_end = self.flows(h, theta)
        p = (V**2 * grid.shunt.real).at[grid.start].add(p_start).at[grid.end].add(p_end)
        q = (-(V**2) * grid.shunt.imag).at[grid.start].add(q_start).at[grid.end].add(q_end)
        out = jnp.concatenate([p[grid.angles], q[grid.magnitudes]])
        return out - theta[: self.state_size] if n else out

    def loss(self, h, theta):
        """Power lost in the branches, in MW, and the deviations of voltages from one."""
        p_start, _, p_end, _ = self.flows(h, theta)
        _, V = self.voltages(h)
        lost = self.grid.base * (p_start.sum() + p_end.sum())
        return lost + DEVIATION * ((V[self.grid.magnitudes] - 1.0) ** 2).sum()

    def patterns(self) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Where the residual depends on the state and on the parameters."""
        grid = self.grid
        n, lines = len(grid.voltage), len(grid.start)
        ends = np.concatenate([grid.start, grid.end])
        entries = (np.ones(2 * lines), (ends, np.tile(np.arange(lines), 2)))
        touches = sp.csr_matrix(entries, (n, lines))
        near = (touches @ touches.T + sp.identity(n)).tocsr()
        rows = (grid.angles, grid.magnitudes)
        state = sp.bmat([[near[i][:, j] for j in rows] for i in rows])
        params = sp.hstack([sp.identity(self.state_size), sp.vstack([touches[i] for i in rows])])
        return state.tocsr(), params.tocsr()

    def model(self) -> mfdeq.ResidualModel:
        """The model, its derivatives by JAX, the first ones as sparse matrices."""
        h, theta = np.zeros(self.state_size), np.zeros(self.param_size)
        return mfdeq.from_jax(self.residual, h, theta, "residual", sparsity=self.patterns())

    def params(self, load: float = 1.0) -> np.ndarray:
        """The injections of the case, times a load, and its reactances."""
        grid = self.grid
        injected = [grid.injected.real[grid.angles], grid.injected.imag[grid.magnitudes]]
        return np.concatenate([load * np.concatenate(injected), np.zeros(len(grid.start))])

    def flat(self) -> np.ndarray:
        """A start: the angles of the linear (DC) flow, magnitudes of one."""
        grid, n = self.grid, len(self.grid.voltage)
        lines = np.arange(len(grid.start))
        ends = np.concatenate([grid.start, grid.end])
        signs = np.repeat([1.0, -1.0], len(lines))
        C = sp.csr_matrix((signs, (ends, np.tile(lines, 2))), (n, len(lines)))
        weight = 1.0 / (grid.series.imag * grid.tap)
        angles = np.angle(grid.voltage)
        angles[grid.angles] = 0.0
        L = (C @ sp.diags(weight) @ C.T).tocsr()
        rest = grid.injected.real + C @ (weight * grid.shift) - L @ angles
        A = L[grid.angles][:, grid.angles].tocsc()
        angles[grid.angles] += sp.linalg.spsolve(A, rest[grid.angles])
        return np.concatenate([angles[grid.angles], np.ones(len(grid.magnitudes))])

    def complex_voltages(self, h: np.ndarray) -> np.ndarray:
        """The voltages of a state."""
        angle, V = (np.asarray(x) for x in self.voltages(h))
        return V * np.exp(1j * angle)


# --- towards collapse ---------------------------------------------------------------------------


class Step(NamedTuple):
    """A solved load: the least voltage, the least singular value, and what is left."""

    load: float
    lowest: float
    sigma: float
    digits: float
    slope: float  # of the loss over the load


def smallest_singular_value(eq: mfdeq.Equilibrium, v: np.ndarray, iterations: int = 6):
    """σ_min(A) from above and its right vector, by inverse iterations with the factor."""
    for _ in range(iterations):
        u = eq.inverse.H @ v
        v = eq.inverse @ (u / np.linalg.norm(u))
        sigma = 1.0 / np.linalg.norm(v)
        v = sigma * v
    return sigma, v


def towards_collapse(flow: PowerFlow, model, loss, h: np.ndarray) -> tuple[list[Step], str]:
    """Raise the load by steps that are halved where there is no solution; and the last refusal."""
    steps: list[Step] = []
    load, by, refused = 1.0, FIRST_STEP, ""
    v = np.random.default_rng(0).standard_normal(flow.state_size)
    direction = flow.params() * (np.arange(flow.param_size) < flow.state_size)
    while by >= LAST_STEP:
        try:
            eq = mfdeq.solve(model, flow.params(load), h, max_iterations=30)
            sigma, v = smallest_singular_value(eq, v)
            slope = eq.gradient(loss) @ direction
        except (mfdeq.ConvergenceError, mfdeq.SingularStateError) as error:
            refused = f"{type(error).__name__} at {load:.5f}"
            load, by = load - by / 2, by / 2
            continue
        lowest = np.min(abs(flow.complex_voltages(eq.state)))
        steps.append(Step(load, lowest, sigma, eq.report.digits_left, slope))
        h = eq.state + by * (eq.sensitivity @ direction)
        load += by
    return steps, refused


# --- the job ------------------------------------------------------------------------------------


def draw(path: Path, flow: PowerFlow, steps: list[Step], values, vectors) -> None:
    """Draw the way to collapse, and where the leading eigenvector lives."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    loads = [step.load for step in steps]
    left.semilogy(loads, [step.sigma for step in steps], "o-", color="#1f5a8a", ms=3)
    left.set(xlabel="load, relative to the case", ylabel="σ_min of the Jacobian A")
    other = left.twinx()
    other.plot(loads, [step.lowest for step in steps], "s-", color="#b5541c", ms=3)
    other.set_ylabel("lowest voltage, per unit", color="#b5541c")
    left.set_title(f"{flow.grid.name} to its collapse")
    buses = vectors[: len(flow.grid.angles), 0]
    order = np.argsort(-abs(buses))[:40]
    right.bar(np.arange(len(order)), buses[order], color="#1f5a8a")
    right.set(xlabel="bus, by size", ylabel="component")
    right.set_title(f"leading eigenvector, λ = {values[0]:.3g}: injections of power")
    figure.savefig(path, dpi=150)


def say(topic: str, *lines: str) -> None:
    """Print what there is to say about a topic."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


def timed(work):
    """Return the result of some work and its seconds."""
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def main(arguments: list[str] | None = None) -> None:
    """Run the job; every number comes with what it cost or how far it can be trusted."""
    options = parse(arguments)
    begin = time.perf_counter()
    grid, seconds = timed(lambda: load_grid(CASES[options.size]))
    flow = PowerFlow(grid)
    say(
        "Grid",
        f"{grid.name}: {len(grid.voltage):,} buses, {len(grid.start):,} branches; N = "
        f"{flow.state_size:,} angles and magnitudes, P = {flow.param_size:,} injections and "
        f"reactances (pandapower: {seconds:.1f} s)",
    )
    model, theta = flow.model(), flow.params()
    loss = mfdeq.loss_from_jax(flow.loss, np.zeros(flow.state_size), np.zeros(flow.param_size))
    eq, seconds = timed(lambda: mfdeq.solve(model, theta, flow.flat()))
    off = np.max(abs(flow.complex_voltages(eq.state) - grid.voltage))
    say(
        "Equilibrium",
        f"{eq.report.iterations} iterations of {eq.report.method} from a flat start, "
        f"{seconds:.1f} s with compilation; {eq.report.reason}",
        f"voltages equal pandapower's to {off:.1e}",
    )
    _, seconds = timed(lambda: eq.inverse)
    say(
        "Factor",
        f"{eq.report.solver}, {seconds:.2f} s; {eq.report.digits_left:.1f} digits are left",
    )
    gradient, seconds = timed(lambda: eq.gradient_with_error(loss)[0])
    n = len(grid.angles)
    worst = int(np.argmax(abs(gradient[:n])))
    say(
        "Gradient",
        f"losses {flow.grid.base * sum(f.sum() for f in flow.flows(eq.state, theta)[::2]):.2f} MW; "
        f"one MW more at bus {grid.angles[worst]} changes the loss by "
        f"{gradient[worst] / grid.base:+.4f}",
        f"{seconds:.2f} s, estimated relative error {eq.report.gradient_error:.0e}",
    )
    H = eq.hessian(loss)
    pairs, seconds = timed(lambda: mfdeq.eigsh(H, k=EIGENPAIRS, which="LM", rtol=1e-6))
    shown = ", ".join(
        f"{value:.6g} ± {bound:.0e}"
        for value, bound in zip(pairs.values, pairs.error_bounds, strict=True)
    )
    say("Hessian", f"leading eigenvalues {shown}", f"{seconds:.1f} s for {EIGENPAIRS} pairs")
    (steps, refused), seconds = timed(lambda: towards_collapse(flow, model, loss, eq.state))
    say("Collapse", "   load   lowest voltage     σ_min   digits left   d loss / d load")
    for step in steps:
        print(
            f"{'':14}{step.load:7.4f}   {step.lowest:14.4f}  {step.sigma:8.2e}"
            f"   {step.digits:11.1f}   {step.slope:15.6g}"
        )
    say("", f"then {refused}; {seconds:.1f} s")
    if options.figure:
        order = np.argsort(-abs(pairs.values))
        draw(options.output, flow, steps, pairs.values[order], pairs.vectors[:, order])
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.1f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=CASES, default="full", help="which grid (default: full)")
    parser.add_argument("--output", type=Path, default="power_grid.png", help="the figure")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="only the numbers")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
