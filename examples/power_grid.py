"""AC power flow on a real grid: derivatives of losses and voltages on the way to voltage collapse.

The state consists of the voltage angles and magnitudes that are not prescribed. The parameters are
the power injected at the buses and the log reactances of the branches relative to the case. The
power balance (load flow) at every bus is one JAX function, from which all derivatives come. The
grids and the reference solution are pandapower's. Generators hold their voltage whatever reactive
power that takes.

    python examples/power_grid.py                # 9,241 buses of Europe (PEGASE), a minute
    python examples/power_grid.py --size small   # IEEE's 118 buses, seconds
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

import mfdeq

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy

CASES = {"small": "case118", "full": "case9241pegase"}
VOLTAGE_WEIGHT = 10.0  # of squared deviations of voltages from 1, relative to losses in MW
EIGENPAIRS = 4
MAX_LOAD_STEP = 0.2  # on the way to collapse
MIN_LOAD_GAP = 1e-6  # to the collapse, relative to the load


# --- the grid ------------------------------------------------------------------------------------


class Grid(NamedTuple):
    """A grid in pandapower's per-unit form: buses, branches, and pandapower's solution."""

    name: str
    base: float  # MVA of one per-unit power
    number: np.ndarray  # pandapower's number of each bus
    place: np.ndarray  # its position on pandapower's map, (buses, 2)
    voltage: np.ndarray  # complex, pandapower's solution
    injected: np.ndarray  # complex power
    shunt: np.ndarray  # complex admittance to ground
    start: np.ndarray  # bus at which each branch starts
    end: np.ndarray  # bus at which it ends
    series: np.ndarray  # r + jx
    charging: np.ndarray  # g + jb
    tap: np.ndarray
    shift: np.ndarray  # radians
    angles: np.ndarray  # buses with an unknown angle
    magnitudes: np.ndarray  # buses with an unknown magnitude


def load_grid(name: str) -> Grid:
    """Load a case and solve it by pandapower."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within pandapower
        import pandapower as pp
        import pandapower.networks as networks
        from pandapower.pypower import idx_brch as column
        from pandapower.pypower.makeYbus import branch_vectors

        net = getattr(networks, name)()
        pp.runpp(net, tolerance_mva=1e-9, numba=False)
    number = np.argsort(net._pd2ppc_lookups["bus"][net.bus.index])
    place = [json.loads(text)["coordinates"] for text in net.bus.geo.iloc[number]]
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
        net.bus.index.to_numpy()[number],
        np.array(place),
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
    """The equations of a grid in real numbers, for JAX.

    With voltages V exp(j a), the admittance y = 1/(r + j x exp(t)) of a branch, its charging c, its
    tap τ exp(j σ) and ψ = a_from − a_to − σ, the power that flows into the branch at its ends is

        S_from = V_from² (y + c/2)*/τ² − V_from V_to y* exp(jψ)/τ
        S_to   = V_to² (y + c/2)*      − V_from V_to y* exp(−jψ)/τ.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.state_size = len(grid.angles) + len(grid.magnitudes)
        self.param_size = self.state_size + len(grid.start)
        h, theta = np.zeros(self.state_size), np.zeros(self.param_size)
        sparsity = self.patterns()
        self.model = mfdeq.from_jax(self.residual, h, theta, "residual", sparsity=sparsity)
        self.objective = mfdeq.loss_from_jax(self.loss, h, theta)

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
        """Outflow minus injection at each bus, where the power is prescribed."""
        grid, (_, V) = self.grid, self.voltages(h)
        p_start, q_start, p_end, q_end = self.flows(h, theta)
        p = (V**2 * grid.shunt.real).at[grid.start].add(p_start).at[grid.end].add(p_end)
        q = (-(V**2) * grid.shunt.imag).at[grid.start].add(q_start).at[grid.end].add(q_end)
        return jnp.concatenate([p[grid.angles], q[grid.magnitudes]]) - theta[: self.state_size]

    def lost(self, h, theta):
        """Power lost in the branches, in MW."""
        p_start, _, p_end, _ = self.flows(h, theta)
        return self.grid.base * (p_start.sum() + p_end.sum())

    def loss(self, h, theta):
        """Power lost in the branches, in MW, plus a penalty on deviations of voltages from one."""
        deviation = h[len(self.grid.angles) :] - 1.0
        return self.lost(h, theta) + VOLTAGE_WEIGHT * (deviation**2).sum()

    def patterns(self) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        """Sparsity patterns of the derivatives with respect to state and parameters."""
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

    def params(self, load: float = 1.0) -> np.ndarray:
        """The injections of the case times a load factor, and its log reactances."""
        grid = self.grid
        injected = [grid.injected.real[grid.angles], grid.injected.imag[grid.magnitudes]]
        return np.concatenate([load * np.concatenate(injected), np.zeros(len(grid.start))])

    def flat(self) -> np.ndarray:
        """A start with the angles of the linear (DC) power flow and magnitudes of one."""
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
        angles[grid.angles] += spsolve(A, rest[grid.angles])
        return np.concatenate([angles[grid.angles], np.ones(len(grid.magnitudes))])

    def complex_voltages(self, h: np.ndarray) -> np.ndarray:
        """The complex voltages of a state."""
        angle, V = (np.asarray(x) for x in self.voltages(h))
        return V * np.exp(1j * angle)


# --- towards collapse ----------------------------------------------------------------------------


class Step(NamedTuple):
    """The solution at one load, and what grows or decreases on the way to collapse."""

    load: float
    collapse: float  # the load at the collapse, as estimated from here
    lowest: float  # lowest voltage
    sigma: float  # σ_min(A)
    digits: float  # left in a solution
    slope: float  # derivative of the loss with respect to the load
    mode: np.ndarray  # right singular vector of σ_min


def towards_collapse(flow: PowerFlow, h: np.ndarray) -> list[Step]:
    """Increase all injections together, each time by most of the estimated distance to collapse.

    Near the collapse, a fold at the load c, voltages behave like √(c − load). For the voltage that
    decreases fastest, V'/V'' is therefore 2 (c − load); h' and h'' predict the next state.
    """
    steps: list[Step] = []
    load, n = 1.0, len(flow.grid.angles)
    direction = np.where(np.arange(flow.param_size) < flow.state_size, flow.params(), 0.0)
    while True:
        eq = mfdeq.solve(flow.model, flow.params(load), h)
        first, second = eq.sensitivity @ direction, eq.second_order(direction, direction)
        fastest = n + np.argmin(first[n:])
        left = first[fastest] / (2.0 * second[fastest])
        lowest = np.min(abs(flow.complex_voltages(eq.state)))
        slope = eq.gradient(flow.objective) @ direction
        smallest, digits = eq.smallest_singular, eq.report.digits_left
        row = lowest, smallest.value, digits, slope, smallest.right
        steps.append(Step(load, load + left, *row))
        if left < MIN_LOAD_GAP * load:
            return steps
        by = min(MAX_LOAD_STEP, 0.7 * left)
        h = eq.state + by * first + by**2 / 2.0 * second
        load += by


def refusal(flow: PowerFlow, load: float, h: np.ndarray) -> str:
    """Return what the library reports where there should be no solution."""
    try:
        eq = mfdeq.solve(flow.model, flow.params(load), h)
    except mfdeq.MfdeqError as error:
        return f"{type(error).__name__}, {error.report.reason}"
    lowest = np.min(abs(flow.complex_voltages(eq.state)))
    return f"another solution, with a voltage of {lowest:.3f}"


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, flow: PowerFlow, steps: list[Step], gradient, value, vector) -> None:
    """Save the figure: the way to collapse, and three fields on pandapower's map of the grid."""
    from matplotlib import colors
    from matplotlib import pyplot as plt
    from matplotlib.collections import LineCollection

    grid, n = flow.grid, len(flow.grid.angles)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig = plt.figure(figsize=(14, 9), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    cells = fig.add_gridspec(2, 6, height_ratios=[1, 1.15])
    load, _, lowest, sigma, _, slope = (np.array(x) for x in list(zip(*steps, strict=True))[:6])
    end = steps[-1].collapse

    ax = fig.add_subplot(cells[0, :3])
    ax.plot(load, sigma, "o-", color="C0", ms=4)
    ax.axvline(end, color="0.4", lw=1, ls=":")
    ax.set_title(f"{grid.name} under growing load: collapse at {end:.5f}", loc="left")
    ax.set(xlabel="load and generation, relative to the case", ylim=(0, None))
    ax.set_ylabel("$\\sigma_{min}(A)$", color="C0")
    other = ax.twinx()
    other.plot(load, lowest, "s-", color="C1", ms=4)
    other.set_ylabel("lowest voltage, per unit", color="C1")

    ax = fig.add_subplot(cells[0, 3:])
    left = end - load
    for y, power, color, name in (
        (sigma, 0.5, "C0", "$\\sigma_{min}$"),
        (np.abs(slope), -0.5, "C3", "|d loss / d load|"),
    ):
        ax.loglog(left, y / y[0], "o-", color=color, ms=4, lw=0.7, label=name)
        ax.loglog(left, y[-1] / y[0] * (left / left[-1]) ** power, ":", color=color)
    ax.plot([], [], ":", color="0.4", label="theory at a fold, (distance)$^{\\pm 1/2}$")
    ax.invert_xaxis()
    ax.set_title("Close to the collapse, relative to the case", loc="left")
    ax.set(xlabel="distance of the load to collapse")
    ax.set_ylim(top=10 * ax.get_ylim()[1])
    ax.legend(frameon=False, loc="upper center", ncols=3)

    def on_map(position, title, values, buses, label):
        """Colour the buses; larger values get larger dots."""
        ax, top = fig.add_subplot(position), np.abs(values).max()
        ends = np.stack([grid.place[grid.start], grid.place[grid.end]], axis=1)
        ax.add_collection(LineCollection(ends, colors="0.8", linewidths=0.3))
        order = np.argsort(np.abs(values))
        share, place = values[order] / top, grid.place[buses[order]]
        size = (100 + 400 * share**2) / len(grid.place) ** 0.5
        dots = {"s": size, "edgecolors": "0.5", "linewidths": 0.5, "zorder": 3}
        norm = colors.CenteredNorm(0, top)
        image = ax.scatter(*place.T, c=values[order], cmap="RdBu_r", norm=norm, **dots)
        ax.annotate(
            f"bus {grid.number[buses[order[-1]]]}",
            place[-1],
            (-62, 8),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": "0.3"},
            bbox={"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8},
        )
        ax.set_title(title, loc="left")
        ax.set(xticks=[], yticks=[], aspect="equal", anchor="N")
        fig.colorbar(image, ax=ax, label=label, shrink=0.7, pad=0.01, aspect=35)

    injected = gradient[:n] / grid.base
    on_map(
        cells[1, :2],
        "Injecting one MW more at a bus",
        injected,
        grid.angles,
        "change of the loss, MW",
    )
    title = f"Leading eigenvector of H, λ = {value:,.0f}"
    on_map(cells[1, 2:4], title, vector[:n], grid.angles, "active power injected")
    mode = steps[-1].mode[n:]
    mode = -mode / mode[np.argmax(np.abs(mode))]
    title = "What collapses: the null vector of A"
    on_map(cells[1, 4:], title, mode, grid.magnitudes, "voltage, relative to the largest")
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


def timed(work):
    """Return the result of `work` and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def main(arguments: list[str] | None = None) -> None:
    """Run the example and print every number with its cost or its error bound."""
    options = parse(arguments)
    begin = time.perf_counter()
    grid, seconds = timed(lambda: load_grid(CASES[options.size]))
    flow, n = PowerFlow(grid), len(grid.angles)
    model, theta, loss = flow.model, flow.params(), flow.objective
    say(
        "Grid",
        f"{grid.name}: {len(grid.voltage):,} buses, {len(grid.start):,} branches; N = "
        f"{flow.state_size:,} angles and magnitudes, P = {flow.param_size:,} injections and "
        f"reactances; pandapower {seconds:.1f} s",
    )

    eq, seconds = timed(lambda: mfdeq.solve(model, theta, flow.flat()))
    off = np.max(abs(flow.complex_voltages(eq.state) - grid.voltage))
    say(
        "Equilibrium",
        f"{eq.report.iterations} iterations of {eq.report.method} from a flat start, "
        f"{seconds:.1f} s with compilation; {eq.report.reason}",
        f"voltages differ from pandapower's by at most {off:.1e} per unit",
    )
    _, seconds = timed(lambda: eq.inverse)
    say(
        "Factor",
        f"{eq.report.solver}, {seconds:.2f} s, used from here on; "
        f"a solution of A x = b has {eq.report.digits_left:.1f} digits",
    )

    (gradient, error), seconds = timed(lambda: eq.gradient_with_error(loss))
    most = np.argmax(abs(gradient[:n]))
    say(
        "Gradient",
        f"{flow.lost(eq.state, theta):,.2f} MW are lost; one MW more at bus "
        f"{grid.number[grid.angles[most]]} changes the loss by {gradient[most] / grid.base:+.4f}",
        f"{seconds:.2f} s with compilation; estimated error of the gradient "
        f"{np.linalg.norm(error) / np.linalg.norm(gradient):.0e}",
    )

    pairs, seconds = timed(lambda: mfdeq.eigsh(eq.hessian(loss), k=EIGENPAIRS))
    order = np.argsort(-abs(pairs.values))
    kinds = np.split(pairs.vectors[:, order] ** 2, [n, flow.state_size])
    shares = zip(*(kind.sum(axis=0) for kind in kinds), strict=True)
    rows = zip(pairs.values[order], pairs.error_bounds[order], shares, strict=True)
    say(
        "Hessian",
        f"leading eigenvalues ± bound, and the shares in their vectors; {pairs.report.products} "
        f"products, {seconds:.1f} s with compilation",
        *(
            f"{value:10.4f} ± {bound:.0e}   active power {p:4.0%}, reactive {q:4.0%}, "
            f"reactances {x:4.0%}"
            for value, bound, (p, q, x) in rows
        ),
    )

    steps, seconds = timed(lambda: towards_collapse(flow, eq.state))
    say(
        "Collapse",
        f"{seconds:.1f} s",
        "    load   estimated collapse   lowest voltage     σ_min   digits left   d loss / d load",
        *(
            f"{step.load:.6f}   {step.collapse:18.6f}   {step.lowest:14.4f}  {step.sigma:8.2e}"
            f"   {step.digits:11.1f}   {step.slope:15.6g}"
            for step in steps
        ),
    )
    beyond = steps[-1].collapse * 1.001
    outcome, seconds = timed(lambda: refusal(flow, beyond, eq.state))
    say("", f"at {beyond:.6f}: {outcome}; {seconds:.1f} s")
    if options.figure:
        leading = pairs.values[order[0]], pairs.vectors[:, order[0]]
        draw(options.output, flow, steps, gradient, *leading)
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.0f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=CASES, default="full", help="which grid (default: full)")
    parser.add_argument("--output", type=Path, default="power_grid.png", help="file of the figure")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="numbers only")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
