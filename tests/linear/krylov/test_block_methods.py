"""The block Krylov methods: every column's true residual, and the products that a block saves."""

from __future__ import annotations

import contextlib
from functools import partial
from itertools import zip_longest

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close
from support.matrices import BASIS, LEFT, N, residuals, symmetric, unit

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.linear import PreconditionerOperator
from mfdeq.linear.krylov.block_gmres import block_gmres
from mfdeq.linear.krylov.cg import INDEFINITE, block_cg, cg
from mfdeq.linear.krylov.gmres import gmres
from mfdeq.linear.krylov.minres import minres

BACKEND = Backend.of(BASIS)

# Through mfdeq.Krylov: A and its adjoint, with preconditioners, in both precisions.

ROWS = np.logspace(0, 0.5, N)[:, None]
MATRICES = {
    "symmetric": ROWS * symmetric(np.linspace(1, 4, N)) * ROWS.T,
    "nonsymmetric": ROWS * (np.eye(N) + 0.4 * LEFT),
}


class Changing(PreconditionerOperator):
    """A preconditioner that is another one at every call."""

    flexible = True

    def __init__(self, backend, M):
        super().__init__(backend, M.shape)
        self.M, self.rng = M, np.random.default_rng(0)

    def _now(self, M):
        noise = self.rng.standard_normal((N, 1)) * self.rng.standard_normal((1, N))
        return M + (0.2 * M.max() / np.sqrt(N) * noise).astype(M.dtype)

    def _apply(self, x):
        return self._now(self.M) @ x

    def _apply_adjoint(self, y):
        return self._now(self.M.T) @ y


def preconditioner(name, A):
    nearly_inverse = np.linalg.inv(A + 0.3 * np.eye(N)).astype(A.dtype)
    return {
        "none": None,
        "jacobi": mfdeq.Jacobi(),
        "approximate": nearly_inverse,
        "changing": Changing(Backend.of(A), nearly_inverse),
    }[name]


