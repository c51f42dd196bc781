"""Every solver with every preconditioner on every kind of matrix, both sides, against the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_models import linear_operator_of
from support.cases import close
from support.linear_checks import MATRICES, check_solves, contraction
from support.matrices import diffusion, operator
from support.places import LIBRARIES

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.equilibrium import conditioning
from mfdeq.linear.krylov.krylov import BLOCK_METHODS, METHODS, SYMMETRIC_METHODS
from mfdeq.linear.preconditioners import amg
from mfdeq.operators.operator import IdentityMinus


def inverse_of_lower_part(A, xp):
    inverse = xp.asarray(np.linalg.inv(sp.tril(A, 1).toarray()))
    return linear_operator_of(xp)(
        A.shape, matvec=lambda x: inverse @ x, rmatvec=lambda y: inverse.T @ y, dtype=float
    )


PRECONDITIONERS = {
    "none": None,
    "jacobi": mfdeq.Jacobi(),
    "ilu": mfdeq.ILU(drop_tol=0.05),
    "amg": mfdeq.AMG(),
    "ruge_stuben": mfdeq.AMG("ruge_stuben", degree=3),
}
MORE = {
    "amg degree": mfdeq.AMG(degree=2),
    "amg blocks": mfdeq.AMG(block_size=2),
    "amg float32": mfdeq.AMG(levels="float32"),
    "amg float64": mfdeq.AMG(levels="float64"),
    "air": mfdeq.AMG("air"),
}
NOT_SYMMETRIC = ("ilu", "user", "air")  # also for a symmetric matrix


def combinations():
    """(matrix, method, preconditioner) of all that are meant to work together."""
    for name, method, M in itertools.product(MATRICES, METHODS, [*PRECONDITIONERS, "user", *MORE]):
        if method in SYMMETRIC_METHODS and (name != "symmetric" or M in NOT_SYMMETRIC):
            continue
        if name == "contraction" and (M in MORE or M in ("amg", "ruge_stuben")):
            continue  # Nobody claims that multigrid suits a random matrix.
        if M in MORE and method == "lgmres":
            continue
        yield name, method, M


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(("name", "method", "preconditioner"), list(combinations()))
def test_krylov_solves_with_every_preconditioner(name, method, preconditioner, xp, monkeypatch):
    monkeypatch.setattr(amg, "MAX_COARSE", 50)  # several levels, of these small matrices too
    matrix = MATRICES[name]
    A = operator(matrix, xp=xp)
    if not (method in BLOCK_METHODS or hasattr(A.backend.sparse_linalg, method)):
        pytest.skip(f"the array library has no {method}")
    M = {**PRECONDITIONERS, **MORE, "user": inverse_of_lower_part(matrix, xp)}[preconditioner]
    factor = mfdeq.Krylov(method, preconditioner=M).setup(A)
    check_solves(factor, matrix.toarray())
    assert factor.counts.iterations > 0


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("name", ["windy", "contraction"])
@pytest.mark.parametrize("method", SYMMETRIC_METHODS)
def test_methods_for_symmetric_matrices_refuse_others(method, name, xp):
    with pytest.raises(mfdeq.ArgumentError, match="needs a symmetric A"):
        mfdeq.Krylov(method).setup(operator(MATRICES[name], xp=xp))


@pytest.mark.parametrize(**LIBRARIES)
def test_a_method_that_the_array_library_lacks_is_named(xp):
    A = operator(MATRICES["windy"], xp=xp)
    if hasattr(A.backend.sparse_linalg, "lgmres"):
        pytest.skip("the array library has all methods")
    factor = mfdeq.Krylov("lgmres").setup(A)
    with pytest.raises(mfdeq.ArgumentError, match=r"cupyx\.scipy\.sparse\.linalg has no 'lgmres'"):
        factor.solve(xp.ones(A.shape[0]))


BLOCKS = [
    *itertools.product(
        MATRICES,
        [
            mfdeq.Krylov(recycle=10),
            mfdeq.Krylov(recycle=10, block=3),
            mfdeq.Krylov(recycle=10, preconditioner=mfdeq.Jacobi()),
            mfdeq.Krylov(block=1),
            mfdeq.Krylov(block=3),
        ],
    ),
    *itertools.product(
        ["symmetric", "windy"],
        [
            mfdeq.Krylov(recycle=10, preconditioner=mfdeq.AMG(levels="float64")),
            mfdeq.Krylov(block=3, preconditioner=mfdeq.AMG(levels="float32")),
        ],
    ),
    ("symmetric", mfdeq.Krylov("cg", block=1)),
    ("symmetric", mfdeq.Krylov("cg", block=3)),
    ("symmetric", mfdeq.Krylov("cg", block=3, preconditioner=mfdeq.AMG())),
]


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(("name", "solver"), BLOCKS, ids=str)
def test_krylov_of_blocks(name, solver, xp, monkeypatch):
    monkeypatch.setattr(amg, "MAX_COARSE", 50)
    check_solves(solver.setup(operator(MATRICES[name], xp=xp)), MATRICES[name].toarray())


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("as_product", [False, True])
def test_neumann(dtype, as_product, xp):
    dense = contraction(40)
    A = operator(dense, dtype, xp)
    if as_product:
        A = IdentityMinus(operator(np.eye(40) - dense, dtype, xp))
    factor = mfdeq.Neumann().setup(A)
    check_solves(factor, dense.astype(dtype), dtype)


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(
    "solver",
    [mfdeq.Direct(), mfdeq.Krylov(preconditioner=mfdeq.AMG()), mfdeq.Krylov("cg"), mfdeq.Krylov()],
    ids=str,
)
def test_float32_reaches_its_own_limit(solver, xp):
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
def test_a_solve_that_stops_early_raises_with_its_best(solver, xp):
    matrix = diffusion(40)
    factor = solver.setup(operator(matrix, xp=xp))
    b = xp.ones((1600, 2))
    for solve in (factor.solve, factor.solve_adjoint):
        with pytest.raises(mfdeq.ConvergenceError, match="true residual") as caught:
            solve(b)
        assert caught.value.best.shape == b.shape
        assert caught.value.report.iterations > 0


def test_a_block_with_one_hard_column_is_not_returned():
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
    found = conditioning.smallest_singular(factor)
    return conditioning.rounding_digits(factor.A, found.right, found.left / found.value)


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_digits_left(form, xp):
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
def test_norms_of_a_difference_taken_piece_by_piece(shape):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, *shape))
    found = Backend.of(x).difference_norms(x, y)
    np.testing.assert_allclose(found, np.linalg.norm(x - y, axis=0), rtol=1e-12)


@pytest.mark.parametrize("method", ["cg", "minres"])
def test_a_preconditioner_that_goes_one_way_is_refused(method):
    with pytest.raises(mfdeq.ArgumentError, match="not, even for a symmetric A"):
        mfdeq.Krylov(method, preconditioner=mfdeq.AMG("air"))
