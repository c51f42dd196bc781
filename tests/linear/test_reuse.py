"""One factor serves a path of matrices, and is replaced when it has aged."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.systems import convection, diffusion
from support.cases import CASES, build

import mfdeq
from mfdeq.linear import Reused, reuse
from mfdeq.linear.operands import fingerprint, have_equal_entries, operator_of
from mfdeq.report import LinearCounts

WINDY = convection(30, peclet=0.2).A
AMG = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())
SOLVERS = [mfdeq.Direct(), AMG, mfdeq.Krylov("gmres", preconditioner=mfdeq.ILU()), mfdeq.Krylov()]


def path(steps, size=0.02):
    """Diffusion whose coefficient drifts."""
    rng = np.random.default_rng(0)
    A = diffusion(30, 2).A
    direction = rng.standard_normal(A.shape[0])
    return [(A + sp.diags(size * k * A.diagonal() * direction**2)).tocsr() for k in range(steps)]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_solves_along_a_path_reach_the_tolerance_whatever_the_age_of_the_factor(solver):
    counts, reused = LinearCounts(), Reused(solver)
    b = np.random.default_rng(1).standard_normal((900, 2))
    for matrix in path(6, size=0.5):
        factor = reused.setup(operator_of(matrix), counts)
        for x, A in ((factor.solve(b), matrix), (factor.solve_adjoint(b), matrix.T)):
            # Rows of unlike size are judged in like units, in which residuals are a bit different.
            assert np.all(np.linalg.norm(b - A @ x, axis=0) <= 1e-9 * np.linalg.norm(b, axis=0))


def test_a_factor_is_reused_while_it_preconditions_and_then_replaced():
    counts, reused = LinearCounts(), Reused(mfdeq.Direct())
    b = np.ones(900)
    for matrix in path(3, size=1e-4):
        reused.setup(operator_of(matrix), counts).solve(b)
    assert counts.setups == 1
    spent = reused.excess
    assert spent == pytest.approx(counts.iterations / reused.held.iterations_per_setup(1))
    assert 0 < spent <= reuse.MAX_EXCESS
    far = (path(1)[0] + sp.diags(np.geomspace(1e-3, 1e6, 900))).tocsr()
    factor = reused.setup(operator_of(far), counts)
    x = factor.solve(b)
    assert np.linalg.norm(far @ x - b) <= 1.1e-10 * np.linalg.norm(b)
    reused.setup(operator_of(far), counts).solve(b)
    assert counts.setups == 2
    assert reused.held.A.array is not None
    assert reused.excess < spent + reuse.MAX_EXCESS


def test_a_factor_is_replaced_when_iterations_have_cost_as_much_as_a_setup():
    """Those of a block cost more, and loose ones count half."""
    used = {}
    for columns, rtol in ((1, 1e-10), (8, 1e-10), (1, 1e-2)):
        counts, reused = LinearCounts(), Reused(mfdeq.Direct())
        b = np.random.default_rng(0).standard_normal((900, columns))
        for matrix in path(40, size=1e-4):
            reused.setup(operator_of(matrix), counts).solve(b, rtol=rtol)
            if counts.setups == 2:
                break
        used[columns, rtol] = counts.iterations
    per_setup = reused.held.iterations_per_setup(1)
    assert per_setup < used[1, 1e-10] < 2 * per_setup
    assert used[8, 1e-10] < 0.6 * used[1, 1e-10]
    assert used[1, 1e-2] > 1.4 * used[1, 1e-10]


def test_a_setup_costs_more_iterations_the_larger_the_matrix():
    """And fewer of blocks. An LU of a surface grows like N^1.5, its triangles like N log N."""
    costs = []
    for n in (40, 80, 160):
        factor = mfdeq.Direct(package="superlu").setup(diffusion(n, 2).A)
        one, block = factor.iterations_per_setup(1), factor.iterations_per_setup(8)
        assert 1 < block < 0.5 * one
        costs.append(one)
    assert costs == sorted(costs)
    assert 5 < costs[0] < costs[-1] < 200


def test_an_aged_preconditioner_serves_many_solves_an_aged_lu_does_not():
    first, second = (operator_of(matrix) for matrix in path(2))
    for solver, setups in ((AMG, 0), (mfdeq.Direct(), 1)):
        reused, counts = Reused(solver), LinearCounts()
        reused.setup(first).solve(np.ones(900))
        factor = reused.setup_for_equilibrium(second, counts)
        assert counts.setups == setups
        assert factor.A is second


def test_a_matrix_of_another_size_is_set_up_again():
    reused = Reused(mfdeq.Direct())
    for n in (10, 20):
        matrix = diffusion(n, 2).A
        b = np.ones(n * n)
        x = reused.setup(operator_of(matrix)).solve(b)
        assert np.linalg.norm(matrix @ x - b) <= 1e-10 * np.linalg.norm(b)


@pytest.mark.usefixtures("reuse_of_small_factors")
@pytest.mark.parametrize("case", CASES[:8], ids=str)
def test_newton_reuses_its_first_factor(case):
    eq = case.solve(method="newton", solver=mfdeq.Direct())
    assert eq.report.forward.setups <= max(1, eq.report.iterations - 1)


@pytest.mark.parametrize("case", CASES[:8], ids=str)
def test_newton_factorizes_a_small_matrix_at_every_step(case):
    forward = case.solve(method="newton", solver=mfdeq.Direct()).report.forward
    assert forward.setups >= 1
    assert forward.iterations == 0


@pytest.mark.usefixtures("reuse_of_small_factors")
def test_an_optimizer_s_next_solve_starts_from_the_last_factor():
    case = build("bratu_field")
    F = mfdeq.ReducedFunctional(case.model, case.loss, solver=mfdeq.Direct())
    F.value(case.params)
    F.value(case.params + 1e-6)
    assert F.equilibrium(case.params + 1e-6).report.forward.setups == 0


def test_an_aged_hierarchy_is_refreshed_and_set_up_again_only_if_that_fails():
    """Along a path that leaves its start far behind, and back at once where they do not serve."""
    counts, reused = LinearCounts(), Reused(AMG)
    b = np.random.default_rng(1).standard_normal(900)
    drifting = [
        matrix + k * sp.diags(np.linspace(0, 1, 900)) for k, matrix in enumerate(path(9, 2))
    ]
    for matrix in drifting:
        x = reused.setup(operator_of(matrix.tocsr()), counts).solve(b)
        assert np.linalg.norm(matrix @ x - b) <= 1.1e-10 * np.linalg.norm(b)
    assert counts.setups == 1
    assert counts.refreshes >= 1
    assert f"1 set-up, {counts.refreshes} refresh" in str(mfdeq.SolveReport(linear=counts))
    reused.held.M.refresh = lambda A: True  # the entries of long ago
    far = operator_of(1e3 * diffusion(30, 2).A + sp.diags(np.geomspace(1, 1e7, 900)).tocsr())
    x = reused.setup(far, counts).solve(b)
    assert np.linalg.norm(far @ x - b) <= 1.1e-10 * np.linalg.norm(b)
    for _ in range(3):
        reused.setup(far, counts).solve(b)
    assert counts.setups == 2


def test_an_aged_hierarchy_is_refreshed_before_many_solves():
    first, second = (operator_of(matrix) for matrix in path(2, size=3.0))
    reused, counts = Reused(AMG), LinearCounts()
    b = np.random.default_rng(1).standard_normal(900)
    reused.setup(first).solve(b)
    fresh = reused.held.counts.iterations
    reused.setup(second, counts).solve(b)
    aged = counts.iterations
    assert aged > fresh + reuse.NEGLIGIBLE_ITERATIONS
    factor = reused.setup_for_equilibrium(second, counts)
    assert (counts.setups, counts.refreshes) == (0, 1)
    before = counts.iterations
    factor.solve(b)
    assert counts.iterations - before <= fresh + 2


def test_cg_is_not_reused_for_a_matrix_that_is_not_symmetric():
    solver = Reused(mfdeq.Krylov("cg"))
    solver.setup(operator_of(diffusion(30, 2).A), LinearCounts())
    for setup in (solver.setup, solver.setup_for_equilibrium):
        with pytest.raises(mfdeq.ArgumentError, match="symmetric"):
            setup(operator_of(WINDY), LinearCounts())


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_a_matrix_of_equal_entries_keeps_its_factor(form):
    """A single entry that differs makes another matrix."""
    counts, reused = LinearCounts(), Reused(mfdeq.Direct())
    A = diffusion(20, 2).A
    for _ in range(3):
        given = A.toarray() if form == "dense" else A.copy()
        for setup in (reused.setup, reused.setup_for_equilibrium):
            factor = setup(operator_of(given), counts)
            np.testing.assert_allclose(A @ factor.solve(np.ones(400)), 1.0)
    assert (counts.setups, counts.iterations) == (1, 0)
    other = A.copy()
    other.data[-1] *= 2.0
    other = other.toarray() if form == "dense" else other
    factor = reused.setup_for_equilibrium(operator_of(other), counts)
    np.testing.assert_allclose(other @ factor.solve(np.ones(400)), 1.0)
    assert counts.setups == 2


def test_the_same_entries_with_other_scales_are_another_matrix():
    A = diffusion(5, 2).A
    one, two = operator_of(A), operator_of(A)
    assert have_equal_entries(one, two)
    two.scales = (np.full(25, 3.0), None)
    assert not have_equal_entries(one, two)
    one.scales = (np.full(25, 3.0), None)
    assert have_equal_entries(one, two)
    assert not have_equal_entries(operator_of(sp.csr_array(np.eye(3))), operator_of(np.eye(3)))


def test_equal_matrices_have_the_same_fingerprint_and_others_another():
    A, zero = diffusion(5, 2).A.tocsr(), np.array([[0.0, 1.0], [2.0, 0.0]])
    other = A.copy()
    other.data[0] += 1.0
    key = fingerprint(operator_of(A))
    assert key == fingerprint(operator_of(A.copy()))
    assert key not in [fingerprint(operator_of(x)) for x in (other, A.toarray(), A.tocsc())]
    signed = np.where(zero == 0.0, -0.0, zero)
    assert fingerprint(operator_of(zero)) == fingerprint(operator_of(signed))


def test_a_linear_model_is_factorized_once_at_all_parameters():
    A = diffusion(20, 2).A

    class Linear(mfdeq.ResidualModel):
        state_size = param_size = 400

        def residual(self, h, t):
            return A @ h - t

        def linearize(self, h, t):
            return mfdeq.Linearization(A, -sp.eye_array(400, format="csr"))

    loss = mfdeq.LeastSquares(np.arange(3), np.zeros(3))
    for solver in (mfdeq.Direct(), AMG, "auto"):
        F = mfdeq.ReducedFunctional(Linear(), loss, solver=solver)
        setups = 0
        for size in (1.0, -2.0, 30.0):
            F.gradient(np.full(400, size))
            report = F.equilibrium(np.full(400, size)).report
            setups += report.forward.setups + report.linear.setups
            assert report.forward.refreshes + report.linear.refreshes == 0
        assert setups == 1