SOLVERS = {
    "cg": partial(mfdeq.Krylov, "cg", block=1),
    "block cg": partial(mfdeq.Krylov, "cg", block=32),
    "minres": partial(mfdeq.Krylov, "minres"),
    "gmres": partial(mfdeq.Krylov, restart=50, block=1),
    "gmres, restarted": partial(mfdeq.Krylov, restart=8, block=1),
    "block gmres": partial(mfdeq.Krylov, restart=50, block=32),
    "restarted": partial(mfdeq.Krylov, restart=8),
    "recycled": partial(mfdeq.Krylov, restart=8, recycle=4, block=7),
}
FOR_SYMMETRIC = ("cg", "block cg", "minres")
OTHERS = [solver for solver in SOLVERS if solver not in FOR_SYMMETRIC]
LINEAR = ("none", "jacobi", "approximate")
TABLE = [
    *[("symmetric", solver, M) for solver in SOLVERS for M in LINEAR],
    *[("nonsymmetric", solver, M) for solver in OTHERS for M in LINEAR],
    *[(matrix, solver, "changing") for matrix in MATRICES for solver in OTHERS[:4]],
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("k", [1, 2, 7, 20])
@pytest.mark.parametrize(("matrix", "solver", "M"), TABLE)
def test_every_column_reaches_its_tolerance(matrix, solver, M, k, dtype):
    A = MATRICES[matrix].astype(dtype)
    rtol = 1e-10 if dtype == "float64" else 1e-5
    factor = SOLVERS[solver](preconditioner=preconditioner(M, A)).setup(A)
    counts, needed = factor.counts, []
    for solve, side in ((factor.solve, A), (factor.solve_adjoint, A.T)):
        for seed in range(2 if solver == "recycled" else 1):
            B, before = unit(N, k, seed=seed).astype(dtype), counts.iterations
            X = solve(B)
            assert X.dtype == dtype
            assert residuals(side, X, B).max() <= (1 if dtype == "float64" else 1.2) * rtol
            close(X, np.linalg.solve(side.astype(float), B), 100 * rtol)
            needed.append(counts.iterations - before)
            assert len(counts.history) == needed[-1]
    # The methods themselves did it, without a second solve for what they left.
    assert counts.refinements <= (M == "changing" and dtype == "float32")
    # The preconditioner of the adjoint is the adjoint's.
    assert M == "changing" or abs(needed[0] - needed[len(needed) // 2]) <= 2


# Straight to the kernels: which products were taken, and of how many columns.

KERNELS = {
    "cg": cg,
    "block cg": block_cg,
    "minres": minres,
    "gmres": partial(gmres, length=100),
    "gmres, restarted": partial(gmres, length=16),
    "gmres, flexible": partial(gmres, length=200, flexible=True),
    "gmres, flexible, restarted": partial(gmres, length=24, flexible=True),
    "block gmres": partial(block_gmres, length=100),
    "restarted": partial(block_gmres, length=16),
    "flexible": partial(block_gmres, length=200, flexible=True),
    "flexible, restarted": partial(block_gmres, length=24, flexible=True),
}
SHORT = ("cg", "minres")  # recurrences, in which a column leaves the block at any time
APART = (*SHORT, "gmres", "gmres, restarted", "gmres, flexible", "gmres, flexible, restarted")


class Run:
    """One call of a kernel: what it solved, and all that it asked for."""

    def __init__(self, kernel, A, B, M=lambda R: R, rtol=1e-10, most=500):
        self.widths, self.history, before = [], [], B.copy()
        solve = KERNELS[kernel]
        solved = solve(
            BACKEND, partial(self.product, A), M, B, rtol, most, record=self.history.append
        )
        self.X, self.stopped = solved.X, solved.stopped
        self.residuals, self.iterations = residuals(A, self.X, B), len(self.history)
        assert np.array_equal(B, before)
        assert self.X.shape == B.shape

    def product(self, A, X):
        self.widths.append(X.shape[1])
        return A @ X


SPD = symmetric(np.linspace(1, 40, N))
# Diagonal ones tell a method without preconditioner as much, and may be larger.
SPREAD = sp.diags(np.logspace(-4, 0, 2 * N))
OUTLIERS = sp.diags(np.concatenate([np.logspace(-5, -2, 12), np.linspace(1, 10, 388)]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_easy_column_leaves_the_block(kernel):
    B = unit(N, 4)
    B[:, 2] = BASIS[:, 5]
    run = Run(kernel, SPD, B)
    assert run.residuals.max() <= 1e-10
    # Of GMRES with spaces apart only the end of a cycle lets it go.
    until = {"gmres, restarted": 17, "gmres, flexible, restarted": 13}.get(kernel, 1)
    if kernel not in ("gmres", "gmres, flexible"):
        assert run.widths[: until + 11] == until * [4] + 11 * [3]


@pytest.mark.parametrize("k", [3, 7, 20])
def test_a_shared_space_has_no_more_directions_than_unknowns(k):
    """A preconditioner that changes amplifies what the basis lacks of orthogonality."""
    A = MATRICES["symmetric"]
    M = preconditioner("changing", A)
    run = Run("flexible", A, unit(N, k), M._apply)
    assert run.residuals.max() <= 1e-10
    assert sum(run.widths) <= N


@pytest.mark.parametrize("kernel", ["cg", "block cg", "minres", "gmres, restarted", "restarted"])
def test_a_column_that_converges_earlier_leaves_then(kernel):
    """Eight eigenvectors beside all of them; GMRES lets it go between its cycles of 16."""
    B = unit(N, 2)
    B[:, 0] = BASIS[:, :80:10] @ unit(8)
    run = Run(kernel, SPD, B)
    assert run.residuals.max() <= 1e-10
    assert run.widths[:7] == 7 * [2]
    assert set(run.widths[17:]) == {1}


@pytest.mark.parametrize("kernel", APART)
def test_each_column_is_taken_as_if_it_were_alone(kernel):
    A = SPD if kernel in SHORT else SPD + 0.9 * LEFT
    B = unit(N, 4)
    B[:, 1], B[:, 3] = BASIS[:, 5], BASIS[:, :80:10] @ unit(8)
    M = np.diag(1 / np.diag(A))
    together, alone = Run(kernel, A, B, M.__matmul__), []
    for j in range(4):
        alone.append(Run(kernel, A, B[:, j : j + 1], M.__matmul__))
        # GMRES goes on with all until a cycle ends.
        close(together.X[:, j], alone[-1].X[:, 0], 1e-14 if kernel in SHORT else 1e-8)
    if kernel in SHORT:
        assert sum(together.widths) == sum(run.iterations for run in alone)
    assert together.iterations == max(run.iterations for run in alone)
    worst = [max(h) for h in zip_longest(*(run.history for run in alone), fillvalue=0.0)]
    np.testing.assert_allclose(together.history, worst, rtol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_preconditioner_saves_iterations(kernel):
    B = unit(N, 3)
    M = np.linalg.inv(SPD + 0.1 * symmetric(np.linspace(0, 5, N)))
    plain, preconditioned = Run(kernel, SPD, B), Run(kernel, SPD, B, M.__matmul__)
    assert preconditioned.residuals.max() <= 1e-10
    assert preconditioned.iterations < plain.iterations / 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_zero_columns_cost_nothing(kernel):
    B = unit(N, 3)
    B[:, 1] = 0
    run = Run(kernel, SPD, B)
    assert run.residuals.max() <= 1e-10
    assert run.widths[0] == 2
    assert not run.X[:, 1].any()
    for nothing in (0 * B, B[:, :0]):
        run = Run(kernel, SPD, nothing)
        assert (run.widths, run.history, run.stopped) == ([], [], "")
        assert not run.X.any()


DEPENDENT = {
    "equal": lambda a, b, c: [a, b, a],
    "opposite": lambda a, b, c: [a, -a],
    "sum": lambda a, b, c: [a, b, c, a + b - 2 * c],
    "apart by 1e-5": lambda a, b, c: [a, a + 1e-5 * b, c],
    "apart by 1e-9": lambda a, b, c: [a, a + 1e-9 * b, c],
    "Krylov": lambda a, b, c: [a, SPD @ a, SPD @ (SPD @ a)],
    "rank one": lambda a, b, c: [x * a for x in (1, 3, -1, 1e-6, 1e6, 2)],
}


@pytest.mark.parametrize("side", ["A", "adjoint"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("columns", DEPENDENT)
def test_dependent_columns_are_solved(columns, solver, side):
    A = MATRICES["symmetric" if solver in FOR_SYMMETRIC else "nonsymmetric"]
    B = np.stack(DEPENDENT[columns](*unit(N, 3).T), axis=1)
    factor = SOLVERS[solver]().setup(A)
    X = (factor.solve if side == "A" else factor.solve_adjoint)(B)
    assert residuals(A if side == "A" else A.T, X, B).max() <= 1e-10
    assert factor.counts.refinements <= 1  # for what was dropped as dependent


@pytest.mark.parametrize(
    ("kernel", "A"),
    [
        ("block cg", SPD),
        ("block gmres", SPD),
        ("restarted", SPD),
        ("block cg", OUTLIERS),
    ],
    ids=["block cg", "block gmres", "restarted", "block cg, outliers"],
)
def test_a_block_of_rank_one_costs_what_one_column_does(kernel, A):
    b = unit(A.shape[0], 1)
    one, six = (Run(kernel, A, b * c, most=600) for c in (1.0, np.array([1, -1, 1, 1, -1, 1])))
    assert six.residuals.max() <= 2e-10
    # Not exactly: where a cycle ends GMRES takes the residual of each, and rounding parts them.
    assert sum(six.widths) <= 1.8 * sum(one.widths)


@pytest.mark.parametrize("kernel", KERNELS)
def test_more_columns_than_unknowns_are_solved(kernel):
    run = Run(kernel, np.diag([1.0, 3.0, 4.0, 9.0, 20.0]) + 0.3, unit(5, 13))
    assert run.residuals.max() <= 1e-10
    assert run.widths == [5] if kernel not in APART else len(run.widths) <= 6


THREE = symmetric(np.repeat([1.0, 5.0, 30.0, 30.0], N // 4))
BREAKDOWNS = {
    "identity": (np.eye(N), unit(N, 1), 1),
    "identity, a block": (2 * np.eye(N), unit(N, 5), 1),
    "eigenvector": (SPD, BASIS[:, 7:8], 1),
    "eigenvectors": (SPD, BASIS[:, 7:12], 1),
    "three eigenvectors": (SPD, BASIS[:, [3, 30, 50]] @ unit(3, 1), 3),
    "degree three": (THREE, unit(N, 1), 3),
    "degree three, a block": (THREE, unit(N, 4), 3),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("case", BREAKDOWNS)
def test_a_space_that_is_exhausted_holds_the_solution(case, kernel):
    A, B, most = BREAKDOWNS[case]
    run = Run(kernel, A, B)
    assert run.residuals.max() <= 1e-10
    assert run.iterations <= most
    assert run.stopped == ""


@pytest.mark.parametrize("kernel", ["restarted", "flexible", "flexible, restarted"])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_restarts_of_gmres_change_iterations_only(kernel, apart, k):
    A, B = SPD + 0.9 * LEFT, unit(N, k)
    M = np.diag(1 / np.diag(A))
    names = ("gmres", f"gmres, {kernel}") if apart else ("block gmres", kernel)
    whole, cut = (Run(name, A, B, M.__matmul__) for name in names)
    close(cut.X, whole.X, 1e-8)
    assert cut.iterations > whole.iterations > 16 or kernel == "flexible"
    # A product more for each cycle but the last; a flexible one keeps two vectors a column.
    length = {"restarted": 16, "flexible": 100, "flexible, restarted": 12}[kernel]
    assert len(cut.widths) - cut.iterations == (cut.iterations - 1) // length
    # Within a cycle the residual does not grow, and the last is the true one.
    assert np.all(np.diff(whole.history) <= 1e-12)
    assert whole.history[-1] == pytest.approx(whole.residuals.max(), rel=1e-3)


def test_a_changing_preconditioner_needs_the_flexible_method():
    """The control of the tests with one: it changes enough to be seen."""
    A, B = MATRICES["nonsymmetric"], unit(N, 1)
    M = Changing(BACKEND, np.linalg.inv(A + 0.3 * np.eye(N)))
    for kernel in ("gmres", "block gmres"):
        flexible = "flexible" if kernel == "block gmres" else "gmres, flexible"
        assert Run(flexible, A, B, M._apply).residuals.max() <= 1e-10
        assert Run(kernel, A, B, M._apply, most=60).residuals.max() > 1e-3


@pytest.mark.parametrize(
    "A",
    [SPREAD, OUTLIERS],
    ids=["spread", "outliers"],
)
def test_one_space_for_eight_columns_saves_iterations(A):
    B = unit(A.shape[0], 8)
    alone, together = (Run(kernel, A, B, most=2000) for kernel in ("cg", "block cg"))
    assert max(alone.residuals.max(), together.residuals.max()) <= 2e-10
    assert alone.iterations > 5 * together.iterations


@pytest.mark.parametrize(
    ("method", "block"),
    [
        ("gmres", 2),
        ("gmres", 5),
        ("cg", 2),
        ("cg", 5),
    ],
)
def test_a_block_is_solved_some_columns_at_a_time(method, block):
    factor, B = mfdeq.Krylov(method, restart=100, block=block).setup(SPD), unit(N, 5)
    X = factor.solve(B)
    together = factor.counts.iterations
    for j in range(0, 5, block):
        close(factor.solve(B[:, j : j + block]), X[:, j : j + block], 1e-12)
    assert factor.counts.iterations == 2 * together


# MINRES, for indefinite matrices.

SADDLE = symmetric(np.concatenate([-np.linspace(0.5, 4, N // 4), np.linspace(1, 20, 3 * N // 4)]))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_minres_stops_by_the_true_residual(dtype, scale):
    """The norm of the preconditioner, which it minimizes, is of another size in some directions."""
    rtol = 1e-10 if dtype == "float64" else 1e-5
    M = scale * symmetric(np.logspace(-6, 0, N)) + scale * np.linalg.inv(
        symmetric(np.linspace(1, 30, N))
    )
    A, B = SADDLE.astype(dtype), unit(N, 3).astype(dtype)
    factor = mfdeq.Krylov("minres", preconditioner=M.astype(dtype)).setup(A)
    X = factor.solve(B)
    assert X.dtype == dtype
    assert residuals(A, X, B).max() <= 1.2 * rtol
    assert factor.counts.refinements == 0
    assert len(factor.counts.history) == factor.counts.iterations <= 2 * N
    rounding = 16 * float(np.finfo(dtype).eps)
    # The recurrence drifts by what depends on the processor.
    assert factor.counts.history[-1] == pytest.approx(
        residuals(A, X, B).max(), rel=0.5, abs=rounding
    )


def test_minres_minimizes_the_residual_as_gmres_does():
    B = unit(N, 2)
    short, long = Run("minres", SADDLE, B), Run("gmres", SADDLE, B)
    close(short.X, long.X, 1e-9)
    np.testing.assert_allclose(short.history[:40], long.history[:40], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("M", [-np.eye(N), SADDLE], ids=["negative", "indefinite"])
def test_minres_says_that_a_preconditioner_is_indefinite(M, k):
    factor = mfdeq.Krylov("minres", preconditioner=M).setup(SADDLE)
    with pytest.raises(mfdeq.ConvergenceError, match="is not positive definite: use gmres"):
        factor.solve(unit(N, k))
    assert factor.counts.refinements == 0


# What cannot be solved.


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("k", [1, 3])
def test_cg_says_that_a_matrix_is_indefinite(block, k):
    A, B = symmetric(np.linspace(-1, 2, N)), unit(N, k)
    assert Run("cg" if block == 1 else "block cg", A, B).stopped == INDEFINITE
    # A block's space is the same with -M, and it solves the system.
    wrong = [(A, None), (-SPD, None), *([(SPD, -np.eye(N))] if block == 1 else [])]
    for matrix, M in wrong:
        factor = mfdeq.Krylov("cg", preconditioner=M, block=block).setup(matrix)
        with pytest.raises(mfdeq.ConvergenceError, match="not positive definite: use minres or g"):
            factor.solve(B)
        assert factor.counts.refinements == 0


NEUMANN = 2 * np.eye(40) - np.eye(40, k=1) - np.eye(40, k=-1)
NEUMANN[0, 0] = NEUMANN[-1, -1] = 1.0  # constants are free
SKEWED = NEUMANN * np.linspace(1, 2, 40)  # the same range, another null vector


@pytest.mark.parametrize("options", [{}, {"recycle": 4}], ids=str)
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("A", [NEUMANN, SKEWED], ids=["symmetric", "skewed"])
def test_consistent_singular_systems_are_solved_and_others_are_errors(A, k, options):
    factor = mfdeq.Krylov(restart=50, **options).setup(A)
    for seed in range(3):
        B = unit(40, k, seed=seed)
        B -= B.mean(axis=0)
        assert residuals(A, factor.solve(B), B).max() <= 1e-10
    B[:, 0] += 0.1
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        factor.solve(B)


@pytest.mark.parametrize("options", [{}, {"recycle": 2}], ids=str)
@pytest.mark.parametrize("columns", [[0], [0, 1], [0, 3], [0, 1, 2]])
def test_right_hand_sides_outside_the_range_are_errors(columns, options):
    """A singular block of the Hessenberg matrix; the solvable columns do not hide the others."""
    factor = mfdeq.Krylov(**options).setup(np.diag([0.0, 1.0, 2.0, 3.0]))
    for _ in range(2):
        with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
            factor.solve(np.eye(4)[:, columns])
        close(factor.solve(np.eye(4)[:, 1:]), np.diag([0, 1, 1 / 2, 1 / 3])[:, 1:], 1e-10)


def nearly_singular(smallest):
    """A symmetric matrix with one small eigenvalue."""
    return symmetric(np.concatenate([[smallest], np.linspace(1, 2, N - 1)]))


def assert_solved(A, X, B):
    """To the tolerance, or to the rounding floor."""
    floor = 16 * np.finfo(float).eps * np.linalg.norm(abs(A) @ abs(X), axis=0)
    assert np.all(np.linalg.norm(B - A @ X, axis=0) <= np.maximum(1e-10, floor))


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_ill_conditioned_system_is_solved_to_the_rounding_floor(solver, k):
    A, B = nearly_singular(1e-7), unit(N, k)
    assert_solved(A, SOLVERS[solver]().setup(A).solve(B), B)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_system_that_is_singular_to_working_precision_is_an_error(solver, k):
    with pytest.raises((mfdeq.ConvergenceError, mfdeq.SingularStateError)):
        SOLVERS[solver]().setup(nearly_singular(1e-15)).solve(unit(N, k))


@pytest.mark.filterwarnings("ignore:.*ended at the rounding error:mfdeq.AccuracyWarning")
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_nearly_singular_system_has_no_solution_above_the_rounding_floor(solver, k):
    A, B = nearly_singular(1e-13), unit(N, k)
    with contextlib.suppress(mfdeq.ConvergenceError, mfdeq.SingularStateError):
        assert_solved(A, SOLVERS[solver]().setup(A).solve(B), B)


def test_stagnation_is_an_error_with_its_history():
    shift, b = np.roll(np.eye(N), 1, axis=0), np.eye(N)[0]
    factor = mfdeq.Krylov(restart=20).setup(shift)
    for solve in (factor.solve, factor.solve_adjoint):
        with pytest.raises(mfdeq.ConvergenceError, match=r"residuals 1.0e\+00 -> 1.0e\+00") as got:
            solve(b)
        assert 20 <= len(got.value.report.history) <= 80
        assert got.value.report.history[-1] == pytest.approx(1.0)
    close(mfdeq.Krylov(restart=N).setup(shift).solve(b), shift.T @ b, 1e-14)


@pytest.mark.parametrize("solver", SOLVERS)
def test_iterations_that_ran_out_are_an_error_with_its_history(solver):
    factor, b = SOLVERS[solver](max_iterations=9).setup(SPD), 5 * unit(N)
    for solve in (factor.solve, factor.solve_adjoint):
        before = factor.counts.iterations
        with pytest.raises(mfdeq.ConvergenceError, match="it ran out of iterations; resid") as got:
            solve(b)
        history = got.value.report.history
        assert len(history) == factor.counts.iterations - before == 9
        found = np.linalg.norm(b - SPD @ got.value.best) / 5
        assert history[-1] == pytest.approx(found, rel=1e-6)
        assert f"relative true residual of {found:.2e}" in str(got.value)
