"""Bifurcation diagrams: curves, markers and refused arguments."""

from __future__ import annotations

import numpy as np
import pytest
from support.pictures import legend, plot, plt
from support.refusing import refused

import mfdeq
from mfdeq.continuation.point import Point


def followed(*points):
    """A branch of points (t, h, kind, unstable), at theta0 = (5, 1) along (0, 2)."""
    made = [
        Point(t, np.array([h, -h]), np.zeros(2), 0.0, kind, None, unstable)
        for t, h, kind, unstable in points
    ]
    return mfdeq.Branch(made, np.array([5.0, 1.0]), np.array([0.0, 2.0]))


TURNED = followed(
    (0.0, 0.0, "", 0),
    (1.0, 1.0, "", 0),
    (1.5, 2.0, "fold", 1),
    (1.0, 3.0, "", 1),
    (0.0, 4.0, "", 1),
)


def curves(ax):
    """Of each curve that has points: its dashes, and where it is."""
    lines = [line for line in ax.lines if line.get_marker() == "None" and len(line.get_xdata())]
    return [(line.get_linestyle(), np.column_stack(line.get_data()).tolist()) for line in lines]


def marks(ax):
    """Where marks are, by their names in the legend."""
    lines = [line for line in ax.lines if line.get_marker() != "None"]
    return {line.get_label(): np.column_stack(line.get_data()).tolist() for line in lines}


def test_a_branch_is_dashed_beyond_its_fold():
    ax = plot.branch(TURNED, np.max)
    lower, upper = [[0, 0], [1, 1], [1.5, 2]], [[1.5, 2], [1, 3], [0, 4]]
    assert curves(ax) == [("-", lower), ("--", upper)]
    assert marks(ax) == {"fold": [[1.5, 2.0]]}
    assert legend(ax) == ["stable", "unstable", "fold"]
    assert len({line.get_color() for line in ax.lines[:2]}) == 1
    # An eigenvalue that is zero to rounding says nothing, whatever its sign.
    other = followed(
        *[(p.t, p.state[0], p.kind, 0 if p.kind else p.unstable) for p in TURNED.points]
    )
    assert curves(plot.branch(other, np.max)) == curves(ax)
    assert curves(plot.branch(TURNED, np.min))[0][1] == [[0, 0], [1, -1], [1.5, -2]]


def test_stability_that_changes_without_a_fold_changes_halfway():
    hopf = followed((0.0, 0.0, "", 2), (1.0, 2.0, "", 2), (2.0, 2.0, "", 0), (3.0, 2.0, "", 0))
    ax = plot.branch(hopf, np.max)
    assert curves(ax) == [("--", [[0, 0], [1, 2], [1.5, 2]]), ("-", [[1.5, 2], [2, 2], [3, 2]])]
    assert marks(ax) == {}
    assert legend(ax) == ["stable", "unstable"]


def test_a_fold_between_unstable_parts_does_not_split_them():
    both = followed((0.0, 0.0, "", 1), (1.0, 1.0, "fold", 1), (0.5, 2.0, "", 2))
    ax = plot.branch(both, np.max)
    assert curves(ax) == [("--", [[0, 0], [1, 1], [0.5, 2]])]
    assert legend(ax) == ["unstable", "fold"]


def test_a_branch_of_unknown_stability_is_one_solid_curve():
    bare = [(p.t, p.state[0], p.kind, None) for p in TURNED.points]
    ax = plot.branch(followed(*bare), np.max)
    assert curves(ax) == [("-", [[p[0], p[1]] for p in bare])]
    assert legend(ax) == ["fold"]
    assert plot.branch(followed((0.0, 1.0, "", None)), np.max).get_legend() is None


def test_several_branches_share_the_marks_of_their_crossing():
    trunk = followed((0.0, 0.0, "", 0), (1.0, 0.0, "crossing", 0), (2.0, 0.0, "", 1))
    sides = [followed((1.0, 0.0, "crossing", 0), (2.0, h, "", 0)) for h in (1.0, 2.0)]
    _, given = plt.subplots()
    ax = plot.branch({"trunk": trunk, "other": sides[0]}, np.max, given, parameter=1)
    assert ax is given
    assert [line for _, line in curves(ax)] == [
        [[1, 0], [3, 0]],
        [[3, 0], [5, 0]],
        [[3, 0], [5, 1]],
    ]
    assert marks(ax) == {"crossing": [[3.0, 0.0], [3.0, 0.0]]}
    assert legend(ax) == ["trunk", "other", "stable", "unstable", "crossing"]
    assert ax.get_xlabel() == "parameter 1"
    first, beyond, other = [line.get_color() for line in ax.lines[:3]]
    assert first == beyond != other
    ax = plot.branch([trunk, *sides], np.max)
    assert legend(ax) == ["stable", "unstable", "crossing"]
    assert [line for _, line in curves(ax)][2:] == [[[1, 0], [2, 1]], [[1, 0], [2, 2]]]
    ax.figure.draw_without_rendering()


def test_the_result_of_follow_is_drawn():
    class Ridge(mfdeq.ResidualModel):
        state_size = param_size = 1

        def residual(self, h, theta):
            return h * (3 - h**2) - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization((3 - 3 * h**2)[:, None], -np.ones((1, 1)))

    branch = mfdeq.follow(Ridge(), np.zeros(1), span=(-1.0, 3.0), eigenvalues=1)
    (solid, lower), (dashed, upper) = curves(plot.branch(branch, np.max))
    assert (solid, dashed) == ("-", "--")
    assert lower[-1] == upper[0] == pytest.approx([2.0, 1.0], abs=1e-4)
    assert max(h for _, h in lower) < min(h for _, h in upper[1:])


REFUSED = {
    "no branch": (lambda: plot.branch(np.ones(3), np.max), "mfdeq.follow returns, got ndarray"),
    "no branches": (lambda: plot.branch([], np.max), "branches: expected at least one Branch"),
    "no measure": (lambda: plot.branch(TURNED, 1.0), "measure: expected a callable .* got float"),
    "no parameter": (
        lambda: plot.branch(TURNED, np.max, parameter=2),
        "parameter: expected the index of one of 2 parameters.* got 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_that_cannot_be_drawn_are_refused(name):
    call, words = REFUSED[name]
    with refused(mfdeq.ArgumentError, words):
        call()
