"""Equilibria with constraints, compared with the dense bordered system."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.dependent_equations import DependentEquations, check_every_operator, random_loss

import mfdeq
from mfdeq.models import constrained_linearization
from mfdeq.models.elimination import Projection
from mfdeq.models.linear_constraints import Constraints

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
    check_every_operator(equations, "detect" if redundant == "detected" else equations.W)


@pytest.mark.parametrize("is_map", [False, True])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_as_many_parameters_as_unknowns(is_map, form):
    check_every_operator(DependentEquations.random(is_map, 2, P=9, form=form), "detect")


def test_a_constraint_without_parameters_beside_as_many_parameters_as_unknowns():
    """Resistors on a ring: D' diag(theta) D h = q, with a fixed mean."""
    n = 6
    D = sp.csr_array(np.eye(n) - np.roll(np.eye(n), 1, axis=1))
    q = np.array([1.0, 0.0, 0.0, -1.0, 0.0, 0.0])

    class Ring(mfdeq.FixedPointModel):
        state_size = param_size = n

        def map(self, h, theta):
            return h - D.T @ (theta * (D @ h)) + q

        def linearize(self, h, theta):
            return mfdeq.Linearization(
                d_state=(sp.eye_array(n) - D.T @ sp.diags_array(theta) @ D).tocsr(),
                d_params=-(D.T @ sp.diags_array(D @ h)).tocsr(),
            )

    theta = np.linspace(1.0, 2.0, n)
    eq = mfdeq.solve(mfdeq.constrain(Ring(), mfdeq.LinearConstraint(np.ones(n))), theta)
    inverse = np.linalg.pinv((D.T @ sp.diags_array(theta) @ D).toarray())
    np.testing.assert_allclose(eq.state, inverse @ q, atol=1e-12)
    expected = -inverse @ D.T.toarray() @ np.diag(D @ eq.state)
    np.testing.assert_allclose(eq.sensitivity.toarray(), expected, atol=1e-11)
    np.testing.assert_allclose(eq.sensitivity.H.toarray(), expected.T, atol=1e-11)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_units_of_equations_and_unknowns_do_not_matter(form):
    equations = DependentEquations.random(False, 2, form=form)
    rows, columns = (10.0 ** np.linspace(*ends, 9) for ends in ((-4, 4), (3, -3)))
    P = equations.theta.size
    scaled = equations.in_units(rows, columns)
    eq, other = equations.solve(), scaled.solve()
    np.testing.assert_allclose(other.state * columns, eq.state, rtol=1e-9)
    Z, expected = other.sensitivity.toarray() * columns[:, None], eq.sensitivity.toarray()
    np.testing.assert_allclose(Z, expected, atol=1e-8 * abs(expected).max())
    u, v = np.random.default_rng(1).standard_normal((2, P))
    second = other.second_order(u, v) * columns
    np.testing.assert_allclose(second, eq.second_order(u, v), atol=1e-7 * abs(second).max())


@pytest.mark.parametrize("is_map", [False, True])
@pytest.mark.parametrize("form", ["dense", "sparse", "operator"])
def test_verify_passes(is_map, form):
    equations = DependentEquations.random(is_map, 2, form=form)
    loss, _ = random_loss(9, 4, np.r_[equations.theta, equations.state])
    verification = mfdeq.verify(equations.constrained(), equations.theta, loss, equations.state)
    assert verification.verdict == "PASS", str(verification)
    names = {check.name for check in verification}
    assert {"Z: Taylor remainder of h*", "H: Taylor remainder of the gradient"} <= names
    assert "h'': Taylor remainder of Z" in names


def without_the_curvature_of_constraints(monkeypatch):
    monkeypatch.setattr(Constraints, "curvature", lambda *arguments: None)


def without_the_second_derivative_of_constraints(monkeypatch):
    original = Constraints.second
    monkeypatch.setattr(Constraints, "second", lambda *arguments: 0.0 * original(*arguments))


def without_the_parameters_of_constraints(monkeypatch):
    monkeypatch.setattr(Constraints, "d_params", lambda *arguments: None)


