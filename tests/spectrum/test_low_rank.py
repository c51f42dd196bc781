"""`mfdeq.LowRank`: the posterior against dense inverses, its samples, its errors."""

from __future__ import annotations

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


def test_the_truncation_error_follows_the_largest_omitted_eigenvalue():
    """For a full-rank H the covariance is off by at most m / (1 + m) of the prior's."""
    H = 0.3 * R.toarray() @ R.toarray() + HESSIANS["low rank"]
    values = scipy.linalg.eigh(H, R.toarray(), eigvals_only=True)
    posterior = mfdeq.LowRank(mfdeq.eigsh(H, 20, M=R))
    off = posterior @ np.eye(P) - np.linalg.inv(H + R.toarray())
    worst = abs(scipy.linalg.eigh(off, np.linalg.inv(R.toarray()), eigvals_only=True)).max()
    m = values[-21]
    assert 0.9 * m / (1 + m) <= worst <= 1.01 * m / (1 + m)


def test_pairs_too_rough_for_a_posterior_warn_with_a_tolerance():
    """The error is a bound, and a warning names a sufficient tolerance."""
    rng = np.random.default_rng(4)
    S = rng.standard_normal((P, 20)) * np.geomspace(1e3, 1, 20)
    H, covariance = S @ S.T, np.linalg.inv(R.toarray())
    exact = np.linalg.inv(H + R.toarray())
    with pytest.warns(mfdeq.AccuracyWarning, match="use mfdeq.eigsh with rtol=") as caught:
        rough = mfdeq.LowRank(mfdeq.eigsh(H, 20, M=R, rtol=1e-4))
    rtol = float(str(caught[0].message).rpartition("rtol=")[2])
    fine = mfdeq.LowRank(mfdeq.eigsh(H, 20, M=R, rtol=rtol))
    for posterior in (rough, fine):
        off = posterior @ np.eye(P) - exact
        worst = abs(scipy.linalg.eigh(off, covariance, eigvals_only=True)).max()
        assert worst <= posterior.error + 1e-8
    assert fine.error < 0.1 < rough.error


def test_pairs_without_a_posterior_are_refused(posterior):
    plain = mfdeq.eigsh(HESSIANS["low rank"], 3)
    with pytest.raises(mfdeq.ArgumentError, match="M=R"):
        mfdeq.LowRank(plain)
    with pytest.raises(mfdeq.ArgumentError, match="not positive definite"):
        mfdeq.LowRank(mfdeq.eigsh(-HESSIANS["low rank"], 3, M=R))
    with pytest.raises(mfdeq.ArgumentError, match="mean"):
        posterior.samples(mean=np.ones(3))
