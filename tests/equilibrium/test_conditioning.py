"""The fold guard: the distance of A from singularity, and the warnings and errors near a fold."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.equilibrium.smallest_singular import MAX_SOLVE_PAIRS, smallest_singular

LAPLACIAN = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(40, 40), format="csr")
SOLVERS = {
    "direct": mfdeq.Direct(),
    "cg": mfdeq.Krylov("cg", preconditioner=mfdeq.Jacobi()),
    "gmres": mfdeq.Krylov("gmres"),
}


class Linear(mfdeq.ResidualModel):
    """A h = theta."""

    def __init__(self, A):
        self.A, self.state_size, self.param_size = A, A.shape[0], A.shape[0]

    def residual(self, h, theta):
        return self.A @ h - theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(self.A, -np.eye(len(h)), lambda lam: mfdeq.Curvature())


class Fold(mfdeq.ResidualModel):
    """(h - 1)² / 2 = theta in two equations, with a fold at theta = 0."""

    state_size, param_size = 2, 1

    def residual(self, h, theta):
        return np.array([h[0] - h[1], h[1] ** 2 / 2 - h[0] + 0.5 - theta[0]])

    def initial_state(self, theta):
        return np.full(2, 2.0)

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            np.array([[1.0, -1.0], [-1.0, h[1]]]),
            np.array([[0.0], [-1.0]]),
            lambda lam: mfdeq.Curvature(state_state=np.diag([0.0, lam[1]])),
        )


def random_nonsymmetric(n):
    rng = np.random.default_rng(3)
    return np.eye(n) + 0.5 * rng.standard_normal((n, n)) / n**0.5


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shift", [0.0, -0.0058])  # the lowest eigenvalue is 0.00587
def test_the_least_singular_value_and_its_vectors_match_the_svd(solver, shift):
    A = (LAPLACIAN + shift * sp.identity(40)).tocsr()
    eq = mfdeq.solve(Linear(A), np.ones(40), solver=SOLVERS[solver])
    found, exact = eq.smallest_singular, np.linalg.svd(A.toarray())
    assert 1 - 1e-8 < found.value / exact[1][-1] < 1.05
    assert abs(found.right @ exact[2][-1]) > 0.95
    assert abs(found.left @ exact[0][:, -1]) > 0.95
    np.testing.assert_allclose(A.T @ found.left, found.value * found.right, atol=1e-2 * found.value)
    assert eq.report.smallest_singular == found.value
    assert f"{found.value:.1e}" in str(eq.report)


def test_left_and_right_vectors_are_not_swapped():
    A = np.array([[1.0, 1.0], [0.0, 1e-3]])
    found = mfdeq.solve(Linear(A), np.ones(2)).smallest_singular
    left, sigma, right = np.linalg.svd(A)
    assert abs(found.left @ left[:, 1]) > 1 - 1e-9
    assert abs(found.right @ right[1]) > 1 - 1e-9
    assert found.value == pytest.approx(sigma[1])


def test_a_regular_matrix_is_judged_by_one_pair_of_solves():
    A = random_nonsymmetric(60)
    eq = mfdeq.solve(Linear(sp.csr_matrix(A)), np.ones(60))
    _ = eq.factor
    counts = eq.report.linear
    assert counts.adjoint_solves == 1
    assert counts.solves <= 3
    exact, judged = np.linalg.svd(A)[1][-1], eq.report.smallest_singular
    assert 0.99 < judged / exact < 3.0
    assert 0.99 * exact < eq.smallest_singular.value < min(1.3 * exact, judged)
    assert eq.report.smallest_singular == eq.smallest_singular.value
    assert counts.adjoint_solves > 1


def test_a_nearly_singular_matrix_takes_few_pairs_and_fewer_along_a_path():
    left, sigma, right = np.linalg.svd(random_nonsymmetric(60))
    sigma[-1] = 1e-9
    A = sp.csr_matrix(left * sigma @ right)
    loss = mfdeq.LeastSquares(np.arange(60), np.zeros(60))
    eq = mfdeq.solve(Linear(A), A @ np.ones(60))
    _ = eq.factor
    counts = eq.report.linear
    assert 4 <= counts.solves + counts.adjoint_solves <= 2 * MAX_SOLVE_PAIRS + 2
    assert eq.report.smallest_singular == pytest.approx(1e-9, rel=1e-3)
    F = mfdeq.ReducedFunctional(Linear(A), loss)
    taken = []
    for size in (1.0, 1.1):
        eq = F.equilibrium(A @ np.full(60, size))
        _ = eq.factor
        taken.append(eq.report.linear.adjoint_solves)
    assert taken[1] == 1 < taken[0]


def test_a_nearby_fold_warns_and_a_fold_raises():
    """Near the fold, rounding changes h, and so A, by eps / (h - 1)."""
    model, loss = Fold(), mfdeq.LeastSquares(np.array([1]), np.zeros(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = mfdeq.solve(model, np.array([1e-4]))
        eq.gradient(loss)
    assert eq.report.digits_left > 10
    with pytest.warns(mfdeq.NearSingularWarning, match=r"leaves 3\.\d of 15\.7 digits") as said:
        mfdeq.solve(model, np.array([1e-12])).gradient(loss)
    assert said[0].filename == __file__
    with pytest.warns(mfdeq.NearSingularWarning, match="fold") as said:
        eq = mfdeq.solve(model, np.array([1e-17]))
    assert said[0].filename == __file__
    with pytest.raises(mfdeq.SingularStateError, match="fold"):
        eq.gradient(loss)


def test_a_rough_state_causes_no_warning_of_a_fold():
    model, loss = Fold(), mfdeq.LeastSquares(np.array([1]), np.zeros(1))
    eq = mfdeq.solve(model, np.array([0.1]), rtol=1e-2, error_estimates=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", mfdeq.AccuracyWarning)  # of the gradient
        eq.gradient(loss)
    assert eq.report.digits_left < 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("side", ["rows", "columns", "both"])
def test_bad_scaling_causes_no_warning(side, dtype):
    """Mixed units, such as pascals and metres, in the equations, the state or both."""
    span = 8 if dtype == "float64" else 3
    units = sp.diags(10.0 ** np.random.default_rng(0).uniform(-span, span, 40))
    A = LAPLACIAN + sp.identity(40)
    A = units @ A if side == "rows" else A @ units if side == "columns" else units @ A @ units
    A = A.tocsr().astype(dtype)
    loss = mfdeq.LeastSquares(np.arange(40), np.zeros(40, dtype))
    with warnings.catch_warnings():
        # Rounding of A @ ones leaves few digits of the unknowns with the smallest columns.
        warnings.simplefilter("ignore", mfdeq.AccuracyWarning)
        eq = mfdeq.solve(Linear(A), A @ np.ones(40, dtype))
        eq.gradient(loss)
    assert eq.report.digits_left > (12 if dtype == "float64" else 4)


@pytest.mark.parametrize(
    "solver", ["auto", mfdeq.Direct(), mfdeq.Krylov(preconditioner=mfdeq.ILU())]
)
def test_singular_set_up_carries_the_state_and_the_report(solver):
    model = mfdeq.from_function(lambda h, theta: h**2 - theta, 2, 2, "residual")
    eq = mfdeq.equilibrium_at(model, np.zeros(2), np.zeros(2), solver=solver)
    with pytest.raises(mfdeq.SingularStateError) as caught:
        eq.gradient(mfdeq.LeastSquares(observe=np.arange(2), data=np.ones(2)))
    np.testing.assert_array_equal(caught.value.best, eq.state)
    assert caught.value.report is eq.report


def test_report_tells_an_exact_solve_from_none():
    model = mfdeq.from_function(lambda h, theta: h - theta, 2, 2, "residual")
    eq = mfdeq.solve(model, np.ones(2))
    lines = str(eq.report).partition("forward solves")[2]
    assert "1 set-up" in lines
    assert "iteration" not in lines  # a direct solver has none
    assert "relative residual" not in lines
    eq.gradient(mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2)))
    assert eq.report.linear.full_solves > 0
    lines = str(eq.report).partition("derivative solves")[2]
    assert "none of them" not in lines
    assert "largest relative residual" in lines


def test_a_gradient_evaluates_no_second_derivatives():
    class NoCurvature(Fold):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)

            def refuse(*_):
                raise AssertionError("second derivatives were evaluated")

            return mfdeq.Linearization(given.d_state, given.d_params, refuse, refuse)

    eq = mfdeq.solve(NoCurvature(), np.array([0.1]))
    truth = mfdeq.solve(Fold(), np.array([0.1]))
    loss = mfdeq.LeastSquares(np.array([1]), np.zeros(1))
    np.testing.assert_array_equal(eq.gradient(loss), truth.gradient(loss))
    assert eq.report.digits_left == truth.report.digits_left > 10


@pytest.mark.parametrize("n", [2, 5, 12, 40])
def test_the_least_singular_value_of_a_small_matrix_is_right_although_others_are_near(n):
    rng = np.random.default_rng(n)
    for _ in range(10):
        left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
        A = left @ np.diag(rng.uniform(1.0, 1.6, n)) @ right.T
        found = mfdeq.solve(Linear(A), np.ones(n), solver=mfdeq.Direct()).smallest_singular
        assert found.value == pytest.approx(np.linalg.svd(A)[1][-1])


def test_the_least_singular_value_is_that_of_the_matrix_in_its_own_units():
    units = np.diag([1.0, 1e6, 1e-5])
    A = units @ np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
    eq = mfdeq.solve(Linear(A), np.diag(units))
    _, sigma, right = np.linalg.svd(A)
    assert eq.smallest_singular.value == pytest.approx(sigma[-1])
    assert abs(eq.smallest_singular.right @ right[-1]) == pytest.approx(1.0)
    assert eq.report.smallest_singular == eq.smallest_singular.value


def test_a_null_vector_is_found_by_a_random_vector_that_is_nearly_orthogonal_to_it():
    """With a component of 7e-4, solves to 1e-3 succeed although A is singular."""
    n = 400
    x = Backend.of(np.zeros(n)).random(n, seed=11)
    x = x / np.linalg.norm(x)
    null = np.random.default_rng(0).standard_normal(n)
    null -= (null @ x) * x
    null = null / np.linalg.norm(null) + 7e-4 * x
    A = np.eye(n) - np.outer(null, null) / (null @ null)
    factor = mfdeq.Krylov("gmres", preconditioner=mfdeq.Jacobi()).setup(A)
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        smallest_singular(factor)