def without_the_row_of_multipliers(monkeypatch):
    original = Projection.insert_adjoint
    monkeypatch.setattr(Projection, "insert_adjoint", lambda *arguments: 0.0 * original(*arguments))


def without_the_rows_of_constraints(monkeypatch):
    original = constrained_linearization.combine
    monkeypatch.setattr(
        constrained_linearization, "combine", lambda by, upper, _: original(by, upper, None)
    )


def with_the_curvature_of_replaced_equations(monkeypatch):
    monkeypatch.setattr(Projection, "project_adjoint", lambda self, y: y)


def with_replaced_equations(monkeypatch):
    monkeypatch.setattr(Projection, "project", lambda self, x: x)


MUTATIONS = [
    without_the_curvature_of_constraints,
    without_the_second_derivative_of_constraints,
    without_the_parameters_of_constraints,
    without_the_row_of_multipliers,
    without_the_rows_of_constraints,
    with_the_curvature_of_replaced_equations,
    with_replaced_equations,
]


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.filterwarnings("ignore::mfdeq.AccuracyWarning")
def test_mutations_fail_the_dense_truth_and_verify(mutation, monkeypatch):
    # By its products, A is composed of all parts; with entries, equations are replaced.
    form = "sparse" if "replaced" in mutation.__name__ else "operator"
    equations = DependentEquations.random(False, 2, form=form)
    loss, _ = random_loss(9, 4, np.r_[equations.theta, equations.state])
    model = equations.constrained()
    mfdeq.solve(model, equations.theta, equations.state)
    mutation(monkeypatch)
    with pytest.raises((AssertionError, mfdeq.MfdeqError)):
        check_every_operator(equations, "detect")
    try:
        verdict = mfdeq.verify(model, equations.theta, loss, equations.state).verdict
    except mfdeq.MfdeqError:
        verdict = "FAIL"
    assert verdict == "FAIL"


@pytest.mark.parametrize("field", ["d_state", "d_params", "curvature"])
def test_verify_fails_for_a_wrong_derivative_of_a_constraint(field):
    equations = DependentEquations.random(False, 2)
    N, P, m = equations.sizes
    wrong = {
        "d_state": lambda h, theta: 1.1 * equations.c.first(np.r_[theta, h])[:, P:],
        "d_params": lambda h, theta: np.zeros((m, P)),
        "curvature": lambda h, theta, nu: mfdeq.Curvature(),
    }[field]
    model = equations.constrained(**{field: wrong})
    loss, _ = random_loss(N, P, np.r_[equations.theta, equations.state])
    verification = mfdeq.verify(model, equations.theta, loss, equations.state)
    assert verification.verdict == "FAIL"
    assert verification.notes[-1].startswith(f"look first at: {field}")


def test_an_explicit_second_derivative_is_used():
    equations = DependentEquations.random(False, 2)
    calls = []

    def second(h, theta, a, b):
        calls.append(1)
        c2 = equations.c.second(np.r_[theta, h])
        return np.einsum("kab,a,b->k", c2, np.r_[tuple(a)], np.r_[tuple(b)])

    eq = mfdeq.solve(equations.constrained(second=second), equations.theta, equations.state)
    u, v = np.random.default_rng(1).standard_normal((2, 4))
    expected = equations.solve().second_order(u, v)
    np.testing.assert_allclose(eq.second_order(u, v), expected, rtol=1e-9, atol=1e-12)
    assert calls


def test_models_without_second_derivatives_have_first_ones():
    equations = DependentEquations.random(False, 1)
    model = equations.model()
    linearize = model.linearize

    def first(h, theta):
        whole = linearize(h, theta)
        return mfdeq.Linearization(whole.d_state, whole.d_params)

    model.linearize = first
    constrained = mfdeq.constrain(model, equations.constraint())
    eq = mfdeq.solve(constrained, equations.theta, equations.state)
    np.testing.assert_allclose(
        eq.sensitivity.toarray(), equations.solve().sensitivity.toarray(), rtol=1e-9, atol=1e-12
    )
    with pytest.raises(mfdeq.ModelError, match="no curvature"):
        eq.component_hessian(0)
