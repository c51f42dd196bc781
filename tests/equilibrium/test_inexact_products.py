"""Hessian products to a requested accuracy, at lower cost."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.problems import Diffusion

import mfdeq

AMG = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())


@pytest.fixture(scope="module")
def diffused():
    model = Diffusion(24)
    eq = mfdeq.solve(model, model.lognormal(), solver=AMG)
    return eq, eq.hessian(model.loss(observations=50))


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_product_has_the_requested_accuracy_at_lower_cost(diffused, rtol):
    eq, H = diffused
    V = np.random.default_rng(0).standard_normal((H.shape[0], 3))
    exact = H @ V
    full = eq.report.linear.iterations
    H @ V
    full = eq.report.linear.iterations - full
    loose = H.to_accuracy(rtol)
    for _ in range(3):
        before = eq.report.linear.iterations
        found = loose @ V
        took = eq.report.linear.iterations - before
        error = np.linalg.norm(found - exact, axis=0) / np.linalg.norm(exact, axis=0)
        assert np.all(error <= rtol)
    assert took < full
    assert loose.tolerance.inner >= 0.01 * rtol
