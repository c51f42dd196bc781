"""The methods that the base classes of models and losses provide."""

from __future__ import annotations

import numpy as np
import pytest
from support.case_toy import THETA, N, P, Toy, ToyResidual, toy_loss
from support.cases import close

import mfdeq
from mfdeq.models.linearization import ComputedLinearization


class Inexact(Toy):
    """The toy model with derivatives off by 1e-5, and by -1e-5 for comparison."""

    def __init__(self, accuracy=(0.0, 0.0)):
        super().__init__()
        self.accuracy = accuracy

    def scaled(self, h, theta, factor):
        exact = super().linearize(h, theta)
        return ComputedLinearization(
            factor * exact.d_state,
            exact.d_params,
            exact.curvature,
            exact.second,
            accuracy=self.accuracy,
            sources={"d_state": "a table"},
        )

    def linearize(self, h, theta):
        return self.scaled(h, theta, 1 + 1e-5)

    def linearize_for_comparison(self, h, theta):
        return self.scaled(h, theta, 1 - 1e-5)


def test_verification_allows_for_a_stated_accuracy():
    assert mfdeq.verify(Inexact(), THETA).verdict == "FAIL"
    # Some checks cannot decide with so few digits; none fails.
    found = mfdeq.verify(Inexact(accuracy=(1e-4, 1e-4)), THETA)
    assert found.verdict != "FAIL", found


def test_error_estimates_compare_two_linearizations():
    eq, truth = mfdeq.solve(Inexact(), THETA), mfdeq.solve(Toy(), THETA)
    gradient, estimate = eq.gradient_with_error(toy_loss())
    error = np.linalg.norm(gradient - truth.gradient(toy_loss()))
    assert 1e-7 < error <= np.linalg.norm(estimate) <= 10 * error


def test_reports_name_the_stated_sources():
    eq = mfdeq.solve(Inexact(accuracy=(1e-4, 1e-4)), THETA, method="anderson")
    assert eq.report.derivatives == {"d_state": "a table"}
    assert mfdeq.solve(Toy(), THETA).report.derivatives == {}


@pytest.mark.parametrize(("model", "name"), [(Toy(), "map"), (ToyResidual(), "residual")])
def test_map_or_residual_evaluates_the_function_of_the_model(model, name):
    h = np.linspace(0.1, 0.3, N)
    expected = getattr(model, name)(h, THETA)
    np.testing.assert_array_equal(model.map_or_residual(h, THETA), expected)
    assert model.function_name == name


def test_derivatives_of_losses_are_linear():
    h, theta = np.linspace(0.1, 0.3, N), THETA
    toy, prior = toy_loss(), mfdeq.QuadraticPrior(np.diag([1.0, 4.0]), mean=1.0)
    loss = sum([toy, prior]) - prior / 2
    assert loss.value(h, theta) == pytest.approx(toy.value(h, theta) + 0.5 * prior.value(h, theta))
    for part, expected, half in zip(
        loss.gradients(h, theta), toy.gradients(h, theta), prior.gradients(h, theta), strict=True
    ):
        close(part, expected + 0.5 * half, 1e-14)
    K, expected, half = (x.curvature_operator(h, theta).toarray() for x in (loss, toy, prior))
    close(K, expected + 0.5 * half, 1e-14)
    assert K.shape == (P + N, P + N)


def test_terms_of_a_loss_are_its_summands_without_factors():
    toy, prior = toy_loss(), mfdeq.QuadraticPrior(2.0)
    assert toy.terms == (toy,)
    assert (3.0 * (toy + 2.0 * prior) - toy).terms == (toy, prior, toy)
