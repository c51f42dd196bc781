"""Eigenvalues near a shift, and counts, for any symmetric matrix and at any scale."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh as scipy_eigsh

import mfdeq
from mfdeq.spectrum.inertia_counts import wanted_intervals

N = 100
SECOND = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(N, N)).tocsr()
VALUES = np.linalg.eigvalsh(SECOND.toarray())
FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")
WHICH = ("LM", "LA", "SA", "BE")


def nearest(values, sigma, k):
    return np.sort(values[np.argsort(abs(values - sigma))[:k]])


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csr_array])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_a_shift_and_a_count(format, make):
    found = mfdeq.eigsh(make(SECOND).asformat(format), k=3, sigma=1.0, certify=True)
    np.testing.assert_allclose(found.values, nearest(VALUES, 1.0, 3), rtol=1e-10)
    assert found.report.missed == 0
    assert mfdeq.ShiftedInverse(make(SECOND).asformat(format), 1.0).below == (VALUES < 1.0).sum()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_matrices_have_a_shift_and_a_count(dtype):
    A = SECOND.toarray().astype(dtype)
    found = mfdeq.eigsh(A, k=3, sigma=1.0, certify=True, rtol=1e-4)
    assert found.values.dtype == dtype
    np.testing.assert_allclose(found.values, nearest(VALUES, 1.0, 3), rtol=1e-4)
    assert found.report.missed == 0


@pytest.mark.parametrize("sigma", [0.5, -1.0, 7.0])
@pytest.mark.parametrize("which", WHICH)
def test_which_means_what_it_does_for_scipy(which, sigma):
    found = mfdeq.eigsh(SECOND, k=5, sigma=sigma, which=which, certify=True)
    expected = scipy_eigsh(SECOND, k=5, sigma=sigma, which=which, return_eigenvectors=False)
    # scipy has the odd pair of "BE" at the upper end, too.
    np.testing.assert_allclose(found.values, np.sort(expected), rtol=1e-8)
    assert found.report.missed == 0


@pytest.mark.parametrize("which", WHICH)
def test_which_of_a_small_matrix_is_that_of_a_large_one(which):
    A = SECOND[:30, :30]
    found = mfdeq.eigsh(A, k=5, sigma=0.5, which=which, certify=True)
    expected = scipy_eigsh(A, k=5, sigma=0.5, which=which, return_eigenvectors=False)
    np.testing.assert_allclose(found.values, np.sort(expected), rtol=1e-8)
    assert found.report.missed == 0


def test_a_generalized_problem_has_a_shift_and_a_count():
    mass = sp.diags([1.0, 4.0, 1.0], [-1, 0, 1], shape=(N, N)).tocsr() / 6
    truth = scipy.linalg.eigh(SECOND.toarray(), mass.toarray(), eigvals_only=True)
    for M in (mass, mass.todok(), mass.toarray(), mfdeq.Precision(mass)):
        found = mfdeq.eigsh(SECOND, k=4, sigma=3.0, M=M, certify=True)
        np.testing.assert_allclose(found.values, nearest(truth, 3.0, 4), rtol=1e-9)
        assert found.report.missed == 0
        assert mfdeq.ShiftedInverse(SECOND, 3.0, M).below == (truth < 3.0).sum()
    weights = np.linspace(1.0, 2.0, N)
    truth = scipy.linalg.eigh(SECOND.toarray(), np.diag(weights), eigvals_only=True)
    found = mfdeq.eigsh(SECOND, k=4, sigma=1.0, M=weights, certify=True)
    np.testing.assert_allclose(found.values, nearest(truth, 1.0, 4), rtol=1e-9)
    assert mfdeq.ShiftedInverse(SECOND, 1.0, weights).below == (truth < 1.0).sum()


@pytest.mark.parametrize("scale", [1e-150, 1e-16, 1e-8, 1.0, 1e16, 1e150])
def test_the_scale_of_a_matrix_does_not_matter(scale):
    found = mfdeq.eigsh(scale * SECOND, k=3, sigma=scale, certify=True)
    np.testing.assert_allclose(found.values / scale, nearest(VALUES, 1.0, 3), rtol=1e-9)
    assert found.report.missed == 0


class Identity(mfdeq.ResidualModel):
    """E (h - U theta) = 0 in units of the equations, the states and the parameters."""

    def __init__(self, n, equations, states, params):
        self.state_size = self.param_size = n
        self.d_state = sp.diags(equations / states, shape=(n, n)).tocsr()
        self.d_params = -sp.diags(equations / params, shape=(n, n)).tocsr()

    def residual(self, h, theta):
        return self.d_state @ h + self.d_params @ theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.d_state, self.d_params, lambda lam: mfdeq.Curvature())


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("scale", [1e-24, 1e-16, 1e-8, 1.0, 1e16])
def test_the_scale_of_a_hessian_does_not_matter(scale, units):
    n = 200
    sizes = 10.0 ** np.random.default_rng(0).uniform(-6, 6, (2, n)) if units else np.ones((2, n))
    K = sp.diags(scale * np.linspace(-1, 1, n) / sizes[1] ** 2).tocsr()
    loss = mfdeq.Loss(
        lambda h, t: 0.5 * float(h @ (K @ h)),
        d_state=lambda h, t: K @ h,
        curvature=lambda h, t: mfdeq.Curvature(state_state=K),
    )
    model = Identity(n, sizes[0], sizes[1], np.ones(n))
    H = mfdeq.solve(model, np.full(n, 0.1)).hessian(loss)
    found = mfdeq.eigsh(H, k=2, sigma=0.0, certify=True)
    np.testing.assert_allclose(found.values, scale * np.array([-1, 1]) / (n - 1), rtol=1e-8)
    assert found.report.missed == 0
    assert mfdeq.ShiftedInverse(H).below == n // 2


def test_values_alone_are_returned_without_vectors():
    values = mfdeq.eigsh(SECOND, k=3, sigma=1.0, return_eigenvectors=False)
    np.testing.assert_allclose(values.values, nearest(VALUES, 1.0, 3), rtol=1e-10)
    assert values.vectors is None
    alone = mfdeq.eigsh(SECOND, k=3, M=SECOND, return_eigenvectors=False)
    with pytest.raises(mfdeq.ArgumentError, match="return_eigenvectors"):
        mfdeq.LowRank(alone)


@pytest.mark.parametrize(
    ("A", "message"),
    [(sp.triu(SECOND).tocsr(), "symmetric"), (np.triu(SECOND.toarray()), "symmetric")],
)
def test_matrices_that_are_not_symmetric_are_refused(A, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.eigsh(A, k=2, sigma=0.5)
    with pytest.raises(mfdeq.ArgumentError, match="square"):
        mfdeq.ShiftedInverse(A[:5], 0.5)


def test_a_sum_with_a_precision_is_refused_with_what_to_do():
    n = 30
    model = Identity(n, np.ones(n), np.ones(n), np.ones(n))
    loss, R = mfdeq.LeastSquares(np.arange(12), np.zeros(12)), mfdeq.Precision(SECOND[:n, :n])
    eq = mfdeq.solve(model, np.linspace(0.1, 1.0, n))
    G = eq.hessian(loss).gauss_newton
    whole = eq.hessian(loss + mfdeq.QuadraticPrior(R)).gauss_newton
    for H in (G + R, R + G, 2.0 * G, G + eq.hessian(loss).dynamics):
        for options in ({"sigma": 0.0}, {"certify": True}):
            with pytest.raises(mfdeq.ArgumentError, match=r"eq.hessian\(loss \+ mfdeq.Quadratic"):
                mfdeq.eigsh(H, k=2, **options)
        with pytest.raises(mfdeq.ArgumentError, match="QuadraticPrior"):
            mfdeq.ShiftedInverse(H)
    found = mfdeq.eigsh(whole, k=2, sigma=0.0, certify=True)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh((G + R).toarray())[:2], rtol=1e-8)


def test_a_shift_on_an_eigenvalue_of_a_matrix_is_an_error():
    with pytest.raises(mfdeq.SingularStateError, match="eigenvalue"):
        mfdeq.eigsh(sp.diags(np.arange(100.0)).tocsr(), k=2, sigma=3.0)


def test_a_count_that_shows_a_miss_is_an_error(monkeypatch):
    """A search that returns the wrong pairs is stood in for by one that drops the best."""
    import mfdeq.spectrum.eigsh as module

    solve = module.SHIFT_INVERT.solve

    def drop_one(problem):
        return without(solve(problem), 1)

    def without(pairs, i):
        kept = [j for j in range(len(pairs.values)) if j != i]
        report = pairs.report
        report.residuals = report.residuals[kept]
        return mfdeq.Eigenpairs(
            pairs.values[kept], pairs.vectors[:, kept], pairs.error_bounds[kept], report
        )

    method = module.EigenMethod("shift-invert", module.SHIFT_INVERT.applies, drop_one)
    monkeypatch.setattr(module, "METHODS", (method, *module.METHODS[1:]))
    with pytest.raises(mfdeq.ConvergenceError, match="1 of the wanted") as caught:
        mfdeq.eigsh(SECOND, k=5, sigma=1.0, certify=True)
    assert caught.value.best.report.missed == 1
    assert not caught.value.report.converged


@pytest.mark.parametrize("sigma", [None, 0.55])
@pytest.mark.parametrize("which", WHICH)
def test_intervals_of_wanted_values_contain_those_found(which, sigma):
    values = np.linspace(-1, 1, 21) ** 3
    transformed = values if sigma is None else 1 / (values - sigma)
    order = np.argsort(transformed)
    wanted = {
        "LM": np.argsort(-abs(transformed))[:6],
        "LA": order[-6:],
        "SA": order[:6],
        "BE": np.r_[order[:3], order[-3:]],
    }[which]
    found = np.sort(values[wanted])
    intervals = wanted_intervals(found, np.full(6, 1e-6), which, sigma)

    def inside(x):
        return sum(low < x < high for low, high in intervals)

    beyond = [v for v in values if inside(v)]
    assert set(beyond) <= set(found)
    # All but the last wanted values, of which there are up to two.
    assert len(beyond) >= len(found) - 2
