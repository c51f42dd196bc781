"""The packages that factorize sparse matrices: which is chosen, and what they take."""

from __future__ import annotations

import importlib.metadata
import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks import systems
from benchmarks.saddle_points import darcy
from benchmarks.systems import network
from support.linear_checks import MATRICES, check_solves
from support.matrices import diffusion, operator, residuals
from support.places import LIBRARIES
from support.sparse_graphs import zero_diagonal

import mfdeq
from mfdeq.linear.direct import multifrontal as multifrontal_package
from mfdeq.linear.direct import pardiso
from mfdeq.linear.multifrontal import fronts
from mfdeq.operators.dot_tests import is_symmetric

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("matrix", "why"),
    [
        (network(150).A, "no small separators"),
        (zero_diagonal(400), "singular"),
        (np.eye(4), "dense"),
    ],
    ids=["long edges", "singular front", "dense"],
)
def test_unsuitable_matrices_are_refused_by_fronts_and_solved_otherwise(matrix, why, monkeypatch):
    monkeypatch.setattr(multifrontal_package, "MAX_SUPERLU_SIZE", 10)
    monkeypatch.setattr(fronts, "has_metis", lambda: False)
    A = operator(matrix)
    with pytest.raises(mfdeq.ArgumentError, match=why):
        mfdeq.Direct(package="multifrontal").setup(A)
    factor = mfdeq.Direct().setup(A)
    assert factor.name in ("Direct (SuperLU)", "Direct (dense LU)")
    b = RNG.standard_normal(A.shape[0])
    x = factor.solve(b)
    assert np.linalg.norm(b - A @ x) <= 1e-10 * np.linalg.norm(b)


def test_fronts_take_graphs_with_long_edges_where_metis_is_installed():
    pytest.importorskip("pymetis", reason="the metis extra is not installed")
    matrix = network(150).A
    factor = mfdeq.Direct(package="multifrontal").setup(operator(matrix))
    b = RNG.standard_normal((matrix.shape[0], 2))
    assert residuals(matrix, factor.solve(b), b).max() <= 1e-12
    assert factor.nbytes < 8 * 0.2 * matrix.shape[0] ** 2 / 4


def test_badly_conditioned_fronts_are_refused(monkeypatch):
    """Eliminating ε first leaves 1/ε; partial pivoting over all rows does not."""
    monkeypatch.setattr(multifrontal_package, "MAX_SUPERLU_SIZE", 10)
    matrix = (zero_diagonal(300) + 1e-15 * sp.identity(600)).tocsr()
    with pytest.raises(mfdeq.ArgumentError, match="badly conditioned"):
        mfdeq.Direct(package="multifrontal").setup(operator(matrix))
    assert mfdeq.Direct().setup(operator(matrix)).name == "Direct (SuperLU)"


def test_large_meshes_are_factorized_by_fronts_and_small_ones_by_superlu():
    assert mfdeq.Direct().setup(operator(diffusion(101))).name == "Direct (multifrontal)"
    assert mfdeq.Direct().setup(operator(diffusion(30))).name == "Direct (SuperLU)"


# Formats, units and right-hand sides.


def with_stored_zeros(A):
    """Zeros between unknowns that are far from each other."""
    far = sp.diags_array([np.ones(A.shape[0] - 37)], offsets=[37])
    padded = (A + far).tocsr()
    padded[far.nonzero()] = 0.0
    assert padded.nnz > A.nnz
    return padded


FORMATS = {
    "bsr": lambda A: A.tobsr((2, 2)),
    "stored zeros": with_stored_zeros,
    "dok": lambda A: A.todok(),
    "lil": lambda A: A.tolil(),
    "coo": lambda A: A.tocoo(),
    "dia": lambda A: A.todia(),
    "twice": lambda A: sp.csr_array(
        (
            np.r_[A.data[0] / 3, 2 * A.data[0] / 3, A.data[1:]],
            np.r_[A.indices[0], A.indices],
            np.r_[0, A.indptr[1:] + 1],
        ),
        shape=A.shape,
    ),
}


@pytest.mark.parametrize("package", [None, "multifrontal", "superlu"])
@pytest.mark.parametrize("name", FORMATS)
def test_solves_in_every_sparse_format(name, package, monkeypatch):
    monkeypatch.setattr(multifrontal_package, "MAX_SUPERLU_SIZE", 10)
    matrix = diffusion(22, 0.3)
    given = FORMATS[name](matrix)
    b = RNG.standard_normal((22**2, 2))
    x = mfdeq.Direct(package=package).setup(given).solve(b)
    assert residuals(matrix, x, b).max() <= 1e-12


