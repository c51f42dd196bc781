"""Roughness of the pipes of a water network, calibrated to measured heads: where is it known?

A city's network in steady flow: each pipe loses head by Hazen and Williams' formula, and each node
balances its flows. The state consists of the flows of the pipes and the heads of the nodes, the
parameters are the logarithms of the pipes' roughness coefficients. Old pipes are rougher than the
plans say; what heads measured at some nodes tell about that is the question. The networks come with
wntr, whose EPANET computes the reference solution and the measurements. Flows of pumps and levels
of tanks are taken as measured, as a control room has them.

    python examples/water_network.py                # Net6: 3,829 pipes, half a minute
    python examples/water_network.py --size small   # Net3: 117 pipes, seconds
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from itertools import zip_longest
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import mfdeq

NETWORKS = {"small": "Net3", "full": "Net6"}
EXPONENT = 1.852  # of the flow, in Hazen and Williams' formula
FOOT, GRAVITY = 0.3048, 9.81
# The formula has the factor 4.727 in feet and cubic feet a second; this is for metres.
FACTOR = 4.727 * FOOT**4.871 / FOOT ** (3 * EXPONENT)
NOISE = 0.05  # m, of measured heads
SENSOR_SPACING = 6  # nodes for each one with a sensor, beside those at pumps and valves
AGEING = 0.25  # prior standard deviation of a pipe's log roughness
CORRELATION = 6.0  # pipes, the length over which their ages are correlated
PAIRS = 500  # eigenpairs of the Hessian of the misfit against the prior


# --- the network ---------------------------------------------------------------------------------


class Network(mfdeq.ResidualModel):
    """Flows (m³/s) and heads (m) of a snapshot of a network, with its status of links.

    Pumps and valves are replaced by their flows. The parameters are the changes of the logarithms
    of the roughness coefficients of the open pipes. With R = 10.67 L/(C^1.852 d^4.871) and minor
    losses m, a pipe from i to j and a node with the demand d have the equations

        h_i − h_j = q (R exp(−1.852 θ) |q|^0.852 + m |q|),      Σ q_in − Σ q_out = d.

    Parameters
    ----------
    name : str
        A network that comes with wntr.
    change : callable, optional
        The change of the log roughness at places (k, 2), for the network that EPANET solves.
    """

    def __init__(self, name, change=None):
        import wntr

        library = Path(wntr.__file__).parent / "library" / "networks"
        network = wntr.network.WaterNetworkModel(str(library / f"{name}.inp"))
        network.options.time.duration = 0
        network.options.hydraulic.accuracy = 1e-8
        for pipe in (network.get_link(link) for link in network.pipe_name_list):
            if change is not None:
                pipe.roughness *= float(np.exp(change(middle(pipe)[None])[0]))
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # deprecations within wntr
            simulation = wntr.sim.EpanetSimulator(network)
            results = simulation.run_sim(file_prefix=str(Path(folder) / name))
        head, demand = (results.node[x].iloc[0] for x in ("head", "demand"))
        flow, status = (results.link[x].iloc[0] for x in ("flowrate", "status"))
        links = {link: network.get_link(link) for link in network.link_name_list if status[link]}
        pipes = {link: x for link, x in links.items() if x.link_type == "Pipe"}
        fixed = self._fixed(network, pipes)
        self.nodes = [x for x in network.junction_name_list if x not in fixed]
        index = {node: i for i, node in enumerate(self.nodes)}
        pipes = {k: x for k, x in pipes.items() if {x.start_node_name, x.end_node_name} & {*index}}
        self.demand = demand[self.nodes].to_numpy().copy()
        incidence, self.given = sp.lil_matrix((len(pipes), len(index))), np.zeros(len(pipes))
        for k, pipe in enumerate(pipes.values()):
            for node, sign in ((pipe.start_node_name, 1.0), (pipe.end_node_name, -1.0)):
                if node in index:
                    incidence[k, index[node]] = sign
                else:
                    self.given[k] += sign * head[node]
        stations = set()
        for link, x in links.items():
            for node, sign in ((x.start_node_name, 1.0), (x.end_node_name, -1.0)):
                if link not in pipes and node in index:
                    self.demand[index[node]] += sign * flow[link]
                    stations.add(index[node])
        self.length, self.diameter, self.roughness, minor_loss = (
            np.array([getattr(pipe, x) for pipe in pipes.values()])
            for x in ("length", "diameter", "roughness", "minor_loss")
        )
        if change is not None:  # back to the coefficients of the plans
            self.roughness /= np.exp(change(np.array([middle(x) for x in pipes.values()])))
        self.stations = sorted(stations)  # the nodes at pumps and valves
        self.incidence = incidence.tocsr()
        self.resistance = FACTOR * self.length / self.diameter**4.871 / self.roughness**EXPONENT
        self.minor = 8.0 * minor_loss / (GRAVITY * np.pi**2 * self.diameter**4)
        self.pipes = len(pipes)
        self.state_size, self.param_size = self.pipes + len(self.nodes), self.pipes
        self.state_names = [f"the flow in pipe {x}" for x in pipes]
        self.state_names += [f"the head at {x}" for x in self.nodes]
        self.equation_names = [f"the loss of head along pipe {x}" for x in pipes]
        self.equation_names += [f"the balance of {x}" for x in self.nodes]
        self.solution = np.concatenate([flow[[*pipes]].to_numpy(), head[self.nodes].to_numpy()])
        self.ends = np.array(
            [(x.start_node.coordinates, x.end_node.coordinates) for x in pipes.values()]
        )
        self.places = np.array([network.get_node(x).coordinates for x in self.nodes])

    @staticmethod
    def _fixed(network, pipes):
        """The nodes with a given head: tanks, reservoirs, and one of each part without those."""
        graph = {node: [] for node in network.node_name_list}
        for pipe in pipes.values():
            graph[pipe.start_node_name].append(pipe.end_node_name)
            graph[pipe.end_node_name].append(pipe.start_node_name)
        fixed, seen = {*network.tank_name_list, *network.reservoir_name_list}, set()
        for start in [*fixed, *graph]:
            if start in seen:
                continue
            fixed.add(start)
            stack = [start]
            while stack:
                if (node := stack.pop()) not in seen:
                    seen.add(node)
                    stack += graph[node]
        return fixed

    def residual(self, h, theta):
        """Losses along pipes and balances of nodes."""
        q, head = h[: self.pipes], h[self.pipes :]
        resistance = self.resistance * np.exp(-EXPONENT * theta)
        loss = q * (resistance * abs(q) ** (EXPONENT - 1) + self.minor * abs(q))
        return np.concatenate(
            [self.incidence @ head + self.given - loss, self.incidence.T @ q + self.demand]
        )

    def linearize(self, h, theta):
        """The derivatives: only the losses are nonlinear, and each depends on its own pipe."""
        q, a = h[: self.pipes], abs(h[: self.pipes])
        resistance = self.resistance * np.exp(-EXPONENT * theta)
        slope = EXPONENT * resistance * a ** (EXPONENT - 1)
        by_q, by_theta = slope + 2.0 * self.minor * a, -slope * q
        # The second derivatives; that by q is infinite where a pipe has no flow.
        steep = (EXPONENT - 1) * slope / np.where(a > 0, a, np.inf)
        by_q_q = np.sign(q) * (steep + 2.0 * self.minor)
        by_q_theta, by_theta_theta = -EXPONENT * slope, EXPONENT * slope * q
        D, none = self.incidence, np.zeros(len(self.nodes))
        below = sp.csr_matrix((len(self.nodes), self.pipes))
        pad = sp.vstack([sp.identity(self.pipes), below]).tocsr()

        def curvature(lam):
            params_params, mixed, state_state = (
                sp.diags(-lam[: self.pipes] * x) for x in (by_theta_theta, by_q_theta, by_q_q)
            )
            return mfdeq.Curvature(params_params, pad @ mixed, pad @ state_state @ pad.T)

        def second(a, b):
            (t, x), (s, y) = ((p, dh[: self.pipes]) for p, dh in (a, b))
            loss = by_theta_theta * t * s + by_q_theta * (t * y + s * x) + by_q_q * x * y
            return np.concatenate([-loss, none])

        A = sp.bmat([[-sp.diags(by_q), D], [D.T, None]], format="csc")
        return mfdeq.Linearization(A, pad @ sp.diags(-by_theta), curvature, second)

    def initial_state(self, theta):
        """One foot a second in every pipe, and level heads."""
        q = FOOT * np.pi / 4.0 * self.diameter**2
        return np.concatenate([q, np.full(len(self.nodes), abs(self.given).max())])

    def prior(self) -> mfdeq.QuadraticPrior:
        """Pipes that meet age together: a Matérn-like precision on the graph of the pipes."""
        meet = abs(self.incidence)
        adjacent = (meet @ meet.T).tolil()
        adjacent.setdiag(0.0)
        adjacent = (adjacent.tocsr() > 0).astype(float)
        degree = np.maximum(np.asarray(adjacent.sum(axis=1)).ravel(), 1.0)
        laplacian = sp.diags(degree) - adjacent
        root = sp.identity(self.pipes) + CORRELATION**2 / 4.0 * sp.diags(1.0 / degree) @ laplacian
        precision = (root.T @ root).tocsc()
        # The standard deviation of AGEING in the mean over the pipes.
        spread = np.mean(mfdeq.Precision(precision).variances())
        return mfdeq.QuadraticPrior(precision * (spread / AGEING**2), np.zeros(self.pipes))


def middle(pipe) -> np.ndarray:
    """The middle of a pipe of wntr."""
    ends = pipe.start_node.coordinates, pipe.end_node.coordinates
    return np.mean(np.array(ends), axis=0)


class Ageing:
    """Two old quarters, whose pipes are rougher than the plans say, and a newer rest.

    Parameters
    ----------
    network : Network
        What the places are relative to.
    """

    CENTRES = ((0.3, 0.35, -0.6), (0.7, 0.65, -0.45))  # x, y and the change of log C there
    WIDTH, ELSEWHERE = 0.2, 0.05

    def __init__(self, network: Network) -> None:
        self.low, high = network.places.min(axis=0), network.places.max(axis=0)
        self.span = high - self.low

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The change of the log roughness coefficient at places, (k, 2)."""
        x, change = (places - self.low) / self.span, np.full(len(places), self.ELSEWHERE)
        for *centre, depth in self.CENTRES:
            distance = np.linalg.norm(x - centre, axis=1)
            change += depth * np.exp(-((distance / self.WIDTH) ** 2) / 2.0)
        return change


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, network: Network, truth, found, shares, sensors, before, after) -> None:
    """Save the figure: three maps of the pipes, and the heads at nodes without a sensor."""
    from matplotlib import colors
    from matplotlib import pyplot as plt
    from matplotlib.collections import LineCollection

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    top = np.abs(truth).max()
    change = {"norm": colors.Normalize(-top, top), "cmap": "PuOr"}
    width, size = (2.5, 3.0) if network.pipes < 1000 else (1.2, 1.0)
    for ax, title, values, label, style in (
        (axes[0, 0], "The pipes as they are", truth, "change of log C", change),
        (axes[0, 1], f"Calibrated to {len(sensors)} heads", found, "change of log C", change),
        (
            axes[1, 0],
            "What the heads leave unknown",
            shares,
            "standard deviation, posterior / prior",
            {"norm": colors.Normalize(0, 1), "cmap": "viridis"},
        ),
    ):
        ax.add_collection(LineCollection(network.ends, colors="0.6", linewidths=width + 1.0))
        lines = LineCollection(network.ends, array=values, linewidths=width, **style)
        ax.add_collection(lines)
        ax.plot(*network.places[sensors].T, "o", color="0.2", ms=size, label="sensor")
        ax.autoscale_view()
        ax.set_title(title, loc="left")
        ax.set(xticks=[], yticks=[], aspect="equal")
        fig.colorbar(lines, ax=ax, label=label, shrink=0.8, pad=0.01)
    axes[0, 0].legend(frameon=False, loc="best")
    ax = axes[1, 1]
    rest = np.setdiff1d(np.arange(len(network.nodes)), sensors)
    head = network.solution[network.pipes :][rest]
    ax.axhline(0.0, color="0.7", lw=0.8)
    ax.plot(head, before[rest], "o", ms=3, color="C1", label="coefficients of the plans")
    ax.plot(head, after[rest], "o", ms=3, color="C0", label="calibrated")
    ax.set_title("Heads where there is no sensor", loc="left")
    ax.set(xlabel="head by EPANET, m", ylabel="model minus EPANET, m")
    ax.legend(frameon=False)
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
    """Compare with EPANET, calibrate, and say what is known."""
    options = parse(arguments)
    begin = time.perf_counter()
    name = NETWORKS[options.size]
    plans, seconds = timed(lambda: Network(name))
    say(
        "Network",
        f"{name}: N = {plans.state_size:,} flows and heads, P = {plans.pipes:,} pipes; EPANET "
        f"{seconds:.1f} s",
    )
    pipes = plans.pipes
    eq, seconds = timed(lambda: mfdeq.solve(plans, np.zeros(pipes)))
    off = np.abs(eq.state - plans.solution)[pipes:].max()
    say(
        "Equilibrium",
        f"{eq.report.iterations} iterations of {eq.report.method}, {seconds:.2f} s",
        f"heads differ from EPANET's by at most {off:.1e} m",
    )

    ageing = Ageing(plans)
    network = Network(name, ageing)
    truth = ageing(network.ends.mean(axis=1))
    off = np.abs(mfdeq.solve(network, truth).state - network.solution)[pipes:].max()
    rng = np.random.default_rng(0)
    sensors = np.union1d(network.stations, np.arange(0, len(network.nodes), SENSOR_SPACING))
    rest = np.setdiff1d(np.arange(len(network.nodes)), sensors)
    heads = network.solution[pipes:]
    measured = heads[sensors] + NOISE * rng.standard_normal(len(sensors))
    prior = network.prior()
    misfit = mfdeq.LeastSquares(pipes + sensors, measured, 1.0 / NOISE**2)
    F = mfdeq.ReducedFunctional(network, misfit + prior)
    before = F.equilibrium(np.zeros(pipes)).state[pipes:] - heads
    fit, seconds = timed(lambda: mfdeq.minimize(F, np.zeros(pipes)))
    solution = F.equilibrium(fit.params)
    after = solution.state[pipes:] - heads
    say(
        "Calibration",
        f"the old pipes give EPANET other heads, which the model equals to {off:.1e} m if it is "
        "given the true coefficients",
        f"{len(sensors)} sensors of {NOISE} m noise; Newton–CG: {F.solves} "
        f"equilibria, {seconds:.1f} s",
        f"root mean square error of the other heads: {rms(before[rest]):.3f} m by the plans, "
        f"{rms(after[rest]):.3f} m calibrated",
    )

    precision = mfdeq.Precision(prior.precision)
    pairs, seconds = timed(
        lambda: mfdeq.eigsh(solution.hessian(misfit), min(PAIRS, pipes), M=precision, rtol=1e-9)
    )
    posterior = mfdeq.LowRank(pairs)
    deviation = np.sqrt(posterior.variances())
    shares = deviation / np.sqrt(precision.variances())
    inside = np.mean(np.abs(fit.params - truth) < 2.0 * deviation)
    say(
        "Posterior",
        f"{np.sum(pairs.values > 1.0)} directions are known better from the heads than before, of "
        f"{pipes}; {seconds:.1f} s",
        f"standard deviations of log C: {np.sqrt(precision.variances()).mean():.2f} before, "
        f"{deviation.mean():.2f} now, {deviation.min():.2f} where known best",
        f"the truth is within two standard deviations for {inside:.0%} of the pipes",
    )
    draw(options.output, network, truth, fit.params, shares, sensors, before, after)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


def rms(x: np.ndarray) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(x**2)))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=NETWORKS, default="full", help="the network")
    parser.add_argument("--output", type=Path, default="water_network.png", help="figure file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
