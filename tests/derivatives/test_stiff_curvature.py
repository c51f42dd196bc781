"""Second derivatives by differences of functions whose terms are much larger than their change."""

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

import mfdeq

N = 12
X = np.linspace(0.0, 1.0, N + 2)[1:-1]
STATE, PARAMS = X * (1.3 - X), 1.0 + 0.3 * np.sin(7.0 * X)
SECOND = sp.diags([-np.ones(N - 1), 2.0 * np.ones(N), -np.ones(N - 1)], [-1, 0, 1]).toarray()
FOURTH = SECOND @ SECOND
SOURCES = "complex step", "differences", "matrices", "products"
EPS = np.finfo(float).eps


class Stiff:
    """The residual c L h + theta h³ - 1 in any units, with its second derivatives."""

    def __init__(self, stiffness, operator=SECOND, seed=None):
        rng = np.random.default_rng(seed)
        units = np.ones((3, N)) if seed is None else 10.0 ** rng.uniform(-8.0, 8.0, (3, N))
        self.of_h, self.of_theta, self.of_f = units
        self.L, self.calls = stiffness * operator, 0
        self.h, self.theta = STATE * self.of_h, PARAMS * self.of_theta

    def __call__(self, h, theta):
        self.calls += 1
        h, theta = h / self.of_h, theta / self.of_theta
        return self.of_f * (self.L @ h + theta * h**3 - 1.0)

    def real(self, h, theta):
        if np.iscomplexobj(h) or np.iscomplexobj(theta):
            raise TypeError("real arrays only")
        return self(h, theta)

    def jacobians(self, h, theta):
        h, theta = h / self.of_h, theta / self.of_theta
        A = self.of_f[:, None] * (self.L + np.diag(3.0 * theta * h**2)) / self.of_h
        return sp.csr_matrix(A), sp.diags(self.of_f * h**3 / self.of_theta).tocsr()

    def model(self, source):
        if source in ("complex step", "differences"):
            f = self if source == "complex step" else self.real
            return mfdeq.from_function(f, N, N, "residual")
        return mfdeq.mixed(_ByHand(self, source == "products"))

    def error(self, linearization, seed):
        """Return the relative errors of a curvature and of f'' along random directions."""
        rng = np.random.default_rng(seed)
        lam, *parts = rng.standard_normal((5, N))
        a, b = (parts[0], parts[1]), (parts[2], parts[3])
        h, theta = STATE, PARAMS
        by_theta, by_h = lam * 3.0 * h**2 * b[1], lam * (3.0 * h**2 * b[0] + 6.0 * theta * h * b[1])
        second = 3.0 * h**2 * (a[0] * b[1] + a[1] * b[0]) + 6.0 * theta * h * a[1] * b[1]
        in_units = [(x[0] * self.of_theta, x[1] * self.of_h) for x in (a, b)]
        found = linearization.second(*in_units) / self.of_f
        curvature = linearization.curvature(lam / self.of_f)
        if curvature.apply is None:
            H = sp.bmat(
                [
                    [curvature.params_params, curvature.state_params.T],
                    [curvature.state_params, curvature.state_state],
                ]
            )
            product = np.split(H @ np.concatenate(in_units[1]), 2)
        else:
            product = curvature.apply(*in_units[1])
        product = np.concatenate([product[0] * self.of_theta, product[1] * self.of_h])
        expected = np.concatenate([by_theta, by_h])
        return max(_relative(found, second), _relative(product, expected))


class _ByHand(mfdeq.ResidualModel):
    state_size = param_size = N

    def __init__(self, f, products):
        self.f, self.products = f, products

    def residual(self, h, theta):
        return self.f(h, theta)

    def linearize(self, h, theta):
        A, B = self.f.jacobians(h, theta)
        if self.products:
            A, B = aslinearoperator(A), aslinearoperator(B)
        return mfdeq.Linearization(A, B)


def _relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("stiffness", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("operator", [SECOND, FOURTH], ids=["second order", "fourth order"])
@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.filterwarnings("ignore::mfdeq.AccuracyWarning")
def test_errors_of_second_derivatives_are_within_their_estimates(source, stiffness, operator, seed):
    f = Stiff(stiffness, operator, seed)
    at = f.model(source).linearize(f.h, f.theta)
    error = f.error(at, 3)
    assert error <= 3.0 * at.accuracy[1]
    # The best steps: noise relative to f'' to the power 2/3, or 1/2 by four values.
    power = 1 / 2 if source == "differences" else 2 / 3
    assert error <= 100.0 * (EPS * max(stiffness, 1.0)) ** power


@pytest.mark.parametrize("stiffness", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_errors_of_first_derivatives_are_within_their_estimates(stiffness, seed):
    f = Stiff(stiffness, SECOND, seed)
    at = f.model("differences").linearize(f.h, f.theta)
    A, B = f.jacobians(f.h, f.theta)
    for found, expected, of_x in ((at.d_state, A, f.of_h), (at.d_params, B, f.of_theta)):
        found, expected = (
            (x.toarray() if sp.issparse(x) else x) * of_x / f.of_f[:, None]
            for x in (found, expected)
        )
        assert _relative(found, expected) <= 3.0 * at.accuracy[0]


@pytest.mark.parametrize("source", SOURCES)
def test_lost_digits_are_warned_of(source):
    f = Stiff(1e12)
    model = f.model(source)
    at = model.linearize(f.h, f.theta)
    with pytest.warns(mfdeq.AccuracyWarning, match="second derivatives, by differences of"):
        f.error(at, 3)
    assert at.accuracy[1] > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once for each model
        f.error(model.linearize(f.h, f.theta), 4)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("stiffness", [1e4, 1e8])
@pytest.mark.filterwarnings("ignore::mfdeq.AccuracyWarning")
def test_verify_does_not_fail_for_rounding(source, stiffness):
    f = Stiff(stiffness)
    loss = mfdeq.LeastSquares(np.arange(N), np.zeros(N))
    verification = mfdeq.verify(f.model(source), f.theta, loss)
    assert not [check for check in verification if check.verdict == "FAIL"]
    assert "nan" not in str(verification)


def test_comparisons_have_independent_errors():
    f = Stiff(1e6)
    for source in SOURCES:
        model = f.model(source)
        at, other = (g(f.h, f.theta) for g in (model.linearize, model.linearize_for_comparison))
        a = b = (f.theta, f.h)
        difference = _relative(at.second(a, b), other.second(a, b))
        exact = 6.0 * f.theta * f.h**3 * 2.0
        assert difference >= 0.1 * _relative(at.second(a, b), exact)


@pytest.mark.parametrize("real", [False, True])
def test_linear_rows_take_no_longer_steps(real):
    def f(h, theta):
        calls.append(1)
        if real and (np.iscomplexobj(h) or np.iscomplexobj(theta)):
            raise TypeError("real arrays only")
        return np.append(h[:-1] ** 2 - theta[0], 1e3 * h.sum() - theta[1])

    calls = []
    model = mfdeq.from_function(f, 3, 2, "residual")
    at = model.linearize(np.ones(3), np.ones(2))
    _ = at.d_params
    del calls[:]
    at.second((np.ones(2), np.ones(3)), (np.ones(2), np.ones(3)))
    assert len(calls) <= (4 if real else 2) * ((3 + 2) ** 2 + 1) + 10 + 60 * real
    of_linear_row = at.curvature(np.array([0.0, 0.0, 1.0]))
    assert abs(of_linear_row.state_state).max() == 0.0
