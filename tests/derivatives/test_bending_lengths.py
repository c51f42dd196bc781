"""Claimed errors of derivatives of functions that bend over short lengths."""

import warnings

import numpy as np
import pytest
from scipy import sparse

import mfdeq

FUNCTIONS = {
    "exp": (np.exp, np.exp, np.exp),
    "tanh": (
        np.tanh,
        lambda u: 1.0 - np.tanh(u) ** 2,
        lambda u: -2.0 * np.tanh(u) * (1.0 - np.tanh(u) ** 2),
    ),
    "sin": (np.sin, np.cos, lambda u: -np.sin(u)),
    "logistic": (
        lambda u: 1.0 / (1.0 + np.exp(-u)),
        lambda u: 1.0 / (2.0 + 2.0 * np.cosh(u)),
        lambda u: -np.tanh(0.5 * u) / (2.0 + 2.0 * np.cosh(u)),
    ),
}
BOUND = 10.0  # of a true error in claimed ones


class Steep:
    """A map of unknowns that bends over lengths 1 / k of each, beside terms that are linear."""

    def __init__(self, names, k, h, offsets, seed=0):
        n = len(names)
        self.n, self.h, self.theta = n, h, np.full(n, 0.4)
        self.functions = [FUNCTIONS[name] for name in names]
        self.k, self.centres, self.sizes = k, h - offsets / k, h / k
        self.mix = np.eye(n) + 0.5 * np.random.default_rng(seed).standard_normal((n, n))

    def values(self, h, order):
        u = self.k * (h - self.centres)
        parts = [functions[order](u[i]) for i, functions in enumerate(self.functions)]
        return np.array(parts) * self.sizes * self.k**order

    def map(self, h, theta):
        value = self.mix @ (self.values(h, 0) / self.h)
        return value + 0.3 * h / self.h + theta + 0.1 * theta**2

    def real_map(self, h, theta):
        return self.map(h.real.astype(float), theta.real.astype(float))

    @property
    def d_state(self):
        return self.mix * (self.values(self.h, 1) / self.h) + np.diag(0.3 / self.h)

    @property
    def state_state(self):
        """The Hessian of the sum of all equations with respect to h."""
        return np.diag(self.mix.sum(axis=0) * self.values(self.h, 2) / self.h)


def curvature_of(linearization, problem):
    K, n = linearization.curvature(np.ones(problem.n)), problem.n
    if K.apply is None:
        return K.state_state.toarray()
    return np.stack([K.apply(np.zeros(n), e)[1] for e in np.eye(n)], axis=1)


def relative_error(found, expected, scale):
    return np.linalg.norm((found - expected) * scale) / np.linalg.norm(expected * scale)


def errors_and_claims(problem, source):
    """Return (true, claimed) errors of first and second derivatives, and whether one warns."""
    f = problem.map if source == "complex step" else problem.real_map
    model = mfdeq.from_function(f, problem.n, problem.n, "map")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        linearization = model.linearize(problem.h, problem.theta)
        assert linearization.d_params is not None
        d_state = sparse.csr_array(linearization.d_state).toarray()
        curvature = curvature_of(linearization, problem)
    first = relative_error(d_state, problem.d_state, problem.h)
    second = relative_error(curvature, problem.state_state, np.outer(problem.h, problem.h))
    return (first, second), linearization.accuracy, bool(caught)


@pytest.mark.parametrize("k", [50, 200, 800, 2000])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("source", ["complex step", "differences"])
def test_claimed_errors_bound_those_of_one_steep_function(source, name, k):
    for offset in (-1.3, 0.4, 2.1):
        problem = Steep([name], np.array([float(k)]), np.array([0.9]), np.array([offset]))
        true, claimed, warned = errors_and_claims(problem, source)
        for error, claim in zip(true, claimed, strict=True):
            assert error <= BOUND * claim or warned
        if source == "complex step":
            assert true[1] < 1e-7


