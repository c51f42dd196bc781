"""Time steps from a function of JAX alone."""

from __future__ import annotations

import numpy as np
import pytest
from support.step_models import COUNT, PARAMS, SIZE, START, THETA, reaction_trajectory, residual

import mfdeq

jax = pytest.importorskip("jax")
jnp = jax.numpy

LOSS = mfdeq.LeastSquares(observe=np.array([1, 4, 5, 11]), data=np.array([0.3, -0.2, 1.0, 0.4]))


def step(h, previous, theta, k):
    return residual(jnp, h, previous, theta, k)


@pytest.fixture(scope="module", params=[None, "detect"], ids=["products", "sparse"])
def eq(request):
    made = mfdeq.step_from_jax(step, np.zeros(SIZE), THETA, sparsity=request.param)
    return mfdeq.solve(mfdeq.trajectory(made, COUNT, START), THETA)


def test_all_derivatives_match_those_by_hand(eq):
    by_hand = mfdeq.solve(reaction_trajectory(), THETA)
    np.testing.assert_allclose(eq.state, by_hand.state, rtol=1e-11)
    np.testing.assert_allclose(eq.gradient(LOSS), by_hand.gradient(LOSS), rtol=1e-9)
    V = np.random.default_rng(0).standard_normal((PARAMS, 2))
    for name in ("gauss_newton", "dynamics"):
        products = (getattr(found.hessian(LOSS), name) @ V for found in (eq, by_hand))
        np.testing.assert_allclose(*products, rtol=1e-8, atol=1e-10)
    u, v = V.T
    np.testing.assert_allclose(eq.second_order(u, v), by_hand.second_order(u, v), rtol=1e-8)


def test_pytrees_are_accepted_as_parameters():
    def with_dicts(h, previous, theta, k):
        decay = theta["rates"][k] * h["x"]
        return {"x": h["x"] - previous["x"] + 0.1 * decay - 0.1 * theta["source"]}

    params = {"rates": np.ones(3), "source": np.array([0.5, 0.2])}
    made = mfdeq.step_from_jax(with_dicts, {"x": np.zeros(2)}, params)
    eq = mfdeq.solve(mfdeq.trajectory(made, 3, np.ones(2)), params)
    h = np.ones(2)
    for k in range(3):
        h = (h + 0.1 * params["source"]) / (1.0 + 0.1 * params["rates"][k])
        np.testing.assert_allclose(eq.steps[k], h, rtol=1e-12)
    assert eq.model.step.params_tree(eq.params)["source"][0] == 0.5


def test_steps_are_named_for_the_function_and_their_arguments_are_checked():
    def cooling(h, previous, theta, k):
        return h - previous + theta * h

    step = mfdeq.step_from_jax(cooling, np.ones(2), np.ones(2))
    assert step.display_name == "mfdeq.step_from_jax(cooling)"
    with pytest.raises(mfdeq.ArgumentError, match="expected a function, got int"):
        mfdeq.step_from_jax(3, np.ones(2), np.ones(2))
    with pytest.raises(mfdeq.ArgumentError, match=r"kind of mfdeq\.step_from_jax: expected none"):
        mfdeq.step_from_jax(cooling, np.ones(2), np.ones(2), kind="map")
