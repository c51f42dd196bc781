"""Plain functions that call simulators: a reactor of Cantera and water networks of EPANET."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.cases import close

import mfdeq

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

# A perfectly stirred reactor of methane and air.


@pytest.fixture(scope="module")
def reactor():
    pytest.importorskip("cantera", reason="cantera is not installed")
    from reactor import FUELS, Reactor

    _, mechanism, mixture, _ = FUELS["full"]
    return Reactor(mechanism, mixture)


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
    exact = reactor.linearize(h, theta).d_params[:, 1:]
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


# The networks that come with wntr, at their first hour.


@pytest.mark.parametrize("name", ["Net3", "Net6"])
def test_networks_are_differentiated_with_default_steps(name):
    pytest.importorskip("wntr", reason="wntr is not installed")
    from water_network import Network

    exact = Network(name)
    theta, pipes = np.zeros(exact.pipes), exact.pipes
    model = mfdeq.from_function(
        exact.residual, exact.state_size, pipes, "residual", sparsity="detect"
    )
    eq = mfdeq.solve(model, theta, exact.solution)
    assert abs(exact.residual(eq.state, theta)).max() < 1e-9
    observed = np.arange(pipes, exact.state_size, 5)
    loss = mfdeq.LeastSquares(observed, eq.state[observed] - 1.0)
    v = np.random.default_rng(0).standard_normal(pipes)
    by_hand = mfdeq.solve(exact, theta, eq.state)
    close(eq.gradient(loss), by_hand.gradient(loss), 1e-5)
    close(eq.hessian(loss) @ v, by_hand.hessian(loss) @ v, 1e-3)
