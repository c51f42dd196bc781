"""`mfdeq.equilibrium_at` accepts every state that `mfdeq.solve` has found, and no other."""

import numpy as np
import pytest
from support.cases import CASES, EVERY
from support.in_units import ResidualInUnits

import mfdeq

RESIDUALS = [case for case in CASES if isinstance(case.model, mfdeq.ResidualModel)]
DEMAND = np.array([0.13, 0.17, 0.0])  # the last node is a dead end
RESISTANCE = np.array([10.0, 20.0, 15.0])


def rows_in_units(size, seed):
    return 10.0 ** np.random.default_rng(seed).choice([-8, 0, 8], size)


def accepted(model, theta, h0=None):
    """The equilibrium of a model, by `solve`, and at the state that it returns."""
    eq = mfdeq.solve(model, theta, h0)
    assert eq.report.converged
    at = mfdeq.equilibrium_at(model, theta, eq.state)
    assert at.report.converged
    return eq, at


def dead_end(rows=1.0, units=1.0):
    """Flows and heads of three pipes in a row, the last of which leads to a dead end that leaks."""

    def residual(x, theta):
        x = x * units
        flow, head = x[:3], x[3:]
        above = np.concatenate([theta[:1], head[:-1]])
        drop = RESISTANCE * np.exp(theta[1:]) * flow * np.sqrt(flow**2 + 1e-6)
        below = np.concatenate([flow[1:], (0.5 * flow[-1:]) ** 3])
        return rows * np.concatenate([above - head - drop, flow - below - DEMAND])

    start = np.array([1.0, 0.5, 0.2, 40.0, 30.0, 20.0]) / units
    return mfdeq.from_function(residual, 6, 4, "residual", initial_state=start)


SUPPLY = np.array([50.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_a_converged_state_of_every_case_is_accepted(case):
    accepted(case.model, case.params, case.h0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", RESIDUALS, ids=str)
def test_a_converged_state_is_accepted_in_mixed_units_of_equations(case, seed):
    size = case.model.state_size
    model = ResidualInUnits(case.model, np.ones(size), rows_in_units(size, seed))
    accepted(model, case.params, case.h0)


@pytest.mark.parametrize("left", [0.0, -1e-91, 1e-30, 1e-17])
@pytest.mark.parametrize("unit", [1.0, 1e-8, 1e8])
@pytest.mark.parametrize("seed", range(2))
def test_an_unknown_that_has_converged_to_zero_is_accepted(seed, unit, left):
    """The balance of the dead end has only what is left of the flow to it as its terms."""
    units = np.array([1.0, unit, unit, 1.0, 1.0, unit])
    model = dead_end(rows_in_units(6, seed), units)
    eq, _ = accepted(model, SUPPLY)
    state = eq.state.copy()
    state[2] = left / units[2]
    at = mfdeq.equilibrium_at(model, SUPPLY, state)
    assert eq.report.zero_unknowns == at.report.zero_unknowns == 1
    loss = mfdeq.LeastSquares(np.array([3, 4]), np.zeros(2))
    np.testing.assert_allclose(at.gradient(loss), eq.gradient(loss), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize("flow", [1e-2, 1e-5, 1e-8])
def test_a_flow_into_a_dead_end_is_not_accepted(flow):
    model = dead_end()
    state = mfdeq.solve(model, SUPPLY).state + np.array([0.0, 0.0, flow, 0.0, 0.0, 0.0])
    with pytest.raises(mfdeq.ConvergenceError, match="the state is not an equilibrium"):
        mfdeq.equilibrium_at(model, SUPPLY, state)


@pytest.mark.parametrize(
    "residual",
    [
        lambda h, theta: np.sin(h) * (1.0 + theta),
        lambda h, theta: np.stack([np.sin(h[0]), h[1] ** 2 - theta[0]]),
        lambda h, theta: np.stack([h[0] * (1.0 + h[1]), h[1] ** 2 - theta[0]]),
    ],
    ids=["all zero", "by itself", "in products"],
)
def test_zeros_beside_no_other_terms_are_accepted(residual):
    model, theta = mfdeq.from_function(residual, 2, 1, "residual"), np.array([2.0])
    eq, _ = accepted(model, theta, h0=1.0)
    assert eq.report.zero_unknowns > 0
    with pytest.raises(mfdeq.ConvergenceError, match="the state is not an equilibrium"):
        mfdeq.equilibrium_at(model, theta, eq.state + np.array([1e-3, 0.0]))
