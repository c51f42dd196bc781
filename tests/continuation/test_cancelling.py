"""Two folds, crossings or Hopf points within one step, which leave the counts as they were."""

from __future__ import annotations

import numpy as np
import pytest

import mfdeq


class TwoFolds(mfdeq.ResidualModel):
    """theta = h³ - gap h: folds at h = ±sqrt(gap / 3), a narrow S."""

    state_size, param_size = 1, 1

    def __init__(self, gap):
        self.gap = gap

    def residual(self, h, theta):
        return h**3 - self.gap * h - theta

    def linearize(self, h, theta):
        return mfdeq.Linearization((3 * h**2 - self.gap)[:, None], -np.ones((1, 1)))


@pytest.mark.parametrize("gap", [0.3, 0.1, 0.03])
@pytest.mark.parametrize("eigenvalues", [0, 1])
def test_two_folds_within_one_step_are_found(gap, eigenvalues):
    model = TwoFolds(gap)
    branch = mfdeq.follow(
        model, np.array([-1.0]), span=(0.0, 2.0), start=-np.ones(1), eigenvalues=eigenvalues
    )
    exact = 2 * (gap / 3) ** 1.5
    np.testing.assert_allclose([f.t - 1 for f in branch.folds], [exact, -exact], atol=1e-8)
    assert branch.points[-1].t == 2.0


class Returning(mfdeq.ResidualModel):
    """h = 0 with an eigenvalue (t - place)² - gap², which is negative for a while."""

    state_size, param_size = 2, 1

    def __init__(self, place, gap):
        self.place, self.gap = place, gap

    def slope(self, t):
        return (t - self.place) ** 2 - self.gap**2

    def residual(self, h, theta):
        return np.array([self.slope(theta[0]) * h[0] + h[0] ** 3, h[1] - theta[0]])

    def linearize(self, h, theta):
        A = np.diag([self.slope(theta[0]) + 3 * h[0] ** 2, 1.0])
        return mfdeq.Linearization(A, np.array([[2 * (theta[0] - self.place) * h[0]], [-1.0]]))


@pytest.mark.parametrize("place", [1.033, 1.073, 1.113])
@pytest.mark.parametrize("gap", [0.05, 0.01])
@pytest.mark.parametrize("eigenvalues", [0, 2])
def test_two_crossings_within_one_step_are_found(place, gap, eigenvalues):
    model = Returning(place, gap)
    branch = mfdeq.follow(
        model, np.zeros(1), span=(0.0, 2.0), start=np.zeros(2), eigenvalues=eigenvalues
    )
    crossings = [p.t for p in branch.crossings]
    np.testing.assert_allclose(crossings, [place - gap, place + gap], rtol=1e-7)
    assert len(branch.points) < 25


class Oscillating(Returning):
    """A pair of eigenvalues ± i + (t - place)² - gap² about h = 0."""

    def residual(self, h, theta):
        return self.linearize(h, theta).d_state @ h + h * (h @ h)

    def linearize(self, h, theta):
        s, square = self.slope(theta[0]), h @ h
        A = np.array([[s, -1.0], [1.0, s]]) + square * np.eye(2) + 2 * np.outer(h, h)
        return mfdeq.Linearization(A, (2 * (theta[0] - self.place) * h)[:, None])


@pytest.mark.parametrize("place", [1.033, 1.113])
@pytest.mark.parametrize("gap", [0.05, 0.01])
def test_two_hopf_points_within_one_step_are_found(place, gap):
    branch = mfdeq.follow(
        Oscillating(place, gap), np.zeros(1), span=(0.0, 2.0), start=np.zeros(2), eigenvalues=2
    )
    found = [p.t for p in branch.hopfs]
    np.testing.assert_allclose(found, [place - gap, place + gap], rtol=1e-7)
    assert branch.crossings == []
