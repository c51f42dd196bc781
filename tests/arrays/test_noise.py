"""The noise of functions of which it is known."""

import numpy as np
import pytest

from mfdeq.arrays.backend import Backend
from mfdeq.arrays.noise import noise_deviation, values_on_line

BACKEND = Backend.of(np.zeros(1))
EPS = np.finfo(float).eps
REGULAR = tuple(range(7))
IRREGULAR = (-3.0, -2.236, -0.927, 0.0, 1.382, 2.058, 3.0)


def deviation(function, points, degrees=(3,)):
    return noise_deviation(BACKEND, values_on_line(function, points), points, degrees)


@pytest.mark.parametrize("points", [REGULAR, IRREGULAR], ids=["regular", "irregular"])
@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("degree", [2, 3, 4])
def test_the_standard_deviation_of_random_errors_is_found(points, unit, degree):
    rng, n = np.random.default_rng(7), 20_000

    def noisy(t):
        return unit * (3.0 - 2.0 * t + 0.5 * t**2 + 1e-6 * rng.standard_normal(n))

    squares = deviation(noisy, points, [degree]) ** 2
    assert np.mean(squares) ** 0.5 == pytest.approx(1e-6 * unit, rel=0.03)


@pytest.mark.parametrize("points", [REGULAR, IRREGULAR], ids=["regular", "irregular"])
@pytest.mark.parametrize("degree", [2, 3, 4])
def test_polynomials_have_no_noise(points, degree):
    coefficients = np.random.default_rng(1).standard_normal((degree + 1, 50))

    def polynomial(t):
        return np.polynomial.polynomial.polyval(t, coefficients)

    largest = max(abs(polynomial(t)).max() for t in points)
    assert deviation(polynomial, points, [degree]).max() <= 10.0 * EPS * largest
    beyond = deviation(lambda t: polynomial(t) + t ** (degree + 1), points, [degree])
    assert beyond.min() > 1e-2


def test_a_line_has_exactly_no_noise():
    assert deviation(lambda t: np.array([1.0, 1e8 - 3.0 * t, 0.25 * t]), REGULAR).max() == 0.0


def test_the_least_estimate_of_several_degrees_is_taken():
    def cubic(t):
        return np.array([t**3])

    assert deviation(cubic, REGULAR, (2,))[0] > 1.0
    assert deviation(cubic, REGULAR, (2, 3, 4))[0] <= 1e-13


@pytest.mark.parametrize("stiffness", [1.0, 1e4, 1e8])
def test_the_rounding_of_large_terms_is_found(stiffness):
    """Rounding of terms that cancel is within a factor of ten of half a unit of these terms."""
    rng = np.random.default_rng(3)
    h, direction = rng.random(200), rng.standard_normal(200)

    def cancelling(t):
        x = h + 1e-3 * t * direction
        return (stiffness + x) - stiffness

    noise = np.median(deviation(cancelling, IRREGULAR))
    assert 0.05 * EPS * stiffness <= noise <= 5.0 * EPS * (stiffness + 1.0)


def test_values_end_where_there_are_none():
    values = values_on_line(lambda t: None if t > 2 else np.array([t]), REGULAR)
    assert len(values) == 3
