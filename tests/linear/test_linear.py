"""Every solver with every preconditioner on every kind of matrix, both sides, against the truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_models import linear_operator_of
from support.cases import close
from support.matrices import diffusion, operator
from support.places import LIBRARIES, to_numpy

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.equilibrium import conditioning
from mfdeq.linear.krylov.krylov import BLOCK_METHODS, METHODS, SYMMETRIC_METHODS
from mfdeq.linear.preconditioners import amg
from mfdeq.operators.dot_tests import is_symmetric
from mfdeq.operators.operator import IdentityMinus


def contraction(n, seed=0):
    rng = np.random.default_rng(seed)
    J = rng.standard_normal((n, n))
    return np.eye(n) - 0.5 * J / np.linalg.norm(J, 2)


def saddle(n):
    """A symmetric pattern with zeros on the diagonal."""
    rng = np.random.default_rng(1)
    C = 0.1 * sp.random(n, n, 0.2, random_state=rng) + sp.identity(n)
    return sp.bmat([[diffusion(6)[:n, :n], C.T], [C, None]]).tocsc()


MATRICES = {
    "symmetric": diffusion(22),
    "windy": diffusion(22, wind=0.7),
    "contraction": sp.csr_matrix(contraction(40)),
}


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


def check(factor, dense, dtype="float64", rtol=None):
    """Both sides, a vector, a block, a zero column and dependent columns, at the true residual."""
    n = dense.shape[0]
    rng = np.random.default_rng(2)
    B = rng.standard_normal((n, 5)).astype(dtype)
    B[:, 1] = 0.0
    B[:, 3] = -2.0 * B[:, 2]
    B[:, 4] *= 1e-12
    rtol = (1.01e-10 if dtype == "float64" else 3e-5) if rtol is None else rtol
    xp, B = factor.backend.xp, factor.backend.from_host(B)
    for solve, A in ((factor.solve, dense), (factor.solve_adjoint, dense.T)):
        for b in (B, xp.asfortranarray(B), B[:, 0], B[:, 1], B[:, :1], B[:, ::2], B[:, :0]):
            before = b.copy()
            x = solve(b)
            assert type(x) is type(b)
            assert x.shape == b.shape
            assert x.dtype == dtype
            b, x = to_numpy(b), to_numpy(x)
            assert np.array_equal(b, to_numpy(before))
            residual = np.linalg.norm(b - A.astype(float) @ x, axis=0)
            assert np.all(residual <= rtol * np.linalg.norm(b, axis=0))


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
    check(factor, matrix.toarray())
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
    check(solver.setup(operator(MATRICES[name], xp=xp)), MATRICES[name].toarray())


FRONTS = [(name, "multifrontal") for name in MATRICES]


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize(
    ("name", "package"),
    [*itertools.product([*MATRICES, "saddle"], [None, "superlu"]), *FRONTS],
)
def test_direct(name, package, form, dtype, xp):
    matrix = saddle(30) if name == "saddle" else MATRICES[name]
    given = matrix.toarray() if form == "dense" else matrix.asformat(form)
    if package == "multifrontal" and form == "dense":
        return
    factor = mfdeq.Direct(package=package).setup(operator(given, dtype, xp))
    check(factor, matrix.toarray().astype(dtype), dtype)
    assert factor.counts.iterations == 0
    # cuDSS solves with the transpose by a factorization of its own.
    both = factor.name.endswith("(cuDSS)") and not is_symmetric(factor.A)
    assert factor.counts.setups == (2 if both else 1)


def test_direct_keeps_a_symmetric_pattern_cheap():
    A = operator(diffusion(60, wind=0.5))
    factor = mfdeq.Direct().setup(A)
    columns = sp.linalg.splu(A.array.tocsc())
    lu = factor.factorization.lu
    assert lu.L.nnz < 0.8 * columns.L.nnz
    assert np.array_equal(lu.perm_c[np.argsort(lu.perm_r)], np.arange(3600))


# Dense blocks on the diagonal, of which the inverses are kept.

LAYERS = sp.block_diag([contraction(6, seed) for seed in range(7)], format="csr")
SWAPPED = np.random.default_rng(0).permutation(42)


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("scale", [1.0, 1e-9, np.logspace(-6, 6, 42)[:, None]], ids=str)
def test_a_batch_of_dense_layers(scale, form, dtype, xp):
    layers = LAYERS.multiply(scale).asformat(form)
    factor = mfdeq.Direct().setup(operator(layers, dtype, xp))
    assert factor.name == "Direct (dense blocks)"
    assert factor.counts.bytes == factor.nbytes == 2 * 7 * 36 * np.dtype(dtype).itemsize
    check(factor, layers.toarray().astype(dtype), dtype)


OTHERS = {
    "of two sizes": sp.block_diag([contraction(m) for m in (6, 6, 4, 8, 6, 6, 6)]),
    "of three": sp.block_diag([contraction(3, seed) for seed in range(14)]),
    "in another order": LAYERS[SWAPPED][:, SWAPPED],
    "shifted": LAYERS[np.roll(range(42), 3)],
    "with an entry less": LAYERS - LAYERS.multiply(sp.coo_matrix(([1], ([9], [8])), (42, 42))),
    "beyond the diagonal": LAYERS + sp.coo_matrix(([1.0], ([0], [41])), (42, 42)),
    "badly conditioned": sp.block_diag(
        [contraction(6), np.fliplr(np.vander(1 + 1e-3 * np.arange(6)))]
    ),
}


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("name", OTHERS)
def test_blocks_that_are_something_else(name, xp):
    A = OTHERS[name].tocsr()
    A.eliminate_zeros()
    factor = mfdeq.Direct().setup(operator(A, xp=xp))
    assert factor.name == "Direct (SuperLU)" if xp is np else factor.name != "Direct (dense blocks)"
    if name != "badly conditioned":
        check(factor, A.toarray())


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("rounding", [0.0, 1e-15])
def test_a_singular_block(rounding, xp):
    blocks = LAYERS.toarray()
    blocks[20] = blocks[22] * (1 + rounding)
    with pytest.raises(mfdeq.SingularStateError):
        mfdeq.Direct().setup(operator(sp.csr_matrix(blocks), xp=xp)).solve(xp.arange(42.0))


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("as_product", [False, True])
def test_neumann(dtype, as_product, xp):
    dense = contraction(40)
    A = operator(dense, dtype, xp)
    if as_product:
        A = IdentityMinus(operator(np.eye(40) - dense, dtype, xp))
    factor = mfdeq.Neumann().setup(A)
    check(factor, dense.astype(dtype), dtype)


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize(
    "solver",
    [mfdeq.Direct(), mfdeq.Krylov(preconditioner=mfdeq.AMG()), mfdeq.Krylov("cg"), mfdeq.Krylov()],
    ids=str,
)
def test_float32_reaches_its_own_limit(solver, xp):
    matrix = MATRICES["symmetric"]
    check(solver.setup(operator(matrix, "float32", xp)), matrix.toarray(), "float32")


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
