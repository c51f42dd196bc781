"""Models from plain functions: against hand-written derivatives, with the accuracy that is said."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close

import mfdeq
from mfdeq.derivatives import second_differences as second_derivatives
from mfdeq.derivatives.sparsity import PLACES

N, P = 12, 5
RNG = np.random.default_rng(0)
MIX = RNG.standard_normal((N, P)) / P
THETA = RNG.standard_normal(P)
V = RNG.standard_normal((P, 3))
STATE_PATTERN = sp.diags([1.0, 1.0, 1.0], [-1, 0, 1], shape=(N, N)).tocsr()
SPREAD = sp.csr_matrix(MIX * (RNG.random((N, P)) < 0.4))


def chain(h, theta, mix=MIX):
    """A residual with neighbours: 4 h - h_left h_right / 4 + h^3 exp(mix theta) = 1."""
    left, right = np.roll(h, 1), np.roll(h, -1)
    left, right = left * (np.arange(N) > 0), right * (np.arange(N) < N - 1)
    return 4 * h - left * right / 4 + h**3 * np.exp(mix @ theta) - 1.0


def local(h, theta):
    return chain(h, theta, SPREAD)


def real_only(h, theta):
    return chain(np.asarray(h, dtype=float), np.asarray(theta, dtype=float))


def not_analytic(h, theta):
    return chain(h, theta) + 0.1 * abs(h) ** 2 - 0.1 * h**2


class Written(mfdeq.ResidualModel):
    """The chain with its derivatives by hand."""

    state_size, param_size = N, P

    def __init__(self, mix=MIX):
        self.mix = sp.csr_matrix(mix)

    def residual(self, h, theta):
        return chain(h, theta, self.mix)

    def linearize(self, h, theta):
        e = np.exp(self.mix @ theta)
        inner = np.concatenate([[0.0], h, [0.0]])
        left, right = inner[:-2], inner[2:]
        diagonals = [-right[1:] / 4, 4 + 3 * h**2 * e, -left[:-1] / 4]

        def curvature(lam):
            sides = sp.diags([-lam[1:-1] / 4] * 2, [-2, 2], shape=(N, N))
            return mfdeq.Curvature(
                self.mix.T @ sp.diags(lam * h**3 * e) @ self.mix,
                sp.diags(3 * lam * h**2 * e) @ self.mix,
                sp.diags(6 * lam * h * e) + sides,
            )

        def second(a, b):
            (u, y), (v, z) = a, b
            u, v = self.mix @ u, self.mix @ v
            pad = [np.concatenate([[0.0], x, [0.0]]) for x in (y, z)]
            sides = pad[0][:-2] * pad[1][2:] + pad[0][2:] * pad[1][:-2]
            cube = 6 * h * y * z + 3 * h**2 * (u * z + v * y) + h**3 * u * v
            return cube * e - sides / 4

        return mfdeq.Linearization(
            sp.diags(diagonals, [-1, 0, 1]), sp.diags(h**3 * e) @ self.mix, curvature, second
        )


LOSS = mfdeq.LeastSquares(np.arange(N), np.linspace(0, 1, N))
FUNCTIONS = {
    "complex": (chain, {}, 1e-13, 1e-9),
    "with a pattern": (chain, {"sparsity": (STATE_PATTERN, sp.csr_matrix(MIX))}, 1e-13, 1e-9),
    "detected": (chain, {"sparsity": "detect"}, 1e-13, 1e-9),
    "real": (real_only, {}, 1e-8, 1e-6),
    "not analytic": (not_analytic, {}, 1e-8, 1e-6),
    "step": (chain, {"step": 1e-5}, 1e-8, 1e-4),
    "scale": (real_only, {"scale": (0.3, np.full(P, 2.0))}, 1e-8, 1e-6),
}


def test_the_derivatives_written_by_hand():
    assert mfdeq.verify(Written(), THETA, LOSS)


@pytest.mark.parametrize("tabulated", [True, False])
@pytest.mark.parametrize("kind", ["residual", "map"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_derivatives_by_hand(name, kind, tabulated, monkeypatch):
    f, options, first, second = FUNCTIONS[name]
    if not tabulated:
        monkeypatch.setattr(second_derivatives, "MAX_ROW_ENTRIES", 0)
    sign = 1.0 if kind == "residual" else -0.2
    shift = (lambda h: 0.0) if kind == "residual" else (lambda h: h)
    model = mfdeq.from_function(lambda h, t: sign * f(h, t) + shift(h), N, P, kind, **options)
    truth = mfdeq.solve(Written(), THETA)
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
def test_verification_allows_for_what_is_known_to_be_inexact(name):
    f, options, *_ = FUNCTIONS[name]
    model = mfdeq.from_function(f, N, P, "residual", **options)
    found = mfdeq.verify(model, THETA, LOSS)
    assert found, found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_of_differences_is_estimated(name):
    """At least the true error, where that is more than rounding, and not much more."""
    f, options, *_ = FUNCTIONS[name]
    eq = mfdeq.solve(mfdeq.from_function(f, N, P, "residual", **options), THETA, rtol=1e-12)
    truth = mfdeq.solve(Written(), THETA, rtol=1e-12)
    gradient, estimate = eq.gradient_with_error(LOSS)
    bounds(gradient - truth.gradient(LOSS), estimate, gradient)
    product, estimate = eq.hessian(LOSS).with_error(V[:, 0])
    bounds(product - truth.hessian(LOSS) @ V[:, 0], estimate, product)


def bounds(error, estimate, value):
    error, estimate, floor = (np.linalg.norm(x) for x in (error, estimate, 1e-13 * value))
    assert error <= estimate + floor
    assert estimate <= 100 * error + floor


def test_where_derivatives_are_from_is_in_the_report():
    eq = mfdeq.solve(mfdeq.from_function(chain, N, P, "residual"), THETA)
    assert eq.report.derivatives["d_state"] == "the complex step"
    assert "d_state, d_params by the complex step" in str(eq.report)
    eq = mfdeq.solve(mfdeq.from_function(real_only, N, P, "residual"), THETA)
    assert "does not take complex arrays" in eq.report.derivatives["d_params"]
    eq = mfdeq.solve(mfdeq.from_function(not_analytic, N, P, "residual"), THETA)
    assert "not analytic" in eq.report.derivatives["d_params"]


def counted(f):
    calls = []

    def g(h, theta):
        calls.append(h.dtype)
        return f(h, theta)

    return g, calls


def test_a_linearization_takes_an_evaluation_a_colour():
    n = 400
    offsets = np.array([-1, 0, 1])
    tridiagonal = sp.diags(np.ones(3), offsets, shape=(n, n)).tocsr()

    def f(h, theta):
        padded = np.pad(h, 1)
        return 2 * h - padded[:-2] - padded[2:] + np.exp(theta) * h**3 - 1.0

    f, calls = counted(f)
    model = mfdeq.from_function(f, n, n, "residual", sparsity=(tridiagonal, sp.identity(n)))
    h = np.full(n, 0.5)
    at = model.linearize(h, h)
    assert len(calls) <= 3 + 1 + 2 + 2 + 3  # colours, a check of each, and of the complex step
    K = at.curvature(h)
    taken = len(calls)
    for lam in (h, 2 * h):
        at.curvature(lam)
    at.second((h, h), (h, h))
    assert len(calls) == taken <= 11 + 2 * 5**2
    close(K.state_state.diagonal(), 6 * np.exp(h) * h * h, 1e-8)
    assert K.state_state.nnz == n


def test_a_pattern_is_looked_for_at_any_size():
    """20,000 unknowns in a chain; detection is refused for none of them."""
    n = 10_000

    def f(h, theta):
        padded = np.pad(h, 1)
        return 3 * h - padded[:-2] - padded[2:] + theta * h**2 - 1.0

    f, calls = counted(f)
    with pytest.raises(mfdeq.ArgumentError, match=r"20,000 columns.*sparsity="):
        mfdeq.from_function(f, n, n, "residual")
    model = mfdeq.from_function(f, n, n, "residual", sparsity="detect")
    theta = np.full(n, 0.1)
    at = model.linearize(np.full(n, 0.5), theta)
    assert len(calls) <= (PLACES + 1) * 14 * 2 * 8
    assert (at.d_state.nnz, at.d_params.nnz) == (3 * n - 2, n)
    taken = len(calls)
    model.linearize(np.full(n, 0.4), theta)
    assert len(calls) - taken <= 15


def test_a_pattern_that_is_outgrown_is_looked_for_again():
    def f(h, theta):
        return h - theta + np.where(h.real > 5, np.roll(h, 1), 0.0)

    model = mfdeq.from_function(f, 20, 20, "residual", sparsity="detect")
    few, many = (model.linearize(np.full(20, h), np.zeros(20)).d_state.nnz for h in (1.0, 9.0))
    assert (few, many) == (20, 40)


@pytest.mark.parametrize("which", [0, 1])
def test_a_pattern_that_misses_an_entry_is_an_error(which):
    patterns = [STATE_PATTERN.tolil(), sp.lil_matrix(MIX)]
    patterns[which][3, 2] = 0.0
    patterns = [sp.csr_matrix(p.tocsr()) for p in patterns]
    model = mfdeq.from_function(chain, N, P, "residual", sparsity=patterns)
    field = ("d_state", "d_params")[which]
    with pytest.raises(mfdeq.DerivativeError, match=f"pattern of {field} misses .* row 3"):
        model.linearize(np.linspace(1, 2, N), THETA)


def test_float32():
    mix = MIX.astype("f4")
    model = mfdeq.from_function(lambda h, t: chain(h, t, mix), N, P, "residual")
    eq, truth = mfdeq.solve(model, THETA.astype("f4")), mfdeq.solve(Written(), THETA)
    assert eq.gradient(LOSS).dtype == np.float32
    close(eq.gradient(LOSS), truth.gradient(LOSS), 1e-4)
    close(eq.hessian(LOSS) @ V[:, 0].astype("f4"), truth.hessian(LOSS) @ V[:, 0], 1e-3)


def test_functions_may_write_into_what_they_are_given():
    def f(h, theta):
        out = chain(h, theta)
        h[:], theta[:] = 7.0, 8.0
        return out

    eq, truth = (
        mfdeq.solve(mfdeq.from_function(f, N, P, "residual"), THETA),
        mfdeq.solve(Written(), THETA),
    )
    close(eq.hessian(LOSS) @ V, truth.hessian(LOSS) @ V, 1e-9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "fixed"}, "'map', 'residual'"),
        ({"f": 3}, "not a function"),
        ({"state_size": 0}, "state_size: expected a positive integer, got 0"),
        ({"param_size": 2.0}, "param_size: expected .* got 2.0"),
        ({"step": 2.0}, "step: expected .* got 2.0"),
        ({"scale": 3.0}, "scale is 3.0"),
        ({"sparsity": "guess"}, "'detect', None, or a pair"),
        ({"sparsity": (sp.identity(3), None)}, r"\(12, 12\)"),
    ],
)
def test_bad_arguments(given, message):
    arguments = {"f": chain, "state_size": N, "param_size": P, "kind": "map", **given}
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.from_function(**arguments)


@pytest.mark.parametrize("scale", [(-1.0, 1.0), (np.ones(3), 1.0), (1.0, np.nan)])
def test_bad_scales(scale):
    model = mfdeq.from_function(chain, N, P, "residual", scale=scale)
    with pytest.raises(mfdeq.ArgumentError, match="scale of the"):
        model.linearize(np.ones(N), THETA)
