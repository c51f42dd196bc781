"""Steps made of models: with constraints, and of batches of samples; trajectories in a sum."""

from __future__ import annotations

import numpy as np
import pytest
from support.step_models import COUNT, PARAMS, THETA, reaction_trajectory

import mfdeq

N = 4


class Network(mfdeq.ResidualModel):
    """Currents of a network with nonlinear branches: they sum to zero, whatever the potentials.

    The parameters are (previous, theta), theta with the strengths of two sources.
    """

    state_size, param_size = N, N + 2
    incidence = np.diff(np.eye(N), axis=0)
    sources = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, 0.5], [0.0, -1.0]])

    def residual(self, h, given):
        drop = self.incidence @ h
        branch = drop + 0.1 * drop**3
        return self.incidence.T @ branch - self.sources @ given[N:] * (1.0 + given[0])

    def linearize(self, h, given):
        D, drop = self.incidence, self.incidence @ h
        d_params = np.zeros((N, N + 2))
        d_params[:, N:] = -self.sources * (1.0 + given[0])
        d_params[:, 0] = -self.sources @ given[N:]

        def curvature(lam):
            pp = np.zeros((N + 2, N + 2))
            pp[0, N:] = pp[N:, 0] = -(lam @ self.sources)
            return mfdeq.Curvature(
                params_params=pp, state_state=D.T @ np.diag(0.6 * drop * (D @ lam)) @ D
            )

        def second(a, b):
            cross = a[0][0] * b[0][N:] + b[0][0] * a[0][N:]
            return D.T @ (0.6 * drop * (D @ a[1]) * (D @ b[1])) - self.sources @ cross

        return mfdeq.Linearization(
            D.T @ np.diag(1.0 + 0.3 * drop**2) @ D, d_params, curvature, second
        )


def constrained_step():
    half = np.concatenate([np.full(N, 0.5), np.zeros(2)])
    total = mfdeq.LinearConstraint(np.ones(N), lambda given: half @ given, lambda given: half)
    return mfdeq.step_from_model(mfdeq.constrain(Network(), total))


def test_steps_may_be_constrained():
    model = mfdeq.trajectory(constrained_step(), 3, np.arange(4.0))
    theta = np.array([0.4, -0.2])
    eq = mfdeq.solve(model, theta)
    np.testing.assert_allclose(eq.steps.sum(axis=1), [3.0, 1.5, 0.75], rtol=1e-10)
    loss = mfdeq.LeastSquares(observe=[1, 6, 11], data=np.ones(3))
    found = mfdeq.verify(model, theta, loss)
    assert found, str(found)


def test_steps_may_be_batched():
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    samples, n = 3, 2
    data = np.arange(samples), np.array([1.0, 2.0, 3.0])

    def one(h, given, args):
        i, rate = args
        previous = given["previous"][i]
        return h - previous + 0.1 * rate * given["theta"][0] * h**3 - 0.1 * given["theta"][1:]

    example = {"previous": np.zeros((samples, n)), "theta": np.ones(3)}
    batch = mfdeq.from_jax(one, np.zeros(n), example, "residual", args=data, batched=True)
    model = mfdeq.trajectory(mfdeq.step_from_model(batch), 4, np.ones(samples * n))
    theta = np.array([0.5, 0.2, -0.1])
    eq = mfdeq.solve(model, theta)

    def all_steps(h, theta):
        states = jnp.concatenate([jnp.ones((1, samples, n)), h.reshape(4, samples, n)])
        rates = jnp.asarray(data[1])[:, None]
        change = 0.1 * rates * theta[0] * states[1:] ** 3 - 0.1 * theta[1:]
        return (states[1:] - states[:-1] + change).ravel()

    truth = mfdeq.solve(
        mfdeq.from_jax(all_steps, np.zeros(4 * samples * n), theta, "residual"), theta
    )
    np.testing.assert_allclose(eq.state, truth.state, rtol=1e-10)
    loss = mfdeq.LeastSquares(observe=[0, 9, 23], data=np.zeros(3))
    np.testing.assert_allclose(eq.gradient(loss), truth.gradient(loss), rtol=1e-9)
    np.testing.assert_allclose(
        eq.hessian(loss) @ np.eye(3), truth.hessian(loss) @ np.eye(3), rtol=1e-8
    )


def test_a_sum_holds_trajectories():
    loss = mfdeq.LeastSquares(observe=np.array([1, 4, 11]), data=np.zeros(3))
    model = reaction_trajectory()
    other = mfdeq.from_function(lambda h, theta: h + h**3 - theta, PARAMS, PARAMS, "residual")
    misfit = mfdeq.LeastSquares(observe=[0, 3], data=np.ones(2))
    parts = [mfdeq.ReducedFunctional(model, loss), mfdeq.ReducedFunctional(other, misfit)]
    F = parts[0] + 0.5 * parts[1]
    v = np.arange(1.0, PARAMS + 1)
    alone = [mfdeq.solve(model, THETA), mfdeq.solve(other, THETA)]
    expected = alone[0].gradient(loss) + 0.5 * alone[1].gradient(misfit)
    np.testing.assert_allclose(F.gradient(THETA), expected, rtol=1e-9)
    products = alone[0].hessian(loss) @ v + 0.5 * (alone[1].hessian(misfit) @ v)
    np.testing.assert_allclose(F.hessp(THETA, v), products, rtol=1e-6)


def test_two_trajectories_with_the_same_steps_make_a_sum():
    losses = [mfdeq.LeastSquares(observe=[i, 8 + i], data=np.ones(2)) for i in range(2)]
    F = mfdeq.SumFunctional([mfdeq.ReducedFunctional(reaction_trajectory(), x) for x in losses])
    eq = mfdeq.solve(reaction_trajectory(), THETA)
    expected = sum(eq.gradient(loss) for loss in losses)
    np.testing.assert_allclose(F.gradient(THETA), expected, rtol=1e-9)
    product = sum(eq.hessian(loss) @ np.ones(PARAMS) for loss in losses)
    np.testing.assert_allclose(F.hessp(THETA, np.ones(PARAMS)), product, rtol=1e-8)


def test_what_is_no_step_is_refused():
    with pytest.raises(mfdeq.ArgumentError, match=r"expected an mfdeq.FixedPointModel or"):
        mfdeq.step_from_model(mfdeq.trajectory(constrained_step(), COUNT, np.ones(N)).step)
    small = mfdeq.from_function(lambda h, theta: h - theta, 2, 2, "residual")
    with pytest.raises(mfdeq.ArgumentError, match="expected more parameters than unknowns"):
        mfdeq.step_from_model(small)
