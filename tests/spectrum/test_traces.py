"""`mfdeq.trace`, `frobenius_norm` and `condition_number` against dense truth."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
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
