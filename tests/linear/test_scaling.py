"""Solves with matrices whose equations and unknowns are in other units."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.systems import diffusion as lognormal_diffusion
from support.matrices import diffusion, operator
from support.places import LIBRARIES

import mfdeq
from mfdeq.linear import operator_of
from mfdeq.linear.equilibration import equilibrate
from mfdeq.linear.scaling import Scaling

RNG = np.random.default_rng(0)
N = 144


def in_units(A, rows, columns):
    """Multiply rows and columns by numbers."""
    if sp.issparse(A):
        return sp.csr_matrix(sp.diags(rows) @ A @ sp.diags(columns))
    return rows[:, None] * A * columns


def units(dtype="float64", n=N):
    span = 8 if dtype == "float64" else 3
    return (10.0 ** RNG.uniform(-span, span, (2, n))).astype(dtype)


WINDY = (diffusion(12, 0.5) + 0.3 * sp.identity(N)).tocsr()
SYMMETRIC = (diffusion(12) + 0.3 * sp.identity(N)).tocsr()
BLOCKS = sp.csr_matrix(sp.block_diag([4 * np.eye(6) + RNG.standard_normal((6, 6))] * 24))
GENERAL = [
    mfdeq.Direct(),
    mfdeq.Direct(package="superlu"),
    mfdeq.Direct(package="multifrontal"),
    mfdeq.Krylov(),
    mfdeq.Krylov(recycle=10),
    mfdeq.Krylov(preconditioner=mfdeq.ILU(drop_tol=1e-2)),
    mfdeq.Krylov(preconditioner=mfdeq.Jacobi()),
    mfdeq.Krylov("bicgstab"),
]


def relative(found, expected):
    """The largest relative error of an entry."""
    return np.max(np.abs(found / expected - 1))


@pytest.mark.parametrize("form", ["sparse", "dense", "blocks"])
@pytest.mark.parametrize("solver", GENERAL, ids=str)
def test_units_change_neither_solutions_nor_iterations(solver, form):
    A = {"sparse": WINDY, "dense": WINDY.toarray(), "blocks": BLOCKS}[form]
    if form == "dense" and (getattr(solver, "package", None) or "ILU" in str(solver)):
        pytest.skip("for sparse matrices")
    dense = A.toarray() if sp.issparse(A) else A
    B = RNG.standard_normal((N, 2))
    iterations = {}
    for name, (rows, columns) in {"own": np.ones((2, N)), "other": units()}.items():
        factor = solver.setup(in_units(A, rows, columns))
        x = columns[:, None] * factor.solve(rows[:, None] * B)
        y = rows[:, None] * factor.solve_adjoint(columns[:, None] * B)
        rtol = 1e-11 if isinstance(solver, mfdeq.Direct) else 1e-5
        assert relative(x, np.linalg.solve(dense, B)) < rtol
        assert relative(y, np.linalg.solve(dense.T, B)) < rtol
        iterations[name] = factor.counts.iterations
    assert abs(iterations["own"] - iterations["other"]) <= 8  # in four solves


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("solver", [mfdeq.Direct(), mfdeq.Krylov()], ids=str)
def test_units_change_no_solution_in_float32_and_on_any_library(solver, xp):
    b, (rows, columns) = RNG.standard_normal(N).astype("float32"), units("float32")
    A = operator(in_units(WINDY, rows, columns), "float32", xp)
    x = solver.setup(A).solve(A.backend.from_host(rows * b))
    x = columns * (x if isinstance(x, np.ndarray) else x.get())
    expected = np.linalg.solve(WINDY.toarray(), b)
    np.testing.assert_allclose(x, expected, atol=1e-3 * abs(expected).max())


@pytest.mark.parametrize("n", [12, 400])
def test_the_scaling_of_a_matrix_does_not_depend_on_its_units(n):
    A = sp.csr_matrix(sp.diags([-1.0, 2.1, -1.3], [-1, 0, 1], shape=(n, n)))
    rows, columns = 10.0 ** RNG.uniform(-8, 8, (2, n))
    scaled = [in_units(M, *equilibrate(M)).toarray() for M in (A, in_units(A, rows, columns))]
    np.testing.assert_allclose(scaled[1], scaled[0], rtol=1e-6)
    assert 0.9 < abs(scaled[0]).sum(axis=1).min() <= abs(scaled[0]).sum(axis=1).max() < 1.1


def test_rounding_noise_does_not_decide_the_scaling():
    A = np.eye(50) + np.where(np.arange(50) < 10, 0.1, 1e-17)[:, None] * RNG.random((50, 50))
    rows, columns = equilibrate(A)
    sums = (rows[:, None] * A * columns).sum(axis=1)
    assert 0.5 < sums.min() <= sums.max() < 2


def test_a_symmetric_matrix_has_a_symmetric_scaling():
    sizes = 10.0 ** RNG.uniform(-8, 8, N)
    saddle = sp.bmat([[SYMMETRIC, sp.eye(N, 20)], [sp.eye(20, N), None]], format="csr")
    for A in (in_units(SYMMETRIC, sizes, sizes), saddle):
        rows, columns = equilibrate(A)
        assert np.array_equal(rows, columns)


class InexactSolver(mfdeq.linear.Solver):
    """A solver that leaves one equation unsolved."""

    def setup(self, A, counts=None):
        return _InexactFactor(operator_of(A), None, counts)


class _InexactFactor(mfdeq.linear.Factor):
    name = "inexact"

    def _attempt(self, b, rtol, adjoint):
        dense = self.A.array.toarray()
        x = np.linalg.solve(dense, b)
        x[-1] *= 2.0
        return x


def test_a_symmetric_matrix_has_a_symmetric_scaling_where_its_iteration_stops_early():
    A = lognormal_diffusion(110, 2).A
    rows, columns = equilibrate(A)
    np.testing.assert_array_equal(rows, columns)
    assert mfdeq.Direct().setup(A).name == "Direct (multifrontal)"


def test_a_small_equation_that_is_not_solved_is_an_error():
    """Its residual is rounding beside those of the others."""
    A = sp.csr_matrix(np.diag([1e9, 1e9, 1e-9]) @ (np.eye(3) + 0.1))
    with pytest.raises(mfdeq.ConvergenceError, match="relative true residual"):
        InexactSolver().setup(A).solve(np.array([1e9, 2e9, 1e-9]))


def given_scales(A, rows, columns):
    """A matrix in other units, with the sizes that count as one in them."""
    scaled = operator_of(in_units(A, rows, columns))
    scaled.scales = rows, 1.0 / columns
    return scaled


@pytest.mark.parametrize("given", ["both", "unknowns"])
@pytest.mark.parametrize(
    "solver",
    [
        mfdeq.Krylov("cg"),
        mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()),
        mfdeq.Krylov(preconditioner=mfdeq.AMG()),
        mfdeq.Krylov(preconditioner=mfdeq.AMG("ruge_stuben")),
        mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(near_nullspace=np.ones(N))),
    ],
    ids=str,
)
def test_methods_with_units_are_free_of_them_with_scales(solver, given):
    rows, columns = units()
    if given == "unknowns":
        rows = columns  # symmetric in all units
    b = RNG.standard_normal(N)
    if solver.preconditioner is not None and solver.preconditioner.near_nullspace is not None:
        other = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(near_nullspace=1.0 / columns))
    else:
        other = solver
    plain = solver.setup(operator_of(SYMMETRIC))
    scaled = given_scales(SYMMETRIC, rows, columns)
    if given == "unknowns":
        scaled.scales = None, 1.0 / columns
    factor = other.setup(scaled)
    for solve, expected, into, out in (
        (factor.solve, plain.solve(b), rows, columns),
        (factor.solve_adjoint, plain.solve_adjoint(b), columns, rows),
    ):
        assert relative(out * solve(into * b), expected) < 1e-6
    assert abs(plain.counts.iterations - factor.counts.iterations) <= 2


def test_products_in_unlike_units_are_iterated_with_scales():
    rows, columns = units()
    A = in_units(WINDY, rows, columns)
    products = operator_of(sp.linalg.aslinearoperator(A))
    products.scales = rows, 1.0 / columns
    b = RNG.standard_normal(N)
    factor = mfdeq.Krylov().setup(products)
    assert relative(columns * factor.solve(rows * b), np.linalg.solve(WINDY.toarray(), b)) < 1e-5


@pytest.mark.parametrize("known", ["entries", "products", "scales"])
def test_neumann_does_not_depend_on_the_units_of_unknowns(known):
    J = 0.5 * sp.random(N, N, 0.05, random_state=RNG) / 7
    A = (sp.identity(N) - J).tocsr()
    b, sizes = RNG.standard_normal(N), units()[0]
    iterations = []
    for size in (np.ones(N), sizes):
        scaled = operator_of(in_units(A, 1 / size, size))
        if known != "entries":
            scaled = operator_of(sp.linalg.aslinearoperator(scaled.array))
        if known == "scales":
            scaled.scales = 1.0 / size, 1.0 / size
        factor = mfdeq.Neumann().setup(scaled)
        assert relative(size * factor.solve(b / size), np.linalg.solve(A.toarray(), b)) < 1e-6
        y = factor.solve_adjoint(size * b) / size
        assert relative(y, np.linalg.solve(A.toarray().T, b)) < 1e-6
        iterations.append(factor.counts.iterations)
    assert abs(iterations[0] - iterations[1]) <= 4


@pytest.mark.parametrize("recycle", [0, 20])
def test_upwind_differences_are_solved_in_the_norm_that_is_asked_for(recycle):
    """The scaling of a balanced matrix grows like sqrt(3)^i in each direction, to 1e28."""
    T = sp.diags_array([-1.5, 2.0, -0.5], offsets=[-1, 0, 1], shape=(60, 60))
    A = sp.csr_array(sp.kronsum(T, T))
    assert Scaling.exact(operator_of(A)).rows is None
    factor = mfdeq.Krylov(recycle=recycle).setup(A)
    b = np.random.default_rng(0).standard_normal(3600)
    for _ in range(2):
        assert np.linalg.norm(A @ factor.solve(b, rtol=1e-8) - b) <= 1e-8 * np.linalg.norm(b)
    assert factor.counts.refinements == 0
