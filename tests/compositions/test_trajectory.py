"""Trajectories against a dense equilibrium of all steps, and against JAX through the steps."""

from __future__ import annotations

import numpy as np
import pytest
from support.step_models import (
    COUNT,
    PARAMS,
    SIZE,
    START,
    THETA,
    Heat,
    Reaction,
    reaction_trajectory,
    residual,
    start,
)

import mfdeq
from mfdeq.linear.operands import have_equal_entries

jax = pytest.importorskip("jax")
jnp = jax.numpy
N = SIZE * COUNT


def all_residuals(h, theta):
    """R of all steps as one function of JAX."""
    states, previous, parts = h.reshape(COUNT, SIZE), start(jnp, theta), []
    for k in range(COUNT):
        parts.append(residual(jnp, states[k], previous, theta, k))
        previous = states[k]
    return jnp.concatenate(parts)


@pytest.fixture(scope="module")
def truth():
    model = mfdeq.from_jax(all_residuals, np.zeros(N), THETA, "residual")
    return mfdeq.solve(model, THETA, method="newton")


LOSS = mfdeq.LeastSquares(observe=np.array([1, 4, 5, 11]), data=np.array([0.3, -0.2, 1.0, 0.4]))
FORMS = {
    "dense": {},
    "sparse": {"sparse": True},
    "by product": {"by_product": True},
    "one checkpoint": {"checkpoints": 1},
    "two checkpoints, sparse": {"checkpoints": 2, "sparse": True},
}


@pytest.fixture(scope="module", params=FORMS, ids=str)
def eq(request):
    return mfdeq.solve(reaction_trajectory(**FORMS[request.param]), THETA)


def both_sides(operator, reference, rtol=1e-9):
    """Compare products of both sides, with vectors and blocks."""
    dense = reference.toarray() if hasattr(reference, "toarray") else reference
    rng = np.random.default_rng(5)
    scale = rtol * np.abs(dense).max()
    for shape in ((), (3,)):
        x = rng.standard_normal((operator.shape[1], *shape))
        y = rng.standard_normal((operator.shape[0], *shape))
        np.testing.assert_allclose(operator @ x, dense @ x, rtol=rtol, atol=10 * scale)
        np.testing.assert_allclose(operator.H @ y, dense.T @ y, rtol=rtol, atol=10 * scale)


def test_the_state_is_that_of_all_steps(eq, truth):
    np.testing.assert_allclose(eq.state, truth.state, rtol=1e-12)
    np.testing.assert_array_equal(eq.steps, eq.state.reshape(COUNT, SIZE))
    np.testing.assert_array_equal(eq.start, start(np, THETA))
    assert eq.report.method == "substitution"
    assert eq.report.converged
    assert max(eq.report.residual, eq.report.correction) <= 1e-10
    assert eq.report.forward.solves == eq.report.iterations > 1


@pytest.mark.parametrize("name", ["state_operator", "inverse", "param_operator", "sensitivity"])
def test_operators_of_first_order_match_the_dense_ones(eq, truth, name):
    both_sides(getattr(eq, name), getattr(truth, name))


def test_the_tangent_and_the_gradient_match_the_dense_ones(eq, truth):
    both_sides(eq.tangent, truth.tangent)
    np.testing.assert_allclose(eq.gradient(LOSS), truth.gradient(LOSS), rtol=1e-9)
    np.testing.assert_allclose(eq.adjoint(LOSS), truth.adjoint(LOSS), rtol=1e-9)


def test_the_hessian_and_its_parts_match_the_dense_ones(eq, truth):
    H, reference = eq.hessian(LOSS), truth.hessian(LOSS)
    both_sides(H, reference)
    both_sides(H.gauss_newton, reference.gauss_newton)
    both_sides(H.dynamics, reference.dynamics)
    both_sides(H.lagrangian, reference.lagrangian)
    for name, term in H.terms.items():
        both_sides(term, reference.terms[name])


def test_curvatures_match_the_dense_ones(eq, truth):
    w = np.random.default_rng(1).standard_normal(N)
    K, reference = eq.curvature(w), truth.curvature(w)
    both_sides(K, reference)
    for name in ("params_params", "state_params", "state_state"):
        both_sides(getattr(K, name), getattr(reference, name))


def test_second_order_responses_match_the_dense_ones(eq, truth):
    u, v = np.random.default_rng(2).standard_normal((2, PARAMS))
    np.testing.assert_allclose(eq.total_curvature(u, v), truth.total_curvature(u, v), rtol=1e-8)
    np.testing.assert_allclose(eq.second_order(u, v), truth.second_order(u, v), rtol=1e-8)
    both_sides(eq.second_order_slice(v), truth.second_order_slice(v), rtol=1e-8)
    both_sides(eq.component_hessian(7), truth.component_hessian(7), rtol=1e-8)