@pytest.mark.parametrize("package", ["multifrontal", "superlu"])
@pytest.mark.parametrize("wind", [0.0, 0.5])
@pytest.mark.parametrize("both", [False, True])
def test_units_of_rows_and_columns_change_neither_solution_nor_fill(both, wind, package):
    """Without scaling, large rows would be the pivots, and L and U would fill up."""
    matrix = diffusion(40, wind)
    rows, columns = 10.0 ** RNG.uniform(-6, 6, (2, 1600))
    columns = columns if both else np.ones(1600)
    scaled = (sp.diags(rows) @ matrix @ sp.diags(columns)).tocsr()
    plain, factor = (mfdeq.Direct(package=package).setup(A) for A in (matrix, scaled))
    b = RNG.standard_normal((1600, 3))
    x = factor.solve(rows[:, None] * b) * columns[:, None]
    assert np.linalg.norm(x - plain.solve(b)) <= 1e-9 * np.linalg.norm(x)
    y = factor.solve_adjoint(columns[:, None] * b) * rows[:, None]
    assert np.linalg.norm(y - plain.solve_adjoint(b)) <= 1e-9 * np.linalg.norm(y)
    if package == "superlu":
        assert factor.nbytes <= 4 * plain.nbytes


def test_matrices_without_rows_or_entries_are_errors():
    with pytest.raises(mfdeq.ArgumentError, match=r"\(0, 0\)"):
        mfdeq.Direct().setup(sp.csr_array((0, 0)))
    with pytest.raises(mfdeq.SingularStateError):
        mfdeq.Direct().setup(sp.csr_array((7, 7)))
    with pytest.raises(mfdeq.ArgumentError, match="diagonal that is not positive"):
        mfdeq.Direct(package="cholmod").setup(sp.csr_array((7, 7)))


def test_a_right_hand_side_whose_norm_overflows_is_solved():
    factor, ones = mfdeq.Direct().setup(diffusion(5)), np.ones(25)
    np.testing.assert_allclose(1e-160 * factor.solve(1e160 * ones), factor.solve(ones), rtol=1e-12)


# Both sides, for vectors and blocks, on every array library.


def saddle(n):
    """A symmetric pattern with zeros on the diagonal."""
    rng = np.random.default_rng(1)
    C = 0.1 * sp.random(n, n, 0.2, random_state=rng) + sp.identity(n)
    return sp.bmat([[diffusion(6)[:n, :n], C.T], [C, None]]).tocsc()


# Fronts are for sparse matrices, and do not pivot enough for a saddle point.
FORMS = [
    *itertools.product([*MATRICES, "saddle"], [None, "superlu"], ["csr", "csc", "dense"]),
    *itertools.product(MATRICES, ["multifrontal"], ["csr", "csc"]),
]


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "package", "form"), FORMS)
def test_solves_with_a_matrix_and_its_adjoint(name, package, form, dtype, xp):
    matrix = saddle(30) if name == "saddle" else MATRICES[name]
    given = matrix.toarray() if form == "dense" else matrix.asformat(form)
    factor = mfdeq.Direct(package=package).setup(operator(given, dtype, xp))
    check_solves(factor, matrix.toarray().astype(dtype), dtype)
    assert factor.counts.iterations == 0
    # cuDSS solves with the transpose by a factorization of its own.
    both = factor.name.endswith("(cuDSS)") and not is_symmetric(factor.A)
    assert factor.counts.setups == (2 if both else 1)


def test_superlu_orders_symmetric_patterns_symmetrically():
    A = operator(diffusion(60, wind=0.5))
    factor = mfdeq.Direct().setup(A)
    columns = sp.linalg.splu(A.array.tocsc())
    lu = factor.factorization.lu
    assert lu.L.nnz < 0.8 * columns.L.nnz
    assert np.array_equal(lu.perm_c[np.argsort(lu.perm_r)], np.arange(3600))


def test_superlu_orders_columns_where_the_diagonal_has_many_zeros():
    """As in a saddle point, in which the symmetric ordering would fill twenty times as much."""
    matrix = darcy(16).A
    factor = mfdeq.Direct(package="superlu").setup(operator(matrix))
    check_solves(factor, matrix.toarray(), rtol=1e-9)
    assert factor.nbytes < 12 * 15 * matrix.nnz


