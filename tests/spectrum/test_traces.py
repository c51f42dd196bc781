"""`mfdeq.trace`, `frobenius_norm` and `condition_number` against dense truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from benchmarks.problems import Diffusion
from support.sampled_spectra import SPECTRA, sampled_matrix

import mfdeq


def test_the_trace_of_a_low_rank_is_exact():
    values = SPECTRA["low rank"]
    for estimate, truth in (
        (mfdeq.trace(sampled_matrix("low rank")), values.sum()),
        (mfdeq.frobenius_norm(sampled_matrix("low rank")), np.linalg.norm(values)),
        (mfdeq.numerical_rank(sampled_matrix("low rank"), 1e-6, pairs=None, probes=30), 20),
    ):
        assert abs(estimate.value - truth) <= 2 * estimate.standard_error + 1e-9 * truth
    assert mfdeq.trace(sampled_matrix("low rank")).standard_error < 1e-9
    small = sampled_matrix("low rank")[:8, :8]
    found = mfdeq.trace(small, products=30)
    assert (found.value, found.standard_error) == (pytest.approx(np.trace(small)), 0.0)


def test_condition_number_matches_dense_truth():
    model = Diffusion(9)
    eq = mfdeq.solve(model, model.lognormal())
    prior = mfdeq.QuadraticPrior(1e-2 * sp.identity(81) + 1e-4 * sp.csr_matrix(model.Dt @ model.D))
    H = eq.hessian(model.loss(20) + prior)
    truth = np.linalg.cond(H.toarray())
    found = mfdeq.condition_number(H)
    assert abs(found.value - truth) <= found.standard_error + 1e-9 * truth
    assert found.standard_error < 0.05 * truth
    with pytest.raises(mfdeq.MfdeqError, match="singular"):
        mfdeq.condition_number(eq.hessian(model.loss(20)).gauss_newton)


def test_condition_numbers_of_small_operators_need_no_matrices():
    values = np.array([-8.0, -0.5, 1.0, 2.0])
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    products = spla.LinearOperator((4, 4), matvec=lambda v: Q @ (values * (Q.T @ v)), dtype=float)
    found = mfdeq.condition_number(products)
    assert found.value == pytest.approx(16.0, rel=1e-12)
    model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta[:2] * theta[2], 2, 3, "map")
    H = mfdeq.solve(model, np.array([0.3, 0.5, 0.8])).hessian(
        mfdeq.LeastSquares(np.arange(2), np.zeros(2)) + mfdeq.QuadraticPrior(np.eye(3), np.ones(3))
    )
    truth = np.linalg.cond(H @ np.eye(3))
    assert mfdeq.condition_number(H).value == pytest.approx(truth, rel=1e-6)
    large = spla.LinearOperator((301, 301), matvec=lambda v: v, dtype=float)
    with pytest.raises(mfdeq.ArgumentError, match="preconditioner="):
        mfdeq.condition_number(large)
