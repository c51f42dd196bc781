"""Branches: known folds and crossings, switching of branches, stability, and ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from support.branch_models import FOLD, PITCHFORK, SADDLE, TRANSCRITICAL, Normal, bratu, square
from support.case_models import Bratu
from support.cases import close
from support.closed_forms import five_point_laplacian

import mfdeq


def test_the_fold_of_bratu_in_one_dimension_is_located():
    """The fold is located to eleven digits, and the upper branch reaches lambda = 1."""
    branch = mfdeq.follow(bratu(), np.array([2.0]), span=(-1.0, 2.0), eigenvalues=3)
    (fold,) = branch.folds
    assert abs(2.0 + fold.t - FOLD) < 1e-10
    assert abs(fold.slope) < 1e-6
    assert abs(fold.eigenvalues[0]) < 1e-5 * abs(fold.eigenvalues[1])
    assert branch.crossings == []
    assert branch.points[-1].t == pytest.approx(-1.0, abs=1e-14)
    assert branch.reason == "t = -1 is the end of the span"
    heights = branch.measured(np.max)
    finer = mfdeq.follow(bratu(40), np.array([2.0]), span=(-1.0, 2.0)).measured(np.max)
    assert abs(finer[-1] - 4.091467246189) < 1e-9
    assert np.all(np.diff(heights) > 0)  # the branch does not turn back
    at = branch.points.index(fold)
    assert [p.unstable for p in branch.points[:at]] == [0] * at
    assert {p.unstable for p in branch.points[at + 1 :]} == {1}
    for point in branch.points:
        assert np.linalg.norm(bratu().residual(point.state, np.array([2.0 + point.t]))) < 1e-7


def test_the_tangent_is_the_derivative_along_the_branch():
    """On the lower branch at lambda = 1, dh/dt is the sensitivity."""
    branch = mfdeq.follow(bratu(), np.array([1.0]), span=(0.0, 0.5))
    first = branch.points[0]
    eq = mfdeq.solve(bratu(), np.array([1.0]))
    close(first.tangent / first.slope, eq.sensitivity @ np.ones(1), 1e-8)
    assert abs((first.tangent / first.slope).max() - 0.1592028062) < 1e-9
    back = mfdeq.follow(bratu(), np.array([1.0]), span=(-0.5, 0.5), towards=-1.0)
    assert back.points[1].t < 0


def test_folds_of_bratu_in_two_dimensions_extrapolate_to_the_exact_fold():
    """The discrete folds extrapolate (Richardson) to that of the equation."""
    folds = []
    for n in (7, 15, 31, 63):
        branch = mfdeq.follow(
            square(n), np.array([6.0]), span=(0.0, 1.0), step=0.2, solver=mfdeq.Direct()
        )
        folds.append(6.0 + branch.folds[0].t)
        assert branch.crossings == []
        if n > 15:  # smaller matrices get a factorization at every step
            assert branch.counts.setups < branch.counts.solves / 3
    for order in (2, 4, 6):
        folds = [b + (b - a) / (2**order - 1) for a, b in itertools.pairwise(folds)]
    assert abs(folds[0] - 6.808124423) < 2e-9


def test_both_branches_of_a_pitchfork_are_followed():
    for theta0 in (-1.0, -0.37):
        branch = mfdeq.follow(PITCHFORK, np.array([theta0]), span=(-0.1, 2.0), eigenvalues=2)
        (crossing,) = branch.crossings
        assert abs(theta0 + crossing.t) < 1e-7
        assert branch.folds == []
        for point in branch.points:
            assert abs(point.state[0]) < 1e-6
            if point.kind == "":
                assert point.unstable == (theta0 + point.t > 0)
        for side in (1.0, -1.0):
            other = mfdeq.follow(
                PITCHFORK, np.array([theta0]), span=(-0.1, 2.0), start=crossing, towards=side
            )
            r = theta0 + other.t
            heights = other.measured(lambda h: h[0])
            np.testing.assert_allclose(heights**2, r, atol=1e-7)
            assert r.max() == pytest.approx(theta0 + 2.0)
            found = heights[np.argmax(abs(heights))]
            assert abs(found) == pytest.approx(np.sqrt(theta0 + 2.0))


def test_both_branches_of_a_transcritical_crossing_are_followed():
    branch = mfdeq.follow(TRANSCRITICAL, np.array([-1.0]), span=(0.0, 2.0))
    (crossing,) = branch.crossings
    assert abs(crossing.t - 1.0) < 1e-7
    other = mfdeq.follow(
        TRANSCRITICAL, np.array([-1.0]), span=(0.0, 2.0), start=crossing, towards=1.0
    )
    np.testing.assert_allclose(other.measured(lambda h: h[0]), other.t - 1.0, atol=1e-7)
    assert abs(other.t[-1] - other.t[0]) > 0.9


def test_a_fold_is_found_from_either_side():
    branch = mfdeq.follow(
        SADDLE, np.array([1.0]), np.array([-1.0]), span=(-3.0, 1.5), start=np.array([1.0, 2.0])
    )
    (fold,) = branch.folds
    assert abs(fold.t - 1.0) < 1e-12
    assert branch.points[-1].t == -3.0
    assert branch.points[-1].state[0] == pytest.approx(-2.0)


def test_natural_steps_end_at_a_fold():
    branch = mfdeq.follow(bratu(), np.array([2.0]), span=(-1.0, 2.0), method="natural")
    assert "a fold after t" in branch.reason
    assert 2.0 + branch.t[-1] == pytest.approx(FOLD, abs=1e-2)
    whole = mfdeq.follow(bratu(), np.array([2.0]), span=(-1.0, 1.0), method="natural")
    assert whole.t[-1] == 1.0
    close(whole.points[-1].state, mfdeq.solve(bratu(), np.array([3.0])).state, 1e-8)


def test_unstable_counts_of_a_map_match_its_eigenvalues():
    class Logistic(mfdeq.FixedPointModel):
        """h = theta h (1 - h): zero and 1 - 1 / theta, unstable beyond 1 and 3."""

        state_size = param_size = 1

        def map(self, h, theta):
            return theta * h * (1 - h)

        def linearize(self, h, theta):
            return mfdeq.Linearization((theta * (1 - 2 * h))[:, None], (h * (1 - h))[:, None])

    branch = mfdeq.follow(
        Logistic(), np.array([2.0]), span=(0.0, 2.0), start=np.array([0.5]), eigenvalues=1
    )
    for point in branch.points:
        assert point.state[0] == pytest.approx(1 - 1 / (2 + point.t))
        assert point.eigenvalues[0] == pytest.approx(-point.t)
        assert point.unstable == (point.t > 1)


def test_eigenvalues_of_a_large_state_match_the_exact_ones():
    """The eigenvalues of a shifted Laplacian nearest to zero are found by products."""
    n = 300
    L = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)).tocsr()

    class Shifted(mfdeq.ResidualModel):
        state_size, param_size = n, 1

        def residual(self, h, theta):
            return L @ h - theta[0] * h - 1e-3

        def linearize(self, h, theta):
            return mfdeq.Linearization(L - theta[0] * sp.identity(n), -sp.csr_matrix(h[:, None]))

    branch = mfdeq.follow(Shifted(), np.array([0.0]), span=(0.0, 5e-5), eigenvalues=2)
    exact = 2 - 2 * np.cos(np.pi * np.arange(1, 3) / (n + 1))
    close(branch.points[-1].eigenvalues.real, exact - 5e-5, 1e-6)


def test_many_parameters_are_followed_along_a_direction():
    n = 4
    model = Bratu(np, np.float64, laplacian=five_point_laplacian(n), spread=np.eye(n * n))
    d = np.linspace(0.5, 1.5, n * n)
    branch = mfdeq.follow(model, np.full(n * n, 2.0), d, span=(0.0, 10.0), max_points=12)
    assert branch.reason == "12 points"
    for point in branch.points[::4]:
        residual = model.residual(point.state, 2.0 + point.t * d)
        assert np.linalg.norm(residual) < 1e-7
    alone = mfdeq.follow(model, np.full(n * n, 2.0), 3, span=(0.0, 1.0))
    eq = mfdeq.solve(model, np.full(n * n, 2.0) + np.eye(n * n)[3])
    close(alone.points[-1].state, eq.state, 1e-8)


def test_an_error_contains_the_branch_so_far():
    def form(x, r):
        return r - x if r < 0.5 else np.nan

    broken = Normal(form, lambda x, r: -1.0, lambda x, r: 1.0)
    with pytest.raises(mfdeq.MfdeqError) as caught:
        mfdeq.follow(broken, np.array([0.0]), span=(0.0, 1.0))
    assert isinstance(caught.value, mfdeq.ConvergenceError)
    branch = caught.value.best
    assert 0.4 < branch.t[-1] < 0.5


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.slow
def test_a_corrector_does_not_jump_to_another_part_of_the_branch():
    """On the upper branch of a coarse grid Newton's method could jump to the lower parts."""
    branch = mfdeq.follow(square(25), np.zeros(1), span=(-0.5, 10.0), max_points=45)
    heights = branch.measured(np.max)
    assert np.all(np.diff(heights) > 0)
    assert np.all(np.diff(heights) < 2.0)
    assert sum(abs(fold.t - 6.80589) < 1e-5 for fold in branch.folds) == 1
    assert sum(fold.t > 1.0 for fold in branch.folds) == 1


