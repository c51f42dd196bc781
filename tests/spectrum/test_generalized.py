"""H x = mu R x with the precision R of a prior, by Lanczos and shifts, matches dense truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from scipy.sparse.linalg import aslinearoperator
from support.generalized_problems import (
    HESSIANS,
    PRECISIONS,
    SIDE,
    P,
    R,
    assert_residuals_within_bounds,
    dense_precision,
    generalized_eigenvalues,
)

import mfdeq


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
@pytest.mark.parametrize("name", HESSIANS)
@pytest.mark.parametrize("block", [1, 3])
def test_lanczos_matches_dense_eigenvalues(name, which, precision, block):
    H, dense = HESSIANS[name], dense_precision(precision)
    try:
        pairs = mfdeq.eigsh(H, 5, which, M=PRECISIONS[precision], block=block, rtol=1e-8)
    except mfdeq.ConvergenceError as error:  # the low end of a full rank is crowded
        assert (name, which) == ("full rank", "SA")
        pairs = error.best
    wanted = generalized_eigenvalues(H, dense, len(pairs.values), which)
    size = max(abs(scipy.linalg.eigh(H, dense, eigvals_only=True)).max(), 1e-300)
    # Each column finds one copy of an eigenvalue, unless V is known to be invariant.
    copies_may_be_missed = (name, which, precision) == ("low rank", "SA", "diagonal") or (
        name,
        precision,
        block,
    ) == ("multiple of R", "diagonal", 1)
    if not copies_may_be_missed:
        np.testing.assert_allclose(pairs.values, wanted, atol=2e-8 * size)
    assert_residuals_within_bounds(H, dense, pairs)


def test_shift_and_counts_of_a_hessian_match_dense_truth():
    """The Lagrangian system includes R."""
    model = Diffusion(SIDE)
    H = mfdeq.solve(model, model.lognormal()).hessian(model.loss(20))
    M, dense, dense_M = mfdeq.Precision(1e-3 * R), H.toarray(), 1e-3 * R.toarray()
    truth = scipy.linalg.eigh(dense, dense_M, eigvals_only=True)
    top = mfdeq.eigsh(H, 4, M=M)
    np.testing.assert_allclose(top.values, truth[np.sort(np.argsort(-abs(truth))[:4])], rtol=1e-5)
    sigma = 0.5 * (truth[-6] + truth[-5])
    pairs = mfdeq.eigsh(H, 4, sigma=sigma, M=M, certify=True)
    near = np.sort(truth[np.argsort(abs(truth - sigma))[:4]])
    np.testing.assert_allclose(pairs.values, near, atol=1e-8 * abs(truth).max())
    assert pairs.report.missed == 0
    assert_residuals_within_bounds(dense, dense_M, pairs)
    S = mfdeq.ShiftedInverse(H, sigma, M.array)
    assert S.below == (truth < sigma).sum()
    of_dense = mfdeq.eigsh(H, 4, sigma=sigma, M=1e-3 * R.toarray(), certify=True)
    np.testing.assert_allclose(of_dense.values, near, atol=1e-8 * abs(truth).max())
    products = mfdeq.Precision(aslinearoperator(R), solve=np.linalg.inv(R.toarray()).dot)
    with pytest.raises(mfdeq.ArgumentError, match="M is not a sparse matrix"):
        mfdeq.eigsh(H, 4, sigma=sigma, M=products)


def test_resume_finds_more_pairs_to_a_smaller_rtol():
    H = HESSIANS["low rank"] + 1e-3 * R.toarray() @ R.toarray()
    rough = mfdeq.eigsh(H, 4, M=R, rtol=1e-2)
    fine = mfdeq.eigsh(H, 8, M=R, rtol=1e-9, resume=rough)
    wanted = generalized_eigenvalues(H, R.toarray(), 8, "LM")
    np.testing.assert_allclose(fine.values, wanted, rtol=1e-8)
    assert_residuals_within_bounds(H, R.toarray(), fine)
    with pytest.raises(mfdeq.ArgumentError, match="same M"):
        mfdeq.eigsh(H, 4, resume=rough)


def test_all_pairs_match_dense_eigenvalues():
    H = HESSIANS["indefinite"]
    pairs = mfdeq.eigsh(H, P, M=R)
    truth = scipy.linalg.eigh(H, R.toarray(), eigvals_only=True)
    np.testing.assert_allclose(pairs.values, truth, atol=1e-9 * abs(truth).max())
    assert_residuals_within_bounds(H, R.toarray(), pairs)


def test_float32_stays_float32():
    H = HESSIANS["low rank"].astype("float32")
    pairs = mfdeq.eigsh(H, 5, M=R.astype("float32"), rtol=1e-3)
    assert pairs.values.dtype == np.float32
    wanted = generalized_eigenvalues(HESSIANS["low rank"], R.toarray(), 5, "LM")
    np.testing.assert_allclose(pairs.values, wanted, rtol=1e-3)
    with pytest.warns(mfdeq.AccuracyWarning, match="may be off"):
        low = mfdeq.LowRank(pairs)
    with pytest.warns(mfdeq.AccuracyWarning, match="may be off"):
        assert low.samples(2).dtype == low.variances().dtype == np.float32


def test_scipy_operators_are_accepted():
    pairs = mfdeq.eigsh(aslinearoperator(HESSIANS["low rank"]), 5, M=R)
    wanted = generalized_eigenvalues(HESSIANS["low rank"], R.toarray(), 5, "LM")
    np.testing.assert_allclose(pairs.values, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("M", "message"),
    [(np.ones(3), r"M: expected .*81\), got \(3, 3\)"), (-R, "not positive definite")],
)
def test_an_m_of_another_size_or_sign_is_refused(M, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.eigsh(HESSIANS["low rank"], 3, M=M)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e5])
@pytest.mark.parametrize("which", ["LM", "SA"])
def test_bounds_include_the_rounding_of_solves(condition, seed, which):
    """In float32, beside the residuals and eigenvalues of the same matrices in float64."""
    rng, n = np.random.default_rng(seed), 20
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    M = ((Q * np.geomspace(1 / condition, 1, n)) @ Q.T).astype("float32")
    G = rng.standard_normal((n, n))
    H = (G @ G.T if seed % 2 else G + G.T).astype("float32")
    M, H = 0.5 * (M + M.T), 0.5 * (H + H.T)
    try:
        pairs = mfdeq.eigsh(H, k=3, M=M, which=which, rtol=1e-3)
    except mfdeq.ConvergenceError as error:
        pairs = error.best  # the bounds say that rtol was not reached
    H, M, V = (x.astype(float) for x in (H, M, pairs.vectors))
    off = H @ V - M @ V * pairs.values
    lengths = np.sqrt(np.sum(V * (M @ V), axis=0))
    residuals = np.sqrt(np.sum(off * np.linalg.solve(M, off), axis=0)) / lengths
    assert np.all(residuals <= pairs.error_bounds)
    true = scipy.linalg.eigh(H, M, eigvals_only=True)
    assert np.all(abs(true[:, None] - pairs.values).min(axis=0) <= pairs.error_bounds)


@pytest.mark.parametrize("form", ["diagonal", "dense", "sparse"])
@pytest.mark.parametrize("n", [20, 100])
def test_eigenvalues_do_not_depend_on_units(n, form):
    """By the dense method and by Lanczos, with sizes from 1e-9 to 1e5."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.permutation(np.linspace(-9.0, 5.0, n))
    A = rng.standard_normal((n, n))
    A = A @ A.T
    inverse = 1 / sizes**2
    M = {"diagonal": inverse, "dense": np.diag(inverse), "sparse": sp.diags(inverse).tocsr()}[form]
    pairs = mfdeq.eigsh(A / np.outer(sizes, sizes), k=3, M=M)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(A)[-3:], rtol=1e-6)
    gram = (pairs.vectors / sizes[:, None]).T @ (pairs.vectors / sizes[:, None])
    np.testing.assert_allclose(gram, np.eye(3), atol=1e-10)
