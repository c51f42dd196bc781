"""Verify fails wrong derivatives and passes correct ones at scales that differ by 1e12."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_models import Smooth
from support.cases import build
from support.model_mutants import MUTATIONS, mutant

import mfdeq

ROWS = np.array([1e6, 1.0, 1e-6, 1e3, 1e-4])
STATE = np.array([1e-6, 1e6, 1.0, 1e3, 1e-3])


class Scaled(mfdeq.ResidualModel):
    """rows * R(h / state, theta / params), R = h - f of a smooth map f."""

    def __init__(self, rows=1.0, state=1.0, params=1.0):
        self.of = build("smooth").written[0]
        assert isinstance(self.of, Smooth)
        self.state_size, self.param_size = N, P = self.of.state_size, self.of.param_size
        self.rows, self.state, self.params = (
            rows * np.ones(N),
            state * np.ones(N),
            params * np.ones(P),
        )

    def residual(self, h, theta):
        x, p = h / self.state, theta / self.params
        return self.rows * (x - self.of.map(x, p))

    def linearize(self, h, theta):
        of = self.of.fields(h / self.state, theta / self.params)
        rows = self.rows[:, None]

        def curvature(lam):
            blocks = of.curvature(-lam * self.rows)
            return mfdeq.Curvature(
                params_params=blocks.params_params / np.outer(self.params, self.params),
                state_params=blocks.state_params / np.outer(self.state, self.params),
                state_state=blocks.state_state / np.outer(self.state, self.state),
            )

        def second(a, b):
            a, b = ((x[0] / self.params, x[1] / self.state) for x in (a, b))
            return -self.rows * of.second(a, b)

        return mfdeq.Linearization(
            d_state=rows * (np.eye(self.state_size) - of.d_state) / self.state,
            d_params=-rows * of.d_params / self.params,
            curvature=curvature,
            second=second,
        )


PROBLEMS = {
    "rows": {"rows": ROWS},
    "states": {"state": STATE},
    "states and their rows": {"rows": 1 / STATE, "state": STATE},
    "small parameters": {"params": 1e-6},
    "large parameters": {"params": 1e6},
    "both parameters": {"params": np.array([1e-6, 1.0, 1e6])},
    "all": {"rows": ROWS, "state": STATE, "params": np.array([1e6, 1e-6, 1.0])},
}


def problem(name):
    model = Scaled(**PROBLEMS[name])
    return model, build("smooth").params * model.params


def verify(model, theta, seed=0):
    """With Newton, which converges in the scaled unknowns as in the original ones."""
    return mfdeq.verify(model, theta, method="newton", seed=seed)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
)
def test_correct_derivatives_do_not_fail(name, seed):
    found = verify(*problem(name), seed=seed)
    assert found.verdict != "FAIL", str(found)


@pytest.mark.parametrize("seed", range(3))
def test_correct_derivatives_pass_in_random_units(seed):
    of, rng = build("smooth").written[0], np.random.default_rng(seed)
    N, P = of.state_size, of.param_size
    rows, state, params = (10.0 ** rng.uniform(-8, 8, n) for n in (N, N, P))
    model = Scaled(rows, state, params)
    found = verify(model, build("smooth").params * params, seed=seed)
    assert found.verdict == "PASS", str(found)


HOW = "sign", "half", "first row off by 1e-3", "quietest row dropped", "last row double"
FAST = ("rows", "half"), ("rows", "quietest row dropped")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=[] if (name, how) in FAST else pytest.mark.slow)
        for name in PROBLEMS
        for how in HOW
    ],
)
def test_wrong_derivatives_are_found_and_named(name, how):
    model, theta = problem(name)
    for mutation in MUTATIONS:
        if mutation.how == how:
            found = verify(mutant(model, mutation), theta)
            failed = [check.name for check in found if check.verdict == "FAIL"]
            assert failed, f"{mutation}\n{found}"
            assert failed[0].startswith(mutation.field), f"{mutation}\n{found}"


@pytest.mark.parametrize("theta", [0.0, 0.3])
def test_parameters_of_zero_in_a_steep_function_are_given_small_steps(theta):
    """-h'' = exp(theta + h): terms of h of 1e5 would be reached by theta = 1e5 only."""
    n = 600
    D = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n), format="csr") * (n + 1) ** 2

    class Heated(mfdeq.ResidualModel):
        state_size = param_size = n

        def residual(self, h, theta):
            return D @ h - np.exp(theta + h)

        def linearize(self, h, theta):
            heat = sp.diags(np.exp(theta + h), format="csr")

            def curvature(lam):
                block = -sp.diags(np.exp(theta + h) * lam, format="csr")
                return mfdeq.Curvature(block, block, block)

            return mfdeq.Linearization((D - heat).tocsr(), -heat, curvature)

    loss = mfdeq.LeastSquares(np.arange(5), np.zeros(5))
    assert mfdeq.verify(Heated(), np.full(n, theta), loss).verdict == "PASS"


@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_the_unit_of_one_parameter_does_not_hide_second_derivatives(unit):
    """Of reaction and diffusion in a pellet: the diffusivity is 1e-6 m²/s, or 1 mm²/s."""
    n, surface, hot = 30, 40.0, 500.0

    def spread(u, outside):
        left, right = np.r_[u[:1], u[:-1]], np.r_[u[1:], 2 * outside - u[-1:]]
        return (left - 2 * u + right) * (n / 2e-3) ** 2

    def residual(h, theta):
        c, T, energy, diffusivity = h[:n], h[n:], theta[0], unit * theta[1]
        rate = 0.5 * np.exp(theta[2:] - energy / 8.314 * (1 / T - 1 / hot)) * c
        return np.r_[diffusivity * spread(c, surface) - rate, 0.2 * spread(T, hot) + 1e5 * rate]

    start = np.repeat([surface, hot], n)
    model = mfdeq.from_function(residual, 2 * n, n + 2, "residual", initial_state=start)
    theta = np.r_[8e4, 1e-6 / unit, np.zeros(n)]
    assert mfdeq.verify(model, theta).verdict == "PASS"
