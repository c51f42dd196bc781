"""Preconditioned eigenpairs by Davidson or iterative solves: accuracy, products and failures."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from scipy.sparse.linalg import LinearOperator, aslinearoperator, lobpcg
from support.matrices import diffusion
from support.spectra import (
    APPROXIMATE_INVERSE,
    ILL_CONDITIONED,
    ILL_CONDITIONED_VALUES,
    symmetric_matrix,
)

import mfdeq
from mfdeq.spectrum.davidson import DAVIDSON, Davidson

P = 144
H, VALUES = ILL_CONDITIONED, ILL_CONDITIONED_VALUES


@pytest.mark.parametrize("basis", [None, 22])
@pytest.mark.parametrize("block", [1, 3, 5])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_smallest_pairs_match_the_spectrum_at_any_scale(block, basis, scale):
    pairs = mfdeq.eigsh(
        aslinearoperator(scale * H),
        5,
        "SA",
        preconditioner=APPROXIMATE_INVERSE,
        block=block,
        basis=basis,
    )
    np.testing.assert_allclose(pairs.values, scale * VALUES[:5], atol=1e-11 * scale)
    assert np.all(pairs.error_bounds <= 2e-6 * scale * VALUES[4] + 1e-13 * scale)
    off = scale * H @ pairs.vectors - pairs.vectors * pairs.values
    assert np.all(np.linalg.norm(off, axis=0) <= pairs.error_bounds)
    assert pairs.report.method == DAVIDSON.name
    assert pairs.report.products < 200


def test_davidson_takes_fewer_products_than_lobpcg_and_lanczos():
    count = [0]

    def product(X):
        count[0] += X.shape[1] if X.ndim == 2 else 1
        return H @ X

    counted = LinearOperator(H.shape, matvec=product, matmat=product, dtype=float)
    pairs = mfdeq.eigsh(counted, 5, "SA", preconditioner=APPROXIMATE_INVERSE)
    X = np.random.default_rng(0).standard_normal((P, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, tol = count[0], 1e-6 * VALUES[4]
        lobpcg(counted, X, M=APPROXIMATE_INVERSE, tol=tol, maxiter=400, largest=False)
    assert before - 6 <= pairs.report.products <= before  # including the products that check H
    assert before < 0.4 * (count[0] - before)
    with pytest.raises(mfdeq.ConvergenceError):  # without the preconditioner
        mfdeq.eigsh(counted, 5, "SA", max_products=2 * before)


def test_keeping_the_last_direction_at_a_restart_saves_products(monkeypatch):
    """With a small basis, restarts without the last direction take more products."""

    def products():
        return mfdeq.eigsh(H, 4, "SA", preconditioner=APPROXIMATE_INVERSE, basis=16).report.products

    kept, restart = products(), Davidson.restart

    def forgetful(self):
        self.previous = None
        restart(self)

    monkeypatch.setattr(Davidson, "restart", forgetful)
    assert kept < 0.9 * products()


def test_float32_stays_float32():
    values = np.linspace(1, 2, 100).astype("float32")
    pairs = mfdeq.eigsh(
        np.diag(values), 3, "SA", preconditioner=np.eye(100, dtype="float32"), rtol=1e-3
    )
    assert pairs.values.dtype == np.float32
    np.testing.assert_allclose(pairs.values, values[:3], rtol=1e-4)


def test_the_generalized_problem_matches_dense_truth():
    R = (diffusion(12) + 0.1 * sp.identity(P)).tocsr()
    dense = R @ H @ R  # symmetric, and large where R is
    truth = scipy.linalg.eigh(dense, R.toarray(), eigvals_only=True)
    pairs = mfdeq.eigsh(
        dense, 4, "SA", M=R, preconditioner=np.linalg.inv(dense + 1e-5 * R.toarray())
    )
    np.testing.assert_allclose(pairs.values, truth[:4], rtol=1e-6)
    V = pairs.vectors
    np.testing.assert_allclose(V.T @ (R @ V), np.eye(4), atol=1e-9)


def test_a_posterior_covariance_preconditions_a_hessian():
    """The posterior of the Gauss-Newton part preconditions a Hessian that has no entries."""
    model = Diffusion(14)
    eq = mfdeq.solve(
        model, model.lognormal(), solver=mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    )
    rough = sp.csr_matrix(model.Dt @ model.D) / 15**2
    R = mfdeq.Precision((1e-2 * (rough @ rough) + 1e-4 * sp.identity(196)).tocsr())
    misfit = model.loss(40)
    hessian = eq.hessian(misfit + mfdeq.QuadraticPrior(R)).gauss_newton
    low = mfdeq.LowRank(mfdeq.eigsh(eq.hessian(misfit).gauss_newton, 40, M=R, rtol=1e-10))
    pairs = mfdeq.eigsh(hessian, 6, "SA", preconditioner=low, block=3)
    truth = np.linalg.eigvalsh(hessian.toarray())
    np.testing.assert_allclose(pairs.values, truth[:6], rtol=1e-6)
    assert pairs.report.products < 100
    found = mfdeq.condition_number(hessian, preconditioner=low)
    assert abs(found.value - truth[-1] / truth[0]) <= found.standard_error + 1e-9 * found.value


def test_iterated_solves_find_the_pairs_nearest_to_a_shift():
    """The curvature of an indefinite H is a product, so no system can be factorized."""
    values = np.r_[-np.geomspace(1e-3, 1e-1, 10), VALUES[10:]]
    indefinite = symmetric_matrix(values)
    near = np.linalg.inv(symmetric_matrix(abs(values)) + 1e-4 * np.eye(P))
    pairs = mfdeq.eigsh(aslinearoperator(indefinite), 5, sigma=0.0, preconditioner=near)
    nearest = np.sort(values[np.argsort(abs(values))[:5]])
    np.testing.assert_allclose(pairs.values, nearest, atol=1e-10)
    assert "iterated" in pairs.report.method
    assert pairs.report.products < 1500

    M = np.linspace(1, 3, P)
    truth = scipy.linalg.eigh(indefinite, np.diag(M), eigvals_only=True)
    pairs = mfdeq.eigsh(indefinite, 3, sigma=2e-4, M=M, preconditioner=near)
    nearest = np.sort(truth[np.argsort(abs(truth - 2e-4))[:3]])
    np.testing.assert_allclose(pairs.values, nearest, atol=1e-10)

    for sigma in values[:8]:
        with pytest.raises(mfdeq.SingularStateError, match="sigma is an eigenvalue"):
            mfdeq.eigsh(indefinite, 3, sigma=sigma, preconditioner=near)
    noise = np.random.default_rng(0)

    def noisy(x):
        return indefinite @ x * (1 + 1e-6 * noise.standard_normal(x.shape))

    rough = LinearOperator((P, P), matvec=noisy, matmat=noisy, dtype=float)
    with pytest.raises(mfdeq.ConvergenceError, match="tighter solves"):
        mfdeq.eigsh(rough, 3, sigma=0.0, preconditioner=near)


def test_a_preconditioner_needs_no_adjoint():
    """It is symmetric, so scipy's LinearOperator of a function is accepted."""
    near = LinearOperator((P, P), matvec=lambda x: APPROXIMATE_INVERSE @ x.ravel(), dtype=float)
    pairs = mfdeq.eigsh(H, 5, "SA", preconditioner=near)
    np.testing.assert_allclose(pairs.values, VALUES[:5], atol=1e-11)


def test_a_bad_preconditioner_is_an_error_with_the_pairs_found():
    bad = np.diag(np.random.default_rng(0).uniform(1, 2, P))
    with pytest.raises(mfdeq.ConvergenceError, match="better preconditioner") as caught:
        mfdeq.eigsh(H, 5, "SA", preconditioner=bad, max_products=60)
    best = caught.value.best
    assert not best.report.converged
    assert np.all(abs(VALUES[:, None] - best.values).min(axis=0) <= best.error_bounds)
    with pytest.raises(mfdeq.ArgumentError, match="which='SA'"):
        mfdeq.eigsh(H, 5, "LM", preconditioner=bad)
    with pytest.raises(mfdeq.ModelError, match=r"preconditioner: expected .*\(144, 144\), got"):
        mfdeq.eigsh(H, 5, "SA", preconditioner=bad[:3, :3])
