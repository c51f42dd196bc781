"""Equilibria with constraints, compared with the dense bordered system."""

from __future__ import annotations

import numpy as np
import pytest
from support.dependent_equations import DependentEquations, random_loss

CASES = [
    pytest.param(is_map, m, form, id=f"{'map' if is_map else 'residual'}-{m}-{form}")
    for is_map in (False, True)
    for m in (1, 2, 5)
    for form in ("dense", "sparse", "operator")
]


@pytest.mark.parametrize(("is_map", "m", "form"), CASES)
@pytest.mark.parametrize("redundant", ["detected", "given"])
def test_every_operator_is_that_of_the_dense_bordered_system(is_map, m, form, redundant):
    equations = DependentEquations.random(is_map, m, form=form)
    N, P, _ = equations.sizes
    eq = equations.solve("detect" if redundant == "detected" else equations.W)
    loss, at_point = random_loss(N, P, np.r_[equations.theta, equations.state])
    truth = equations.truth(at_point)

    def agree(found, expected, rtol=1e-8):
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * abs(expected).max())

    agree(eq.state, equations.state)
    agree(eq.state_operator.toarray(), truth.A)
    agree(eq.param_operator.toarray(), truth.B)
    agree(eq.inverse.toarray(), truth.inverse)
    agree(eq.inverse.H.toarray(), truth.inverse.T)
    agree(eq.sensitivity.toarray(), truth.Z)
    agree(eq.sensitivity.H.toarray(), truth.Z.T)
    agree(eq.tangent.toarray(), np.r_[np.eye(P), truth.Z])
    agree(eq.gradient(loss), truth.gradient)
    H = eq.hessian(loss)
    agree(H.toarray(), truth.hessian)
    agree(H.gauss_newton.toarray(), truth.gauss_newton)
    agree(sum(term @ np.eye(P) for term in H.terms.values()), truth.hessian)
    u, v = np.random.default_rng(1).standard_normal((2, P))
    agree(eq.second_order(u, v), truth.second @ v @ u)
    agree(eq.second_order_slice(v).toarray(), truth.second @ v)
    agree(eq.total_curvature(u, v), truth.f2 @ v @ u)
    agree(eq.component_hessian(N - 1).toarray(), truth.second[N - 1])
    w = np.random.default_rng(2).standard_normal(N)
    agree(eq.component_hessian(w).toarray(), np.einsum("n,npq->pq", w, truth.second))
    agree(eq.curvature(w).toarray(), np.einsum("i,iab->ab", w, truth.curvature))
    assert eq.multipliers.shape == eq.imbalance.shape == (m,)
    assert abs(eq.multipliers).max() < 1e-9 and abs(eq.imbalance).max() < 1e-9
