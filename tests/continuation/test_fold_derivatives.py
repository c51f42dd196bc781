"""Derivatives of folds with respect to the parameters, and the null vectors there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.bifurcation_models import Tank
from support.branch_models import PITCHFORK, bratu, square
from support.other_units import InUnits
from support.repeats import one_fast

import mfdeq


class Adiabatic(mfdeq.ResidualModel):
    """x = D (1 - x) exp(B x), with the parameters D and B: folds where B x (1 - x) = 1."""

    state_size, param_size = 1, 2

    def residual(self, h, theta):
        return h - theta[0] * (1 - h) * np.exp(theta[1] * h)

    def linearize(self, h, theta):
        (x,), (D, B) = h, theta
        e, q = np.exp(B * x), 1 - x
        A, P = [[1 + D * e * (1 - q * B)]], [[-q * e, -D * q * x * e]]
        return mfdeq.Linearization(np.array(A), np.array(P))


FOLDS = [0.0531668578614, 0.00630961921386]  # at B = 8, to twelve digits
SLOPES = [-0.0077861061, -0.0053855969]  # dD/dB


@pytest.mark.parametrize("scale", one_fast(1e-8, 1.0, 1e8))
def test_folds_of_a_stirred_tank_and_their_derivatives(scale):
    model = InUnits(Adiabatic(), 1 / scale, scale)
    branch = mfdeq.follow(model, np.array([0.0, 8.0]), 0, span=(0.0, 0.1), start=np.zeros(1))
    np.testing.assert_allclose([fold.t for fold in branch.folds], FOLDS, rtol=1e-10)
    for fold, slope in zip(branch.folds, SLOPES, strict=True):
        np.testing.assert_allclose(fold.derivative(), [-1.0, slope], rtol=1e-8)


def test_the_derivative_of_a_fold_matches_folds_that_are_found_again():
    theta, d = np.array([0.02, 14.0, 0.3]), np.array([0.2, 1.0, -0.1])

    def folds(theta):
        return mfdeq.follow(Tank(), theta, d, span=(-0.05, 6.0), start=np.zeros(2)).folds

    (found,) = folds(theta)
    assert found.derivative() @ d == pytest.approx(-1.0, rel=1e-12)
    for j in range(3):
        step = 1e-4 * np.eye(3)[j] * theta[j]
        above, below = folds(theta + step)[0].t, folds(theta - step)[0].t
        expected = (above - below) / (2 * step[j])
        assert found.derivative()[j] == pytest.approx(expected, rel=1e-5)


def test_derivatives_of_folds_are_saved(tmp_path):
    branch = mfdeq.follow(Adiabatic(), np.array([0.0, 8.0]), 0, span=(0.0, 0.1), start=np.zeros(1))
    branch.save(tmp_path / "branch.npz")
    again = mfdeq.Branch.load(tmp_path / "branch.npz")
    for fold, expected in zip(again.folds, branch.folds, strict=True):
        np.testing.assert_array_equal(fold.derivative(), expected.derivative())


def test_points_that_are_no_fold_have_no_derivative():
    branch = mfdeq.follow(PITCHFORK, np.array([-1.0]), span=(0.0, 2.0))
    with pytest.raises(mfdeq.ArgumentError, match="expected a fold, got a crossing"):
        branch.crossings[0].derivative()
    with pytest.raises(mfdeq.ArgumentError, match="expected a fold, got an ordinary point"):
        branch.points[0].derivative()


@pytest.mark.filterwarnings("ignore::mfdeq.NearSingularWarning")
@pytest.mark.parametrize(("model", "t"), [(bratu(16), 2.0), (square(9), 6.0), (square(20), 6.0)])
def test_the_smallest_singular_value_exists_at_a_fold(model, t):
    (fold,) = mfdeq.follow(model, np.array([t]), span=(0.0, 2.0)).folds
    eq = mfdeq.solve(model, np.array([t + fold.t]), fold.state)
    found, A = eq.smallest_singular, eq.state_operator
    assert found.value < 1e-6 * np.linalg.norm(A @ np.ones(model.state_size))
    assert np.linalg.norm(found.left) == pytest.approx(1.0)
    assert np.linalg.norm(A.H @ found.left) <= 1e-5 * np.linalg.norm(A @ np.ones(A.shape[0]))


@pytest.mark.slow
def test_the_loading_margin_of_a_real_grid_has_its_derivative():
    """IEEE's 118 buses, all injections increased together until the voltages collapse."""
    for package in ("jax", "pandapower", "matplotlib"):
        pytest.importorskip(package, reason="the example needs it")
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import power_grid

    flow = power_grid.PowerFlow(power_grid.load_grid("case118"))
    theta, load = flow.params(), np.where(np.arange(flow.param_size) < flow.state_size, 1.0, 0.0)
    load = load * theta
    start = mfdeq.solve(flow.model, theta, flow.flat()).state

    def margin(theta):
        branch = mfdeq.follow(flow.model, theta, load, span=(0.0, 5.0), start=start, max_points=60)
        return branch.folds[0]

    fold = margin(theta)
    derivative = fold.derivative()
    assert derivative @ load == pytest.approx(-1.0, rel=1e-10)
    rng = np.random.default_rng(0)
    strongest = np.argsort(-abs(derivative))[:2]
    for v in (*np.eye(theta.size)[strongest], rng.standard_normal(theta.size)):
        step = 1e-3 * v
        expected = (margin(theta + step).t - margin(theta - step).t) / 2e-3
        assert derivative @ v == pytest.approx(expected, rel=1e-3)
