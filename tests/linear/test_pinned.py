"""Solves with constraints in place of equations, by a matrix with the pattern of A."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.dependent_equations import DependentEquations, check_every_operator
from support.singular_systems import Linear, grid

import mfdeq
from mfdeq.linear import null_space, pinned


@pytest.fixture
def factors(monkeypatch):
    """List the factors that are made."""
    made = []
    original = pinned.PinnedFactor.__init__

    def record(self, *arguments):
        made.append(self)
        original(self, *arguments)

    monkeypatch.setattr(pinned.PinnedFactor, "__init__", record)
    return made


@pytest.mark.parametrize("is_map", [False, True])
@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("redundant", ["detected", "given"])
def test_every_operator_is_that_of_the_dense_bordered_system(is_map, m, redundant, factors):
    equations = DependentEquations.random(is_map, m, form="sparse")
    check_every_operator(equations, "detect" if redundant == "detected" else equations.W)
    assert factors


class Diffusion(mfdeq.ResidualModel):
    """A h + drift h² = load, less its mean for a Neumann problem."""

    def __init__(self, A, balance, nonlinear=False):
        self.A, self.balance, self.nonlinear = A, balance, nonlinear
        self.state_size = self.param_size = A.shape[0]

    def _balanced(self, x):
        return x - x.mean(axis=0) if self.balance else x

    def residual(self, h, theta):
        flux = self.A @ (h + 0.1 * h**3) if self.nonlinear else self.A @ h
        return flux - self._balanced(theta)

    def linearize(self, h, theta):
        n = self.state_size
        A = self.A @ sp.diags(1.0 + 0.3 * h**2) if self.nonlinear else self.A

        def minus_balanced(x):
            return -self._balanced(x)

        B = sp.linalg.LinearOperator(
            (n, n), matvec=minus_balanced, rmatvec=minus_balanced, dtype=float
        )
        return mfdeq.Linearization(
            A,
            B,
            lambda lam: mfdeq.Curvature(
                state_state=sp.diags(0.6 * h * (self.A.T @ lam)) if self.nonlinear else None
            ),
        )


def neumann(n, **options):
    N = n * n
    mean = mfdeq.LinearConstraint(np.full(N, 1.0 / N))
    return mfdeq.constrain(Diffusion(grid(n, True), True, **options), mean, np.ones(N))


SOLVERS = {
    "auto": "auto",
    "CG with AMG": mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()),
    "LU": mfdeq.Direct(),
    "GMRES with ILU": mfdeq.Krylov("gmres", preconditioner=mfdeq.ILU()),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_neumann_problems_keep_their_solver(solver, factors):
    n = 72  # more unknowns than are factorized in any case
    load = np.random.default_rng(0).standard_normal(n * n)
    eq = mfdeq.solve(neumann(n), load, solver=SOLVERS[solver])
    assert isinstance(factors[0].matrix.pinned.array, sp.csr_matrix)
    assert factors[0].matrix.pinned.array.nnz == grid(n, True).nnz
    np.testing.assert_allclose(grid(n, True) @ eq.state, load - load.mean(), atol=1e-8)
    assert abs(eq.state.mean()) < 1e-12
    x, y = np.random.default_rng(1).standard_normal((2, n * n))
    inverse = eq.inverse
    np.testing.assert_allclose(y @ (inverse @ x), x @ (inverse.H @ y), rtol=1e-7)
    np.testing.assert_allclose(grid(n, True) @ (inverse @ x), x - x.mean(), atol=1e-7)


def test_multigrid_takes_as_many_iterations_as_with_boundary_values(factors):
    n, solver = 72, SOLVERS["CG with AMG"]
    load = np.random.default_rng(0).standard_normal(n * n)
    loss = mfdeq.LeastSquares(np.arange(0, n * n, 7), np.zeros(len(range(0, n * n, 7))))
    iterations = []
    for model in (Diffusion(grid(n, False), False), neumann(n)):
        eq = mfdeq.solve(model, load, solver=solver, error_estimates=False)
        eq.gradient(loss)
        before = eq.report.linear.iterations
        H = eq.hessian(loss)
        H @ load
        iterations.append(eq.report.linear.iterations - before)
    assert iterations[1] <= iterations[0] + 4  # of two solves


def test_loose_solves_are_judged_in_the_norm_that_their_method_minimizes(factors):
    # Rows differ in size, so that a residual that is small in the norm of conjugate gradients may
    # be large for a row. A Dirichlet problem is not solved again for that.
    n = 30
    size = np.exp(2.0 * np.random.default_rng(1).standard_normal(n * n))
    A = sp.csr_matrix(sp.diags(size) @ grid(n, True) @ sp.diags(size))
    null = 1.0 / size
    model = mfdeq.constrain(Linear(A, null[:, None]), mfdeq.LinearConstraint(size))
    solver = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
    mfdeq.solve(model, size * np.random.default_rng(0).standard_normal(n * n), solver=solver)
    factor = factors[-1]
    before = factor.counts.refinements
    for k in range(5):
        b = size**2 * np.random.default_rng([2, k]).standard_normal(n * n)
        b -= (null @ b) / (null @ null) * null
        factor.solve(b, rtol=1e-3)
        factor.solve_adjoint(b, rtol=1e-3)
    assert factor.counts.refinements == before


def test_columns_are_solved_to_their_own_tolerances(factors):
    n = 60
    rng = np.random.default_rng(0)
    mfdeq.solve(neumann(n), rng.standard_normal(n * n), solver=SOLVERS["CG with AMG"])
    factor = factors[-1]
    balanced = rng.standard_normal(n * n)
    balanced -= balanced.mean()
    b = np.stack([balanced, np.ones(n * n)], axis=1)  # what balances ones is as large as N

    def iterations(side):
        before = factor.counts.iterations
        x = factor.solve(side, rtol=1e-3)
        return x, factor.counts.iterations - before

    (first, few), (second, many) = (iterations(b[:, k]) for k in range(2))
    both, used = iterations(b)
    assert few < many
    assert used <= few + many
    np.testing.assert_allclose(both, np.stack([first, second], axis=1), rtol=1e-9, atol=1e-9)


def test_a_null_vector_is_looked_for_by_few_applications_of_the_preconditioner():
    n, applied = 40, []

    def jacobi(x):
        applied.append(x)
        return 0.25 * x

    M = sp.linalg.LinearOperator((n * n, n * n), jacobi, jacobi, dtype=float)
    solver = mfdeq.Krylov("cg", preconditioner=M)
    load = np.random.default_rng(0).standard_normal(n * n)
    counts = []
    for model in (Diffusion(grid(n, False), False), neumann(n)):
        applied.clear()
        report = mfdeq.solve(model, load, solver=solver).report
        assert report.uniqueness.startswith("not judged: after 5 applications")
        counts.append(len(applied) - report.forward.iterations)
    assert counts[1] <= counts[0] + 5


def test_equal_matrices_with_replaced_rows_share_a_factor():
    n = 40
    load = np.random.default_rng(0).standard_normal(n * n)
    eq = mfdeq.solve(neumann(n), load, solver=mfdeq.Direct())
    eq.gradient(mfdeq.LeastSquares(np.arange(n), np.ones(n)))
    assert (eq.report.forward.setups, eq.report.linear.setups) == (1, 0)


def weights(n):
    """Weights of the unknowns of an n x n grid that vary by a factor of 20."""
    x = np.linspace(-1.5, 1.5, n)
    return np.exp(np.add.outer(x, np.sin(2.0 * x))).ravel()


def two_scaled_grids(n):
    """Return D L D of two grids with no flux between them, and its null vectors."""
    d = weights(n)
    part = sp.diags(d) @ grid(n, True) @ sp.diags(d)
    return sp.block_diag([part, part], format="csr"), np.kron(np.eye(2), 1.0 / d[:, None])


def with_drift(n):
    """Return the diffusion and upwind drift on a grid, whose columns sum to zero."""
    up = sp.diags([np.r_[np.ones(n - 1), 0.0], -np.ones(n - 1)], [0, -1])
    eye = sp.identity(n)
    A = grid(n, True) + 0.3 * sp.kron(up, eye) + 0.2 * sp.kron(eye, up)
    return sp.csr_matrix(A), np.ones((n * n, 1))


SINGULAR = {"two scaled grids": (two_scaled_grids, "cg"), "drift": (with_drift, "gmres")}


@pytest.mark.parametrize("redundant", ["detected", "given"])
@pytest.mark.parametrize("name", SINGULAR)
def test_null_vectors_are_projected_out_of_multigrid(name, redundant):
    (make, method), n = SINGULAR[name], 20
    A, W = make(n)
    N, m = W.shape
    C = np.random.default_rng(3).random((m, N)) * (W.T != 0.0)
    model = mfdeq.constrain(
        Linear(A, W), mfdeq.LinearConstraint(C), "detect" if redundant == "detected" else W
    )
    load = np.random.default_rng(0).standard_normal(N)
    solver = mfdeq.Krylov(method, preconditioner=mfdeq.AMG())
    eq = mfdeq.solve(model, load, solver=solver)
    bordered = np.block([[A.toarray(), W], [C, np.zeros((m, m))]])
    exact = np.linalg.inv(bordered)[:N, :N]
    np.testing.assert_allclose(eq.state, exact @ load, atol=1e-7 * abs(exact @ load).max())
    for X in (load, np.random.default_rng(1).standard_normal((N, 3))):
        assert_near(eq.inverse @ X, exact @ X)
        assert_near(eq.inverse.H @ X, exact.T @ X)
    before = eq.report.linear.iterations
    eq.inverse @ load
    assert eq.report.linear.iterations - before <= 20


def assert_near(found, exact):
    np.testing.assert_allclose(found, exact, atol=1e-7 * abs(exact).max())


def test_a_nonlinear_problem_reuses_its_factors(factors, monkeypatch):
    n = 24
    load = np.random.default_rng(0).standard_normal(n * n)
    model = neumann(n, nonlinear=True)
    loss = mfdeq.LeastSquares(np.arange(n), np.ones(n))
    results = []
    multigrid = mfdeq.Krylov(preconditioner=mfdeq.AMG())  # for an A that is not symmetric
    for solver in (multigrid, SOLVERS["GMRES with ILU"], "auto"):
        F = mfdeq.ReducedFunctional(model, loss, solver=solver)
        results.append((F.gradient(load), F.hessian(load) @ load, F.gradient(1.01 * load)))
    for found in results[:-1]:
        for one, other in zip(found, results[-1], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6 * abs(other).max())
    monkeypatch.setattr(null_space, "MAX_DEFECT_ROUNDINGS", -1.0)  # so that none is made
    F = mfdeq.ReducedFunctional(model, loss)
    made = len(factors)
    for one, other in zip(results[-1], (F.gradient(load), F.hessian(load) @ load), strict=False):
        np.testing.assert_allclose(one, other, atol=1e-7 * abs(other).max())
    assert len(factors) == made


@pytest.mark.parametrize("preconditioner", [mfdeq.AMG(), mfdeq.ILU()], ids=["AMG", "ILU"])
def test_a_factor_too_old_for_the_null_vectors_is_replaced(preconditioner):
    n = 75
    load = np.random.default_rng(0).standard_normal(n * n)
    solver = mfdeq.Krylov("gmres", preconditioner=preconditioner)
    assert mfdeq.solve(neumann(n, nonlinear=True), load, solver=solver).report.converged


def test_combinations_that_depend_on_the_state_use_the_replaced_rows(factors):
    shares = np.random.default_rng(0).random((5, 4))
    shares /= shares.sum(axis=1, keepdims=True)
    endowments = np.random.default_rng(1).random((5, 4))

    def excess_demand(p, theta):
        income = endowments @ p
        return (shares * income[:, None] / p).sum(axis=0) - theta * endowments.sum(axis=0)

    def jacobian(p, theta):
        income = endowments @ p
        own = -(shares * income[:, None]).sum(axis=0) / p**2
        return sp.csr_matrix(np.diag(own) + (shares / p).T @ endowments)

    class Market(mfdeq.ResidualModel):
        state_size, param_size = 4, 1

        def residual(self, p, theta):
            return excess_demand(p, theta)

        def linearize(self, p, theta):
            return mfdeq.Linearization(jacobian(p, theta), -endowments.sum(axis=0)[:, None])

        def initial_state(self, theta):
            return np.arange(1.0, 5.0)

    simplex = mfdeq.LinearConstraint(np.ones(4), 1.0)
    eq = mfdeq.solve(mfdeq.constrain(Market(), simplex), np.ones(1))
    np.testing.assert_allclose(excess_demand(eq.state, 1.0), 0.0, atol=1e-12)
    assert not factors
    np.testing.assert_allclose(eq.state.sum(), 1.0)
