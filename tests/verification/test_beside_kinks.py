"""Close to kinks of any kind, a right derivative does not fail, and a wrong one does not pass."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from support.fuzzing import CASE_FACTOR
from support.kinked_models import KINKS, Kinked
from support.repeats import one_fast

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.verification.noise import Noise


def verified(model, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mfdeq.verify(model, model.theta, h0=model.h, seed=seed)


@pytest.mark.parametrize("seed", range(3 * CASE_FACTOR))
@pytest.mark.parametrize("kind", KINKS)
def test_a_right_derivative_does_not_fail(kind, seed):
    model = Kinked(kind, seed)
    found = verified(model, seed)
    assert found.verdict != "FAIL", str(found)


@pytest.mark.parametrize("which", ["d_state", "d_params"])
@pytest.mark.parametrize("seed", range(CASE_FACTOR))
@pytest.mark.parametrize("kind", KINKS)
def test_a_wrong_derivative_does_not_pass(kind, seed, which):
    model = Kinked(kind, 100 + seed)
    model.factors = (1.1, 1.0) if which == "d_state" else (1.0, 1.1)
    slopes = model.kink(model.argument(model.h, model.theta), model.width)[1]
    if not np.any(abs(slopes) > 1e-3):
        model.factors, which = (1.0, 1.0), ""  # it is not wrong: there is no slope
    found = verified(model, seed)
    if not which:
        assert found.verdict != "FAIL", str(found)
        return
    assert found.verdict != "PASS", str(found)
    if found.verdict == "INCONCLUSIVE":
        words = " ".join(check.detail for check in found if check.verdict != "PASS")
        assert "kink" in words or "smooth" in words or "slope" in words, str(found)


class Relu(mfdeq.ResidualModel):
    """h + 0.1 sin h = max(W h + q, 0), whose only unknown of size `distance` is at its kink."""

    state_size = param_size = 4

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.W, self.factor = 0.4 * rng.standard_normal((4, 4)), 1.0

    def residual(self, h, q):
        return h - np.maximum(self.W @ h + q, 0) + 0.1 * np.sin(h)

    def linearize(self, h, q):
        on = 1.0 * (self.W @ h + q > 0)
        A = np.eye(4) - self.factor * on[:, None] * self.W + np.diag(0.1 * np.cos(h))
        return mfdeq.Linearization(A, -np.diag(on))


@pytest.mark.parametrize("distance", [1e-10, 9.4e-8, 2.1e-5, 1e-3])
@pytest.mark.parametrize("seed", one_fast(3, 7, 45))
def test_a_plateau_beyond_a_kink_is_not_the_quantum_of_the_values(seed, distance):
    """Beyond the kink R does not change with q, and the only change is that up to the kink."""
    model, h = Relu(seed), np.array([distance / 1.1, 0.0, 0.3, 0.0])
    value = h + 0.1 * np.sin(h)
    q = np.where(h > 0, value, -0.5) - model.W @ h
    found = mfdeq.verify(model, q, h0=h, seed=seed)
    assert found.verdict != "FAIL", str(found)
    model.factor = 1.1
    found = mfdeq.verify(model, q, h0=h, seed=seed)
    assert found.verdict == "FAIL", str(found)
    assert any(check.name.startswith("d_state") and check.verdict == "FAIL" for check in found)


@pytest.mark.parametrize("slope", [1e-6, 3e-8, 1e-10])
def test_the_noise_of_quantized_values_is_about_their_quantum(slope):
    """What is added to something large is too small to change it at some of the points."""

    def function(t):
        return np.array([(1e4 + slope * np.sin(t)) - 1e4, max(1e-5 - 3.7 * t, 0.0)])

    base = function(0.0)
    noise = Noise(Backend.of(base), base)
    noise.measure(function)
    quantum = np.spacing(1e4)
    assert 0.2 * quantum <= noise.size[0] <= 10 * quantum
    assert noise.size[1] < 1e-11  # a plateau beyond a kink at 3e-6 has none


@pytest.mark.parametrize("seed", range(5))
def test_a_complementarity_problem_with_zeros_does_not_fail(seed):
    """Unknowns of 1e-32 that should be zero would give the check a loss of weights of 1e32."""
    n, rng = 12, np.random.default_rng(seed)
    A, q = rng.standard_normal((n, n)), 3.0 * rng.standard_normal(n)
    A = A @ A.T + np.eye(n)

    class Complementarity(mfdeq.ResidualModel):
        state_size = param_size = n

        def residual(self, h, theta):
            return np.minimum(h, A @ h + q * theta)

        def linearize(self, h, theta):
            bound = h < A @ h + q * theta
            d_state = np.where(bound[:, None], np.eye(n), A)
            return mfdeq.Linearization(
                d_state, np.diag(np.where(bound, 0.0, q)), lambda lam: mfdeq.Curvature()
            )

    eq = mfdeq.solve(Complementarity(), np.ones(n))
    assert np.all((eq.state == 0.0) | (eq.state > 1e-6))
    assert mfdeq.verify(Complementarity(), np.ones(n)).verdict != "FAIL"
