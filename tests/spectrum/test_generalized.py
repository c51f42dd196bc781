"""H x = mu R x by Lanczos, by randomized passes and by shifts; posteriors of it: dense truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from scipy.sparse.linalg import aslinearoperator
from support.matrices import diffusion
from support.precisions import precision_by_products

import mfdeq

N = 9
P = N * N
GRID = (diffusion(N) + 0.05 * sp.identity(P)).tocsr()
R = (GRID @ GRID).tocsr()
SEEN = np.random.default_rng(0).standard_normal((P, 12))
HESSIANS = {
    "low rank": SEEN @ SEEN.T,
    "indefinite": SEEN @ np.diag((-0.7) ** np.arange(12)) @ SEEN.T,
    "full rank": SEEN @ SEEN.T + 0.3 * R.toarray() @ R.toarray(),
    "zero": np.zeros((P, P)),
    "of R": 3.0 * R.toarray(),
}
PRECISIONS = {
    "sparse": R,
    "dense": R.toarray(),
    "products": precision_by_products(R),
    "diagonal": R.diagonal(),
}


def matrix(M):
    M = M.R @ np.eye(P) if isinstance(M, mfdeq.Precision) else M
    M = M.toarray() if sp.issparse(M) else np.asarray(M)
    return np.diag(M) if M.ndim == 1 else M


def expected(H, M, k, which):
    values = scipy.linalg.eigh(H, M, eigvals_only=True)
    order = {"LM": np.argsort(-abs(values)), "LA": np.argsort(-values), "SA": np.argsort(values)}
    return np.sort(values[order[which][:k]])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
@pytest.mark.parametrize("name", HESSIANS)
@pytest.mark.parametrize("block", [1, 3])
def test_lanczos(name, which, precision, block):
    H, M = HESSIANS[name], PRECISIONS[precision]
    dense = matrix(M)
    try:
        pairs = mfdeq.eigsh(H, 5, which, M=M, block=block, rtol=1e-8)
    except mfdeq.ConvergenceError as error:  # the low end of a full rank is crowded
        assert (name, which) == ("full rank", "SA")
        pairs = error.best
    wanted = expected(H, dense, len(pairs.values), which)
    size = max(abs(scipy.linalg.eigh(H, dense, eigvals_only=True)).max(), 1e-300)
    # Of copies each column finds one, but where the space is seen to be invariant.
    seen = (name, which, precision) != ("low rank", "SA", "diagonal")  # rounding has grown
    if seen and (name, precision, block) != ("of R", "diagonal", 1):
        np.testing.assert_allclose(pairs.values, wanted, atol=2e-8 * size)
    judged(H, dense, pairs)


def judged(H, M, pairs):
    """Orthonormal in M, and residuals within the bounds, in the norm of its inverse."""
    V, inverse = pairs.vectors, np.linalg.inv(M)
    np.testing.assert_allclose(V.T @ M @ V, np.eye(V.shape[1]), atol=1e-9)
    off = H @ V - M @ V * pairs.values
    true = np.sqrt(np.einsum("ij,ik,kj->j", off, inverse, off))
    assert np.all(true <= pairs.error_bounds + 1e-12 * pairs.report.norm)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["low rank", "indefinite", "zero"])
def test_randomized(name, precision):
    H, M = HESSIANS[name], PRECISIONS[precision]
    dense = matrix(M)
    pairs = mfdeq.randomized_eigsh(H, 5, M=M, rtol=1e-8)
    size = abs(pairs.values).max()
    np.testing.assert_allclose(pairs.values, expected(H, dense, 5, "LM"), atol=1e-8 * size)
    judged(H, dense, pairs)
    assert pairs.report.products == 2 * 15


def test_randomized_passes_until_it_is_accurate_or_says_so():
    H, M = np.diag(0.9 ** np.arange(P)), None
    rough = mfdeq.randomized_eigsh(H, 5, M=M, rtol=0.1)
    fine = mfdeq.randomized_eigsh(H, 5, M=M, rtol=1e-4, max_passes=30)
    assert rough.report.products < fine.report.products
    np.testing.assert_allclose(fine.values[::-1], 0.9 ** np.arange(5), rtol=1e-6)
    with pytest.raises(mfdeq.ConvergenceError, match="too slowly") as caught:
        mfdeq.randomized_eigsh(H, 5, M=M, rtol=1e-10, max_passes=3)
    best = caught.value.best
    assert not best.report.converged
    exact = np.diag(H)
    assert np.all(abs(exact[:, None] - best.values).min(axis=0) <= best.error_bounds)
    other = mfdeq.randomized_eigsh(H, 5, M=M, rtol=0.1, seed=1)
    assert np.any(other.values != rough.values)


def problem():
    model = Diffusion(N)
    eq = mfdeq.solve(model, model.lognormal())
    return eq, eq.hessian(model.loss(20)), mfdeq.Precision(1e-3 * R)


def test_a_hessian_and_a_shift():
    """Nearest to a shift by the Lagrangian system with R in it, with counts."""
    _, H, M = problem()
    dense, truth = H.toarray(), None
    truth = scipy.linalg.eigh(dense, 1e-3 * R.toarray(), eigvals_only=True)
    top = mfdeq.eigsh(H, 4, M=M)
    np.testing.assert_allclose(top.values, truth[np.sort(np.argsort(-abs(truth))[:4])], rtol=1e-5)
    sigma = 0.5 * (truth[-6] + truth[-5])
    pairs = mfdeq.eigsh(H, 4, sigma=sigma, M=M, certify=True)
    near = np.sort(truth[np.argsort(abs(truth - sigma))[:4]])
    np.testing.assert_allclose(pairs.values, near, atol=1e-8 * abs(truth).max())
    assert pairs.report.missed == 0
    judged(dense, 1e-3 * R.toarray(), pairs)
    S = mfdeq.equilibrium.lagrangian_system.ShiftedInverse(H, sigma, M.array)
    assert S.below == (truth < sigma).sum()
    with pytest.raises(mfdeq.ArgumentError, match="sparse matrix"):
        mfdeq.eigsh(H, 4, sigma=sigma, M=R.toarray())


def test_resumed_and_more():
    H = HESSIANS["low rank"] + 1e-3 * R.toarray() @ R.toarray()
    rough = mfdeq.eigsh(H, 4, M=R, rtol=1e-2)
    fine = mfdeq.eigsh(H, 8, M=R, rtol=1e-9, resume=rough)
    np.testing.assert_allclose(fine.values, expected(H, R.toarray(), 8, "LM"), rtol=1e-8)
    judged(H, R.toarray(), fine)
    with pytest.raises(mfdeq.ArgumentError, match="same M"):
        mfdeq.eigsh(H, 4, resume=rough)


def test_all_of_them():
    H = HESSIANS["indefinite"]
    pairs = mfdeq.eigsh(H, P, M=R)
    truth = scipy.linalg.eigh(H, R.toarray(), eigvals_only=True)
    np.testing.assert_allclose(pairs.values, truth, atol=1e-9 * abs(truth).max())
    judged(H, R.toarray(), pairs)


POSTERIOR = HESSIANS["low rank"] + R.toarray()


@pytest.fixture(scope="module")
def low():
    return mfdeq.LowRank(mfdeq.eigsh(HESSIANS["low rank"], 15, M=R, rtol=1e-10))


def test_woodbury(low):
    covariance = np.linalg.inv(POSTERIOR)
    X = np.random.default_rng(1).standard_normal((P, 3))
    for x in (X, X[:, 0]):
        np.testing.assert_allclose(low @ x, covariance @ x, rtol=1e-8)
        np.testing.assert_allclose(low.precision @ x, POSTERIOR @ x, atol=1e-7)
    np.testing.assert_allclose(low.variances(), np.diag(covariance), rtol=1e-8)
    lowered = np.diag(np.linalg.inv(R.toarray())) - np.diag(covariance)
    np.testing.assert_allclose(low.variance_reduction(), lowered, rtol=1e-8)
    prior = np.full(P, 7.0)
    np.testing.assert_allclose(low.variances(prior), 7.0 - lowered, rtol=1e-8)
    before, after = (np.linalg.slogdet(M)[1] for M in (R.toarray(), POSTERIOR))
    assert low.log_determinant() == pytest.approx(after)
    assert low.log_determinant_ratio() == pytest.approx(after - before)
    assert low.expected_information_gain() == pytest.approx(0.5 * (after - before))
    shift = X[:, 0]
    divergence = 0.5 * (
        np.trace(R @ covariance) - P + shift @ (R @ shift) + after - before
    )  # of two Gaussians
    assert low.information_gain(shift) == pytest.approx(divergence)


def test_posterior_samples(low):
    """Their covariance, exactly: a sample is a matrix times white noise."""
    covariance = np.linalg.inv(POSTERIOR)
    white = low.prior.samples(P, seed=5)  # of any P independent columns
    S = low.samples(P, seed=5)
    # samples = T prior samples, and T R^-1 T' is the posterior's covariance.
    T = S @ np.linalg.inv(white)
    np.testing.assert_allclose(T @ np.linalg.solve(R.toarray(), T.T), covariance, atol=1e-8)
    mean = np.arange(P, dtype=float)
    np.testing.assert_allclose(
        low.samples(2, seed=5, mean=mean) - low.samples(2, seed=5),
        np.tile(mean[:, None], 2),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        low.samples(seed=5, mean=mean) - low.samples(seed=5), mean, atol=1e-9
    )


def test_what_is_left_out_is_bounded():
    """Of a full-rank H: the covariance is off by at most m / (1 + m) of the prior's."""
    H = 0.3 * R.toarray() @ R.toarray() + HESSIANS["low rank"]
    values = scipy.linalg.eigh(H, R.toarray(), eigvals_only=True)
    low = mfdeq.LowRank(mfdeq.eigsh(H, 20, M=R))
    off = low @ np.eye(P) - np.linalg.inv(H + R.toarray())
    worst = abs(scipy.linalg.eigh(off, np.linalg.inv(R.toarray()), eigvals_only=True)).max()
    m = values[-21]
    assert 0.9 * m / (1 + m) <= worst <= 1.01 * m / (1 + m)


