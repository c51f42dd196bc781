"""Plain functions that call simulators: a reactor of Cantera and water networks of EPANET."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import splu
from support.cases import close

import mfdeq

# A perfectly stirred reactor of methane and air.


class Reactor:
    """Mass fractions and temperature of a reactor at 1 atm, fed at 300 K.

    The parameters are the logarithms of the residence time and of multipliers of all reactions.
    """

    def __init__(self):
        self.cantera = pytest.importorskip("cantera", reason="cantera is not installed")
        self.gas = self._feed()
        self.feed = self.gas.Y.copy()
        self.weights = self.gas.molecular_weights
        self.feed_enthalpies = self.gas.partial_molar_enthalpies / self.weights
        self.species, self.reactions = self.gas.n_species, self.gas.n_reactions
        burnt = self._feed()
        burnt.equilibrate("HP")
        self.ignited = np.append(burnt.Y, burnt.T)
        self.theta = np.zeros(1 + self.reactions)
        self.theta[0] = np.log(1e-2)

    def _feed(self):
        gas = self.cantera.Solution("gri30.yaml")
        gas.TPX = 300.0, self.cantera.one_atm, {"CH4": 1.0, "O2": 2.0, "N2": 7.52}
        return gas

    def residual(self, h, theta):
        gas, feed = self.gas, self.feed
        for i, multiplier in enumerate(np.exp(theta[1:])):
            gas.set_multiplier(multiplier, i)
        gas.set_unnormalized_mass_fractions(h[:-1])
        gas.TP = h[-1], self.cantera.one_atm
        rate = gas.net_production_rates * self.weights / gas.density
        enthalpies = gas.partial_molar_enthalpies / self.weights
        heat = feed @ (self.feed_enthalpies - enthalpies)
        time = np.exp(theta[0])
        return np.append((feed - h[:-1]) / time + rate, heat / time - enthalpies @ rate)

    def exact_reaction_derivatives(self, h, theta):
        """The derivatives of the residual with respect to the logarithms of the multipliers."""
        self.residual(h, theta)
        gas = self.gas
        stoichiometry = gas.product_stoich_coeffs - gas.reactant_stoich_coeffs
        rates = stoichiometry * gas.net_rates_of_progress * self.weights[:, None] / gas.density
        return np.vstack([rates, -(gas.partial_molar_enthalpies / self.weights) @ rates])


@pytest.fixture(scope="module")
def reactor():
    return Reactor()


@pytest.fixture(scope="module")
def burning(reactor):
    model = mfdeq.from_function(
        reactor.residual, reactor.species + 1, reactor.theta.shape[0], "residual"
    )
    return mfdeq.solve(model, reactor.theta, reactor.ignited)


def test_a_reactor_is_solved_and_differentiated_from_its_function_alone(reactor, burning):
    temperature = np.zeros(reactor.species + 1)
    temperature[-1] = 1.0
    assert burning.state[-1] == pytest.approx(2137.777, abs=1e-3)
    gradient = burning.sensitivity.H @ temperature
    assert gradient[0] == pytest.approx(46.921, abs=1e-3)
    time = np.zeros(reactor.theta.shape[0])
    time[0] = 1.0
    assert burning.second_order(time, time)[-1] == pytest.approx(-14.685, abs=1e-3)


def test_reaction_sensitivities_match_differences_of_the_state(reactor, burning):
    """The state at other multipliers is found with the exact dependence on the reactions."""
    h, theta = burning.state, reactor.theta
    A = burning.linearization.d_state
    columns = np.maximum(abs(h), 1e-30)
    rows = abs(A * columns).max(axis=1)
    scaled = np.linalg.inv(A * columns / rows[:, None])

    def correct(b):
        return columns * (scaled @ (b / rows))

    found = (burning.sensitivity.H @ np.eye(reactor.species + 1)[-1])[1:]
    exact = reactor.exact_reaction_derivatives(h, theta)
    adjoint = -(scaled.T @ (columns * np.eye(reactor.species + 1)[-1])) / rows
    close(found, exact.T @ adjoint, 1e-6)
    for i in np.argsort(-abs(found))[:6]:

        def state(log_multiplier, i=i):
            at = theta.copy()
            at[1 + i] = log_multiplier
            x = h + log_multiplier * correct(-exact[:, i])
            for _ in range(8):
                x = x - correct(reactor.residual(x, at))
            return x[-1]

        differences = [(state(t) - state(-t)) / (2 * t) for t in (2e-3, 4e-3)]
        assert found[i] == pytest.approx((4 * differences[0] - differences[1]) / 3, rel=1e-5)


# The networks that come with EPANET, at their first hour.


class Network:
    """Flows (m3/s) and heads (m) of a snapshot of a network with its status of links.

    Pumps and valves are replaced by their flows. The parameters are the logarithms of the
    roughness coefficients of the open pipes.
    """

    def __init__(self, name, folder):
        wntr = pytest.importorskip("wntr", reason="wntr is not installed")
        library = pathlib.Path(wntr.__file__).parent / "library" / "networks"
        network = wntr.network.WaterNetworkModel(str(library / f"{name}.inp"))
        network.options.time.duration = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            simulation = wntr.sim.EpanetSimulator(network)
            results = simulation.run_sim(file_prefix=str(folder / name))
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
        for link, x in links.items():
            for node, sign in ((x.start_node_name, 1.0), (x.end_node_name, -1.0)):
                if link not in pipes and node in index:
                    self.demand[index[node]] += sign * flow[link]
        values = ("length", "diameter", "roughness", "minor_loss")
        length, width, rough, minor = (
            np.array([getattr(pipe, x) for pipe in pipes.values()]) for x in values
        )
        self.incidence = incidence.tocsr()
        self.resistance = 10.667 * length / width**4.871 * rough**-1.852
        self.minor = 8.0 * minor / (9.81 * np.pi**2 * width**4)
        self.start = np.concatenate([flow[[*pipes]].to_numpy(), head[self.nodes].to_numpy()])
        self.pipes = len(pipes)

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

    def residual(self, x, theta):
        """Losses along pipes and balances of nodes, as a simulator gives them: real numbers."""
        q, head = x[: self.pipes], x[self.pipes :]
        resistance = self.resistance * np.exp(-1.852 * theta)
        loss = q * (resistance * abs(q) ** 0.852 + self.minor * abs(q))
        return np.concatenate(
            [self.incidence @ head + self.given - loss, self.incidence.T @ q + self.demand]
        ).astype(float)

    def jacobians(self, x, theta):
        q = x[: self.pipes]
        resistance = self.resistance * np.exp(-1.852 * theta)
        slope = 1.852 * resistance * abs(q) ** 0.852 + 2.0 * self.minor * abs(q)
        D, nothing = self.incidence, sp.csc_matrix((len(self.nodes), self.pipes))
        A = sp.bmat([[-sp.diags(slope), D], [D.T, None]], format="csc")
        return A, sp.vstack([sp.diags(1.852 * resistance * q * abs(q) ** 0.852), nothing]).tocsc()

    def derivatives(self, x, theta, slope, observed, v):
        """The gradient of a loss with this slope by the heads, and the product of its Hessian."""
        n, q = self.pipes, x[: self.pipes]
        A, B = self.jacobians(x, theta)
        lu = splu(A)
        adjoint = lu.solve(slope, trans="T")
        z = -lu.solve(B @ v)
        r, a = self.resistance * np.exp(-1.852 * theta), abs(q)
        by_q = 1.852 * 0.852 * r * np.sign(q) * np.where(a > 0, a, 1.0) ** -0.148
        by_q = np.where(a > 0, by_q, 0.0) + 2.0 * self.minor * np.sign(q)
        mixed = -(1.852**2) * r * a**0.852
        along_theta = adjoint[:n] * (1.852**2 * r * q * a**0.852 * v + mixed * z[:n])
        along_x = np.zeros(x.shape[0])
        along_x[:n] = adjoint[:n] * (mixed * v + by_q * z[:n])
        along_x[observed] += z[observed]
        return -B.T @ adjoint, along_theta - B.T @ lu.solve(along_x, trans="T")


@pytest.mark.parametrize("name", ["Net3", "Net6"])
def test_networks_are_differentiated_with_default_steps(name, tmp_path):
    network = Network(name, tmp_path)
    size, theta = network.start.shape[0], np.zeros(network.pipes)
    model = mfdeq.from_function(
        network.residual, size, network.pipes, "residual", sparsity="detect"
    )
    eq = mfdeq.solve(model, theta, network.start)
    assert abs(network.residual(eq.state, theta)).max() < 1e-9
    observed = np.arange(network.pipes, size, 5)
    loss = mfdeq.LeastSquares(observed, eq.state[observed] - 1.0)
    slope = np.zeros(size)
    slope[observed] = 1.0
    v = np.random.default_rng(0).standard_normal(network.pipes)
    gradient, product = network.derivatives(eq.state, theta, slope, observed, v)
    close(eq.gradient(loss), gradient, 1e-5)
    close(eq.hessian(loss) @ v, product, 1e-3)
