"""Verify tells kinks, noise, domains and scales from wrong derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from support.repeats import one_fast

import mfdeq


class Complementarity(mfdeq.ResidualModel):
    """The smoothed complementarity of u + 1 >= 0 and a force lam >= 0, u = theta + lam."""

    state_size, param_size = 2, 1

    def __init__(self, width, factor=1.0):
        self.width, self.factor = width, factor

    def residual(self, h, theta):
        (u, lam), gap = h, h[0] + 1
        return np.array([u - theta[0] - lam, lam + gap - np.sqrt(lam**2 + gap**2 + self.width**2)])

    def linearize(self, h, theta):
        (_, lam), gap = h, h[0] + 1
        q = np.sqrt(lam**2 + gap**2 + self.width**2)
        by_u = (lam**2 + self.width**2) / (q * (q + gap)) if gap > 0 else 1 - gap / q
        by_lam = (gap**2 + self.width**2) / (q * (q + lam)) if lam > 0 else 1 - lam / q
        return mfdeq.Linearization(
            np.array([[1.0, -1.0], [by_u, self.factor * by_lam]]), np.array([[-1.0], [0.0]])
        )


@pytest.mark.parametrize("theta", [0.3, -0.5, -0.9, -1.0, -1.5, -3.0])
@pytest.mark.parametrize("width", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_smoothed_complementarity_does_not_fail(width, theta):
    for seed in range(2):
        found = mfdeq.verify(Complementarity(width), np.array([theta]), seed=seed)
        assert found.verdict != "FAIL", str(found)


@pytest.mark.parametrize("seed", range(5))
def test_an_equation_at_its_rounding_passes(seed):
    """At theta = 0.3 the terms of the second equation cancel to 1e-13."""
    found = mfdeq.verify(Complementarity(1e-6), np.array([0.3]), seed=seed)
    derivatives = [check for check in found if check.name.startswith(("d_state", "d_params"))]
    assert {check.verdict for check in derivatives} == {"PASS"}, str(found)


@pytest.mark.parametrize("theta", [0.3, -0.9])
@pytest.mark.parametrize("width", [1e-2, 1e-4])
@pytest.mark.parametrize("error", [1e-3, -1.0])
def test_a_wrong_complementarity_fails(width, theta, error):
    found = mfdeq.verify(Complementarity(width, 1 + error), np.array([theta]))
    assert found.verdict == "FAIL", str(found)


class Contact(mfdeq.ResidualModel):
    """Springs, the first of which meets a stop where it rests: R has a kink at theta = 0."""

    state_size = param_size = 2

    def __init__(self, slope, other=2.0, stiffness=5.0):
        self.slope, self.other, self.stiffness = slope, other, stiffness

    def residual(self, h, theta):
        stop = self.stiffness * max(h[0], 0.0)
        return np.array([h[0] + stop - theta[0], 2 * h[1] + np.sin(h[0]) - theta[1]])

    def linearize(self, h, theta):
        A = np.array([[self.slope, 0.0], [np.cos(h[0]), self.other]])
        return mfdeq.Linearization(A, -np.eye(2), lambda lam: mfdeq.Curvature())


@pytest.mark.parametrize("slope", [1.0, 6.0, 3.5, 1.3])
@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_a_kink_is_not_a_wrong_derivative(slope, seed):
    found = mfdeq.verify(Contact(slope), np.array([0.0, 1.0]), seed=seed)
    assert found.verdict == "INCONCLUSIVE", str(found)
    (check,) = (
        check for check in found if check.name.startswith("d_state") and "kink" in check.detail
    )
    assert "not smooth at this point: a kink in row 0" in check.detail
    assert "not smooth" in found.notes[-1]


@pytest.mark.parametrize("stiffness", [1e-2, 5.0, 1e4])
def test_the_derivatives_to_both_sides_are_named(stiffness):
    found = mfdeq.verify(Contact(1.0, stiffness=stiffness), np.array([0.0, 1.0]))
    assert found.verdict == "INCONCLUSIVE", str(found)
    assert "kink in row 0" in str(found)


@pytest.mark.parametrize("slope", [*one_fast(0.5, -1.0), *one_fast(7.0, 12.0)])
def test_a_derivative_beyond_those_to_both_sides_fails(slope):
    found = mfdeq.verify(Contact(slope), np.array([0.0, 1.0]))
    assert found.verdict == "FAIL", str(found)


@pytest.mark.parametrize("other", [2.01, 1.0, -2.0])
def test_another_row_that_is_wrong_fails_beside_a_kink(other):
    found = mfdeq.verify(Contact(1.0, other), np.array([0.0, 1.0]))
    assert found.verdict == "FAIL", str(found)


@pytest.mark.parametrize("theta", [-0.5, 0.5])
def test_away_from_its_kink_a_model_passes(theta):
    slope = 6.0 if theta > 0 else 1.0
    found = mfdeq.verify(Contact(slope), np.array([theta, 1.0]))
    checks = [check for check in found if check.name.startswith(("d_state", "d_params"))]
    assert {check.verdict for check in checks} == {"PASS"}, str(found)
    assert "smooth" not in str(found)


class NearContact(mfdeq.ResidualModel):
    """|h0 - 1| has its kink at about 0.37 theta1 from the equilibrium."""

    state_size = param_size = 2

    def __init__(self, factor):
        self.factor = factor

    def residual(self, h, theta):
        contact = np.abs(h[0] - 1)
        return np.array([h[0] - max(h[1], 0.0) * theta[0] - 1, h[1] + contact - theta[1]])

    def linearize(self, h, theta):
        A = np.array([[1.0, -theta[0]], [self.factor * np.sign(h[0] - 1), 1.0]])
        return mfdeq.Linearization(A, np.diag([-h[1], -1.0]))


@pytest.mark.parametrize("distance", [1e-9, 1e-7, 1e-5])
@pytest.mark.parametrize("seed", one_fast(*range(3)))
def test_a_derivative_near_a_kink_is_judged_by_smaller_steps(distance, seed):
    theta = np.array([0.37, distance])
    found = mfdeq.verify(NearContact(1.0), theta, h0=np.array([1.1, 0.1]), seed=seed)
    (check,) = (check for check in found if check.name == "d_state")
    assert check.verdict == "PASS", str(found)
    assert found.verdict != "FAIL", str(found)
    for factor in (2.0, 0.5, 0.0, 1.01):
        found = mfdeq.verify(NearContact(factor), theta, h0=np.array([1.1, 0.1]), seed=seed)
        assert found.verdict == "FAIL", str(found)
        assert any(c.name.startswith("d_state") and c.verdict == "FAIL" for c in found)


def test_a_kink_of_the_first_derivative_is_not_passed_over():
    class Squared(mfdeq.ResidualModel):
        """h + h max(h, 0) = theta, whose second derivative jumps from 0 to 2 at 0."""

        state_size = param_size = 1

        def residual(self, h, theta):
            return h + h * np.maximum(h, 0.0) - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(
                np.diag(1 + 2 * np.maximum(h, 0.0)),
                -np.eye(1),
                lambda lam: mfdeq.Curvature(state_state=np.diag(2 * lam * (h > 0))),
            )

    found = mfdeq.verify(Squared(), np.zeros(1))
    assert found.verdict == "INCONCLUSIVE", str(found)
    assert "not smooth at this point" in str(found)
    assert mfdeq.verify(Squared(), np.ones(1)).verdict == "PASS"


class Noisy(mfdeq.ResidualModel):
    """h + h³ + coupling = exp theta, with noise of a given relative size, as of an inner solve."""

    state_size = param_size = 5
    A = np.eye(5) + 0.1 * np.diag(np.ones(4), 1)

    def __init__(self, noise, factor=1.0):
        self.noise, self.factor = noise, factor

    def residual(self, h, theta):
        value = self.A @ h + h**3 - np.exp(theta)
        phase = 1e9 * np.sin(1e7 * (np.arange(5) + 1.0) * (np.sum(h) + np.sum(theta)))
        return value + self.noise * np.exp(theta) * np.sin(phase)

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            self.A + self.factor * np.diag(3 * h**2), -np.diag(np.exp(theta))
        )


THETA = np.array([0.3, -0.2, 0.5, 0.1, -0.7])


@pytest.mark.parametrize("noise", [1e-12, 1e-10, 1e-8])
def test_noise_of_the_function_is_not_a_wrong_derivative(noise):
    for seed in range(3):
        found = mfdeq.verify(Noisy(noise), THETA, rtol=1e-6, seed=seed)
        assert found.verdict != "FAIL", str(found)
        checks = [check for check in found if check.name.startswith(("d_state", "d_params"))]
        assert {check.verdict for check in checks} == {"PASS"}, str(found)


@pytest.mark.parametrize(("noise", "error"), [(1e-12, 1e-4), (1e-10, 1e-3), (1e-8, 1e-2)])
def test_a_wrong_derivative_fails_in_noise(noise, error):
    found = mfdeq.verify(Noisy(noise, 1 + error), THETA, rtol=1e-6)
    assert found.verdict == "FAIL", str(found)


@pytest.mark.parametrize("error", [mfdeq.DomainError, ValueError, None])
def test_points_outside_the_domain_are_left_out(error):
    class Logarithm(mfdeq.ResidualModel):
        """log h = theta; h is just above the bound."""

        state_size = param_size = 2
        factor = 1.0

        def residual(self, h, theta):
            if np.any(h < 1.0):
                if error is None:
                    return np.full(2, np.nan)
                raise error("below 1")
            return np.log(h) - theta

        def initial_state(self, theta):
            return np.full(2, 2.0)

        def linearize(self, h, theta):
            curvature = lambda lam: mfdeq.Curvature(state_state=-np.diag(lam / h**2))  # noqa: E731
            return mfdeq.Linearization(np.diag(self.factor / h), -np.eye(2), curvature)

    model, theta = Logarithm(), np.array([1e-9, 1.0])
    found = mfdeq.verify(model, theta)
    assert found.verdict != "FAIL", str(found)
    assert {c.verdict for c in found if c.name.startswith("d_")} == {"PASS"}, str(found)
    model.factor = 1.001
    assert mfdeq.verify(model, theta).verdict == "FAIL"


def test_a_model_singular_at_its_default_start_is_verified_from_a_start():
    class Root(mfdeq.ResidualModel):
        state_size = param_size = 1

        def residual(self, h, theta):
            return np.log(h) - np.sqrt(theta)

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.diag(1 / h), -np.diag(0.5 / np.sqrt(theta)))

    assert mfdeq.verify(Root(), np.array([2.0]), h0=np.ones(1)).verdict == "PASS"


def test_a_loss_with_a_kink_is_named():
    model = mfdeq.from_function(lambda h, theta: h - theta, 2, 2, "residual")
    loss = mfdeq.Loss(
        lambda h, theta: float(np.abs(h).sum()),
        d_state=lambda h, theta: np.sign(h),
        curvature=lambda h, theta: mfdeq.Curvature(),
    )
    found = mfdeq.verify(model, np.array([0.0, 1.0]), loss)
    assert found.verdict != "PASS", str(found)
    assert "not smooth at this point" in str(found)
    assert mfdeq.verify(model, np.array([-1.0, 1.0]), loss).verdict == "PASS"