def test_pairs_too_rough_for_a_posterior_are_said_to_be():
    """The error is a bound, and a warning says what tolerance would do."""
    rng = np.random.default_rng(4)
    S = rng.standard_normal((P, 20)) * np.geomspace(1e3, 1, 20)
    H, covariance = S @ S.T, np.linalg.inv(R.toarray())
    exact = np.linalg.inv(H + R.toarray())
    with pytest.warns(mfdeq.AccuracyWarning, match="give mfdeq.eigsh rtol=") as caught:
        rough = mfdeq.LowRank(mfdeq.eigsh(H, 20, M=R, rtol=1e-4))
    rtol = float(str(caught[0].message).rpartition("rtol=")[2])
    fine = mfdeq.LowRank(mfdeq.eigsh(H, 20, M=R, rtol=rtol))
    for low in (rough, fine):
        off = low @ np.eye(P) - exact
        worst = abs(scipy.linalg.eigh(off, covariance, eigvals_only=True)).max()
        assert worst <= low.error + 1e-8
    assert fine.error < 0.1 < rough.error


def test_low_rank_refused(low):
    plain = mfdeq.eigsh(HESSIANS["low rank"], 3)
    with pytest.raises(mfdeq.ArgumentError, match="M=R"):
        mfdeq.LowRank(plain)
    with pytest.raises(mfdeq.ArgumentError, match="not positive definite"):
        mfdeq.LowRank(mfdeq.eigsh(-HESSIANS["low rank"], 3, M=R))
    with pytest.raises(mfdeq.ArgumentError, match="mean"):
        low.samples(mean=np.ones(3))
    with pytest.raises(mfdeq.ArgumentError, match=r"M: expected .*81\), got \(3, 3\)"):
        mfdeq.eigsh(HESSIANS["low rank"], 3, M=np.ones(3))
    with pytest.raises(mfdeq.ArgumentError, match="not positive definite"):
        mfdeq.eigsh(HESSIANS["low rank"], 3, M=-R)


def test_float32():
    H = HESSIANS["low rank"].astype("float32")
    pairs = mfdeq.eigsh(H, 5, M=R.astype("float32"), rtol=1e-3)
    assert pairs.values.dtype == np.float32
    wanted = expected(HESSIANS["low rank"], R.toarray(), 5, "LM")
    np.testing.assert_allclose(pairs.values, wanted, rtol=1e-3)
    low = mfdeq.LowRank(pairs)
    assert low.samples(2).dtype == low.variances().dtype == np.float32


def test_operators_of_others():
    pairs = mfdeq.eigsh(aslinearoperator(HESSIANS["low rank"]), 5, M=R)
    wanted = expected(HESSIANS["low rank"], R.toarray(), 5, "LM")
    np.testing.assert_allclose(pairs.values, wanted, rtol=1e-6)
