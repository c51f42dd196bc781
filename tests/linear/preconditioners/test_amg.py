"""The multigrid cycle: linear, with its adjoint, as good on large grids, and where each shines."""

from __future__ import annotations

import os

import numpy as np
import pyamg
import pytest
import scipy.sparse as sp
from support.cases import close
from support.matrices import diffusion, operator
from support.places import LIBRARIES, to_numpy
from support.sparse_graphs import seven_point

import mfdeq
from mfdeq.arrays import jit
from mfdeq.linear.preconditioners import coarsest_level
from mfdeq.linear.preconditioners.unsmoothed import Unsmoothed

BEND = np.stack([np.ones(2025), np.linspace(-1, 1, 2025)], axis=1)
CYCLES = [
    mfdeq.AMG(),
    mfdeq.AMG("smoothed_aggregation"),
    mfdeq.AMG("ruge_stuben"),
    mfdeq.AMG("air"),
    mfdeq.AMG(degree=4),
    mfdeq.AMG(block_size=3),
    mfdeq.AMG(block_size=3, degree=2),
    mfdeq.AMG(near_nullspace=BEND),
]


def cycle(A, levels, xp=np, **options):
    np.random.seed(0)  # noqa: NPY002 (PyAMG draws from it)
    return mfdeq.AMG(levels=levels, **options).setup(operator(A, xp=xp))


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("levels", ["float64", "float32"])
@pytest.mark.parametrize("name", ["symmetric", "windy"])
@pytest.mark.parametrize("amg", CYCLES, ids=lambda amg: str(amg)[:60])
def test_a_cycle_is_linear_and_its_adjoint_exact(name, amg, levels, xp):
    """To the rounding of its levels."""
    n, rounding = 45, 1e-13 if levels == "float64" else 1e-5
    A = operator(diffusion(n, 0.7 if name == "windy" else 0.0), xp=xp)
    given = {**vars(amg), "levels": levels}
    if amg.near_nullspace is not None:
        given["near_nullspace"] = xp.asarray(amg.near_nullspace)
    M = mfdeq.AMG(**given).setup(A)
    assert len(M.levels) >= 1
    assert M.flexible == (levels == "float32")
    rng = np.random.default_rng(0)
    X, Y = (xp.asarray(rng.standard_normal((n * n, 4))) for _ in range(2))
    assert (M @ X).dtype == (M.H @ X).dtype == X.dtype
    close(M @ X, to_numpy(xp.stack([M @ x for x in X.T], axis=1)), rounding)
    close(M.H @ X, to_numpy(xp.stack([M.H @ x for x in X.T], axis=1)), rounding)
    close(M @ (X @ xp.ones(4)), to_numpy((M @ X) @ xp.ones(4)), rounding)
    close(Y.T @ (M @ X), to_numpy((M.H @ Y).T @ X), 10 * rounding)
    if name == "symmetric" and amg.method != "air":
        close(M @ X, to_numpy(M.H @ X), 10 * rounding)
    # A cycle reduces the error on both sides.
    for side, one in ((A, M), (A.H, M.H)):
        e = xp.asarray(rng.standard_normal(n * n))
        size = xp.linalg.norm(e)
        for _ in range(20):
            e = e - one @ (side @ e)
        assert xp.linalg.norm(e) < 1e-3 * size


def test_levels_are_float32_where_a_is_symmetric():
    for wind in (0.0, 1.0):
        A = diffusion(30, wind)
        chosen, single, double = (cycle(A, levels) for levels in (None, "float32", "float64"))
        assert chosen.flexible == (wind == 0.0)
        assert single.nbytes < 0.7 * double.nbytes
        assert chosen.nbytes == (single if chosen.flexible else double).nbytes
        x = np.random.default_rng(0).standard_normal(900)
        close(single @ x, double @ x, 1e-5)
        assert not mfdeq.AMG().setup(operator(A, "float32")).flexible


@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("wind", [0.0, 1.0])
@pytest.mark.parametrize("levels", ["float64", "float32"])
def test_a_large_coarsest_level_is_factorized(wind, levels, xp, monkeypatch):
    A = diffusion(30, wind)
    dense = cycle(A, levels, xp)
    monkeypatch.setattr(coarsest_level, "MAX_DENSE_COARSE", 10)
    factorized = cycle(A, levels, xp)
    assert not isinstance(factorized.coarse, xp.ndarray)
    X = xp.asarray(np.random.default_rng(0).standard_normal((900, 3)))
    rounding = 1e-11 if levels == "float64" else 1e-4
    for one, other in ((factorized, dense), (factorized.H, dense.H)):
        close(one @ X, to_numpy(other @ X), rounding)
        close(one @ X[:, 0], to_numpy(other @ X[:, 0]), rounding)


