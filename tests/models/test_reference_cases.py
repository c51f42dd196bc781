"""The dense derivatives of the test cases match contour integrals of the functions alone.

Cauchy: a derivative is a mean over a circle in the complex plane, which needs no difference of
nearby numbers and is exact to rounding for the analytic functions of the table.
"""

import numpy as np
import pytest
from support.case_truth import dense_newton, written_residual
from support.cases import CASES, SINGLE, close

ANGLES = np.exp(2j * np.pi * np.arange(16) / 16)


def contour_integral(f, order, radius=0.1):
    """Return f(0), f'(0) or f''(0)/2 of an analytic function of one complex variable."""
    values = np.array([f(radius * w) for w in ANGLES])
    return np.tensordot(ANGLES**-order, values, 1).real / (len(ANGLES) * radius**order)


def mixed_second_derivative(f, x, a, b):
    """Return f''(x)[a, b] by polarization."""
    plus, minus = (contour_integral(lambda e, s=s: f(x + e * (a + s * b)), 2) for s in (1, -1))
    return (plus - minus) / 2


def directions(truth, count=3):
    """Return pairs of random unit directions (dtheta, dh), stacked."""
    pairs = np.random.default_rng(0).standard_normal((count, 2, truth.P + truth.N))
    return pairs / np.linalg.norm(pairs, axis=2, keepdims=True)


def param_directions(truth, count=2):
    pairs = np.random.default_rng(1).standard_normal((count, 2, truth.P))
    return pairs / np.linalg.norm(pairs, axis=2, keepdims=True)


@pytest.mark.parametrize("case", CASES + SINGLE, ids=str)
def test_derivatives_of_the_map_match_contour_integrals(case):
    truth, model = case.truth, case.written[0].twin()
    P, f = truth.P, truth.f
    x = np.r_[truth.params, truth.state]

    def function(x):
        return x[P:] - written_residual(model, x[P:], x[:P])

    for a, b in directions(truth):
        first = contour_integral(lambda e, a=a: function(x + e * a), 1)
        close(f.B @ a[:P] + f.J @ a[P:], first, 1e-11)
        second = mixed_second_derivative(function, x, a, b)
        tensor = (
            np.einsum("ikn,k,n->i", f.f_tt, a[:P], b[:P])
            + np.einsum("ijn,j,n->i", f.f_ht, a[P:], b[:P])
            + np.einsum("ijn,j,n->i", f.f_ht, b[P:], a[:P])
            + np.einsum("ijm,j,m->i", f.f_hh, a[P:], b[P:])
        )
        # For a residual model f is h - R, so rounding of R'' is relative to |R| |h|.
        assert np.linalg.norm(tensor - second) <= 1e-10 * (1 + np.linalg.norm(f.J))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_second_of_a_model_matches_its_tensors(case):
    truth, model = case.truth, case.written[0].twin()
    P, f = truth.P, truth.f
    sign = 1 if hasattr(model, "map") else -1
    second = model.fields(truth.state, truth.params).second
    for a, b in directions(truth):
        tensor = (
            np.einsum("ikn,k,n->i", f.f_tt, a[:P], b[:P])
            + np.einsum("ijn,j,n->i", f.f_ht, a[P:], b[:P])
            + np.einsum("ijn,j,n->i", f.f_ht, b[P:], a[:P])
            + np.einsum("ijm,j,m->i", f.f_hh, a[P:], b[P:])
        )
        close(sign * second((a[:P], a[P:]), (b[:P], b[P:])), tensor, 1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_of_the_loss_match_contour_integrals(case):
    truth, loss = case.truth, case.written[1].twin()
    P, L = truth.P, truth.loss
    x = np.r_[truth.params, truth.state]

    def function(x):
        return loss.value(x[P:], x[:P])

    hessian = np.block([[L.L_tt, L.L_ht.T], [L.L_ht, L.L_hh]])
    for a, b in directions(truth):
        first = contour_integral(lambda e, a=a: function(x + e * a), 1)
        close(np.r_[L.L_t, L.L_h] @ a, first, 1e-11)
        assert abs(a @ hessian @ b - mixed_second_derivative(function, x, a, b)) <= 1e-10 * (
            1 + abs(L.value)
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reduced_derivatives_match_contour_integrals(case):
    """Compare Z, h'', the gradient and H with equilibria at complex parameters."""
    truth, (model, loss) = case.truth, (x.twin() for x in case.written)
    N = truth.N

    def reduced(theta):
        h = dense_newton(model, theta, truth.state)
        return np.r_[h, loss.value(h, theta)]

    for u, v in param_directions(truth):
        first = contour_integral(lambda e, u=u: reduced(truth.params + e * u), 1)
        close(truth.Z @ u, first[:N], 1e-9)
        close(truth.gradient @ u, first[N], 1e-9)
        second = mixed_second_derivative(reduced, truth.params, u, v)
        actual = np.r_[truth.second_order(u, v), u @ truth.H @ v]
        # Relative to the first derivatives, since a zero truth does not bound rounding.
        assert np.linalg.norm(actual - second) <= 1e-9 * np.linalg.norm(first)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_formulas_of_the_hessian_agree(case):
    truth = case.truth
    close(truth.T.T @ truth.K @ truth.T, truth.H, 1e-10)
    close(sum(truth.terms.values()), truth.H, 1e-10)
    close(truth.gauss_newton + truth.dynamics, truth.H, 1e-10)
    close(truth.component_hessian(truth.loss.L_h), truth.dynamics, 1e-10)
    close(truth.gradient, truth.loss.L_t + truth.B.T @ truth.adjoint_state, 1e-10)


def test_cases_cover_symmetry_sizes_and_every_term():
    truths = [case.truth for case in CASES]
    symmetric = [np.allclose(t.A, t.A.T, rtol=1e-10) for t in truths]
    large = [t.N > 1 for t in truths]
    assert any(s and b and t.N != t.P for s, b, t in zip(symmetric, large, truths, strict=True))
    assert any(not s and t.N != t.P for s, t in zip(symmetric, truths, strict=True))
    assert any(b and t.N == t.P for b, t in zip(large, truths, strict=True))
    for name in truths[0].terms:
        assert any(np.linalg.norm(t.terms[name]) > 0.05 for t in truths), name
    reads = [np.any(t.loss.L_t) or np.any(t.loss.L_tt) for t in truths]
    assert any(reads) and not all(reads)  # noqa: PT018
