"""`mfdeq.LowRank`: the posterior against dense inverses, its samples, its errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
from support.generalized_problems import HESSIANS, P, R

import mfdeq

POSTERIOR = HESSIANS["low rank"] + R.toarray()


@pytest.fixture(scope="module")
def posterior():
    return mfdeq.LowRank(mfdeq.eigsh(HESSIANS["low rank"], 15, M=R, rtol=1e-10))


def test_posterior_matches_dense_inverse(posterior):
    covariance = np.linalg.inv(POSTERIOR)
    X = np.random.default_rng(1).standard_normal((P, 3))
    for x in (X, X[:, 0]):
        np.testing.assert_allclose(posterior @ x, covariance @ x, rtol=1e-8)
        np.testing.assert_allclose(posterior.precision @ x, POSTERIOR @ x, atol=1e-7)
    np.testing.assert_allclose(posterior.variances(), np.diag(covariance), rtol=1e-8)
    lowered = np.diag(np.linalg.inv(R.toarray())) - np.diag(covariance)
    np.testing.assert_allclose(posterior.variance_reduction(), lowered, rtol=1e-8)
    prior = np.full(P, 7.0)
    np.testing.assert_allclose(posterior.variances(prior), 7.0 - lowered, rtol=1e-8)
    before, after = (np.linalg.slogdet(M)[1] for M in (R.toarray(), POSTERIOR))
    assert posterior.log_determinant() == pytest.approx(after)
    assert posterior.log_determinant_ratio() == pytest.approx(after - before)
    assert posterior.expected_information_gain() == pytest.approx(0.5 * (after - before))
    shift = X[:, 0]
    divergence = 0.5 * (
        np.trace(R @ covariance) - P + shift @ (R @ shift) + after - before
    )  # of two Gaussians
    assert posterior.information_gain(shift) == pytest.approx(divergence)


def test_samples_have_the_posterior_covariance(posterior):
    """The covariance is compared exactly, since a sample is a matrix times white noise."""
    covariance = np.linalg.inv(POSTERIOR)
    white = posterior.prior.samples(P, seed=5)  # P independent columns
    S = posterior.samples(P, seed=5)
    # samples = T prior samples, and T R^-1 T' is the posterior's covariance.
    T = S @ np.linalg.inv(white)
    np.testing.assert_allclose(T @ np.linalg.solve(R.toarray(), T.T), covariance, atol=1e-8)
    mean = np.arange(P, dtype=float)
    np.testing.assert_allclose(
        posterior.samples(2, seed=5, mean=mean) - posterior.samples(2, seed=5),
        np.tile(mean[:, None], 2),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        posterior.samples(seed=5, mean=mean) - posterior.samples(seed=5), mean, atol=1e-9
    )


@pytest.mark.parametrize("k", [4, 10, 20])
def test_what_was_left_out_is_warned_of_and_bounded(k):
    """Of the variances, the error is at most the least magnitude of the pairs."""
    H = 0.3 * R.toarray() @ R.toarray() + HESSIANS["low rank"]
    values = scipy.linalg.eigh(H, R.toarray(), eigvals_only=True)
    with pytest.warns(mfdeq.AccuracyWarning, match=f"compute more than {k} pairs"):
        posterior = mfdeq.LowRank(mfdeq.eigsh(H, k, M=R))
    exact = np.linalg.inv(H + R.toarray())
    worst = abs(scipy.linalg.eigh(posterior @ np.eye(P) - exact, exact, eigvals_only=True)).max()
    assert worst == pytest.approx(values[-k - 1], rel=0.01)
    assert worst <= posterior.error <= 1.1 * values[-k]
    for use in (
        posterior.samples,
        posterior.variances,
        posterior.expected_information_gain,
        lambda: posterior.information_gain(np.ones(P)),
    ):
        with pytest.warns(mfdeq.AccuracyWarning, match="may have been left out"):
            use()


def test_all_pairs_leave_nothing_out():
    H = 0.3 * R.toarray() @ R.toarray() + HESSIANS["low rank"]
    posterior = mfdeq.LowRank(mfdeq.eigsh(H, P, M=R))
    assert posterior.error < 1e-6
    exact = np.diag(np.linalg.inv(H + R.toarray()))
    np.testing.assert_allclose(posterior.variances(), exact, rtol=1e-6)


def test_pairs_that_leave_small_values_out_do_not_warn():
    """Warnings are errors in these tests."""
    H = HESSIANS["low rank"] + 0.05 * R.toarray()
    posterior = mfdeq.LowRank(mfdeq.eigsh(H, 20, M=R, rtol=1e-8))
    variances = posterior.variances()
    exact = np.diag(np.linalg.inv(H + R.toarray()))
    assert 0.01 < (abs(variances - exact) / exact).max() <= posterior.error < 0.1


def test_pairs_too_rough_for_a_posterior_warn_with_a_tolerance():
    """The error is a bound, and a warning names a sufficient tolerance."""
    rng = np.random.default_rng(4)
    S = rng.standard_normal((P, 20)) * np.geomspace(1e3, 1, 20)
    H = S @ S.T
    exact = np.linalg.inv(H + R.toarray())
    with pytest.warns(mfdeq.AccuracyWarning, match="use mfdeq.eigsh with rtol=") as caught:
        rough = mfdeq.LowRank(mfdeq.eigsh(H, 21, M=R, rtol=1e-4))
    rtol = float(str(caught[0].message).rpartition("rtol=")[2])
    fine = mfdeq.LowRank(mfdeq.eigsh(H, 21, M=R, rtol=rtol))
    off = fine @ np.eye(P) - exact
    worst = abs(scipy.linalg.eigh(off, exact, eigvals_only=True)).max()
    assert worst <= fine.error + 1e-2  # of rounding: the largest value is 4e7
    assert fine.error < 0.1 < rough.error


@pytest.mark.filterwarnings("ignore::mfdeq.AccuracyWarning")
def test_the_error_bounds_what_inaccurate_pairs_do():
    """Vectors that are turned by a little have residuals, and their values are no longer exact."""
    H, exact = HESSIANS["low rank"], np.linalg.inv(POSTERIOR)
    pairs = mfdeq.eigsh(H, 16, M=R, rtol=1e-10)
    noise = np.random.default_rng(0).standard_normal(pairs.vectors.shape)
    for turn in (1e-6, 1e-5, 1e-4, 1e-3):
        X = pairs.vectors + turn * noise
        L = np.linalg.cholesky(X.T @ (R @ X))
        X = scipy.linalg.solve_triangular(L, X.T, lower=True).T
        values, Y = np.linalg.eigh(X.T @ H @ X)
        X = X @ Y
        residuals = H @ X - (R @ X) * values
        bounds = np.sqrt(np.sum(residuals * scipy.linalg.solve(R.toarray(), residuals), axis=0))
        rough = dataclasses.replace(pairs, values=values, vectors=X, error_bounds=bounds)
        posterior = mfdeq.LowRank(rough)
        off = posterior @ np.eye(P) - exact
        worst = abs(scipy.linalg.eigh(off, exact, eigvals_only=True)).max()
        if posterior.error < 0.3:
            assert 1e-3 * posterior.error <= worst <= 1.2 * posterior.error


def test_pairs_without_a_posterior_are_refused(posterior):
    plain = mfdeq.eigsh(HESSIANS["low rank"], 3)
    with pytest.raises(mfdeq.ArgumentError, match="M=R"):
        mfdeq.LowRank(plain)
    with pytest.raises(mfdeq.ArgumentError, match="not positive definite"):
        mfdeq.LowRank(mfdeq.eigsh(-HESSIANS["low rank"], 3, M=R))
    with pytest.raises(mfdeq.ArgumentError, match="mean"):
        posterior.samples(mean=np.ones(3))


def misfit_and_prior():
    model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 4, 4, "residual")
    misfit = mfdeq.LeastSquares(np.arange(2), np.ones(2), weights=np.full(2, 25.0))
    precision = np.diag([1.0, 2.0, 1e6, 1e-6]) + 0.1 * np.diag([1.0, 1.0, 0.0, 0.0])
    return model, misfit, mfdeq.QuadraticPrior(precision), precision


@pytest.mark.parametrize("part", ["hessian", "gauss_newton", "randomized", "sum"])
def test_pairs_of_a_loss_that_contains_the_prior_are_warned_of(part):
    """Its variances would be those of two priors, without a word."""
    model, misfit, prior, precision = misfit_and_prior()
    theta = np.array([2.0, 2.0, 0.1, 0.1])

    def pairs_of(loss, prior=None):
        H = mfdeq.solve(model, theta).hessian(loss)
        if part == "sum":
            F = mfdeq.ReducedFunctional(model, misfit)
            H = mfdeq.SumFunctional([F, F], prior=prior).hessian(theta)
        H = H.gauss_newton if part == "gauss_newton" else H
        compute = mfdeq.randomized_eigsh if part == "randomized" else mfdeq.eigsh
        return compute(H, k=4, M=precision)

    with pytest.warns(mfdeq.AccuracyWarning, match=r"twice.*Use mfdeq.eigsh\(eq.hessian\(misfit"):
        mfdeq.LowRank(pairs_of(misfit + prior, prior))
    mfdeq.LowRank(pairs_of(misfit))
    # Another prior is part of the data.
    other = mfdeq.QuadraticPrior(2.0 * precision)
    assert not pairs_of(misfit + other, other).contains_prior
