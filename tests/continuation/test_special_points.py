"""Crossings of one and of more dimensions, Hopf points and flips, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.bifurcation_models import CROSSED, Brusselator, Loaded, Tank, ring_laplacian
from support.other_units import InUnits
from support.repeats import one_fast

import mfdeq

STEPS = {"default": {}, "short": {"longest": 1 / 60}, "long": {"step": 0.5, "longest": 1.0}}


def follow(case, model=None, steps="default", **options):
    lengths = {name: share * case.width for name, share in STEPS[steps].items()}
    model = case.model if model is None else model
    start = np.zeros(model.state_size)
    return mfdeq.follow(
        model, np.array([case.t0]), span=(0.0, case.width), start=start, **lengths, **options
    )


def check(branch, case, counted=True):
    t, dimensions = case.exact
    np.testing.assert_allclose([p.t for p in branch.crossings], t, rtol=1e-7)
    assert [p.dimension for p in branch.crossings] == dimensions.tolist()
    assert branch.folds == branch.hopfs == []
    if counted:
        assert branch.points[-1].unstable == dimensions.sum()


@pytest.mark.parametrize(
    "steps", [pytest.param(s, marks=[] if s == "default" else pytest.mark.slow) for s in STEPS]
)
@pytest.mark.parametrize("name", CROSSED)
def test_every_crossing_is_one_event_with_its_dimension(name, steps):
    case = CROSSED[name]
    check(follow(case, steps=steps, eigenvalues=6), case)


@pytest.mark.parametrize("name", [name for name in CROSSED if "large" not in name])
def test_crossings_are_found_without_eigenvalues(name):
    check(follow(CROSSED[name]), CROSSED[name], counted=False)


@pytest.mark.parametrize("scale", one_fast(1e-8, 1e8))
@pytest.mark.parametrize("name", ["Chafee-Infante", "Chafee-Infante on a square", "ring of 5"])
def test_crossings_and_counts_are_the_same_in_other_units(name, scale):
    """Counts do not change with the units of equations either, since A is symmetric in some."""
    case, rng = CROSSED[name], np.random.default_rng(1)
    n = case.model.state_size
    rows, state = (10.0 ** rng.uniform(-4, 4, n) for _ in range(2))
    for model in (
        InUnits(case.model, scale, 1 / scale),
        InUnits(case.model, scale * rows, state / scale),
    ):
        check(follow(case, model, eigenvalues=3), case)


def test_steps_are_not_shortened_to_find_a_crossing():
    with_counts, without = (follow(CROSSED["Chafee-Infante"], eigenvalues=k) for k in (6, 0))
    assert len(with_counts.points) == len(without.points) < 25


def test_the_number_of_unstable_eigenvalues_is_that_below_the_crossing():
    case = CROSSED["ring of 6"]
    branch = follow(case, eigenvalues=6)
    assert [p.unstable for p in branch.crossings] == [0, 1, 3, 5]


@pytest.mark.parametrize(
    "name",
    [
        "Chafee-Infante",
        pytest.param("Chafee-Infante on a square", marks=pytest.mark.slow),
        pytest.param("buckled rod", marks=pytest.mark.slow),
    ],
)
def test_the_other_branch_through_each_crossing_is_followed(name):
    """It is as unstable as the zero state below a crossing: all are supercritical."""
    case = CROSSED[name]
    for crossing in follow(case, eigenvalues=4).crossings[:3]:
        branch = mfdeq.follow(
            case.model, np.array([case.t0]), span=(0.0, case.width), start=crossing, eigenvalues=4
        )
        assert branch.points[-1].t == pytest.approx(case.width)
        assert abs(branch.points[-1].state).max() > 0.3
        assert branch.points[0].unstable <= crossing.unstable + crossing.dimension - 1


class TwoWithin(Loaded):
    """A crossing at t = 1 whose null vector another symmetry hides from that at t = 1.001."""

    def __init__(self, gap):
        super().__init__(sp.diags([1.0, 1.0 + gap, 3.0]))


@pytest.mark.parametrize("gap", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("eigenvalues", [0, 3])
def test_crossings_close_together_are_told_apart(gap, eigenvalues):
    branch = mfdeq.follow(
        TwoWithin(gap), np.zeros(1), span=(0.0, 2.0), start=np.zeros(3), eigenvalues=eigenvalues
    )
    np.testing.assert_allclose([p.t for p in branch.crossings], [1.0, 1.0 + gap], rtol=1e-8)


HOPF = [(30, 2.0, 0.008, 0.004, 4.0, 9.0), (150, 2.0, 0.008, 0.004, 4.0, 6.0)]


@pytest.mark.parametrize("given", HOPF)
def test_hopf_points_of_the_brusselator_have_their_place_and_frequency(given):
    n, a, dx, dy, low, high = given
    model = Brusselator(n, a, dx, dy)
    branch = mfdeq.follow(
        model, np.array([low]), span=(0.0, high - low), start=model.start(low), eigenvalues=4
    )
    exact = model.hopfs[(model.hopfs[:, 0] > low) & (model.hopfs[:, 0] < high)]
    found = np.array([[low + p.t, p.frequency] for p in branch.hopfs])
    np.testing.assert_allclose(found, exact, rtol=1e-7)
    assert branch.crossings == []
    assert [p.unstable for p in branch.hopfs] == (2 * np.arange(len(exact))).tolist()


@pytest.mark.parametrize("longest", [None, pytest.param(0.2, marks=pytest.mark.slow)])
def test_turing_and_hopf_points_of_the_brusselator_are_told_apart(longest):
    model = Brusselator(20, 2.0, 0.0016, 0.008)
    branch = mfdeq.follow(
        model,
        np.array([1.5]),
        span=(0.0, 4.5),
        start=model.start(1.5),
        eigenvalues=6,
        longest=longest,
    )
    turing = model.turing[(model.turing > 1.5) & (model.turing < 6.0)]
    hopfs = model.hopfs[model.hopfs[:, 0] < 6.0]
    np.testing.assert_allclose([1.5 + p.t for p in branch.crossings], turing, rtol=1e-7)
    np.testing.assert_allclose([1.5 + p.t for p in branch.hopfs], hopfs[:, 0], rtol=1e-7)
    assert branch.points[-1].unstable == len(turing) + 2 * len(hopfs)


def test_hopf_points_of_a_stirred_tank_lie_where_the_trace_is_zero():
    """B = 14 and beta = 3: between two Hopf points the only state oscillates."""
    B, beta = 14.0, 3.0
    branch = mfdeq.follow(
        Tank(), np.array([0.0, B, beta]), 0, span=(0.0, 0.8), start=np.zeros(2), eigenvalues=2
    )
    # With y = B x / (1 + beta) and D exp(y) = x / (1 - x), 1 / (1 - x) + 1 + beta = B x.
    x = np.sort(np.roots([-B, B + 1 + beta, -(2 + beta)]).real)
    D = x / ((1 - x) * np.exp(B * x / (1 + beta)))
    found = sorted((float(p.state[0]), p.t, p.frequency) for p in branch.hopfs)
    determinant = (1 + beta) / (1 - x) - B * x
    np.testing.assert_allclose(found, np.stack([x, D, np.sqrt(determinant)], axis=1), rtol=1e-7)


class Delayed(mfdeq.FixedPointModel):
    """The delayed logistic map, whose pair leaves the unit circle at theta = 2, at 60 degrees."""

    state_size, param_size = 2, 1

    def map(self, h, theta):
        return np.array([theta[0] * h[0] * (1 - h[1]), h[0]])

    def linearize(self, h, theta):
        J = np.array([[theta[0] * (1 - h[1]), -theta[0] * h[0]], [1.0, 0.0]])
        return mfdeq.Linearization(J, np.array([[h[0] * (1 - h[1])], [0.0]]))


def test_a_pair_of_a_map_leaves_the_unit_circle():
    branch = mfdeq.follow(
        Delayed(), np.array([1.5]), span=(0.0, 0.7), start=np.full(2, 1 / 3), eigenvalues=2
    )
    (hopf,) = branch.hopfs
    assert hopf.t == pytest.approx(0.5, rel=1e-8)
    assert hopf.frequency == pytest.approx(np.pi / 3, rel=1e-8)


class Logistic(mfdeq.FixedPointModel):
    """h = theta h (1 - h): 1 - 1 / theta doubles its period at theta = 3."""

    state_size = param_size = 1

    def map(self, h, theta):
        return theta * h * (1 - h)

    def linearize(self, h, theta):
        return mfdeq.Linearization((theta * (1 - 2 * h))[:, None], (h * (1 - h))[:, None])


def test_a_flip_of_a_map_is_located():
    branch = mfdeq.follow(
        Logistic(), np.array([2.0]), span=(0.0, 1.5), start=np.array([0.5]), eigenvalues=1
    )
    (flip,) = branch.flips
    assert flip.t == pytest.approx(1.0, rel=1e-8)
    assert branch.folds == branch.crossings == branch.hopfs == []


class Forward(Loaded):
    """The same equations as dh/dt = R: stable where eigenvalues of A are negative."""

    time_sign = 1

    def residual(self, h, t):
        return -super().residual(h, t)

    def linearize(self, h, t):
        lin = super().linearize(h, t)
        return mfdeq.Linearization(-lin.d_state, -lin.d_params)


@pytest.mark.parametrize("n", [6, 220])
def test_the_sign_of_time_decides_what_is_unstable(n):
    L = ring_laplacian(n) * n + sp.diags(np.linspace(1.0, 1.1, n))
    case = CROSSED["ring of 6"]._replace(model=Forward(L), t0=0.0, width=1.8)
    check(follow(case, eigenvalues=3), case)


class Hidden(mfdeq.ResidualModel):
    """Two unknowns that do not know of each other, one of which loses stability by a jump in A."""

    state_size, param_size = 2, 1

    def residual(self, h, t):
        return np.array([h[0] - t[0], h[1] * np.where(t[0] > 0.51, -1.0, 1.0)])

    def linearize(self, h, t):
        A = np.diag([1.0, np.where(t[0] > 0.51, -1.0, 1.0)])
        return mfdeq.Linearization(A, np.array([[-1.0], [0.0]]))


def test_a_change_that_nothing_explains_is_a_warning_that_names_its_interval():
    with pytest.warns(mfdeq.AccuracyWarning, match="between t = 0.5 and 0.6"):
        branch = mfdeq.follow(Hidden(), np.zeros(1), span=(0.0, 1.0), step=0.1, eigenvalues=2)
    assert [p.unstable for p in (branch.points[0], branch.points[-1])] == [0, 1]
    assert branch.crossings == []


class Epidemic(mfdeq.FixedPointModel):
    """The share h of those infected at last, h = 1 - exp(-R0 h), with a zero at h = shift.

    At R0 = 1 the branch passes through the state without infections, which is a branch too.
    """

    state_size, param_size = 1, 1

    def __init__(self, shift, unit):
        self.shift, self.unit = shift, unit

    def map(self, h, theta):
        return (1.0 - np.exp(-theta * (self.unit * h - self.shift)) + self.shift) / self.unit

    def linearize(self, h, theta):
        x = self.unit * h - self.shift
        spared = np.exp(-theta * x)
        return mfdeq.Linearization(theta * spared[:, None], x * spared[:, None] / self.unit)


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("shift", [0.0, 1e-3, 1.0])
def test_a_crossing_is_found_where_an_unknown_passes_through_zero(shift, unit):
    branch = mfdeq.follow(
        Epidemic(shift, unit),
        np.array([1.5]),
        span=(-1.0, 1.0),
        start=np.array([0.58 + shift]) / unit,
        towards=-1.0,
    )
    (crossing,) = branch.crossings
    assert crossing.t == pytest.approx(-0.5, abs=1e-7)
    assert unit * crossing.state[0] == pytest.approx(shift, abs=1e-7)
    assert branch.counts.setups <= 200


class Ring(mfdeq.ResidualModel):
    """Brusselators in a ring, whose modes of two sines lose their stability together."""

    param_size, time_sign, coupling = 1, 1, 0.1

    def __init__(self, cells):
        self.cells, self.state_size = cells, 2 * cells
        one = np.eye(cells)
        self.exchange = np.roll(one, 1, 0) + np.roll(one, -1, 0) - 2.0 * one

    def residual(self, h, theta):
        x, y = h[: self.cells], h[self.cells :]
        D = self.coupling * self.exchange
        reaction = theta * x - x**2 * y
        return np.concatenate([1.0 - x - reaction + D @ x, reaction + D @ y])

    def linearize(self, h, theta):
        x, y = h[: self.cells], h[self.cells :]
        D = self.coupling * self.exchange
        d_x, d_y = np.diag(theta - 2.0 * x * y), np.diag(-(x**2))
        A = np.block([[-np.eye(self.cells) - d_x + D, -d_y], [d_x, d_y + D]])
        return mfdeq.Linearization(A, np.concatenate([-x, x])[:, None])


@pytest.mark.parametrize(
    ("cells", "step"),
    [
        pytest.param(3, 0.05, id="a point of the branch is a Hopf point"),
        pytest.param(3, 0.07, id="within steps"),
        pytest.param(4, 0.05, id="two sets of pairs"),
    ],
)
def test_pairs_that_become_unstable_together_are_one_hopf_point(cells, step):
    model = Ring(cells)
    branch = mfdeq.follow(
        model,
        np.ones(1),
        span=(0.0, 2.5),
        start=np.ones(2 * cells),
        step=step,
        eigenvalues=2 * cells,
    )
    traces = 2.0 - 2.0 * model.coupling * np.linalg.eigvalsh(model.exchange)
    exact = np.unique(traces.round(9))
    np.testing.assert_allclose([1.0 + p.t for p in branch.hopfs], exact, rtol=1e-7)
    assert branch.points[-1].unstable == 2 * cells
