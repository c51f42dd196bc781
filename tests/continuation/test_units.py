"""Branches in other units of equations, unknowns and t: the same points, folds and crossings."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.branch_models import PITCHFORK, TRANSCRITICAL, bratu, square
from support.other_units import InUnits
from support.repeats import one_fast

import mfdeq


class Chafee(mfdeq.ResidualModel):
    """-u'' = t (u - u³) on a line, with crossings where u = 0 is a branch."""

    param_size = 1

    def __init__(self, n=30):
        self.state_size = n
        L = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)).tocsr()
        self.K = (n + 1) ** 2 * L
        modes = np.arange(1, n + 1) * np.pi / (2 * (n + 1))
        self.exact = 4 * (n + 1) ** 2 * np.sin(modes) ** 2

    def residual(self, h, t):
        return self.K @ h - t[0] * (h - h**3)

    def linearize(self, h, t):
        A = self.K - t[0] * sp.diags(1 - 3 * h**2)
        return mfdeq.Linearization(A, -(h - h**3)[:, None])


class Two(mfdeq.ResidualModel):
    """Two equations that do not know of each other: theta = h (3 - h²), and 2 h = theta."""

    state_size, param_size = 2, 1

    def residual(self, h, theta):
        return np.array([h[0] * (3 - h[0] ** 2) - theta[0], 2 * h[1] - theta[0]])

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.diag([3 - 3 * h[0] ** 2, 2.0]), -np.ones((2, 1)))


def units(seed, n):
    rng = np.random.default_rng(seed)
    return 10.0 ** rng.uniform(-8, 8, n), 10.0 ** rng.uniform(-8, 8, n)


CASES = {
    "a fold of collocation": (bratu(12), 2.0, (-1.0, 2.0)),
    "a fold of a sparse matrix": (square(5), 6.0, (-0.5, 2.0)),
    "a fold beside another equation": (Two(), 0.0, (-1.0, 3.0)),
    "a crossing": (TRANSCRITICAL, -1.0, (0.0, 2.0)),
}


@pytest.mark.parametrize("seed", one_fast(0, 1))
@pytest.mark.parametrize("name", CASES)
def test_points_are_the_same_in_other_units(name, seed):
    model, theta0, span = CASES[name]
    rows, state = units(seed, model.state_size)
    one = mfdeq.follow(InUnits(model), np.array([theta0]), span=span)
    other = mfdeq.follow(InUnits(model, rows, state), np.array([theta0]), span=span)
    assert len(one.folds) + len(one.crossings) == 1
    assert [point.kind for point in other.points] == [point.kind for point in one.points]
    for point, expected in zip(other.points, one.points, strict=True):
        assert point.t == pytest.approx(expected.t, rel=1e-6, abs=1e-7)
        np.testing.assert_allclose(point.state / state, expected.state, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-7, 1e6])
def test_points_are_the_same_in_other_units_of_the_parameter(unit):
    one = mfdeq.follow(InUnits(bratu(12)), np.array([2.0]), span=(-1.0, 2.0))
    model = InUnits(bratu(12), params=unit)
    other = mfdeq.follow(model, np.array([2.0 * unit]), span=(-unit, 2.0 * unit))
    np.testing.assert_allclose(other.t / unit, one.t, rtol=1e-6, atol=1e-7)


def test_points_are_the_same_if_only_products_are_known():
    def products(A):
        return sp.linalg.aslinearoperator(A)

    rows, state = units(3, 11)
    one = mfdeq.follow(InUnits(bratu(12)), np.array([2.0]), span=(-1.0, 2.0))
    model = InUnits(bratu(12), rows, state, form=products)
    other = mfdeq.follow(model, np.array([2.0]), span=(-1.0, 2.0))
    np.testing.assert_allclose(other.t, one.t, rtol=1e-6)


@pytest.mark.parametrize("eigenvalues", [0, 6])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_every_crossing_is_found_in_any_units(scale, eigenvalues):
    """With and without eigenvalues, and with unlike rows and unknowns."""
    model = Chafee()
    rng = np.random.default_rng(1)
    rows = scale * 10.0 ** rng.uniform(-2, 2, model.state_size)
    of = InUnits(model, rows, 1.0 / scale * np.ones(model.state_size))
    branch = mfdeq.follow(of, np.zeros(1), span=(0.0, 200.0), eigenvalues=eigenvalues)
    np.testing.assert_allclose([p.t for p in branch.crossings], model.exact[:4], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_other_branch_from_a_zero_state_is_found_in_any_units(scale):
    """Its amplitude is not known from the state, which is zero."""
    model = Chafee()
    of = InUnits(model, 1.0, scale)
    trivial = mfdeq.follow(of, np.zeros(1), span=(0.0, 30.0))
    (crossing,) = trivial.crossings
    branch = mfdeq.follow(of, np.zeros(1), span=(0.0, 30.0), start=crossing)
    assert branch.t[-1] == pytest.approx(30.0)
    height = branch.measured(lambda h: abs(h).max())[-1] / scale
    assert 0.5 < height < 1.0
    assert len(branch.points) < 60
    at_end = mfdeq.solve(model, np.full(1, 30.0), abs(branch.points[-1].state) / scale)
    np.testing.assert_allclose(abs(branch.points[-1].state) / scale, at_end.state, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_both_branches_of_a_pitchfork_are_found_in_other_units(seed):
    rows, state = units(seed, 2)
    model = InUnits(PITCHFORK, rows, state)
    branch = mfdeq.follow(model, np.array([-1.0]), span=(0.0, 2.0))
    (crossing,) = branch.crossings
    assert crossing.t == pytest.approx(1.0, abs=1e-7)
    other = mfdeq.follow(model, np.array([-1.0]), span=(-0.1, 2.0), start=crossing)
    heights = other.measured(lambda h: h[0]) / state[0]
    np.testing.assert_allclose(heights**2, other.t - 1.0, atol=1e-6)
    assert other.t[-1] == pytest.approx(2.0)


def test_sizes_of_unknowns_may_be_stated():
    class Stated(InUnits):
        def state_scale(self, theta):
            return 0.5 * self.state

    rows, state = units(4, 11)
    branches = [
        mfdeq.follow(Stated(bratu(12), *given), np.array([2.0]), span=(-1.0, 2.0))
        for given in ((1.0, 1.0), (rows, state))
    ]
    np.testing.assert_allclose(branches[1].t, branches[0].t, rtol=1e-6)


class Symmetric(mfdeq.ResidualModel):
    """Two equal pitchforks, whose eigenvalues cross zero together."""

    state_size, param_size = 2, 1

    def residual(self, h, theta):
        return h**3 - theta * h

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.diag(3 * h**2 - theta), -h[:, None])


def test_eigenvalues_that_cross_together_are_one_crossing_of_two_dimensions():
    branch = mfdeq.follow(Symmetric(), np.array([-1.0]), span=(0.0, 2.0), eigenvalues=2)
    (crossing,) = branch.crossings
    assert crossing.t == pytest.approx(1.0, rel=1e-8)
    assert crossing.dimension == 2
    assert branch.points[-1].unstable == 2
    assert branch.points[-1].t == 2.0


class FromZero(mfdeq.ResidualModel):
    """x = t² and z³ - 3 z + x = 0: neither has a size at t = 0, and z has a fold at t² = 2."""

    state_size, param_size = 2, 1

    def residual(self, h, theta):
        return np.array([h[0] - theta[0] ** 2, h[1] ** 3 - 3 * h[1] + h[0]])

    def linearize(self, h, theta):
        A = np.array([[1.0, 0.0], [1.0, 3 * h[1] ** 2 - 3]])
        return mfdeq.Linearization(A, np.array([[-2 * theta[0]], [0.0]]))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_fold_is_passed_after_a_start_without_a_size(scale):
    model = InUnits(FromZero(), 1.0, [scale, 1.0 / scale])
    branch = mfdeq.follow(model, np.zeros(1), span=(0.0, 2.0))
    assert branch.folds[0].t == pytest.approx(np.sqrt(2.0), rel=1e-8)
    assert len(branch.points) < 100