def iterations(A, amg, method="gmres", **options):
    """Of a solve with A and of one with its adjoint; those tried where they did not suffice."""
    factor, found = mfdeq.Krylov(method, preconditioner=amg, **options).setup(operator(A)), []
    for solve in (factor.solve, factor.solve_adjoint):
        before = factor.counts.iterations
        try:
            solve(np.random.default_rng(0).standard_normal(A.shape[0]))
        except mfdeq.ConvergenceError:
            found.append(np.inf)
        else:
            found.append(factor.counts.iterations - before)
    return np.array(found)


@pytest.mark.parametrize(
    ("wind", "amg", "most", "growth"),
    [
        (0.0, mfdeq.AMG(), 16, 1.25),
        (0.0, mfdeq.AMG(degree=2), 12, 1.1),
        (0.0, mfdeq.AMG("ruge_stuben", degree=2), 10, 1.1),
        (1.0, mfdeq.AMG(), 24, 1.7),  # the price of Jacobi, four times cheaper than degree 2
        (1.0, mfdeq.AMG(degree=2), 15, 1.25),
        (1.0, mfdeq.AMG("air"), 12, 1.35),
        (3.0, mfdeq.AMG("air"), 10, 1.2),
    ],
    ids=str,
)
def test_iterations_do_not_grow_with_the_grid(wind, amg, most, growth):
    small, large = (iterations(diffusion(n, wind), amg) for n in (40, 160))
    assert large.max() <= most
    assert np.all(large <= growth * small)
    # The transpose is preconditioned as well as the matrix is.
    assert abs(large[0] - large[1]) <= 2


def test_iterations_hardly_grow_with_a_grid_in_three_dimensions():
    small, large = (iterations(seven_point(n), mfdeq.AMG(), "cg") for n in (16, 48))
    assert large.max() <= 15
    assert np.all(large <= 1.3 * small)


@pytest.mark.parametrize("levels", ["float64", "float32"])
def test_levels_by_diagonals_are_those_by_rows(levels, monkeypatch):
    pytest.importorskip("numba", reason="the fast extra is not installed")
    if os.environ.get(jit.VARIABLE) == "0":
        pytest.skip("compiled loops are switched off")
    rounding = 1e-12 if levels == "float64" else 2e-6
    x = np.random.default_rng(0).standard_normal((3375, 3))
    for A, other in (
        (seven_point(15), 3.0 * seven_point(15) + 0.1 * sp.identity(3375)),
        (variable(45, 0), variable(45, 1)),
    ):
        A, x, found = operator(A), x[: A.shape[0]], []
        for entries in (0, 2**62):
            monkeypatch.setattr(jit, "min_entries", lambda entries=entries: entries)
            M = mfdeq.AMG(levels=levels).setup(A)
            found.append((M, M @ x, M.H @ x))
            assert isinstance(M.levels[0], Unsmoothed) == (entries == 0)
        for diagonals, rows in zip(found[0][1:], found[1][1:], strict=True):
            close(diagonals, rows, rounding)
        M = found[0][0]
        assert M.nbytes < found[1][0].nbytes
        monkeypatch.setattr(jit, "min_entries", lambda: 0)
        assert M.refresh(operator(other))
        assert isinstance(M.levels[0], Unsmoothed)
        e = x[:, 0].copy()
        for _ in range(20):
            e = e - M @ (other @ e)
        assert np.linalg.norm(e) < 0.05 * np.linalg.norm(x[:, 0])
        close(x.T @ (M @ x), (x.T @ (M @ x)).T, 10 * rounding)


@pytest.mark.parametrize("wind", [10.0, 100.0])
@pytest.mark.parametrize("across", [0.0, 0.5])
def test_air_suits_dominant_advection(wind, across):
    """Cell Peclet numbers of 10 and 100, along the grid and across it."""
    A = diffusion(60, wind, across * wind)
    assert iterations(A, mfdeq.AMG("air")).max() <= 9
    assert iterations(A, mfdeq.AMG("air", levels="float32")).max() <= 9
    for other in (mfdeq.AMG(), mfdeq.AMG("smoothed_aggregation"), mfdeq.Jacobi()):
        assert iterations(A, other, max_iterations=60).min() >= 22


@pytest.mark.parametrize("method", ["cg", "gmres"])
def test_elasticity_needs_its_rigid_motions(method):
    stiffness, rigid = pyamg.gallery.linear_elasticity((30, 30))
    few, smoothed, translations, constant = (
        iterations(stiffness.tocsr(), amg, method).max()
        for amg in (
            mfdeq.AMG(block_size=2, near_nullspace=rigid),
            mfdeq.AMG(block_size=2, near_nullspace=rigid, degree=2),
            mfdeq.AMG(block_size=2),
            mfdeq.AMG(),
        )
    )
    assert smoothed < few <= 18
    assert few < translations
    assert constant > 4 * few


