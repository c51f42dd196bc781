"""Claimed errors of first derivatives by differences, of random functions."""

import warnings

import numpy as np
import pytest
from scipy import sparse

import mfdeq

SHAPES = {
    "tanh": np.tanh,
    "exp": np.exp,
    "logistic": lambda u: 1.0 / (1.0 + np.exp(-u)),
    "rational": lambda u: u / (1.0 + u * u),
    "peak": lambda u: 1.0 / (1.0 + u * u),
}
BOUND = 10.0  # of a true error in claimed ones
SEEDS = 80


class RandomFunction:
    """A map of analytic terms, whose derivatives are those of the complex step.

    The function that models are made of does not take complex arrays.
    """

    def __init__(self, h, theta, *terms):
        self.h, self.theta, self.terms = h, theta, terms
        self.x = np.concatenate([theta, h])

    def value(self, h, theta):
        u = np.concatenate([theta, h])
        return np.array([sum(term(u) for term in row) for row in zip(*self.terms, strict=True)])

    def map(self, h, theta):
        return self.value(h.real.astype(float), theta.real.astype(float))

    def jacobians(self):
        """Return df/dh and df/dtheta."""
        P, columns = self.theta.size, []
        for j, size in enumerate(abs(self.x)):
            x = self.x.astype(complex)
            x[j] += 1e-40j * size
            columns.append(self.value(x[P:], x[:P]).imag / (1e-40 * size))
        matrix = np.stack(columns, axis=1)
        return matrix[:, P:], matrix[:, :P]

    def error_and_claim(self):
        """Return the true and the claimed error of the worse Jacobian, and whether one warns.

        Rows are in units of the sums of their entries, columns in those of the variables.
        """
        model = mfdeq.from_function(self.map, self.h.size, self.theta.size, "map", order=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            linearization = model.linearize(self.h, self.theta)
            found = [
                matrix.toarray() if sparse.issparse(matrix) else matrix
                for matrix in (linearization.d_state, linearization.d_params)
            ]
        parts = [
            (abs(matrix - exact) * size, abs(exact) * size)
            for matrix, exact, size in zip(
                found, self.jacobians(), (abs(self.h), abs(self.theta)), strict=True
            )
        ]
        rows = sum(exact.sum(axis=1) for _, exact in parts)
        error = max(
            np.linalg.norm(wrong / rows[:, None]) / np.linalg.norm(exact.sum(axis=1) / rows)
            for wrong, exact in parts
            if exact.any()
        )
        warned = any(issubclass(one.category, mfdeq.AccuracyWarning) for one in caught)
        return error, linearization.accuracy[0], warned


def steep(x, j, name, steepness, offset, weight=1.0, by=None):
    """Return a term g(k (u_j / x_j - 1) + offset), if `by` is given times u_by / x_by."""

    def term(u):
        value = weight * SHAPES[name](steepness * (u[j] - x[j]) / abs(x[j]) + offset)
        return value if by is None else value * u[by] / x[by]

    return term


def linear(x, j, weight):
    return lambda u: weight * u[j] / x[j]


def random_point(rng, digits):
    n, p = rng.integers(1, 4, 2)
    h = rng.uniform(0.3, 1.5, n) * 10 ** rng.uniform(-digits, digits, n)
    return h, rng.uniform(0.3, 1.5, p) * 10 ** rng.uniform(-digits, digits, p)


def saturated(seed):
    """Steep functions in their tails, alone or beside a small linear term."""
    rng = np.random.default_rng(seed)
    h, theta = random_point(rng, 1.0)
    x, P, n = np.concatenate([theta, h]), theta.size, h.size
    tails = [
        steep(
            x,
            P + i,
            str(rng.choice(["tanh", "logistic", "exp"])),
            10 ** rng.uniform(1.0, 3.3),
            rng.choice([-1.0, 1.0]) * rng.uniform(6.0, 13.0),
        )
        for i in range(n)
    ]
    beside = [linear(x, P + i, rng.choice([0.0, 1e-3])) for i in range(n)]
    return RandomFunction(h, theta, tails, beside, [linear(x, 0, 1.0)] * n)


def products(seed):
    """Sums and products of steep functions with large and small factors."""
    rng = np.random.default_rng(seed)
    h, theta = random_point(rng, 3.0)
    x, n = np.concatenate([theta, h]), h.size

    def random_term():
        return steep(
            x,
            rng.integers(x.size),
            str(rng.choice(list(SHAPES))),
            10 ** rng.uniform(0.0, 3.3),
            rng.uniform(-3.0, 3.0),
            10 ** rng.uniform(-3.0, 3.0),
            rng.choice([None, int(rng.integers(x.size))]),
        )

    return RandomFunction(h, theta, *([random_term() for _ in range(n)] for _ in range(3)))


def kinked(seed):
    """Smooth terms, and kinks at distances from the point that differ by ten decades."""
    rng = np.random.default_rng(seed)
    h, theta = random_point(rng, 2.0)
    x, n = np.concatenate([theta, h]), h.size

    def kink():
        j, k = rng.integers(x.size, size=2)
        distance = rng.choice([-1.0, 1.0]) * 10 ** rng.uniform(-10.0, -1.0)
        weight, slopes, share = 10 ** rng.uniform(-8.0, 1.0), rng.uniform(-2, 2, 2), rng.choice(3)

        def term(u):
            side = (u[j] - x[j]) / x[j] + distance + 0.3 * share * (u[k] - x[k]) / x[k]
            # |side| and max(side, 0) are among such functions.
            return weight * side * slopes[int(side.real > 0)] * (u[k] / x[k]) ** share

        return term

    smooth = [steep(x, rng.integers(x.size), "rational", 3.0, 1.0) for _ in range(n)]
    kinks = [[kink() for _ in range(n)] for _ in range(2)]
    return RandomFunction(h, theta, smooth, *kinks, [linear(x, -1, 0.3)] * n)


@pytest.mark.parametrize("family", [saturated, products])
def test_claimed_errors_bound_those_of_steep_functions(family):
    results = [family(seed).error_and_claim() for seed in range(SEEDS)]
    assert [seed for seed, (error, claim, _) in enumerate(results) if error > BOUND * claim] == []
    # Claims are no larger than they must be.
    assert np.median([claim / error for error, claim, _ in results]) < 4.0


def silent_misses(seeds):
    results = ((seed, kinked(seed).error_and_claim()) for seed in seeds)
    return [
        seed for seed, (error, claim, warned) in results if error > BOUND * claim and not warned
    ]


def test_no_error_beside_a_kink_is_silent():
    assert silent_misses(range(SEEDS)) == []


@pytest.mark.slow
def test_no_error_beside_one_of_many_kinks_is_silent():
    assert silent_misses(range(SEEDS, 1_000)) == []