@pytest.mark.filterwarnings("ignore:overflow")
def test_an_overflow_error_contains_the_branch_so_far(tmp_path):
    """Exponentials of states near 360 overflow in a length; a second run continues."""
    model = Bratu(np, np.float64, laplacian=five_point_laplacian(3), spread=np.ones((9, 1)))

    def run():
        with pytest.raises(mfdeq.ConvergenceError, match="overflows") as caught:
            mfdeq.follow(
                model,
                np.zeros(1),
                span=(0.0, 8.0),
                max_points=1000,
                longest=50.0,
                checkpoint=tmp_path / "run.npz",
                checkpoint_every=5,
            )
        return caught.value.best

    first, again = run(), run()
    for branch in (first, again):
        assert len(branch.points) > 20
        assert len(branch.folds) == 1
        assert 300.0 < branch.measured(np.max)[-1] < 370.0
    np.testing.assert_array_equal(first.t, again.t)
    assert isinstance(mfdeq.Branch.load(tmp_path / "run.npz"), mfdeq.Branch)


WRONG = {
    "a span": ({"span": (1.0, 2.0)}, "around 0"),
    "an empty span": ({"span": (0.0, 0.0)}, "around 0"),
    "a method": ({"span": (0, 1), "method": "newton"}, "arclength"),
    "a parameter": ({"span": (0, 1), "direction": 3}, "number of one of 1 parameters, got 3"),
    "a direction": ({"span": (0, 1), "direction": np.zeros(1)}, "expected a nonzero vector"),
    "a direction's shape": ({"span": (0, 1), "direction": np.ones(2)}, r"shape \(2,\)"),
    "points": ({"span": (0, 1), "max_points": 0}, "max_points"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_refused(what):
    options, said = WRONG[what]
    with pytest.raises(mfdeq.ArgumentError, match=said):
        mfdeq.follow(bratu(8), np.array([1.0]), **options)


def test_a_missing_direction_and_an_ordinary_start_point_are_refused():
    model = Bratu(np, np.float64, laplacian=five_point_laplacian(3), spread=np.eye(9))
    with pytest.raises(mfdeq.ArgumentError, match="one of 9 parameters, got None"):
        mfdeq.follow(model, np.ones(9), span=(0, 1))
    branch = mfdeq.follow(bratu(8), np.array([1.0]), span=(0, 1))
    with pytest.raises(mfdeq.ArgumentError, match="got a point that is no crossing"):
        mfdeq.follow(bratu(8), np.array([1.0]), span=(0, 1), start=branch.points[1])


def test_eigenvalues_near_a_fold_of_a_large_state_are_counted():
    """Near the fold A is singular to nine digits, and solves are iterative."""
    branch = mfdeq.follow(square(15), np.array([6.0]), span=(-0.2, 2.0), eigenvalues=2)
    (fold,) = branch.folds
    at = branch.points.index(fold)
    assert [point.unstable for point in branch.points[:at]] == [0] * at
    assert {point.unstable for point in branch.points[at + 1 :]} == {1}


def test_a_crossing_in_the_last_step_is_found():
    branch = mfdeq.follow(TRANSCRITICAL, np.array([-1.0]), span=(0.0, 1.01), step=0.3, longest=0.3)
    assert branch.points[-1].t == 1.01
    (crossing,) = branch.crossings
    assert abs(crossing.t - 1.0) < 1e-7
    before = mfdeq.follow(TRANSCRITICAL, np.array([-1.0]), span=(0.0, 0.99), step=0.3, longest=0.3)
    assert before.crossings == []


def test_a_model_is_linearized_at_most_twice_at_a_point():
    """It is linearized again before the correction, at the same place on a straight branch."""
    calls = []

    class Counted(Normal):
        def linearize(self, h, theta):
            calls.append((h.tobytes(), theta.tobytes()))
            return super().linearize(h, theta)

    model = Counted(*(getattr(PITCHFORK, x) for x in ("form", "in_state", "in_theta")))
    mfdeq.follow(model, np.array([-1.0]), span=(0.0, 0.9), eigenvalues=1)
    assert len(calls) <= 2 * len(set(calls))


def test_an_unstable_eigenvalue_far_from_zero_is_counted():
    """Beyond the fold the growing eigenvalue is soon farther from zero than the next one."""
    branch = mfdeq.follow(bratu(250), np.array([2.0]), span=(-1.9, 2.0), eigenvalues=1)
    at = branch.points.index(branch.folds[0])
    assert {point.unstable for point in branch.points[:at]} == {0}
    assert {point.unstable for point in branch.points[at + 1 :]} == {1}
    assert branch.points[-1].eigenvalues[0] > 0


def test_a_printed_branch_is_a_table_with_its_special_points():
    model = mfdeq.from_function(lambda h, theta: h**3 - h - theta, 1, 1, "residual")
    branch = mfdeq.follow(model, np.zeros(1), span=(-1.0, 1.0), start=-np.ones(1), longest=0.05)
    assert len(branch.points) > 20
    lines = str(branch).splitlines()
    assert lines[0].split()[:3] == ["point", "t", "dt/ds"]
    rows = [line.split() for line in lines[1:21]]
    assert rows[0][0] == "0"
    assert rows[-1][0] == str(len(branch.points) - 1)
    assert [float(row[1]) for row in rows if row[-1] == "fold"] == pytest.approx(
        [fold.t for fold in branch.folds], abs=1e-5
    )
    assert lines[21] == f"… {len(branch.points) - 20} more points"
    assert lines[22] == f"ended: {branch.reason}"
    few = mfdeq.follow(model, np.zeros(1), span=(0.0, 0.01), start=np.ones(1))
    assert "…" not in str(few)
    assert "\n" not in repr(branch)
