"""Which derivatives of a model the Hessian and its Gauss-Newton part evaluate."""

from __future__ import annotations

import numpy as np
import pytest

import mfdeq

N, P = 3, 2
RNG = np.random.default_rng(5)
COUPLING = RNG.standard_normal((N, P))
THETA = np.array([0.4, -0.3])
LOSS = mfdeq.LeastSquares(RNG.standard_normal((4, N)), RNG.standard_normal(4), 2.0)
PRIOR = mfdeq.QuadraticPrior(np.array([[2.0, 0.5], [0.5, 1.0]]))


class Cubic(mfdeq.ResidualModel):
    """h + h³ = C theta², where the curvature is left out or counted."""

    state_size, param_size = N, P

    def __init__(self, curvatures: list | None = None) -> None:
        self.curvatures = curvatures

    def residual(self, h, theta):
        return h + h**3 - COUPLING @ theta**2

    def linearize(self, h, theta):
        def curvature(lam):
            self.curvatures.append(lam)
            return mfdeq.Curvature(
                state_state=np.diag(6.0 * lam * h), params_params=-np.diag(2.0 * COUPLING.T @ lam)
            )

        return mfdeq.Linearization(
            d_state=np.diag(1.0 + 3.0 * h**2),
            d_params=-COUPLING * (2.0 * theta),
            curvature=None if self.curvatures is None else curvature,
        )


class CubicStep(mfdeq.StepModel):
    """The implicit Euler step of dh/dt = C theta² - h³, without a curvature."""

    state_size, param_size = N, P

    def residual(self, h, previous, theta, k):
        return h - previous + 0.5 * (h**3 - COUPLING @ theta**2)

    def linearize(self, h, previous, theta, k):
        return mfdeq.StepLinearization(
            d_state=np.eye(N) + np.diag(1.5 * h**2),
            d_previous=-np.eye(N),
            d_params=-COUPLING * theta,
        )


def gauss_newton_of(eq, loss):
    """Return Z' ∇²L Z of a loss of the state alone, by dense products."""
    Z = eq.sensitivity.toarray()
    curvature = loss.curvature_operator(eq.state, eq.params).state_state.toarray()
    return Z.T @ curvature @ Z


def trajectory():
    last = mfdeq.LeastSquares(np.arange(N, 2 * N), np.zeros(N), 3.0)
    return mfdeq.trajectory(CubicStep(), 2, np.ones(N)), last


@pytest.mark.parametrize("made", [lambda: (Cubic(), LOSS), trajectory], ids=["model", "trajectory"])
def test_gauss_newton_part_needs_no_curvature_of_the_model(made):
    model, loss = made()
    eq = mfdeq.solve(model, THETA)
    G = eq.hessian(loss + PRIOR).gauss_newton
    expected = gauss_newton_of(eq, loss) + PRIOR.precision
    V = RNG.standard_normal((P, 3))
    np.testing.assert_allclose(G @ V, expected @ V, rtol=1e-9)
    np.testing.assert_allclose(G.H @ V[:, 0], expected @ V[:, 0], rtol=1e-9)
    product, error = G.with_error(V[:, 0])
    np.testing.assert_allclose(product, expected @ V[:, 0], rtol=1e-9)
    assert np.linalg.norm(error) <= 1e-6 * np.linalg.norm(product)
    np.testing.assert_allclose(G.to_accuracy(1e-3) @ V[:, 0], expected @ V[:, 0], rtol=1e-3)


def scaled(scale):
    """Return a model like `Cubic` with another A."""

    class Scaled(Cubic):
        def residual(self, h, theta):
            return scale * super().residual(h, theta)

        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            return mfdeq.Linearization(scale * given.d_state, scale * given.d_params)

    return Scaled()


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["with equal A", "with different A"])
def test_gauss_newton_part_of_a_sum_needs_no_curvature_of_its_models(scale):
    other = mfdeq.LeastSquares([0], np.ones(1), 5.0)
    F = mfdeq.SumFunctional(
        [
            mfdeq.ReducedFunctional(Cubic(), LOSS),
            mfdeq.ReducedFunctional(scaled(scale), other),
        ],
        weights=[2.0, 0.5],
        prior=PRIOR,
    )
    H = F.hessian(THETA)
    first, second = F.equilibrium(THETA).parts
    expected = 2.0 * gauss_newton_of(first, LOSS) + 0.5 * gauss_newton_of(second, other)
    np.testing.assert_allclose(H.gauss_newton.toarray(), expected + PRIOR.precision, rtol=1e-9)
    with pytest.raises(mfdeq.ModelError, match=r"experiment 0 \(and 1\): .* no curvature"):
        H @ THETA


USES = {
    "a product": lambda H: H @ THETA,
    "a product with its error": lambda H: H.with_error(THETA),
    "the dynamics": lambda H: H.dynamics @ THETA,
    "the Lagrangian": lambda H: H.lagrangian,
    "a term": lambda H: H.terms["dynamics_mixed"],
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_hessian_of_a_model_without_curvature_says_how_to_give_one(use):
    with pytest.raises(mfdeq.ModelError, match="no curvature") as raised:
        use(mfdeq.solve(Cubic(), THETA).hessian(LOSS))
    assert "pass Linearization(curvature=" in str(raised.value)
    assert "mfdeq.mixed(model)" in str(raised.value)


def test_mixed_gives_a_model_the_curvature_that_it_lacks():
    mixed = mfdeq.solve(mfdeq.mixed(Cubic()), THETA).hessian(LOSS)
    given = mfdeq.solve(Cubic([]), THETA).hessian(LOSS)
    np.testing.assert_allclose(mixed.toarray(), given.toarray(), rtol=1e-5)


def test_hessian_of_a_trajectory_without_curvature_says_how_to_give_that_of_a_step():
    model, loss = trajectory()
    H = mfdeq.solve(model, THETA).hessian(loss)
    with pytest.raises(mfdeq.ModelError, match="no curvature") as raised:
        H @ THETA
    assert "pass StepLinearization(curvature=" in str(raised.value)
    assert "mfdeq.mixed(model)" in str(raised.value)


def test_hessian_of_a_constrained_model_without_curvature_says_to_mix_it_first():
    model = mfdeq.from_function(lambda h, p: p[0] * h - p[1] * h[::-1], 2, 2, "residual", order=1)
    model = mfdeq.constrain(model, mfdeq.LinearConstraint(np.ones(2), 1.0))
    H = mfdeq.solve(model, np.ones(2)).hessian(mfdeq.LeastSquares([0], np.zeros(1)))
    with pytest.raises(mfdeq.ModelError, match=r"mfdeq\.constrain\(mfdeq\.mixed\(model\)"):
        H @ np.ones(2)


def test_curvature_is_evaluated_once_for_the_hessian_and_its_parts():
    curvatures: list = []
    eq = mfdeq.solve(Cubic(curvatures), THETA, error_estimates=False)
    H = eq.hessian(LOSS)
    total = H @ THETA
    np.testing.assert_allclose(total, H.gauss_newton @ THETA + H.dynamics @ THETA, rtol=1e-12)
    np.testing.assert_allclose(total, sum(term @ THETA for term in H.terms.values()), rtol=1e-12)
    assert len(curvatures) == 1
    np.testing.assert_allclose(np.abs(curvatures[0]), np.abs(H.adjoint_state))
