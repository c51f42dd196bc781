"""Bounds of `mfdeq.minimize`: the minimum within them matches scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize as by_scipy
from support.cases import build, close

import mfdeq
from mfdeq.optimization.methods import METHODS

BOUNDED = [name for name, entry in METHODS.items() if entry.takes_bounds]


def functional(name):
    case = build(name)
    return mfdeq.ReducedFunctional(case.model, case.loss, case.h0), case


@pytest.mark.parametrize("method", BOUNDED)
@pytest.mark.parametrize("name", ["diffusion", "bratu_field"])
def test_the_minimum_within_bounds_matches_scipy(name, method):
    """Compare with L-BFGS-B; at active bounds the descent direction points outwards."""
    F, case = functional(name)
    free = mfdeq.minimize(F, case.params, gtol=1e-6).params
    lower = free + 0.3 * np.sign(np.random.default_rng(0).standard_normal(free.shape)) - 0.1
    upper = lower + 0.35
    found = mfdeq.minimize(F, case.params, method, bounds=(lower, upper), gtol=1e-7)
    exact = by_scipy(
        F.value, np.clip(case.params, lower, upper), jac=F.gradient, method="L-BFGS-B",
        bounds=list(zip(lower, upper, strict=True)), options={"ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    assert np.all((found.params >= lower) & (found.params <= upper))
    assert found.value <= exact.fun * (1 + 1e-9)
    close(found.params, exact.x, 1e-4)
    at_lower, at_upper = found.params == lower, found.params == upper
    assert at_lower.sum() + at_upper.sum() > 0
    size = found.report.steps[0].gradient_norm
    assert np.all(found.gradient[at_lower] > -1e-6 * size)
    assert np.all(found.gradient[at_upper] < 1e-6 * size)
    assert np.all(abs(found.gradient[~(at_lower | at_upper)]) < 1e-6 * size)


@pytest.mark.parametrize("bounds", [(None, 0.8), (0.9, None), (0.9, np.inf), (-np.inf, 0.8)])
def test_one_sided_and_scalar_bounds_are_respected(bounds):
    F, case = functional("diffusion")
    low, high = -np.inf if bounds[0] is None else bounds[0], bounds[1] or np.inf
    found = mfdeq.minimize(F, case.params, bounds=bounds, gtol=1e-6)
    assert np.all((found.params >= low) & (found.params <= high))
    assert np.any((found.params == low) | (found.params == high))


def test_bounds_may_be_pytrees_of_parameters():
    jax = pytest.importorskip("jax")
    params = {"gain": np.array(0.5), "input": np.zeros(2)}
    model = mfdeq.from_jax(
        lambda h, w: w["gain"] * jax.numpy.tanh(h) + w["input"], np.zeros(2), params, "map"
    )
    F = mfdeq.ReducedFunctional(model, mfdeq.LeastSquares([0, 1], [3.0, -3.0]))
    lower = {"gain": np.array(0.0), "input": np.full(2, -1.0)}
    upper = {"gain": np.array(0.6), "input": np.full(2, 0.5)}
    found = mfdeq.minimize(F, params, bounds=(lower, upper)).params
    flat = mfdeq.minimize(
        F, params, bounds=(model.flat_params(lower), model.flat_params(upper))
    ).params
    np.testing.assert_array_equal(found, flat)
    assert model.params_tree(found)["input"][0] == 0.5
    with pytest.raises(mfdeq.ModelError, match="expected"):
        mfdeq.minimize(F, params, bounds=({"gain": 0.0}, None))