def test_error_estimates_bound_the_error(eq, truth):
    _, error = eq.gradient_with_error(LOSS)
    assert np.linalg.norm(error) <= 1e-9 * np.linalg.norm(truth.gradient(LOSS))
    product, error = eq.hessian(LOSS).with_error(np.ones(PARAMS))
    assert np.linalg.norm(error) <= 1e-8 * np.linalg.norm(product)


def test_every_entry_of_the_lagrangian_system_is_assembled(truth):
    eq = mfdeq.solve(reaction_trajectory(sparse=True), THETA)
    loss = LOSS + mfdeq.QuadraticPrior(3.0, np.zeros(PARAMS))
    inverse = mfdeq.ShiftedInverse(eq.hessian(loss), 0.1)
    H = truth.hessian(loss).toarray()
    b = np.arange(1.0, PARAMS + 1)
    np.testing.assert_allclose(inverse @ b, np.linalg.solve(H - 0.1 * np.eye(PARAMS), b), rtol=1e-8)
    np.testing.assert_allclose(
        eq.curvature(np.arange(N) - 4.0).assembled().toarray(),
        truth.curvature(np.arange(N) - 4.0).toarray(),
        rtol=1e-9,
        atol=1e-12,
    )
    entries = eq.state_operator.assembled_entries().toarray()
    np.testing.assert_allclose(entries, truth.state_operator.toarray(), atol=1e-14)
    np.testing.assert_allclose(
        eq.param_operator.assembled_entries().toarray(), truth.param_operator.toarray(), atol=1e-14
    )


def test_derivatives_match_jax_through_the_steps():
    def loss_through_steps(theta):
        def step(previous, k):
            def newton(_, h):
                A = jax.jacfwd(residual, argnums=1)(jnp, h, previous, theta, k)
                return h - jnp.linalg.solve(A, residual(jnp, h, previous, theta, k))

            h = jax.lax.fori_loop(0, 12, newton, previous)
            return h, h

        h = jax.lax.scan(step, start(jnp, theta), jnp.arange(COUNT))[1].ravel()
        return 0.5 * jnp.sum((h[LOSS.observe] - LOSS.data) ** 2)

    F = mfdeq.ReducedFunctional(reaction_trajectory(), LOSS)
    assert F.value(THETA) == pytest.approx(float(loss_through_steps(THETA)), rel=1e-12)
    gradient = jax.jit(jax.grad(loss_through_steps))(THETA)
    hessian = jax.jit(jax.hessian(loss_through_steps))(THETA)
    np.testing.assert_allclose(F.gradient(THETA), gradient, rtol=1e-9)
    np.testing.assert_allclose(
        F.hessian(THETA).toarray(), hessian, rtol=1e-9, atol=1e-9 * np.abs(hessian).max()
    )


def test_verify_passes():
    found = mfdeq.verify(reaction_trajectory(), THETA, LOSS)
    assert found, str(found)


@pytest.mark.parametrize("checkpoints", [1, 2, 3])
def test_checkpoints_change_no_bit(checkpoints):
    everything = mfdeq.solve(reaction_trajectory(), THETA)
    some = mfdeq.solve(reaction_trajectory(checkpoints), THETA)
    np.testing.assert_array_equal(some.state, everything.state)
    np.testing.assert_array_equal(some.gradient(LOSS), everything.gradient(LOSS))
    V = np.random.default_rng(3).standard_normal((PARAMS, 2))
    H = some.hessian(LOSS), everything.hessian(LOSS)
    np.testing.assert_array_equal(H[0] @ V, H[1] @ V)
    assert len(some.linearized.linearization.d_state.linearized._held) <= checkpoints
    assert len(some.factor.working.factors.current) <= checkpoints
    assert some.report.linear.setups > everything.report.linear.setups


# One factor for all steps that share their matrix.


def heat(lengths, **options):
    step = Heat(40, lengths)
    return mfdeq.trajectory(step, len(lengths), np.sin(np.arange(40.0)), **options)


def heat_params(count):
    return np.concatenate([[0.7, 0.3], 0.1 * np.cos(np.arange(count))])


HEAT_LOSS = mfdeq.LeastSquares(observe=40 * 7 + np.array([5, 20, 31]), data=np.ones(3))


