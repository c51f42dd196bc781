"""`mfdeq.randomized_eigsh`: accuracy, additional passes and failures."""

from __future__ import annotations

import numpy as np
import pytest
from support.generalized_problems import (
    HESSIANS,
    PRECISIONS,
    P,
    assert_residuals_within_bounds,
    dense_precision,
    generalized_eigenvalues,
)

import mfdeq


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["low rank", "indefinite", "zero"])
def test_randomized_passes_match_dense_eigenvalues(name, precision):
    H, M, dense = HESSIANS[name], PRECISIONS[precision], dense_precision(precision)
    pairs = mfdeq.randomized_eigsh(H, 5, M=M, rtol=1e-8)
    size = abs(pairs.values).max()
    wanted = generalized_eigenvalues(H, dense, 5, "LM")
    np.testing.assert_allclose(pairs.values, wanted, atol=1e-8 * size)
    assert_residuals_within_bounds(H, dense, pairs)
    assert pairs.report.products == 2 * 15


def test_passes_continue_until_rtol_or_an_error():
    H = np.diag(0.9 ** np.arange(P))
    rough = mfdeq.randomized_eigsh(H, 5, rtol=0.1)
    fine = mfdeq.randomized_eigsh(H, 5, rtol=1e-4, max_passes=30)
    assert rough.report.products < fine.report.products
    np.testing.assert_allclose(fine.values[::-1], 0.9 ** np.arange(5), rtol=1e-6)
    with pytest.raises(mfdeq.ConvergenceError, match="too slowly") as caught:
        mfdeq.randomized_eigsh(H, 5, rtol=1e-10, max_passes=3)
    best = caught.value.best
    assert not best.report.converged
    exact = np.diag(H)
    assert np.all(abs(exact[:, None] - best.values).min(axis=0) <= best.error_bounds)
    other = mfdeq.randomized_eigsh(H, 5, rtol=0.1, seed=1)
    assert np.any(other.values != rough.values)