@pytest.mark.parametrize("source", ["complex step", "differences"])
def test_claimed_errors_bound_those_of_several_unknowns(source):
    rng = np.random.default_rng(11)
    for trial in range(40):
        n = int(rng.integers(1, 4))
        names = [list(FUNCTIONS)[i] for i in rng.integers(0, len(FUNCTIONS), n)]
        h = rng.uniform(0.3, 1.5, n) * 10 ** rng.uniform(-1.0, 1.0, n)
        problem = Steep(names, 10 ** rng.uniform(1.7, 3.3, n), h, rng.uniform(-3, 3, n), trial)
        true, claimed, warned = errors_and_claims(problem, source)
        for error, claim in zip(true, claimed, strict=True):
            assert error <= BOUND * claim or warned
        if source == "complex step":
            assert true[1] < 1e-6


def test_smooth_functions_keep_their_digits():
    """The usual steps are kept."""
    for source, expected in (("complex step", 1e-9), ("differences", 1e-5)):
        problem = Steep(["exp", "sin"], np.array([1.0, 2.0]), np.array([0.8, 1.7]), np.zeros(2))
        (_, second), (_, claimed), warned = errors_and_claims(problem, source)
        assert second <= BOUND * claimed <= BOUND * expected
        assert not warned


def test_products_along_any_direction_have_errors_that_bound_the_true_ones():
    """Without a table: the points x + t v of a general direction are rounded."""
    n = 70
    k, h = np.linspace(20.0, 2000.0, n), np.linspace(0.5, 2.0, n)
    problem = Steep(["logistic"] * n, k, h, np.linspace(-2.0, 2.0, n))
    linearization = mfdeq.from_function(problem.map, n, n, "map").linearize(h, problem.theta)
    v = np.cos(np.arange(n))
    found = linearization.second((np.zeros(n), v), (np.zeros(n), v))
    expected = problem.mix @ (problem.values(h, 2) / h * v**2)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error <= BOUND * linearization.accuracy[1]
    assert error < 1e-4


@pytest.mark.parametrize("k", [50, 500])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_claimed_errors_bound_those_of_differences_of_jacobians(name, k):
    problem = Steep([name], np.array([float(k)]), np.array([0.9]), np.array([0.4]))

    class First(mfdeq.FixedPointModel):
        state_size = param_size = 1

        def map(self, h, theta):
            return problem.map(h, theta)

        def linearize(self, h, theta):
            d_state = problem.mix * (problem.values(h, 1) / problem.h) + 0.3 / problem.h
            return mfdeq.Linearization(d_state, np.eye(1) * (1.0 + 0.2 * theta))

    linearization = mfdeq.mixed(First()).linearize(problem.h, problem.theta)
    found = linearization.curvature(np.ones(1)).apply(np.zeros(1), np.ones(1))[1]
    error = abs(found / problem.state_state[0] - 1.0)[0]
    assert error <= BOUND * linearization.accuracy[1]
    assert error < 1e-6


def test_a_long_step_does_not_reach_a_front_far_away():
    """f is flat at the state, so that no short step changes it."""

    def f(h, theta):
        return 1.0 / (1.0 + np.exp(-2000.0 * (h.real - 1.0))) + theta.real

    model = mfdeq.from_function(f, 1, 1, "map")
    d_state = model.linearize(np.array([0.97]), np.array([0.3])).d_state
    assert abs(sparse.csr_array(d_state).toarray()[0, 0]) < 1e-9


@pytest.mark.parametrize("k", [5e3, 2e4, 1e5])
def test_fronts_within_a_usual_step_are_differenced_or_warned_of(k):
    problem = Steep(["logistic"], np.array([k]), np.array([0.9]), np.array([0.4]))
    true, claimed, warned = errors_and_claims(problem, "complex step")
    assert true[1] <= BOUND * claimed[1]
    assert warned or true[1] < 1e-3
