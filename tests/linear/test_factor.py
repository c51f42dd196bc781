"""What every factor does: it checks residuals, does not depend on units, and counts digits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.linalg import hilbert
from support.cases import close
from support.linear_checks import MATRICES, check_solves
from support.matrices import diffusion, operator
from support.places import LIBRARIES

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.equilibrium.smallest_singular import smallest_singular
from mfdeq.linear import rounding


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(
    "solver",
    [mfdeq.Direct(), mfdeq.Krylov(preconditioner=mfdeq.AMG()), mfdeq.Krylov("cg"), mfdeq.Krylov()],
    ids=str,
)
def test_float32_reaches_its_own_tolerance(solver, xp):
    matrix = MATRICES["symmetric"]
    check_solves(solver.setup(operator(matrix, "float32", xp)), matrix.toarray(), "float32")


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(
    "solver",
    [
        mfdeq.Krylov("gmres", max_iterations=5),
        mfdeq.Krylov("cg", max_iterations=5),
        mfdeq.Krylov("bicgstab", preconditioner=mfdeq.Jacobi(), max_iterations=3),
    ],
    ids=str,
)
def test_a_solve_that_stops_early_raises_and_carries_its_best(solver, xp):
    matrix = diffusion(40)
    factor = solver.setup(operator(matrix, xp=xp))
    b = xp.ones((1600, 2))
    for solve in (factor.solve, factor.solve_adjoint):
        with pytest.raises(mfdeq.ConvergenceError, match="true residual") as caught:
            solve(b)
        assert caught.value.best.shape == b.shape
        assert caught.value.report.iterations > 0


def test_easy_columns_do_not_hide_a_hard_one():
    """Columns are judged one by one: easy ones do not hide a hard one."""
    matrix = diffusion(40)
    factor = mfdeq.Krylov("cg", max_iterations=30).setup(operator(matrix))
    k = np.arange(1, 41) * np.pi / 41
    easy = np.kron(np.sin(k), np.sin(k))  # an eigenvector
    factor.solve(np.stack([easy, easy], axis=1))
    with pytest.raises(mfdeq.ConvergenceError):
        factor.solve(np.stack([1e6 * easy, 1e-6 * np.random.default_rng(0).random(1600)], axis=1))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("windy", mfdeq.Direct()),
        ("windy", mfdeq.Krylov(preconditioner=mfdeq.AMG())),
        ("symmetric", mfdeq.Krylov(preconditioner=mfdeq.AMG())),
        ("symmetric", mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())),
        ("windy", mfdeq.Krylov(recycle=5)),
    ],
    ids=str,
)
def test_solves_do_not_depend_on_units(name, solver, scale):
    matrix = MATRICES[name]
    b = np.random.default_rng(0).standard_normal(matrix.shape[0])
    one = solver.setup(operator(matrix)).solve(b)
    close(scale * solver.setup(operator(scale * matrix)).solve(b), one, 1e-8)
    close(solver.setup(operator(matrix)).solve(scale * b) / scale, one, 1e-8)


def rounding_digits(factor):
    found = smallest_singular(factor)
    return rounding.rounding_digits(factor.A, found.right, found.left / found.value)


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_digits_fall_with_the_condition_and_not_with_scaling(form, xp):
    """Falls with the condition, not with the scaling of rows or columns."""
    n = 12
    smooth = diffusion(n).toarray()
    put = np.array if form == "dense" else sp.csr_matrix
    digits = rounding_digits(mfdeq.Direct().setup(operator(put(smooth), xp=xp)))
    assert 13 < digits < 16
    rows = 10.0 ** np.random.default_rng(0).uniform(-8, 8, n * n)
    assert rounding_digits(mfdeq.Direct().setup(operator(put(rows[:, None] * smooth), xp=xp))) > 12
    lowest = np.linalg.eigvalsh(smooth)[0]
    for distance in (1e-4, 1e-8, 1e-12):
        shifted = smooth - (lowest - distance) * np.eye(n * n)
        left = rounding_digits(mfdeq.Direct().setup(operator(put(shifted), xp=xp)))
        true = -np.log10(np.finfo(float).eps * np.linalg.norm(shifted, 2) / distance)
        assert abs(left - true) < 0.6


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("form", ["dense", "sparse", "krylov"])
def test_a_singular_operator_has_no_digits(form, xp):
    n = 20
    laplacian = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)).tolil()
    laplacian[0, 0] = laplacian[-1, -1] = 1.0  # no flow at either end: constants are free
    A = operator(laplacian.toarray() if form == "dense" else laplacian.tocsr(), xp=xp)
    solver = mfdeq.Krylov() if form == "krylov" else mfdeq.Direct()
    try:
        assert rounding_digits(solver.setup(A)) < 1
    except (mfdeq.SingularStateError, mfdeq.ConvergenceError) as error:
        assert form == "krylov" or error.digits < 1  # noqa: PT017


@pytest.mark.parametrize("shape", [(40_000,), (9_001, 3), (5, 40_000), (20_000, 0), (0, 2)])
def test_norms_of_a_difference_match_numpy(shape):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, *shape))
    found = Backend.of(x).difference_norms(x, y)
    np.testing.assert_allclose(found, np.linalg.norm(x - y, axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    "solver",
    [
        mfdeq.Krylov(preconditioner=mfdeq.Jacobi()),
        mfdeq.Krylov(),
        mfdeq.Krylov("cg", preconditioner=mfdeq.Jacobi()),
        mfdeq.linear.Neumann(),
    ],
    ids=str,
)
def test_a_solve_reaches_its_tolerance_in_given_weights(solver):
    """A loose solve leaves a small equation as it is, unless that has a large weight."""
    n = 225
    matrix = (sp.identity(n) + 0.05 * diffusion(15)).tocsr()
    factor = solver.setup(operator(matrix))
    b = np.where(np.arange(n) == 7, 1e-6, 1.0) * np.random.default_rng(1).standard_normal(n)
    weights = np.where(np.arange(n) == 7, 1e8, 1.0)
    x = factor.solve(b, rtol=1e-2, weights=weights)
    left = b - matrix @ x
    assert np.linalg.norm(weights * left) <= 1e-2 * np.linalg.norm(weights * b)
    plain = b - matrix @ factor.solve(b, rtol=1e-2)
    assert np.linalg.norm(weights * plain) > 1e-2 * np.linalg.norm(weights * b)


def test_an_approximate_inverse_reduces_residuals_with_an_aged_preconditioner():
    """One application of the inverse of a nearly singular matrix would enlarge them."""
    new = diffusion(20)
    lowest = np.linalg.eigvalsh(new.toarray())[0]
    aged = (new - 0.9999 * lowest * sp.identity(400)).tocsr()
    counts = mfdeq.report.LinearCounts()
    for solver in (mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()), mfdeq.Direct()):
        factor = solver.setup(operator(aged)).preconditioned_factor(operator(new), counts, 100)
        r = np.ones(400)
        for adjoint in (False, True):
            left = r - new @ factor.approximate(r, adjoint=adjoint)
            assert np.linalg.norm(left) < 0.5 * np.linalg.norm(r)


@pytest.mark.parametrize("name", ["amg", "no preconditioner"])
def test_cg_that_fails_in_mixed_units_names_the_scale_that_helps(name):
    preconditioner = mfdeq.AMG() if name == "amg" else None
    units = 10.0 ** np.random.default_rng(0).uniform(-6, 6, 400)
    matrix = sp.diags(units) @ diffusion(20) @ sp.diags(units)
    factor = mfdeq.Krylov("cg", preconditioner, max_iterations=100).setup(operator(matrix.tocsr()))
    with pytest.raises(mfdeq.ConvergenceError, match="state_scale of the model"):
        factor.solve(np.ones(400))
    uniform = mfdeq.Krylov("cg", max_iterations=3).setup(operator(diffusion(20)))
    with pytest.raises(mfdeq.ConvergenceError, match="Try another preconditioner"):
        uniform.solve(np.ones(400))


@pytest.mark.parametrize(("dtype", "n"), [(np.float32, 5), (np.float64, 11)])
def test_a_solution_with_few_digits_is_warned_of(dtype, n):
    """Of a Hilbert matrix that is nearly, but not quite, singular to rounding."""
    factor = mfdeq.Direct().setup(hilbert(n).astype(dtype))
    b = np.random.default_rng(0).standard_normal(n).astype(dtype)
    with pytest.warns(mfdeq.AccuracyWarning, match=r"with about [12] correct digits"):
        factor.solve(b)
    factor.solve(b, rtol=0.5)  # a loose solve needs no digits


@pytest.mark.parametrize(
    ("solver", "sparse"),
    [
        (mfdeq.Direct(), True),
        (mfdeq.Direct(), False),
        (mfdeq.Krylov(), True),
        (mfdeq.Krylov(preconditioner=mfdeq.ILU()), True),
    ],
    ids=str,
)
def test_errors_of_a_factor_speak_of_a_matrix(solver, sparse):
    A = np.diag(np.r_[np.ones(9), 0.0])
    with pytest.raises((mfdeq.SingularStateError, mfdeq.ConvergenceError)) as caught:
        solver.setup(sp.csr_array(A) if sparse else A).solve(np.ones(10))
    for word in ("fold", "drain", "state", "parameters"):
        assert word not in str(caught.value)


def test_a_zero_pivot_of_an_incomplete_factorization_is_described_in_words():
    A = sp.csr_array(np.diag([1.0, 0.0, 2.0]))
    with pytest.raises(mfdeq.SingularStateError, match="pivot of its incomplete LU") as caught:
        mfdeq.Krylov(preconditioner=mfdeq.ILU()).setup(A)
    assert "\n" not in str(caught.value)
