"""What a model with structure may say of itself: its factor, its forward method, its class."""

from __future__ import annotations

import numpy as np
import pytest

import mfdeq
from mfdeq.equilibrium.equilibrium import Equilibrium
from mfdeq.forward import ModelMethod
from mfdeq.linear import ComposedFactor, PartCounts, Reused, set_up
from mfdeq.operators.matrix_operator import Matrix
from mfdeq.operators.operator import Operator

COUNT, SIZE = 3, 2
THETA = np.array([0.3, -0.2, 0.5, 0.1])


class Blocks(Operator):
    """Independent blocks on the diagonal, with a factor for each."""

    def __init__(self, source, parts):
        super().__init__(source, (COUNT * SIZE, COUNT * SIZE))
        self.parts = parts

    def _columns(self, x):
        return x.reshape(COUNT, SIZE, *x.shape[1:])

    def _apply(self, x):
        return np.concatenate(
            [A._apply(b) for A, b in zip(self.parts, self._columns(x), strict=True)]
        )

    def _apply_adjoint(self, y):
        return np.concatenate(
            [A._apply_adjoint(b) for A, b in zip(self.parts, self._columns(y), strict=True)]
        )

    def identity_minus(self, in_place=False):
        return Blocks(self, [A.identity_minus() for A in self.parts])

    def factor_of_parts(self, solver, counts):
        return BlocksFactor(
            self, [set_up(solver, A, PartCounts(counts)) for A in self.parts], counts
        )


class BlocksFactor(ComposedFactor):
    def _attempt(self, b, rtol, adjoint):
        sides = zip(self.parts, self.A._columns(b), strict=True)
        return np.concatenate([part._attempt(side, rtol, adjoint) for part, side in sides])


class OwnMethod(ModelMethod):
    name = "by parts"
    reason = "its parts are independent"

    def iterate(self, problem, h, solver, monitor):
        for _ in range(100):
            h = h - problem.residual(h)
        monitor.accepts(h, problem.residual(h))


class Parts(Equilibrium):
    @property
    def samples(self):
        return self.state.reshape(COUNT, SIZE)


class Model(mfdeq.FixedPointModel):
    """h = 0.4 cos(W h) + theta-dependent shifts, N = 6 and P = 4."""

    state_size = COUNT * SIZE
    param_size = 4
    equilibrium_class = Parts
    forward_method = OwnMethod()
    weights = np.random.default_rng(3).standard_normal((COUNT, SIZE, SIZE))
    shifts = np.random.default_rng(4).standard_normal((COUNT * SIZE, 4))

    def _inner(self, h):
        return np.einsum("kij,kj->ki", self.weights, h.reshape(COUNT, SIZE))

    def map(self, h, theta):
        return 0.3 * np.cos(self._inner(h)).ravel() + self.shifts @ theta

    def linearize(self, h, theta):
        slopes = -0.3 * np.sin(self._inner(h))[:, :, None] * self.weights
        backend = mfdeq.linear.operator_of(np.eye(1)).backend
        d_state = Blocks(backend, [Matrix(backend, block) for block in slopes])
        return mfdeq.Linearization(d_state=d_state, d_params=self.shifts)


def dense(eq):
    return np.column_stack([eq.state_operator @ e for e in np.eye(COUNT * SIZE)])


@pytest.mark.parametrize(
    "solver", ["auto", mfdeq.Direct(), mfdeq.Krylov(preconditioner=None), mfdeq.Auto(solves=9)]
)
def test_every_solver_sets_up_the_factors_of_the_parts(solver):
    solver = Reused(solver) if isinstance(solver, mfdeq.Auto) else solver
    eq = mfdeq.solve(Model(), THETA, solver=solver)
    A = dense(eq)
    for b in (np.arange(6.0) + 1.0, np.random.default_rng(0).standard_normal((6, 3))):
        np.testing.assert_allclose(eq.inverse @ b, np.linalg.solve(A, b), rtol=1e-8)
        np.testing.assert_allclose(eq.inverse.H @ b, np.linalg.solve(A.T, b), rtol=1e-8)
    assert len(eq.factor.working.parts) == COUNT
    assert eq.report.linear.setups <= COUNT  # none for the whole
    assert eq.report.linear.worst_residual <= 1e-10


def test_a_structured_derivative_of_a_map_keeps_its_structure():
    eq = mfdeq.solve(Model(), THETA)
    assert isinstance(eq.state_operator, Blocks)
    np.testing.assert_allclose(eq.sensitivity.toarray(), np.linalg.solve(dense(eq), Model.shifts))


def test_auto_uses_the_forward_method_of_the_model():
    report = mfdeq.solve(Model(), THETA).report
    assert report.method == "by parts"
    assert report.choices[0] == "method: by parts, because its parts are independent"
    assert report.converged
    assert mfdeq.solve(Model(), THETA, method="by parts").report.method == "by parts"


def test_another_method_can_be_requested():
    eq = mfdeq.solve(Model(), THETA, method="newton")
    assert eq.report.method == "newton"
    np.testing.assert_allclose(eq.state, mfdeq.solve(Model(), THETA).state, rtol=1e-12)


def test_other_models_do_not_know_the_method():
    model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    with pytest.raises(mfdeq.errors.ArgumentError, match="by parts"):
        mfdeq.solve(model, np.ones(2), method="by parts")


def test_the_equilibrium_is_of_the_class_of_the_model():
    eq = mfdeq.solve(Model(), THETA)
    np.testing.assert_array_equal(eq.samples, eq.state.reshape(COUNT, SIZE))
    loss = mfdeq.LeastSquares(observe=np.arange(COUNT * SIZE), data=np.zeros(COUNT * SIZE))
    F = mfdeq.ReducedFunctional(Model(), loss)
    assert isinstance(F.equilibrium(THETA), Parts)
