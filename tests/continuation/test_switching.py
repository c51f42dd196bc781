"""Other branches through crossings of several dimensions, whatever the step."""

from __future__ import annotations

import numpy as np
import pytest
from support.bifurcation_models import CROSSED, Loaded, ring_laplacian
from support.other_units import InUnits

import mfdeq

T0, WIDTH = -0.5, 4.7
REACTIONS = {
    "odd": (lambda u: u - u**3, lambda u: 1 - 3 * u**2),
    "even": (lambda u: u - u**2 - u**3, lambda u: 1 - 2 * u - 3 * u**2),
}


def ring(n, reaction):
    return Loaded(ring_laplacian(n), *REACTIONS[reaction])


def follow(model, **options):
    return mfdeq.follow(model, np.array([T0]), span=(0.0, WIDTH), **options)


def double_points(model):
    branch = follow(model, start=np.zeros(model.state_size))
    return [crossing for crossing in branch.crossings if crossing.dimension == 2]


def count_branches(model, crossing, **options):
    with pytest.raises(mfdeq.ArgumentError, match="expected a number below") as caught:
        follow(model, start=crossing, other=1000, **options)
    return int(str(caught.value).split("below ")[1].split(",")[0])


def check_first_point(model, branch, crossing):
    """It is a solution near the crossing, and not one of the zero state."""
    first = branch.points[0]
    assert abs(model.residual(first.state, np.array([T0 + first.t]))).max() < 1e-9
    assert abs(first.state).max() > 1e-5
    assert abs(first.t - crossing.t) < 0.4


def slow(*args):
    return pytest.param(*args, marks=pytest.mark.slow)


@pytest.mark.parametrize("share", [0.02, slow(1e-3), slow(0.2), slow(1e-4)])
@pytest.mark.parametrize("case", ["3 even", slow("5 even"), slow("3 odd")])
def test_other_branches_through_a_double_point_are_followed_with_any_step(case, share):
    n, reaction = case.split()
    model = ring(int(n), reaction)
    crossing = double_points(model)[0]
    for side in (1.0, -1.0):
        branch = follow(model, start=crossing, towards=side, step=share * WIDTH)
        check_first_point(model, branch, crossing)
        assert branch.points[-1].t == pytest.approx(WIDTH)


@pytest.mark.parametrize("share", [slow(0.02), slow(1e-3)])
def test_branches_that_tenfold_symmetry_hardly_separates_are_followed(share):
    """Five cells with odd reactions: between branches g is of the tenth power of the amplitude."""
    model = ring(5, "odd")
    crossing = double_points(model)[0]
    for side in (1.0, -1.0):
        branch = follow(model, start=crossing, towards=side, step=share * WIDTH)
        check_first_point(model, branch, crossing)
        assert branch.points[-1].t == pytest.approx(WIDTH)


@pytest.mark.parametrize(
    ("case", "count"),
    [("3 even", 3), ("5 even", 5), slow("4 even", 4), slow("3 odd", 6), slow("6 even", 6)],
)
def test_all_branches_through_a_double_point_are_found(case, count):
    """A double point of the symmetry of a polygon of n corners has n branches, or 2 n."""
    n, reaction = case.split()
    model = ring(int(n), reaction)
    assert count_branches(model, double_points(model)[0]) == count


@pytest.mark.slow
def test_branches_through_a_double_point_of_a_square_are_found():
    case = CROSSED["Chafee-Infante on a square"]
    start = np.zeros(case.model.state_size)
    options = {"span": (0.0, 60.0), "max_points": 60}
    trivial = mfdeq.follow(case.model, np.zeros(1), start=start, **options)
    crossing = trivial.crossings[1]
    assert crossing.dimension == 2
    ends = [
        mfdeq.follow(case.model, np.zeros(1), start=crossing, other=j, **options).points[-1]
        for j in range(4)
    ]
    heights = sorted(round(float(abs(point.state).max()), 6) for point in ends)
    assert heights[0] == heights[1] < heights[2] == heights[3]
    with pytest.raises(mfdeq.ArgumentError, match=r"a number below 4, .* got 4"):
        mfdeq.follow(case.model, np.zeros(1), start=crossing, other=4, **options)


@pytest.mark.parametrize("scale", [1e-8, slow(1e8)])
def test_other_branches_are_the_same_in_other_units(scale):
    model = ring(5, "even")
    of = InUnits(model, scale, 1.0 / scale)
    (crossing, _) = double_points(of)
    branch = follow(of, start=crossing)
    assert branch.points[-1].t == pytest.approx(WIDTH)
    state = branch.points[-1].state * scale
    assert abs(model.residual(state, np.array([T0 + WIDTH]))).max() < 1e-8
    assert 0.5 < abs(state).max() < 0.7


class Shifted(Loaded):
    """u - u³ on a ring, where only the first mode counts: all shifts of a state are equal."""

    def __init__(self, n=12):
        super().__init__(ring_laplacian(n))
        angles = 2 * np.pi * np.arange(n) / n
        self.modes = np.stack([np.cos(angles), np.sin(angles)]) * np.sqrt(2 / n)

    def residual(self, h, t):
        a = self.modes @ h
        return self.L @ h - t[0] * h + (a @ a) * (self.modes.T @ a)

    def linearize(self, h, t):
        a = self.modes @ h
        bend = self.modes.T @ ((a @ a) * np.eye(2) + 2 * np.outer(a, a)) @ self.modes
        A = self.L.toarray() - t[0] * np.eye(h.size) + bend
        return mfdeq.Linearization(A, -h[:, None])


def test_a_circle_of_branches_is_an_error_that_says_what_to_do():
    model = Shifted()
    crossing = double_points(model)[0]
    with pytest.raises(mfdeq.ConvergenceError, match=r"differ by no more than rounding.*fix the"):
        follow(model, start=crossing)


def test_a_number_of_another_branch_that_does_not_exist_is_refused():
    model = ring(3, "odd")
    simple = follow(model, start=np.zeros(3)).crossings[0]
    with pytest.raises(mfdeq.ArgumentError, match="other: expected 0, since one branch crosses"):
        follow(model, start=simple, other=1)
    with pytest.raises(mfdeq.ArgumentError, match="other: expected a number of at least 0"):
        follow(model, start=simple, other=-1)
