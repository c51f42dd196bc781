"""Bifurcation diagrams from the literature, in several units."""

from __future__ import annotations

import numpy as np
import pytest
from support.bifurcation_models import Loaded, laplacian
from support.branch_models import FOLD, bratu
from support.other_units import InUnits

import mfdeq

UNITS = [(1.0, 1.0), (1e-8, 1e8), (1e8, 1e-8)]


class Lorenz(mfdeq.ResidualModel):
    """E. N. Lorenz, "Deterministic nonperiodic flow", Journal of the Atmospheric Sciences, 1963."""

    state_size, param_size = 3, 1
    sigma, beta = 10.0, 8.0 / 3.0
    time_sign = 1

    def residual(self, h, theta):
        x, y, z = h
        rho = theta[0]
        return np.array([self.sigma * (y - x), x * (rho - z) - y, x * y - self.beta * z])

    def linearize(self, h, theta):
        x, y, z = h
        A = [[-self.sigma, self.sigma, 0.0], [theta[0] - z, -1.0, -x], [y, x, -self.beta]]
        return mfdeq.Linearization(np.array(A), np.array([[0.0], [x], [0.0]]))


@pytest.mark.parametrize(("rows", "state"), UNITS)
def test_equilibria_of_lorenz_lose_stability_at_a_pitchfork_and_at_hopf_points(rows, state):
    """At rho = 1, and at sigma (sigma + beta + 3) / (sigma - beta - 1) = 24.7368."""
    model = InUnits(Lorenz(), rows, state)
    model.time_sign = 1
    options = {"span": (0.0, 29.53), "eigenvalues": 3}
    trivial = mfdeq.follow(model, np.array([0.47]), start=np.zeros(3), **options)
    (crossing,) = trivial.crossings
    assert 0.47 + crossing.t == pytest.approx(1.0, abs=1e-8)
    assert [trivial.points[0].unstable, trivial.points[-1].unstable] == [0, 1]
    for side in (1.0, -1.0):
        branch = mfdeq.follow(model, np.array([0.47]), start=crossing, towards=side, **options)
        (hopf,) = branch.hopfs
        rho = 0.47 + hopf.t
        assert rho == pytest.approx(470 / 19, rel=1e-8)  # 24.7368
        # The pair is ± i omega with omega² = beta (sigma + rho).
        assert hopf.frequency * state / rows == pytest.approx(
            np.sqrt(8 / 3 * (10 + 470 / 19)), rel=1e-7
        )
        assert [branch.points[0].unstable, branch.points[-1].unstable] == [0, 2]
        assert abs(hopf.state[0]) / state == pytest.approx(np.sqrt(8 / 3 * (rho - 1)), rel=1e-7)


@pytest.mark.parametrize(("rows", "state"), UNITS)
def test_the_fold_of_bratu_in_one_dimension(rows, state):
    """R. Bratu, "Sur les équations intégrales non linéaires", 1914: 3.513830719."""
    model = InUnits(bratu(24), rows, state)
    branch = mfdeq.follow(model, np.array([2.0]), span=(-1.0, 2.0), eigenvalues=2)
    (fold,) = branch.folds
    assert 2.0 + fold.t == pytest.approx(FOLD, abs=1e-9)
    assert round(2.0 + fold.t, 9) == 3.513830719
    assert branch.crossings == []


@pytest.mark.parametrize(("rows", "state"), UNITS)
def test_a_rod_buckles_at_the_loads_of_euler(rows, state):
    """L. Euler, 1744: with both ends hinged at (k pi)², here of finite differences."""
    n = 40
    model = InUnits(Loaded(laplacian(n), np.sin, np.cos), rows, state)
    branch = mfdeq.follow(model, np.zeros(1), span=(0.0, 100.0), start=np.zeros(n), eigenvalues=4)
    loads = 4 * (n + 1) ** 2 * np.sin(np.arange(1, 4) * np.pi / (2 * (n + 1))) ** 2
    np.testing.assert_allclose([p.t for p in branch.crossings], loads, rtol=1e-8)
    np.testing.assert_allclose(loads, (np.pi * np.arange(1, 4)) ** 2, rtol=5e-3)
    assert branch.points[-1].unstable == 3


class Imperfect(mfdeq.ResidualModel):
    """x³ - r x - e = 0: a pitchfork whose symmetry e breaks."""

    state_size, param_size = 1, 2

    def residual(self, h, theta):
        return h**3 - theta[0] * h - theta[1]

    def linearize(self, h, theta):
        return mfdeq.Linearization((3 * h**2 - theta[0])[:, None], np.array([[-h[0], -1.0]]))


@pytest.mark.parametrize("e", [1e-2, 1e-4])
def test_a_pitchfork_with_broken_symmetry_has_a_fold_and_no_crossing(e):
    """M. Golubitsky and D. Schaeffer, 1979: the fold is at r = 3 (e / 2)^(2/3)."""
    model = Imperfect()
    options = {"span": (-1.0, 1.0), "eigenvalues": 1}
    lower = mfdeq.follow(model, np.array([1.0, e]), 0, start=-np.ones(1), towards=-1.0, **options)
    (fold,) = lower.folds
    r = 1.0 + fold.t
    assert r == pytest.approx(3 * (e / 2) ** (2 / 3), rel=1e-7)
    assert fold.derivative()[1] == pytest.approx(2 / 3 * r / e, rel=1e-6)
    assert lower.crossings == []
    upper = mfdeq.follow(
        model,
        np.array([0.5, e]),
        0,
        span=(-1.0, 0.5),
        towards=-1.0,
        start=np.full(1, 0.8),
        eigenvalues=1,
    )
    assert upper.folds == upper.crossings == []