@pytest.mark.parametrize("checkpoints", [None, 3])
def test_equal_steps_share_one_factor(checkpoints):
    model = heat([0.05] * 8, checkpoints=checkpoints)
    eq = mfdeq.solve(model, heat_params(8), error_estimates=False)
    assert eq.report.forward.setups == 1
    eq.gradient(HEAT_LOSS)
    eq.hessian(HEAT_LOSS) @ np.ones(10)
    assert eq.report.linear.setups == 0


def test_different_matrices_are_told_apart_without_comparing_them(monkeypatch):
    found_equal = []

    def counted(A, B):
        found_equal.append(have_equal_entries(A, B))
        return found_equal[-1]

    monkeypatch.setattr("mfdeq.compositions.checked_steps.have_equal_entries", counted)
    mfdeq.solve(reaction_trajectory(), THETA)
    assert len(found_equal) >= 3 * COUNT
    assert all(found_equal)


def test_steps_of_different_length_have_a_factor_for_each_length():
    eq = mfdeq.solve(heat([0.05, 0.05, 0.1, 0.1, 0.05, 0.1, 0.1, 0.05]), heat_params(8))
    eq.gradient(HEAT_LOSS)
    assert eq.report.forward.setups + eq.report.linear.setups == 2
    reference = mfdeq.solve(
        heat([0.05, 0.05, 0.1, 0.1, 0.05, 0.1, 0.1, 0.05]), heat_params(8), method="newton"
    )
    np.testing.assert_allclose(eq.state, reference.state, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(eq.gradient(HEAT_LOSS), reference.gradient(HEAT_LOSS), rtol=1e-9)


@pytest.mark.parametrize(
    "solver",
    [
        mfdeq.Direct(),
        mfdeq.Krylov(preconditioner=mfdeq.AMG()),
        mfdeq.Krylov("cg", preconditioner=mfdeq.Jacobi()),
        mfdeq.Krylov(preconditioner=mfdeq.ILU()),
    ],
    ids=str,
)
def test_a_given_solver_is_that_of_each_step(solver):
    model, theta = heat([0.05] * 8), heat_params(8)
    eq = mfdeq.solve(model, theta, solver=solver)
    reference = mfdeq.solve(model, theta)
    np.testing.assert_allclose(eq.gradient(HEAT_LOSS), reference.gradient(HEAT_LOSS), rtol=1e-7)
    v = np.arange(10.0)
    np.testing.assert_allclose(
        eq.hessian(HEAT_LOSS) @ v, reference.hessian(HEAT_LOSS) @ v, rtol=1e-6
    )
    assert eq.report.forward.setups + eq.report.linear.setups == 1
    assert eq.report.linear.worst_residual <= 1e-10


def test_factors_of_other_parameters_are_dropped():
    F = mfdeq.ReducedFunctional(reaction_trajectory(), LOSS)
    for shift in (0.0, 0.1, 0.2):
        F.gradient(THETA + shift)
    # Those of the steps, and of the latest iterates, which may serve as the first of the next.
    assert len(F.equilibrium(THETA + 0.2).factor.working.factors.current) <= COUNT + 8


def test_a_second_equilibrium_reuses_an_equal_factor():
    F = mfdeq.ReducedFunctional(heat([0.05] * 8), HEAT_LOSS)
    theta = heat_params(8)
    F.gradient(theta)
    other = theta.copy()
    other[3:] += 0.2  # sources only: the matrix is the same
    F.gradient(other)
    assert F.equilibrium(other).report.forward.setups == 0
    assert F.equilibrium(other).report.linear.setups == 0


def test_float32_trajectories_stay_in_float32():
    theta = THETA.astype("float32")

    class Single(Reaction):
        def linearize(self, h, previous, theta, k):
            found = super().linearize(*(x.astype(float) for x in (h, previous, theta)), k)
            single = [
                getattr(found, name).astype("float32")
                for name in ("d_state", "d_previous", "d_params")
            ]
            return mfdeq.StepLinearization(*single)

    def single(value):
        return lambda theta: value(theta).astype("float32")

    begin = mfdeq.Start(single(START.value), single(START.d_params))
    eq = mfdeq.solve(mfdeq.trajectory(Single(), COUNT, begin), theta)
    assert eq.steps.dtype == "float32"
    reference = mfdeq.solve(reaction_trajectory(), THETA)
    loss = mfdeq.LeastSquares(observe=np.array([1, 4]), data=np.zeros(2, "float32"))
    double = mfdeq.LeastSquares(observe=np.array([1, 4]), data=np.zeros(2))
    np.testing.assert_allclose(eq.steps, reference.steps, rtol=1e-4)
    np.testing.assert_allclose(eq.gradient(loss), reference.gradient(double), rtol=1e-4)
