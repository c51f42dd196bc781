"""The derivative with respect to the parameters is computed when it is first used."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.cases import close

import mfdeq

N, P = 12, 30
MIX = np.random.default_rng(3).standard_normal((N, P)) / P
THETA = np.linspace(0.5, 2.0, P)
LOSS = mfdeq.LeastSquares(np.arange(N), np.zeros(N))


def residual(h, theta):
    return 2 * h + h**3 - 0.1 * np.roll(h, 1) - MIX @ theta**2


class ByHand(mfdeq.ResidualModel):
    state_size, param_size = N, P

    def residual(self, h, theta):
        return residual(h, theta)

    def linearize(self, h, theta):
        d_state = np.diag(2 + 3 * h**2) - 0.1 * np.roll(np.eye(N), 1, axis=0)
        return mfdeq.Linearization(d_state, -2 * MIX * theta)


class StateByHand(ByHand):
    def linearize(self, h, theta):
        return mfdeq.Linearization(super().linearize(h, theta).d_state, None)


class Function:
    """A function that counts its evaluations, and those at which only one parameter is changed."""

    def __init__(self, real=True, function=residual):
        self.real, self.function, self.calls, self.columns = real, function, 0, 0

    def __call__(self, h, theta):
        self.calls += 1
        self.columns += np.count_nonzero(theta != THETA) == 1
        return self.function(np.real(h), np.real(theta)) if self.real else self.function(h, theta)


@pytest.mark.parametrize("sparsity", [None, "detect"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("real", [True, False])
def test_a_solve_evaluates_no_parameter_derivative(real, order, sparsity):
    f = Function(real)
    model = mfdeq.from_function(f, N, P, "residual", order=order, sparsity=sparsity)
    eq = mfdeq.solve(model, THETA, error_estimates=False)
    assert f.columns == 0  # tests of the noise and of the complex step change all parameters
    gradient = eq.gradient(LOSS)
    assert f.columns >= (2 if real else 1) * P
    close(gradient, mfdeq.solve(ByHand(), THETA).gradient(LOSS), 1e-9)
    before = f.calls
    eq.gradient(2 * LOSS)
    eq.sensitivity @ THETA
    assert f.calls == before


def test_a_solve_with_a_state_derivative_by_hand_evaluates_no_other_derivative():
    f = Function()
    mfdeq.from_function(f, N, P, "residual").linearize(np.ones(N), THETA)
    one, f.calls = f.calls, 0
    model = mfdeq.mixed(StateByHand(), mfdeq.from_function(f, N, P, "residual"))
    eq = mfdeq.solve(model, THETA, error_estimates=False)
    assert f.calls <= 1.2 * one  # one linearization, for the report
    assert f.columns == 0
    close(eq.gradient(LOSS), mfdeq.solve(ByHand(), THETA).gradient(LOSS), 1e-9)


def test_a_solve_with_jax_differentiates_with_respect_to_the_state_only():
    jax = pytest.importorskip("jax", reason="the jax extra is not installed")
    differentiated = []

    @jax.custom_jvp
    def source(theta):
        return MIX @ theta**2

    @source.defjvp
    def _(theta, tangent):
        differentiated.append(1)
        return MIX @ theta[0] ** 2, 2 * MIX @ (theta[0] * tangent[0])

    def f(h, theta):
        return 2 * h + h**3 - 0.1 * jax.numpy.roll(h, 1) - source(theta)

    model = mfdeq.from_jax(f, np.zeros(N), THETA, "residual")
    eq = mfdeq.solve(model, THETA)
    assert not differentiated
    gradient = eq.gradient(LOSS)
    assert differentiated
    close(gradient, mfdeq.solve(ByHand(), THETA).gradient(LOSS), 1e-12)


def test_a_solve_with_torch_differentiates_with_respect_to_the_state_only():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    mix, differentiated = torch.as_tensor(MIX), []

    class Source(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(theta):
            return mix @ theta**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, u):
            differentiated.append(1)
            return 2 * ctx.saved_tensors[0] * (mix.T @ u)

    def f(h, theta):
        return 2 * h + h**3 - 0.1 * torch.roll(h, 1) - Source.apply(theta)

    model = mfdeq.from_torch(f, np.zeros(N), THETA, "residual")
    eq = mfdeq.solve(model, THETA)
    assert not differentiated
    gradient = eq.gradient(LOSS)
    assert differentiated
    close(gradient, mfdeq.solve(ByHand(), THETA).gradient(LOSS), 1e-12)


def test_the_parameter_derivative_is_that_at_the_point_of_the_linearization():
    model = mfdeq.from_function(residual, N, P, "residual")
    h, theta = np.ones(N), THETA.copy()
    at = model.linearize(h, theta)
    h[:], theta[:] = 7.0, 9.0
    close(at.d_params, -2 * MIX * THETA, 1e-12)


@pytest.mark.parametrize("real", [True, False])
def test_a_function_that_changed_since_the_solve_is_refused(real):
    scale = [1.0]
    f = Function(real, lambda h, theta: residual(h, scale[0] * theta))
    model = mfdeq.from_function(f, N, P, "residual")
    eq = mfdeq.solve(model, THETA)
    early = mfdeq.solve(model, THETA)
    early.param_operator @ THETA
    scale[0] = 1.1
    with pytest.raises(mfdeq.ModelError, match="value of the linearization at the same point"):
        _ = eq.param_operator
    assert early.param_operator.shape == (N, P)


def test_a_parameter_derivative_that_cannot_be_evaluated_is_an_error_at_its_first_use():
    def f(h, theta):
        if not np.array_equal(theta, THETA) and broken:
            raise ArithmeticError("no other parameters")
        return np.real(residual(h, theta))

    broken = False
    eq = mfdeq.solve(mfdeq.from_function(f, N, P, "residual"), THETA, error_estimates=False)
    broken = True
    for _ in range(2):
        with pytest.raises(ArithmeticError, match="no other parameters") as caught:
            eq.gradient(LOSS)
        assert any("d_params of mfdeq.from_function(f)" in note for note in caught.value.__notes__)
    broken = False
    close(eq.gradient(LOSS), mfdeq.solve(ByHand(), THETA).gradient(LOSS), 1e-9)


def test_nan_in_a_parameter_derivative_is_an_error_that_names_the_entries():
    pytest.importorskip("jax", reason="the jax extra is not installed")
    theta = THETA.copy()
    theta[4] = 0.0

    def f(h, theta):
        return h - (theta[:N] ** 2) ** 0.4

    pattern = np.eye(N, P)
    model = mfdeq.from_jax(f, np.zeros(N), theta, "residual", sparsity=(np.eye(N), pattern))
    eq = mfdeq.solve(model, theta)
    with pytest.raises(mfdeq.ModelError, match="equation 4 with respect to parameter 4"):
        eq.gradient(LOSS)


@pytest.mark.parametrize("d_params", [np.ones((N, P + 1)), np.full((N, P), np.nan), None])
def test_a_parameter_derivative_by_hand_is_checked_in_the_solve(d_params):
    class Wrong(ByHand):
        def linearize(self, h, theta):
            return mfdeq.Linearization(super().linearize(h, theta).d_state, d_params)

    with pytest.raises(mfdeq.ModelError, match=r"d_params of Wrong\.linearize"):
        mfdeq.solve(Wrong(), THETA)


def test_the_report_has_the_digits_of_both_derivatives_once_they_are_computed():
    eq = mfdeq.solve(mfdeq.from_function(Function(), N, P, "residual"), THETA)
    derivatives = eq.report.derivatives
    assert "digits" in derivatives["d_state"]
    assert "central differences" in derivatives["d_params"]
    for field in ("d_params", "curvature", "second"):
        assert "digits" not in derivatives[field]
    eq.gradient(LOSS)
    assert all("digits" in source for source in eq.report.derivatives.values())


def test_a_field_of_a_deferred_linearization_can_be_replaced():
    model = mfdeq.from_function(lambda h, theta: h - theta**2, 2, 2, "residual")
    given = model.linearize(np.ones(2), np.ones(2))
    changed = dataclasses.replace(given, d_state=np.eye(2))
    np.testing.assert_allclose(mfdeq_matrix(changed.d_params), [[-2.0, 0.0], [0.0, -2.0]])
    np.testing.assert_array_equal(changed.d_state, np.eye(2))
    assert changed.curvature is given.curvature


def mfdeq_matrix(x):
    return np.asarray(x @ np.eye(2))