@pytest.mark.parametrize(
    "levels",
    [
        "float64",
        "float32",
    ],
)
def test_one_application_does_not_depend_on_units(levels):
    """Krylov methods give it columns of unit length; estimates of errors give it what there is."""
    factor = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(levels=levels)).setup(diffusion(30))
    r = np.random.default_rng(0).standard_normal((900, 2)) * [1, 1e-30]
    once = [factor.approximate(r, adjoint=adjoint) for adjoint in (False, True)]
    for scale in (1e-60, 1e-20, 1e20, 1e60):
        for adjoint in (False, True):
            found = factor.approximate(scale * r, adjoint=adjoint) / scale
            close(found[:, 0], once[adjoint][:, 0], 1e-5)
            close(found[:, 1], once[adjoint][:, 1], 1e-5)


def test_a_singular_diagonal_block_is_an_error():
    A = sp.kron(diffusion(30), np.ones((2, 2))) + sp.kron(diffusion(30), np.diag([0.0, 1e-300]))
    with pytest.raises((mfdeq.ArgumentError, mfdeq.SingularStateError), match="block"):
        mfdeq.Krylov(preconditioner=mfdeq.AMG(block_size=2)).setup(operator(A.tocsr()))


def test_a_hierarchy_is_reproducible_and_leaves_the_global_generator_alone():
    A, b = operator(diffusion(45)), np.ones(2025)
    np.random.seed(3)  # noqa: NPY002
    first = mfdeq.AMG(levels="float64").setup(A) @ b
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002
    assert np.array_equal(mfdeq.AMG(levels="float64").setup(A) @ b, first)


def variable(n, seed, wind=0.0, spread=1.5):
    """A diffusion whose coefficient varies by orders of magnitude, from cell to cell."""
    rng = np.random.default_rng(seed)
    d = sp.diags([-1.0, 1.0], [-1, 0], shape=(n + 1, n))
    D = sp.vstack([sp.kron(sp.identity(n), d), sp.kron(d, sp.identity(n))]).tocsr()
    k = sp.diags(np.exp(spread * rng.standard_normal(D.shape[0])))
    return (D.T @ k @ D + diffusion(n, wind) - diffusion(n)).tocsr()


REFRESHED = [
    (mfdeq.AMG(), 0.0),
    (mfdeq.AMG(levels="float64"), 0.0),
    (mfdeq.AMG(degree=3), 0.0),
    (mfdeq.AMG(near_nullspace=BEND), 0.0),
    (mfdeq.AMG("ruge_stuben"), 0.0),
    (mfdeq.AMG(), 0.5),
    (mfdeq.AMG("smoothed_aggregation"), 0.5),
]


@pytest.mark.parametrize(("amg", "wind"), REFRESHED, ids=str)
def test_a_cycle_refreshed_with_its_own_entries_is_unchanged(amg, wind):
    A = operator(variable(45, 0, wind))
    M = amg.setup(A)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2025, 3))
    before = M @ X, M.H @ X
    rounding = 1e-5 if M.flexible else 1e-11
    size = M.nbytes
    assert M.refresh(A)
    close(M @ X, before[0], rounding)
    close(M.H @ X, before[1], rounding)
    assert M.nbytes == size


@pytest.mark.parametrize(("amg", "wind"), REFRESHED, ids=str)
def test_a_cycle_refreshed_with_other_entries_is_as_good_as_a_new_one(amg, wind):
    """In another unit, too: of entries that are millions of times as large."""
    first, second = operator(diffusion(45, wind)), operator(1e6 * variable(45, 1, wind, 0.6))
    M = amg.setup(first)
    b = np.random.default_rng(1).standard_normal(2025)

    def iterations(M):
        factor = mfdeq.Krylov("gmres", preconditioner=M).setup(second)
        x = factor.solve(b)
        assert np.linalg.norm(second @ x - b) <= 1e-10 * np.linalg.norm(b)
        return factor.counts.iterations

    aged = iterations(M)
    assert M.refresh(second)
    given, new = iterations(M), iterations(amg.setup(second))
    assert given <= new + 5
    assert given < aged
    rng = np.random.default_rng(2)
    X, Y = rng.standard_normal((2, 2025, 2))
    close(Y.T @ (M @ X), (M.H @ Y).T @ X, 1e-4 if M.flexible else 1e-11)


@pytest.mark.parametrize("amg", [mfdeq.AMG("air"), mfdeq.AMG(block_size=3)], ids=str)
def test_transfers_made_from_the_entries_are_not_refreshed(amg):
    A = operator(diffusion(45))
    M = amg.setup(A)
    x = np.ones(2025)
    before = M @ x
    assert not M.refresh(operator(2 * diffusion(45)))
    np.testing.assert_array_equal(M @ x, before)


def test_a_symmetric_cycle_is_not_refreshed_with_a_nonsymmetric_matrix():
    M = mfdeq.AMG().setup(operator(diffusion(45)))
    assert not M.refresh(operator(diffusion(45, 1.0)))
