"""Models from plain functions: against hand-written derivatives, with the accuracy they state."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close
from support.chain_model import LOSS, MIX, THETA, HandWrittenChain, N, P, V, chain

import mfdeq
from mfdeq.derivatives import second_derivatives
from mfdeq.derivatives.sparsity import DETECTION_POINTS

STATE_PATTERN = sp.diags([1.0, 1.0, 1.0], [-1, 0, 1], shape=(N, N)).tocsr()


def real_only(h, theta):
    return chain(np.asarray(h, dtype=float), np.asarray(theta, dtype=float))


def not_analytic(h, theta):
    return chain(h, theta) + 0.1 * abs(h) ** 2 - 0.1 * h**2


FUNCTIONS = {
    "complex": (chain, {}, 1e-13, 1e-9),
    "with a pattern": (chain, {"sparsity": (STATE_PATTERN, sp.csr_matrix(MIX))}, 1e-13, 1e-9),
    "detected": (chain, {"sparsity": "detect"}, 1e-13, 1e-9),
    "real": (real_only, {}, 1e-8, 1e-6),
    "not analytic": (not_analytic, {}, 1e-8, 1e-6),
    "step": (chain, {"step": 1e-5}, 1e-8, 1e-4),
    "scale": (real_only, {"scale": (0.3, np.full(P, 2.0))}, 1e-8, 1e-6),
}


def test_hand_written_derivatives_pass_verification():
    assert mfdeq.verify(HandWrittenChain(), THETA, LOSS)


@pytest.mark.parametrize("tabulated", [True, False])
@pytest.mark.parametrize("kind", ["residual", "map"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_match_hand_written_ones(name, kind, tabulated, monkeypatch):
    f, options, first, second = FUNCTIONS[name]
    if not tabulated:
        monkeypatch.setattr(second_derivatives, "MAX_TABULATED_COLOURS", 0)
    sign = 1.0 if kind == "residual" else -0.2
    shift = (lambda h: 0.0) if kind == "residual" else (lambda h: h)
    model = mfdeq.from_function(lambda h, t: sign * f(h, t) + shift(h), N, P, kind, **options)
    truth = mfdeq.solve(HandWrittenChain(), THETA)
    eq = mfdeq.solve(model, THETA, rtol=1e-12)
    close(eq.state, truth.state, 1e-10)
    at, expected = model.linearize(truth.state, THETA), truth.linearization
    moved = sp.identity(N) if kind == "map" else sp.csr_matrix((N, N))
    close(dense(at.d_state), (sign * expected.d_state + moved).toarray(), first)
    close(dense(at.d_params), sign * expected.d_params.toarray(), first)
    assert at.accuracy[0] <= 10 * first
    close(eq.gradient(LOSS), truth.gradient(LOSS), 10 * first)
    H, H_truth = eq.hessian(LOSS), truth.hessian(LOSS)
    close(H @ V, H_truth @ V, second)
    close(H @ V[:, 0], H_truth @ V[:, 0], second)
    close(eq.second_order(V[:, 0], V[:, 1]), truth.second_order(V[:, 0], V[:, 1]), second)
    K, K_truth = (found.curvature(truth.state).toarray() for found in (eq, truth))
    close(K, abs(sign) * K_truth, second)


def dense(x):
    return x.toarray() if sp.issparse(x) else x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_verification_allows_for_the_stated_accuracy(name):
    f, options, *_ = FUNCTIONS[name]
    model = mfdeq.from_function(f, N, P, "residual", **options)
    found = mfdeq.verify(model, THETA, LOSS)
    assert found, found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_estimates_cover_the_error_of_differences(name):
    """The estimate is at least the true error, down to rounding, and not much more."""
    f, options, *_ = FUNCTIONS[name]
    eq = mfdeq.solve(mfdeq.from_function(f, N, P, "residual", **options), THETA, rtol=1e-12)
    truth = mfdeq.solve(HandWrittenChain(), THETA, rtol=1e-12)
    gradient, estimate = eq.gradient_with_error(LOSS)
    assert_estimate_covers(gradient - truth.gradient(LOSS), estimate, gradient)
    product, estimate = eq.hessian(LOSS).with_error(V[:, 0])
    assert_estimate_covers(product - truth.hessian(LOSS) @ V[:, 0], estimate, product)


def assert_estimate_covers(error, estimate, value):
    error, estimate, floor = (np.linalg.norm(x) for x in (error, estimate, 1e-13 * value))
    assert error <= estimate + floor
    assert estimate <= 100 * error + floor


def test_report_says_how_derivatives_were_computed():
    eq = mfdeq.solve(mfdeq.from_function(chain, N, P, "residual"), THETA)
    assert eq.report.derivatives["d_state"] == "the complex step"
    assert "d_state, d_params by the complex step" in str(eq.report)
    eq = mfdeq.solve(mfdeq.from_function(real_only, N, P, "residual"), THETA)
    assert "does not accept complex arrays" in eq.report.derivatives["d_params"]
    eq = mfdeq.solve(mfdeq.from_function(not_analytic, N, P, "residual"), THETA)
    assert "not analytic" in eq.report.derivatives["d_params"]


def count_calls(f):
    """Return the function, and a list that grows at each call."""
    calls = []

    def g(h, theta):
        calls.append(h.dtype)
        return f(h, theta)

    return g, calls


def test_linearization_takes_one_evaluation_for_each_colour():
    n = 400
    offsets = np.array([-1, 0, 1])
    tridiagonal = sp.diags(np.ones(3), offsets, shape=(n, n)).tocsr()

    def f(h, theta):
        padded = np.pad(h, 1)
        return 2 * h - padded[:-2] - padded[2:] + np.exp(theta) * h**3 - 1.0

    f, calls = count_calls(f)
    model = mfdeq.from_function(f, n, n, "residual", sparsity=(tridiagonal, sp.identity(n)))
    h = np.full(n, 0.5)
    at = model.linearize(h, h)
    assert len(calls) <= 3 + 1 + 5  # colours, a check of them, and of the complex step
    assert at.d_params.nnz == n
    assert len(calls) <= 3 + 1 + 2 + 2 + 3  # the same for d_params
    K = at.curvature(h)
    taken = len(calls)
    for lam in (h, 2 * h):
        at.curvature(lam)
    at.second((h, h), (h, h))
    assert len(calls) == taken <= 11 + 2 * 5**2
    close(K.state_state.diagonal(), 6 * np.exp(h) * h * h, 1e-8)
    assert K.state_state.nnz == n


def test_patterns_are_detected_at_any_size():
    """A chain with N + P = 20,000, for which dense derivatives are refused."""
    n = 10_000

    def f(h, theta):
        padded = np.pad(h, 1)
        return 3 * h - padded[:-2] - padded[2:] + theta * h**2 - 1.0

    f, calls = count_calls(f)
    with pytest.raises(mfdeq.ArgumentError, match=r"got 20,000\. Pass sparsity="):
        mfdeq.from_function(f, n, n, "residual")
    model = mfdeq.from_function(f, n, n, "residual", sparsity="detect")
    theta = np.full(n, 0.1)
    at = model.linearize(np.full(n, 0.5), theta)
    assert len(calls) <= (DETECTION_POINTS + 1) * 14 * 2 * 8
    assert (at.d_state.nnz, at.d_params.nnz) == (3 * n - 2, n)
    taken = len(calls)
    model.linearize(np.full(n, 0.4), theta)
    assert len(calls) - taken <= 15


def test_detected_pattern_that_no_longer_holds_is_detected_again():
    def f(h, theta):
        return h - theta + np.where(h.real > 5, np.roll(h, 1), 0.0)

    model = mfdeq.from_function(f, 20, 20, "residual", sparsity="detect")
    few, many = (model.linearize(np.full(20, h), np.zeros(20)).d_state.nnz for h in (1.0, 9.0))
    assert (few, many) == (20, 40)


@pytest.mark.parametrize("which", [0, 1])
def test_given_pattern_that_misses_an_entry_raises(which):
    patterns = [STATE_PATTERN.tolil(), sp.lil_matrix(MIX)]
    patterns[which][3, 2] = 0.0
    patterns = [sp.csr_matrix(p.tocsr()) for p in patterns]
    model = mfdeq.from_function(chain, N, P, "residual", sparsity=patterns)
    field = ("d_state", "d_params")[which]
    with pytest.raises(mfdeq.DerivativeError, match=f"pattern of {field} lacks entries of row 3"):
        getattr(model.linearize(np.linspace(1, 2, N), THETA), field)


def test_float32_function_gives_float32_derivatives():
    mix = MIX.astype("f4")
    model = mfdeq.from_function(lambda h, t: chain(h, t, mix), N, P, "residual")
    eq, truth = mfdeq.solve(model, THETA.astype("f4")), mfdeq.solve(HandWrittenChain(), THETA)
    assert eq.gradient(LOSS).dtype == np.float32
    close(eq.gradient(LOSS), truth.gradient(LOSS), 1e-4)
    close(eq.hessian(LOSS) @ V[:, 0].astype("f4"), truth.hessian(LOSS) @ V[:, 0], 1e-3)


def test_functions_may_write_into_their_arguments():
    def f(h, theta):
        out = chain(h, theta)
        h[:], theta[:] = 7.0, 8.0
        return out

    eq, truth = (
        mfdeq.solve(mfdeq.from_function(f, N, P, "residual"), THETA),
        mfdeq.solve(HandWrittenChain(), THETA),
    )
    close(eq.hessian(LOSS) @ V, truth.hessian(LOSS) @ V, 1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "fixed"}, "'map', 'residual'"),
        ({"f": 3}, "expected a function, got int"),
        ({"state_size": 0}, "state_size: expected a positive integer, got 0"),
        ({"state_size": np.zeros(3)}, r"state_size: expected .* a ndarray of shape \(3,\)"),
        ({"param_size": 2.0}, "param_size: expected .* got 2.0"),
        ({"step": 2.0}, "step: expected .* got 2.0"),
        ({"scale": 3.0}, "scale: expected a pair"),
        ({"sparsity": "guess"}, "expected 'detect', None, or a pair .* got 'guess'"),
        ({"sparsity": (sp.identity(3), None)}, r"\(12, 12\).* got a pattern of shape \(3, 3\)"),
    ],
)
def test_wrong_arguments_raise(given, message):
    arguments = {"f": chain, "state_size": N, "param_size": P, "kind": "map", **given}
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.from_function(**arguments)


@pytest.mark.parametrize("scale", [(-1.0, 1.0), (np.ones(3), 1.0), (1.0, np.nan)])
def test_wrong_scales_raise(scale):
    model = mfdeq.from_function(chain, N, P, "residual", scale=scale)
    with pytest.raises(mfdeq.ArgumentError, match="scale of the"):
        model.linearize(np.ones(N), THETA)


@pytest.mark.parametrize("real_only", [False, True])
def test_detection_takes_at_most_ten_times_the_evaluations_of_a_derivative(real_only):
    n = 20_000
    evaluations = []

    def f(h, theta):
        evaluations.append(1)
        if real_only and np.iscomplexobj(h):
            raise TypeError("real arrays only")
        left, right = np.roll(h, 1), np.roll(h, -1)
        return 2.5 * h - left - right + 0.1 * h * right - theta

    model = mfdeq.from_function(f, n, n, "residual", sparsity="detect")
    h, theta = np.linspace(0.5, 1.5, n), np.ones(n)
    counts = []
    for _ in range(3):
        del evaluations[:]
        model.linearize(h, theta)
        counts.append(len(evaluations))
    assert counts[0] - counts[1] <= 10 * counts[1]


def test_an_error_for_sizes_in_the_wrong_order_notes_which_shapes_they_gave():

    def two(h, theta):
        return np.array([h[0] - theta[1], h[1] - theta[2]])

    model = mfdeq.from_function(two, 3, 2, "residual")
    with pytest.raises(IndexError) as caught:
        mfdeq.solve(model, np.ones(2))
    assert "of shapes (3,), (2,) by its state_size and param_size" in str(caught.value.__notes__)
    model = mfdeq.from_function(two, 3, 2, "residual")
    with pytest.raises(mfdeq.ModelError, match=r"params: .* got shape \(3,\), .*wrong order"):
        mfdeq.solve(model, np.ones(3))