def test_cholmod_solves_with_definite_matrices_and_refuses_others():
    pytest.importorskip("kvxopt", reason="the suitesparse extra is not installed")
    matrix = diffusion(20)
    factor = mfdeq.Direct(package="cholmod").setup(operator(matrix))
    B = np.random.default_rng(0).standard_normal((400, 9))
    for b in (B, np.asfortranarray(B), B[:, 0], B[:, ::2], B[:, :0]):
        before = b.copy()
        for x in (factor.solve(b), factor.solve_adjoint(b)):
            assert x.shape == b.shape
            assert np.all(np.linalg.norm(matrix @ x - b, axis=0) <= 1e-10 * 30)
        assert np.array_equal(b, before)
    for refused in (
        diffusion(20, 0.5),
        (matrix - 100 * sp.identity(400) * matrix.max()).tocsr(),
        np.eye(3),
    ):
        with pytest.raises(mfdeq.ArgumentError, match="cholmod"):
            mfdeq.Direct(package="cholmod").setup(operator(refused))


def test_nothing_is_printed_of_a_matrix_that_is_indefinite(capfd):
    pytest.importorskip("kvxopt", reason="the suitesparse extra is not installed")
    A = sp.csr_array(np.diag([1.0, 2.0, 1.0, 3.0]) + 1.5 * np.eye(4)[::-1])
    for _ in range(2):
        with pytest.raises(mfdeq.ArgumentError, match="not positive definite"):
            mfdeq.Direct(package="cholmod").setup(A)
    assert capfd.readouterr() == ("", "")


PARDISO_MATRICES = {
    **MATRICES,
    "saddle": saddle(30),
    "indefinite": (diffusion(30) - 0.7 * sp.identity(900)).tocsr(),
    "no diagonal": sp.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(60, 60)).tocsr(),
    "volume": systems.diffusion(9, 3).A,
}


@pytest.mark.parametrize("entries", [0.0, np.inf], ids=["at once", "one by one"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PARDISO_MATRICES)
def test_pardiso_solves_with_a_matrix_and_its_adjoint(name, dtype, entries, monkeypatch):
    pytest.importorskip("pypardiso", reason="the pardiso extra is not installed")
    monkeypatch.setattr(pardiso, "MIN_BLOCK_ENTRIES", entries)
    matrix = PARDISO_MATRICES[name]
    factor = mfdeq.Direct(package="pardiso").setup(operator(matrix.tocsr(), dtype))
    check_solves(factor, matrix.toarray().astype(dtype), dtype)
    assert factor.nbytes > 0
    assert factor.counts.setups == 1


@pytest.mark.parametrize("order", [pardiso.MINIMUM_DEGREE, pardiso.NESTED_DISSECTION])
def test_pardiso_orders_by_what_takes_fewer_operations(order, monkeypatch):
    pytest.importorskip("pypardiso", reason="the pardiso extra is not installed")
    limit = 0.0 if order == pardiso.NESTED_DISSECTION else np.inf
    monkeypatch.setattr(pardiso, "MAX_MINIMUM_DEGREE_OPERATIONS", limit)
    matrix = systems.diffusion(14, 3).A
    factor = mfdeq.Direct(package="pardiso").setup(operator(matrix))
    assert factor.factorization.options[1] == order
    check_solves(factor, matrix.toarray())


def test_pardiso_counts_negative_pivots():
    pytest.importorskip("pypardiso", reason="the pardiso extra is not installed")
    matrix = PARDISO_MATRICES["indefinite"]
    factor = mfdeq.Direct(package="pardiso").setup(operator(matrix))
    expected = int((np.linalg.eigvalsh(matrix.toarray()) < 0.0).sum())
    assert factor.factorization.negative_pivots() == expected > 0
    definite = mfdeq.Direct(package="pardiso").setup(operator(diffusion(8)))
    assert definite.factorization.negative_pivots() == 0


def test_pardiso_is_found_without_a_search_of_the_environment():
    """The search of pypardiso takes longer than most solves."""
    pytest.importorskip("pypardiso", reason="the pardiso extra is not installed")
    try:
        importlib.metadata.version("mkl")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the library is not that of the package mkl")
    program = (
        "import sys, scipy.sparse, mfdeq, numpy as np\n"
        "A = 2.0 * scipy.sparse.eye_array(50, format='csr')\n"
        "x = mfdeq.Direct(package='pardiso').setup(A).solve(np.ones(50))\n"
        "print(np.abs(x - 0.5).max() < 1e-15, 'pypardiso' in sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "False"]


def test_pardiso_refuses_what_is_not_sparse():
    pytest.importorskip("pypardiso", reason="the pardiso extra is not installed")
    with pytest.raises(mfdeq.ArgumentError, match="dense"):
        mfdeq.Direct(package="pardiso").setup(operator(np.eye(3)))
