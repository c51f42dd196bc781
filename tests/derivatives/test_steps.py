"""Steps of differences: units, noise, edges of domains, and the number of evaluations."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.models.curvature import as_curvature

N, P = 6, 4
RNG = np.random.default_rng(0)
W, U = 0.3 * RNG.standard_normal((N, N)), RNG.standard_normal((N, P))
H, THETA, LAM = RNG.standard_normal(N), RNG.standard_normal(P), RNG.standard_normal(N)
LOSS = mfdeq.LeastSquares(np.array([1]), np.zeros(1))


def smooth(h, theta):
    """A residual whose natural units are one."""
    return h - np.tanh(W @ h + U @ np.exp(0.7 * theta)) + 0.1 * theta[0] * h**3 - 0.2


def model_in_units(seed, real):
    """Return the same residual in random units, with the units of h, theta and the residual."""
    units = [10.0 ** np.random.default_rng(seed).uniform(-8, 8, n) for n in (N, P, N)]
    of_h, of_theta, of_f = units

    def f(h, theta):
        if real:
            h, theta = np.real(h), np.real(theta)
        return of_f * smooth(h / of_h, theta / of_theta)

    return mfdeq.from_function(f, N, P, "residual"), *units


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


def operator(curvature):
    return as_curvature(Backend.of(H), curvature, P, N, "curvature")


def blocks(curvature):
    """Return the blocks of a curvature by their names."""
    K = operator(curvature).assembled()
    names = "params_params", "state_params", "state_state"
    return {name: dense(getattr(K, name).array) for name in names}


def exact():
    return mfdeq.from_function(smooth, N, P, "residual")


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_derivatives_do_not_depend_on_units(seed, zero, real):
    h, theta = H.copy(), THETA.copy()
    if zero:
        h[2] = theta[1] = 0.0
    first, second = (1e-8, 1e-3) if real else (1e-12, 1e-7)
    model, of_h, of_theta, of_f = model_in_units(seed, real)
    at, truth = model.linearize(h * of_h, theta * of_theta), exact().linearize(h, theta)
    close(dense(at.d_state) * of_h / of_f[:, None], dense(truth.d_state), first)
    close(dense(at.d_params) * of_theta / of_f[:, None], dense(truth.d_params), first)
    direction, sizes = np.cos(np.arange(P + N)), np.concatenate([of_theta, of_h])
    # The product comes before a table of second derivatives is made.
    product = operator(at.curvature(LAM / of_f)) @ (direction * sizes)
    close(product * sizes, operator(truth.curvature(LAM)) @ direction, second)
    found, expected = blocks(at.curvature(LAM / of_f)), blocks(truth.curvature(LAM))
    for name, left, right in (
        ("params_params", of_theta, of_theta),
        ("state_params", of_h, of_theta),
        ("state_state", of_h, of_h),
    ):
        close(found[name] * right * left[:, None], expected[name], second)


def test_a_variable_that_is_small_by_accident_has_the_digits_of_the_others():
    h = H.copy()
    h[3] = 1e-6
    real = mfdeq.from_function(lambda h, t: smooth(np.real(h), np.real(t)), N, P, "residual")
    at, truth = real.linearize(h, THETA), exact().linearize(h, THETA)
    close(dense(at.d_state), dense(truth.d_state), 1e-9)
    found, expected = (blocks(x.curvature(LAM))["state_state"] for x in (at, truth))
    close(found, expected, 1e-3)


def test_a_function_that_bends_over_less_than_its_variables_has_its_digits():
    def diode(h, theta):  # volts, of which a fortieth matters
        h, theta = np.real(h), np.real(theta)
        return 1e-9 * np.expm1(h / 0.025) - theta * (1.0 - h)

    h, theta = np.array([0.5]), np.array([0.1])
    at = mfdeq.from_function(diode, 1, 1, "residual").linearize(h, theta)
    close(dense(at.d_state), [[1e-9 / 0.025 * np.exp(20.0) + 0.1]], 1e-8)


def noisy(noise):
    """The residual exp(h) - theta, with deterministic noise as of an inner tolerance."""

    def f(h, theta):
        h, theta = np.real(h), np.real(theta)
        return np.exp(h) - theta + noise * np.sin(3e13 * h + 1.0)

    return f


@pytest.mark.filterwarnings("default::mfdeq.AccuracyWarning")  # digits that differences lose
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("load", [1e-3, 1e-6, 1e-9])
def test_small_displacements_that_are_added_to_positions_have_their_derivatives(load, real):
    """A step relative to a displacement may be lost in the rounding of X + h, without any noise."""
    n = 12
    X = np.linspace(0.0, 1.0, n + 2)
    lengths = np.diff(X)
    force = lengths[0] * np.sin(3.0 * X[1:-1])

    def bar(h, theta):
        if real:
            h, theta = np.real(h), np.real(theta)
        stretch = np.diff(X + np.concatenate([[0.0], h, [0.0]])) / lengths
        return -np.diff(stretch - 1.0 / stretch) - load * theta * force

    eq = mfdeq.solve(mfdeq.from_function(bar, n, 1, "residual"), np.ones(1))
    stiffness = 2.0 / lengths[0] * (2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1))
    small = np.linalg.solve(stiffness, load * force)
    close(eq.state, small, rtol=1e-4)
    gradient = eq.gradient(mfdeq.LeastSquares(np.arange(n), np.zeros(n)))
    close(gradient, [small @ small], rtol=1e-3)
    assert real or eq.report.derivatives["d_state"] == "the complex step"


@pytest.mark.filterwarnings("default::mfdeq.AccuracyWarning")  # digits that differences lose
@pytest.mark.parametrize("load", [1e-6, 1e-9, 1e-11])
def test_terms_that_are_added_after_others_cancel_do_not_hide_those(load):
    """A step that 1 + h leaves as it is may change the last term, which is added to zero."""
    n = 6
    K = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)

    def f(h, theta):
        h = np.array([float(x) for x in h])
        return K @ h + 0.1 * (h + 1.0) ** 3 - 0.1 - 0.3 * h - load * float(theta[0])

    model = mfdeq.from_function(f, n, 1, "residual", initial_state=np.zeros(n))
    A = model.linearize(np.zeros(n), np.ones(1)).d_state.toarray()
    np.testing.assert_allclose(A, K, atol=2e-3)
    eq = mfdeq.solve(model, np.ones(1))
    np.testing.assert_allclose(eq.state, np.linalg.solve(K, np.full(n, load)), rtol=1e-4)


@pytest.mark.parametrize("size", [1e-6, 1e-9])
def test_a_row_in_which_one_of_two_variables_is_lost_in_rounding(size):
    def cancelling(h, theta):
        return np.array([2.0 * ((1e3 + h[0]) - 1e3) + h[1] - size * theta[0], h[1] - h[0]])

    eq = mfdeq.solve(mfdeq.from_function(cancelling, 2, 1, "residual"), np.ones(1))
    close(eq.state_operator @ np.eye(2), [[2.0, 1.0], [-1.0, 1.0]], rtol=1e-12)
    close(eq.gradient(mfdeq.LeastSquares([0], [0.0])), [size**2 / 9.0], rtol=1e-3)


@pytest.mark.parametrize("function", [math.exp, math.sin, math.tanh])
@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("n", [1, 3])
def test_a_function_of_real_numbers_is_not_differentiated_by_the_complex_step(n, start, function):
    """It discards imaginary parts; a long step says nothing of what is bounded or tiny there."""

    def f(h, theta):
        return np.array([function(h[0]) - theta[0], *(h[1:] ** 3 + h[1:] - theta[0])])

    theta, h = np.array([0.25]), np.full(n, start)
    A = mfdeq.from_function(f, n, 1, "residual").linearize(h, theta).d_state @ np.eye(n)
    slope = {math.exp: np.exp(start), math.sin: np.cos(start), math.tanh: np.cosh(start) ** -2}
    close(A, np.diag([slope[function], *(3.0 * h[1:] ** 2 + 1.0)]), rtol=1e-8)


@pytest.mark.parametrize("noise", [1e-12, 1e-8])
def test_steps_follow_the_noise(noise):
    model = mfdeq.from_function(noisy(noise), 1, 1, "residual")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mfdeq.AccuracyWarning)
        at = model.linearize(np.array([1.3]), np.array([1.7]))
    error = abs(dense(at.d_state)[0, 0] / np.exp(1.3) - 1.0)
    assert error <= 30 * noise ** (2 / 3)
    assert error <= 10 * at.accuracy[0]


def test_lost_digits_are_said_once():
    model = mfdeq.from_function(noisy(1e-6), 1, 1, "residual")
    with pytest.warns(mfdeq.AccuracyWarning, match="noise of .* of its terms"):
        at = model.linearize(np.array([1.3]), np.array([1.7]))
    assert "digits" in at.sources["d_state"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.linearize(np.array([1.4]), np.array([1.7]))


def test_a_full_precision_function_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mfdeq.from_function(
            lambda h, t: smooth(np.real(h), np.real(t)), N, P, "residual"
        ).linearize(H, THETA)


@pytest.mark.parametrize("failure", ["raises", "is NaN"])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_differences_take_the_side_on_which_f_has_a_value(side, failure):
    def f(h, theta):
        h = np.real(h)
        if failure == "raises" and np.any(side * (h - 1.0) < 0.0):
            raise ValueError("outside the table")
        with np.errstate(invalid="ignore"):
            return np.sqrt(np.where(side * (h - 1.0) < 0.0, np.nan, h)) - np.real(theta)

    at = mfdeq.from_function(f, 3, 3, "residual").linearize(np.ones(3), np.ones(3))
    close(dense(at.d_state), 0.5 * np.eye(3), 1e-7)
    close(dense(at.d_params), -np.eye(3), 1e-8)


def test_variables_at_different_edges_are_differenced_apart():
    def f(h, theta):
        h = np.real(h)
        if h[0] < 1.0 or h[1] > 1.0:
            raise mfdeq.DomainError("outside")
        return h**2 - np.real(theta)

    pattern = sp.identity(2)
    model = mfdeq.from_function(f, 2, 2, "residual", sparsity=(pattern, pattern))
    close(dense(model.linearize(np.ones(2), np.ones(2)).d_state), 2 * np.eye(2), 1e-7)


def test_an_exception_at_the_point_itself_propagates():
    def f(h, theta):
        raise ValueError("no such state")

    with pytest.raises(ValueError, match="no such state"):
        mfdeq.from_function(f, 2, 2, "residual").linearize(np.ones(2), np.ones(2))


def test_a_real_buffer_is_found_in_every_unit():
    def f(h, theta):
        buffer = np.zeros(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            buffer[:] = h  # drops the imaginary part
        return np.array([1e9 * (h[0] ** 2 - theta[0]), 1e-9 * (buffer[1] ** 3 - theta[1] + h[0])])

    at = mfdeq.from_function(f, 2, 2, "residual").linearize(np.array([1.0, 2.0]), np.ones(2))
    assert "not analytic" in at.sources["d_state"]
    close(dense(at.d_state) / np.array([[1e9], [1e-9]]), [[2.0, 0.0], [1.0, 12.0]], 1e-8)


def test_float32_variables_of_unlike_units_have_their_digits():
    of_h = np.array([1e-6, 1.0, 1e6], "f4")

    def f(h, theta):
        h, theta = np.real(h), np.real(theta)
        return (of_h * (np.exp(h / of_h) - theta)).astype("f4")

    h = of_h * np.array([0.5, -0.3, 0.7], "f4")
    at = mfdeq.from_function(f, 3, 3, "residual").linearize(h, np.ones(3, "f4"))
    close(np.diag(dense(at.d_state)), np.exp(h / of_h), 1e-3)


def test_order_one_has_first_derivatives_alone():
    model = mfdeq.from_function(smooth, N, P, "residual", order=1)
    eq, truth = mfdeq.solve(model, THETA), mfdeq.solve(exact(), THETA)
    np.testing.assert_allclose(eq.gradient(LOSS), truth.gradient(LOSS), rtol=1e-10)
    assert set(eq.report.derivatives) == {"d_state", "d_params"}
    with pytest.raises(mfdeq.ModelError, match="order=2"):
        _ = eq.hessian(LOSS) @ THETA
    with pytest.raises(mfdeq.ModelError, match="order=2"):
        eq.second_order(THETA, THETA)


@pytest.mark.parametrize("order", [0, 3, True, "first"])
def test_a_wrong_order_raises(order):
    with pytest.raises(mfdeq.ArgumentError, match="expected 1 or 2"):
        mfdeq.from_function(smooth, N, P, "residual", order=order)


def test_sizes_that_are_given_are_used_for_zeros():
    def f(h, theta):
        return np.real(h) ** 2 / 1e-6 + np.real(h) - 1e-3 * np.real(theta)

    model = mfdeq.from_function(f, 2, 2, "residual", state_scale=1e-3)
    at = model.linearize(np.zeros(2), np.ones(2))
    close(dense(at.d_state), np.eye(2), 1e-8)


def test_detection_of_a_dense_jacobian_takes_few_more_evaluations_than_the_matrix():
    n, calls = 60, [0]
    M = RNG.standard_normal((n, n))

    def f(h, theta):
        calls[0] += 1
        return M @ h + h**3 - theta

    mfdeq.from_function(f, n, n, "residual").linearize(np.ones(n), np.ones(n))
    assert calls[0] <= n + 16 + 100  # and the diagonal of d_params


@pytest.mark.parametrize("real", [False, True])
def test_evaluations_are_those_of_the_table_in_the_documentation(real):
    n, calls = 200, np.zeros(1, int)  # in an array: a closure whose variables change is compared

    def f(h, theta):
        calls[0] += 1
        if real:
            h, theta = np.real(h), np.real(theta)
        padded = np.pad(h, 1)
        return 2 * h - padded[:-2] - padded[2:] + np.exp(theta) * h**3 - 1.0

    def count(function):
        calls[0] = 0
        return function(), calls[0]

    tridiagonal = sp.diags([np.ones(n - 1), np.ones(n), np.ones(n - 1)], [-1, 0, 1])
    model = mfdeq.from_function(f, n, n, "residual", sparsity=(tridiagonal, sp.identity(n)))
    theta, state_colours, colours = np.full(n, 0.1), 3, 3 + 1
    linearization = count(lambda: model.linearize(np.full(n, 0.5), theta))[1]
    assert linearization <= (2 * state_colours + 40 if real else state_colours + 1 + 5)
    loss = mfdeq.LeastSquares(np.arange(n), np.zeros(n))
    eq, of_state = count(lambda: mfdeq.solve(model, theta, error_estimates=False))
    assert of_state <= (eq.report.iterations + 2) * (linearization + 25 * real + 2) + 5
    # One more for the digits left, unless the solve has judged them.
    assert count(lambda: eq.gradient(loss))[1] <= (7 * 2 * 1 + 11 if real else 1 + 1) + 1
    assert count(lambda: eq.gradient(2 * loss))[1] == 0
    H = eq.hessian(loss)
    products = [count(lambda: H @ theta)[1] for _ in range(2)]
    assert products[0] <= (4 if real else 2) * (colours + 1) ** 2 + 40 * real
    assert products[1] == 0


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_bisection_inside_a_function_is_measured_as_noise(n, tolerance):
    """Values are rounded to a multiple of the last interval, and points may agree by chance."""

    def bisected(h, theta):
        low, high = np.full(n, -10.0), np.full(n, 10.0)
        while (high - low).max() > tolerance:
            middle = 0.5 * (low + high)
            above = middle**3 + middle > theta + 0.3 * h
            high, low = np.where(above, middle, high), np.where(above, low, middle)
        return 0.5 * (low + high)

    model = mfdeq.from_function(bisected, n, n, "map", order=1)
    theta = np.linspace(1.0, 2.0, n)
    for h in np.linspace(0.5, 1.5, 10)[:, None] * np.ones(n):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mfdeq.AccuracyWarning)  # on noise
            linearization = model.linearize(h, theta)
        root = bisected(h, theta)
        exact = 0.3 / (3.0 * root**2 + 1.0)
        error = np.abs(np.asarray(linearization.d_state.diagonal()) / exact - 1.0).max()
        assert error <= 5.0 * linearization.accuracy[0]
        assert error <= 10.0 * tolerance ** (2 / 3)
