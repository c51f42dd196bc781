"""Losses from plain functions: against closed forms, with the accuracy and costs they state."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close
from support.cupy_problems import assert_cupy_agrees_with_numpy, needs_cupy

import mfdeq

N, P = 5, 3
RNG = np.random.default_rng(3)
H, THETA, ALONG = RNG.uniform(0.3, 1.5, N), RNG.uniform(0.5, 2.0, P), RNG.standard_normal(N + P)
MIX = RNG.standard_normal((N, P))


def number(h, theta):
    """Couple every variable with every other one: (h·M theta)²/2 + sum exp(theta) + sum h³."""
    return 0.5 * (h @ (MIX @ theta)) ** 2 + np.exp(theta).sum() + (h**3).sum()


def terms(h, theta):
    return np.concatenate([[0.5 * (h @ (MIX @ theta)) ** 2], np.exp(theta), h**3])


def real_only(h, theta):
    return number(np.asarray(h, dtype=float), np.asarray(theta, dtype=float))


def not_analytic(h, theta):
    return number(h, theta) + 0.1 * abs(h[0]) ** 2 - 0.1 * h[0] ** 2


def exact_gradients(h, theta):
    s = h @ MIX @ theta
    return s * (MIX.T @ h) + np.exp(theta), s * (MIX @ theta) + 3 * h**2


def exact_hessian(h, theta):
    s, a, b = h @ MIX @ theta, MIX.T @ h, MIX @ theta
    mixed = np.outer(b, a) + s * MIX
    state = np.outer(b, b) + np.diag(6 * h)
    return np.block([[np.outer(a, a) + np.diag(np.exp(theta)), mixed.T], [mixed, state]])


FUNCTIONS = {
    "number": (number, {}, 1e-14, 1e-8),
    "terms": (terms, {}, 1e-14, 1e-8),
    "terms, detected": (terms, {"sparsity": "detect"}, 1e-14, 1e-8),
    "real": (real_only, {}, 1e-8, 1e-5),
    "not analytic": (not_analytic, {}, 1e-8, 1e-5),
    "step": (number, {"step": 1e-5}, 1e-8, 1e-4),
    "scale": (real_only, {"scale": (1.0, np.full(P, 2.0))}, 1e-8, 1e-5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_match_closed_forms_within_the_accuracy_stated(name):
    L, options, first, second = FUNCTIONS[name]
    loss = mfdeq.loss_from_function(L, N, P, **options)
    close(loss.value(H, THETA), number(H, THETA), 1e-14)
    found, exact = np.concatenate(loss.gradients(H, THETA)), exact_gradients(H, THETA)
    exact = np.concatenate(exact)
    K, accuracy = loss.curvature_operator(H, THETA), loss.accuracy(H, THETA)
    assert np.linalg.norm(found - exact) <= min(first, 10 * accuracy[0]) * np.linalg.norm(exact)
    expected, K_found = exact_hessian(H, THETA), K @ np.eye(N + P)
    error = np.linalg.norm(K_found - expected)
    assert error <= min(second, 10 * loss.accuracy(H, THETA)[1]) * np.linalg.norm(expected)
    close(K @ ALONG, K_found @ ALONG, 1e-12)
    close(K.params_params @ np.eye(P), expected[:P, :P], second)
    close(K.state_params @ np.eye(P), expected[P:, :P], second)
    close(K.state_params.H @ np.eye(N), expected[:P, P:], second)
    close(K.state_state @ np.eye(N), expected[P:, P:], second)
    words = loss.derivatives
    assert set(words) == {"d_state", "d_params", "curvature"}
    complex_step = name in ("number", "terms", "terms, detected")
    assert (words["d_state"] == "the complex step") == complex_step
    assert ("digits" in words["d_params"]) != complex_step


def test_single_precision_stays_single_with_its_digits():
    loss = mfdeq.loss_from_function(number, N, P)
    h, theta = H.astype("f4"), THETA.astype("f4")
    d_params, d_state = loss.gradients(h, theta)
    assert d_params.dtype == d_state.dtype == np.float32
    for found, exact in zip((d_params, d_state), exact_gradients(H, THETA), strict=True):
        close(found, exact, 2e-5)
    close(
        loss.curvature_operator(h, theta) @ ALONG.astype("f4"),
        exact_hessian(H, THETA) @ ALONG,
        1e-2,
    )


class Counted:
    """A function that counts its calls."""

    def __init__(self, f):
        self.f, self.calls = f, 0

    def __call__(self, h, theta):
        self.calls += 1
        return self.f(h, theta)


def test_a_gradient_of_a_number_takes_one_evaluation_for_each_variable():
    n = 200
    L = Counted(lambda h, theta: 0.5 * (h @ h) ** 2 + theta @ theta)
    loss = mfdeq.loss_from_function(L, n, P)
    h = np.linspace(1, 2, n)
    loss.gradients(h, THETA)
    assert n + P <= L.calls <= n + P + 20
    before = L.calls
    loss.gradients(h, THETA)
    assert L.calls - before <= 2, "the derivatives at the last point are kept"
    K = loss.curvature_operator(h, THETA)
    before = L.calls
    v = np.linspace(-1, 1, n + P)
    found = K @ v
    assert L.calls - before <= 4 * (n + P) + 8  # with longer steps where rounding shows
    close(found[:P], 2 * v[:P], 1e-7)
    close(found[P:], 4 * (h @ v[P:]) * h + 2 * (h @ h) * v[P:], 1e-7)


def test_a_gradient_of_separable_terms_takes_a_few_evaluations_at_any_size():
    n = 1_000
    L = Counted(lambda h, theta: theta[0] * np.diff(h, prepend=0.0) ** 2)
    loss = mfdeq.loss_from_function(L, n, 1)
    h = np.linspace(1, 2, n)
    loss.gradients(h, THETA[:1])  # which detects the pattern
    before = L.calls
    _, d_state = loss.gradients(1.1 * h, THETA[:1])
    assert L.calls - before <= 20
    steps = np.diff(1.1 * h, prepend=0.0)
    close(d_state, 2 * THETA[0] * (steps - np.append(steps[1:], 0.0)), 1e-13)
    K = loss.curvature_operator(1.1 * h, THETA[:1]).assembled()
    assert K is not None
    difference = sp.eye_array(n) - sp.eye_array(n, k=-1)
    close(K.state_state.array.toarray(), 2 * THETA[0] * (difference.T @ difference).toarray(), 1e-7)


def test_entries_of_the_hessian_of_a_number_are_detected_where_they_are_asked_for():
    n = 40

    def sparse_number(h, theta):
        return (np.diff(h) ** 2).sum() * theta[0] + (h[:3] ** 3).sum() + theta[1] ** 4

    loss = mfdeq.loss_from_function(sparse_number, n, 2)
    h, theta = np.linspace(1, 2, n), np.array([0.7, 1.3])
    K = loss.curvature_operator(h, theta)
    blocks = K.assembled()
    assert blocks is not None
    assert sp.issparse(blocks.state_state.array)
    difference = (sp.eye_array(n, k=1) - sp.eye_array(n)).tocsr()[: n - 1]
    expected = 2 * theta[0] * (difference.T @ difference).toarray()
    expected[range(3), range(3)] += 6 * h[:3]
    close(blocks.state_state.array.toarray(), expected, 1e-7)
    mixed = np.stack([2 * difference.T @ np.diff(h), np.zeros(n)], axis=1)
    close(blocks.state_params @ np.eye(2), mixed, 1e-7)
    close(blocks.params_params @ np.eye(2), np.diag([0.0, 12 * theta[1] ** 2]), 1e-7)


def test_a_pattern_saves_evaluations_and_one_that_lacks_entries_is_an_error():
    n = 300
    L = Counted(lambda h, theta: (h[7] * theta[0]) ** 2)
    pattern = sp.csr_matrix(([1.0], ([0], [7])), shape=(1, n))
    loss = mfdeq.loss_from_function(L, n, 1, sparsity=(pattern, np.ones((1, 1))))
    h = np.linspace(1, 2, n)
    _, d_state = loss.gradients(h, THETA[:1])
    assert L.calls <= 20
    close(d_state[7], 2 * h[7] * THETA[0] ** 2, 1e-13)
    assert np.count_nonzero(d_state) == 1
    lacking = mfdeq.loss_from_function(number, N, P, sparsity=(np.eye(1, N), np.ones((1, P))))
    with pytest.raises(mfdeq.DerivativeError, match="pattern of d_state lacks entries"):
        lacking.gradients(H, THETA)


def model():
    weights = MIX / 5

    def residual(h, theta):
        return h + 0.2 * h**3 - np.exp(0.3 * weights @ theta)

    return mfdeq.from_function(residual, N, P, "residual")


@pytest.mark.parametrize("L", [number, terms, real_only, not_analytic])
def test_verification_passes(L):
    assert mfdeq.verify(model(), THETA, mfdeq.loss_from_function(L, N, P))


def test_reduced_derivatives_match_those_of_a_loss_by_hand():
    by_hand = mfdeq.Loss(
        number,
        d_state=lambda h, theta: exact_gradients(h, theta)[1],
        d_params=lambda h, theta: exact_gradients(h, theta)[0],
        curvature=lambda h, theta: mfdeq.Curvature(
            apply=lambda u, z: np.split(exact_hessian(h, theta) @ np.concatenate([u, z]), [P])
        ),
    )
    eq, u = mfdeq.solve(model(), THETA), ALONG[:P]
    prior = mfdeq.QuadraticPrior(0.1)
    expected = by_hand / 2 + prior
    for L, tol in ((number, 1e-8), (real_only, 1e-5)):
        loss = mfdeq.loss_from_function(L, N, P) / 2 + prior
        close(eq.gradient(loss), eq.gradient(expected), tol)
        close(eq.hessian(loss) @ u, eq.hessian(expected) @ u, tol)


def test_error_estimates_cover_the_error_of_a_noisy_loss():
    def rounded(h, theta):
        return np.float64(np.float32(real_only(h, theta)))

    loss, exact = mfdeq.loss_from_function(rounded, N, P), mfdeq.loss_from_function(number, N, P)
    eq = mfdeq.solve(model(), THETA, error_estimates=False)
    with pytest.warns(
        mfdeq.AccuracyWarning, match=r"the function has noise of .*mfdeq\.loss_from_jax"
    ):
        gradient, error = eq.gradient_with_error(loss)
    true = np.linalg.norm(gradient - eq.gradient(exact))
    assert 1e-9 * np.linalg.norm(gradient) < true <= 3 * np.linalg.norm(error)
    accuracy = loss.accuracy(eq.state, THETA)[0]
    assert 1e-8 < accuracy < 1e-2
    assert (loss + 2 * exact).accuracy(eq.state, THETA)[0] == accuracy
    Hv, error = eq.hessian(loss).with_error(ALONG[:P])
    true = np.linalg.norm(Hv - eq.hessian(exact) @ ALONG[:P])
    assert true <= 3 * np.linalg.norm(error)


def test_verification_does_not_pass_where_complex_arithmetic_is_another_function():
    start = mfdeq.solve(model(), THETA).state

    def two_faced(h, theta):
        # Its complex step is right at the equilibrium, and wrong beside it.
        wrong = 1j * h.imag.sum() * ((h - start).real ** 1).sum() if np.iscomplexobj(h) else 0.0
        return number(h, theta) + wrong

    result = mfdeq.verify(model(), THETA, mfdeq.loss_from_function(two_faced, N, P))
    # Where the complex step was refused, and differences are taken, depends on rounding: then a
    # jump between the two is seen.
    assert result.verdict != "PASS"
    assert any(c.verdict != "PASS" and "loss curvature" in c.name for c in result.checks)


def test_a_loss_that_was_changed_is_an_error():
    weight = 2.0

    def L(h, theta):
        return weight * (h @ h) ** 2 * theta[0]

    n = 20
    h, theta, v = np.linspace(1, 2, n), np.array([0.5]), np.ones(n + 1)
    loss = mfdeq.loss_from_function(L, n, 1)
    K = loss.curvature_operator(h, theta)
    weight = 3.0
    with pytest.raises(mfdeq.ModelError, match="changed"):
        K @ v
    # A new call at the same point sees the new function.
    close(loss.gradients(h, theta)[0], [3 * (h @ h) ** 2], 1e-13)


def scaled(h, theta, args):
    return args["weight"] * number(h, theta)


def test_data_are_replaced_and_losses_are_pickled():
    loss = mfdeq.loss_from_function(scaled, N, P, args={"weight": 2.0})
    exact = exact_gradients(H, THETA)[1]
    close(loss.gradients(H, THETA)[1], 2 * exact, 1e-13)
    other = loss.with_args({"weight": 5.0})
    assert other.args == {"weight": 5.0}
    close(other.gradients(H, THETA)[1], 5 * exact, 1e-13)
    again = pickle.loads(pickle.dumps(other))
    close(again.gradients(H, THETA)[1], 5 * exact, 1e-13)
    with pytest.raises(mfdeq.ArgumentError, match="weight"):
        loss.with_args({"other": 1.0})


@pytest.mark.parametrize(
    ("L", "message"),
    [
        (lambda h, theta: None, "got None"),
        (lambda h, theta: np.nan, "NaN"),
        (lambda h, theta: "three", "dtype <U5"),
        (lambda h, theta: 1j * h[0], "complex"),
        (
            lambda h, theta: np.outer(h, theta),
            r"a number or a vector.*\(5, 3\).*\.sum\(\)",
        ),
        (lambda h, theta: (h @ h, theta), "got a tuple of 2. Return the loss alone"),
    ],
)
def test_what_is_no_number_is_named(L, message):
    loss = mfdeq.loss_from_function(L, N, P)
    for use in (loss.value, loss.gradients):
        with pytest.raises(mfdeq.ModelError, match=message) as error:
            use(H, THETA)
        assert "L of mfdeq.loss_from_function" in str(error.value)


def test_one_number_may_have_any_shape():
    loss = mfdeq.loss_from_function(lambda h, theta: h[None] @ h[:, None], N, P)
    close(loss.value(H, THETA), H @ H, 1e-14)
    close(loss.gradients(H, THETA)[1], 2.0 * H, 1e-12)


def test_wrong_arguments_are_named():
    with pytest.raises(mfdeq.ArgumentError, match="expected a function, got float"):
        mfdeq.loss_from_function(3.0, N, P)
    with pytest.raises(mfdeq.ArgumentError, match="state_size"):
        mfdeq.loss_from_function(number, -1, P)
    with pytest.raises(mfdeq.ArgumentError, match="sparsity"):
        mfdeq.loss_from_function(number, N, P, sparsity=(np.ones((2, N + 1)), None))
    with pytest.raises(mfdeq.ModelError, match=r"expected state of shape \(4,\), got \(5,\)"):
        mfdeq.loss_from_function(number, N - 1, P).gradients(H, THETA)


@needs_cupy
@pytest.mark.parametrize("separable", [False, True])
def test_losses_on_cupy_agree_with_numpy(separable):
    def compute(xp):
        def L(h, theta):
            each = xp.exp(h) * theta[0] + theta[1] * h**2
            return each if separable else each.sum()

        loss = mfdeq.loss_from_function(L, 6, 2)
        h, theta = xp.linspace(0.1, 0.6, 6), xp.asarray([1.0, 2.0])
        return *loss.gradients(h, theta), loss.curvature_operator(h, theta) @ xp.linspace(-1, 1, 8)

    assert_cupy_agrees_with_numpy(compute)


def test_the_warning_of_a_noisy_loss_names_the_loss():
    model = mfdeq.from_function(lambda h, theta: 0.4 * np.cos(h) + theta, 3, 3, kind="map")
    noise = np.random.default_rng(0).standard_normal
    loss = mfdeq.loss_from_function(lambda h, theta: h @ h * (1.0 + 1e-3 * noise()), 3, 3)
    with pytest.warns(mfdeq.AccuracyWarning, match="the loss changes from call to call"):
        mfdeq.solve(model, np.full(3, 0.3)).gradient(loss)
