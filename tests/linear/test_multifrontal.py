"""Nested dissection, and the multifrontal factorization on it, against dense truth."""

from __future__ import annotations

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.systems import network
from support.matrices import diffusion, operator, residuals
from support.places import HOST, Place, agrees

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.linear.direct import multifrontal as multifrontal_package
from mfdeq.linear.multifrontal import fronts
from mfdeq.linear.multifrontal.dissection import dissection
from mfdeq.linear.multifrontal.multifrontal import Batch, Level, Multifrontal
from mfdeq.linear.reuse import Reused
from mfdeq.report import LinearCounts

RNG = np.random.default_rng(0)


def seven_point(n):
    one = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    eye = sp.identity(n)
    plane = sp.kron(one, eye) + sp.kron(eye, one)
    return (sp.kron(plane, eye) + sp.kron(sp.identity(n * n), one)).tocsr()


def random_graph(n, wind=0.0):
    """A symmetric pattern without any geometry; with wind, other values above the diagonal."""
    A = sp.random(n, n, 2.0 / n, random_state=np.random.default_rng(1))
    A = (A + A.T + 5 * sp.identity(n)).tocsr()
    return (A + wind * sp.triu(A, 1)).tocsr()


def star(n):
    A = 3 * np.eye(n)
    A[0] += 1 / n
    A[:, 0] += 1 / n
    return sp.csr_matrix(A)


def blocks(count, n):
    return sp.block_diag(
        [RNG.standard_normal((n, n)) + 2 * n**0.5 * np.eye(n) for _ in range(count)]
    ).tocsr()


CASES = {
    "one": sp.csr_matrix([[3.0]]),
    "diagonal": sp.diags(np.arange(1.0, 60.0)).tocsr(),
    "path": sp.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(700, 700)).tocsr(),
    "plane": diffusion(22),
    "windy": diffusion(21, 0.7, 0.3),
    "space": seven_point(9),
    "points of two": sp.kron(diffusion(12, 0.4), [[2.0, 0.3], [-0.2, 1.0]]).tocsr(),
    "upper triangle": sp.triu(diffusion(13)),
    "graph": random_graph(300),
    "windy graph": random_graph(300, 0.5),
    "star": star(150),
    "dense blocks": blocks(7, 33),
    "a dense matrix": sp.csr_matrix(blocks(1, 70).toarray()),
    "components": sp.block_diag([diffusion(15), diffusion(4), sp.identity(5), seven_point(5)]),
}


def built(matrix, dtype="float64"):
    matrix = matrix.tocsr().astype(dtype)
    symmetric = abs(matrix - matrix.T).max() == 0
    return Multifrontal(matrix, Backend.of(matrix.data), symmetric)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_solves_with_a_matrix_and_its_adjoint(name, dtype):
    dense = CASES[name].toarray()
    factors = built(CASES[name], dtype)
    B = RNG.standard_normal((dense.shape[0], 5)).astype(dtype)
    for adjoint, b in itertools.product(
        (False, True), (B, np.asfortranarray(B), B[:, 0], B[:, :1], B[:, ::2], B[:, :0])
    ):
        before = b.copy()
        x = factors.solve(b, adjoint)
        assert x.shape == b.shape
        assert x.dtype == dtype
        assert np.array_equal(b, before)
        A = dense.T if adjoint else dense
        off = residuals(A, *(y[:, None] if y.ndim == 1 else y for y in (x, b)))
        assert np.all(off <= (1e-13 if dtype == "float64" else 1e-4))


def test_a_zero_column_and_an_infinite_one_stay_among_themselves():
    factors = built(CASES["windy"])
    B = RNG.standard_normal((441, 3))
    B[:, 1] = 0.0
    B[7, 2] = np.inf
    with np.errstate(invalid="ignore"):
        x = factors.solve(B)
    np.testing.assert_array_equal(x[:, 1], 0.0)
    assert residuals(CASES["windy"].toarray(), x[:, :1], B[:, :1]) < 1e-13


@pytest.mark.parametrize("by_metis", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_dissection_separates(name, by_metis):
    """An entry joins two fronts only if one of them is above the other."""
    largest = 16
    if by_metis:
        pytest.importorskip("pymetis", reason="the metis extra is not installed")
    cut = dissection(CASES[name], largest, by_metis)
    matrix = CASES[name].tocoo()
    parents = cut.parent.tolist()
    assert all(parent < front for front, parent in enumerate(parents))
    above = [{front} for front in range(len(parents))]
    for front, parent in enumerate(parents):
        if parent >= 0:
            above[front] |= above[parent]
    for i, j in zip(cut.front[matrix.row].tolist(), cut.front[matrix.col].tolist(), strict=True):
        assert i in above[j] or j in above[i]
    sizes = np.bincount(cut.front, minlength=len(parents))
    assert sizes.min() > 0
    leaves = sizes[~np.isin(np.arange(len(parents)), cut.parent)]
    if name not in ("dense blocks", "a dense matrix"):
        assert leaves.max() <= largest


@pytest.mark.parametrize(
    ("matrix", "widest", "fill"),
    [(diffusion(100), 130, 1.4), (seven_point(18), 420, 1.3)],
    ids=["plane", "space"],
)
def test_separators_are_small(matrix, widest, fill):
    """About as wide as the grid, and no more fill than minimum degree's."""
    cut = dissection(matrix, 16)
    assert np.bincount(cut.front).max() <= widest
    order = np.argsort(-cut.front, kind="stable")
    options = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    mine = sp.linalg.splu(matrix[order][:, order].tocsc(), permc_spec="NATURAL", **options)
    theirs = sp.linalg.splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", **options)
    assert mine.nnz <= fill * theirs.nnz


def test_what_touches_everything_is_the_root():
    """A grid with a border of two: cut as the grid is."""
    inner, n = diffusion(40), 1600
    rng = np.random.default_rng(0)
    border = sp.csr_matrix(rng.standard_normal((n, 2)))
    A = sp.bmat([[inner, border], [border.T, 500 * sp.identity(2)]]).tocsr()
    cut, plain = dissection(A, 24), dissection(inner, 24)
    assert cut.front[-1] == cut.front[-2] == 0
    assert np.sum(cut.front == 0) == 2
    assert np.sum(cut.parent < 0) == 1
    assert cut.parent.size == plain.parent.size + 1
    factors = Multifrontal(A, Backend.of(A.data), symmetric=True)
    b = rng.standard_normal(n + 2)
    np.testing.assert_allclose(A @ factors.solve(b), b, atol=1e-10)


def test_unknowns_with_the_same_neighbours_stay_together():
    cut = dissection(sp.kron(diffusion(20), np.ones((3, 3))).tocsr(), 16)
    np.testing.assert_array_equal(cut.front[::3], cut.front[1::3])
    np.testing.assert_array_equal(cut.front[::3], cut.front[2::3])


def test_a_pattern_is_dissected_once(monkeypatch):
    count = []
    monkeypatch.setattr(fronts, "dissection", lambda *args: count.append(1) or dissection(*args))
    built(diffusion(23))
    other = built(diffusion(23) + 0.5 * sp.identity(23**2))
    assert len(count) == 1
    b = RNG.standard_normal((23**2, 1))
    dense = (diffusion(23) + 0.5 * sp.identity(23**2)).toarray()
    assert residuals(dense, other.solve(b), b) < 1e-13
    built(diffusion(24))
    assert len(count) == 2


def test_threads_do_not_share_memory():
    factors, B = built(diffusion(60, 0.3)), RNG.standard_normal((60**2, 24))
    expected = factors.solve(B)
    with ThreadPoolExecutor(4) as pool:
        for x in pool.map(lambda _: factors.solve(B), range(24)):
            np.testing.assert_array_equal(x, expected)


def test_blocks_of_any_width_and_memory_layout():
    """Wider than what is solved for at once, then narrower, in memory that was used before."""
    matrix = diffusion(24, 0.4)
    factors, B = built(matrix), RNG.standard_normal((24**2, 75))
    for b in (B, B[:, :3], np.asfortranarray(B), B[::-1, ::-1], B[:, 40]):
        block = b if b.ndim == 2 else b[:, None]
        assert residuals(matrix, factors.solve(b).reshape(block.shape), block).max() <= 1e-13


# What it is not for.


def zero_diagonal(n):
    """Regular, with a symmetric pattern; every diagonal entry of half of its rows is zero."""
    C = sp.identity(n) + 0.1 * sp.diags([1.0], [1], shape=(n, n))
    return sp.bmat([[None, C.T], [C, None]]).tocsr()


@pytest.mark.parametrize(
    ("matrix", "why"),
    [
        (network(150).A, "no small separators"),
        (zero_diagonal(400), "singular"),
        (np.eye(4), "dense"),
    ],
    ids=["long edges", "singular front", "dense"],
)
def test_where_it_does_not_suit(matrix, why, monkeypatch):
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


def test_graphs_with_long_edges_by_metis():
    pytest.importorskip("pymetis", reason="the metis extra is not installed")
    matrix = network(150).A
    factor = mfdeq.Direct(package="multifrontal").setup(operator(matrix))
    b = RNG.standard_normal((matrix.shape[0], 2))
    assert residuals(matrix, factor.solve(b), b).max() <= 1e-12
    assert factor.nbytes < 8 * 0.2 * matrix.shape[0] ** 2 / 4


def test_fronts_that_lose_all_digits_are_not_used(monkeypatch):
    """Eliminating ε first leaves 1/ε; partial pivoting over all rows does not."""
    monkeypatch.setattr(multifrontal_package, "MAX_SUPERLU_SIZE", 10)
    matrix = (zero_diagonal(300) + 1e-15 * sp.identity(600)).tocsr()
    with pytest.raises(mfdeq.ArgumentError, match="badly conditioned"):
        mfdeq.Direct(package="multifrontal").setup(operator(matrix))
    assert mfdeq.Direct().setup(operator(matrix)).name == "Direct (SuperLU)"


def test_large_matrices_get_fronts_and_small_ones_columns():
    assert mfdeq.Direct().setup(operator(diffusion(101))).name == "Direct (multifrontal)"
    assert mfdeq.Direct().setup(operator(diffusion(30))).name == "Direct (SuperLU)"


def placed(factors, place):
    """The same factors on another array library, the sparse matrices as dense ones."""
    if place is HOST:
        return factors
    moved = copy.copy(factors)
    moved._spare = []
    moved.backend = Backend(place.xp, place.xp.float64, place.device)
    moved.order, moved.position = place(factors.order), place(factors.position)
    moved.levels = [
        Level(
            level.own,
            None if level.incoming is None else place(level.incoming.toarray()),
            place(level.above),
            [Batch(*(place(part) for part in vars(batch).values())) for batch in level.batches],
        )
        for level in factors.levels
    ]
    return moved


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize("name", ["windy", "plane", "dense blocks"])
def test_solves_run_on_any_array_library(name, device):
    matrix = CASES[name].tocsr()
    factors = built(matrix)
    b = RNG.standard_normal((matrix.shape[0], 3))

    def compute(place):
        return [
            placed(factors, place).solve(place(x), adjoint)
            for x, adjoint in ((b, False), (b, True), (b[:, 0], False))
        ]

    agrees(Place(device), compute)
    np.testing.assert_allclose(matrix @ compute(HOST)[0], b, atol=1e-10)


# What comes in.


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
def test_every_sparse_format(name, package, monkeypatch):
    monkeypatch.setattr(multifrontal_package, "MAX_SUPERLU_SIZE", 10)
    matrix = diffusion(22, 0.3)
    given = FORMATS[name](matrix)
    b = RNG.standard_normal((22**2, 2))
    x = mfdeq.Direct(package=package).setup(given).solve(b)
    assert residuals(matrix, x, b).max() <= 1e-12


@pytest.mark.parametrize("package", ["multifrontal", "superlu"])
@pytest.mark.parametrize("wind", [0.0, 0.5])
@pytest.mark.parametrize("both", [False, True])
def test_units_of_rows_and_columns_do_not_matter(both, wind, package):
    """They are scaled back; else large rows would be the pivots, and L and U full."""
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


def test_an_empty_matrix_and_one_without_entries():
    with pytest.raises(mfdeq.ArgumentError, match=r"\(0, 0\)"):
        mfdeq.Direct().setup(sp.csr_array((0, 0)))
    with pytest.raises(mfdeq.SingularStateError):
        mfdeq.Direct().setup(sp.csr_array((7, 7)))
    with pytest.raises(mfdeq.ArgumentError, match="diagonal that is not positive"):
        mfdeq.Direct(package="cholespy").setup(sp.csr_array((7, 7)))


def test_a_right_hand_side_beyond_the_range_of_squares():
    factor = mfdeq.Direct().setup(diffusion(5))
    with pytest.raises(mfdeq.ArgumentError, match="its norm overflows"):
        factor.solve(np.full(25, 1e160))


def test_cg_is_not_kept_for_a_matrix_that_is_not_symmetric():
    solver = Reused(mfdeq.Krylov("cg"))
    symmetric, windy = (operator(diffusion(9, wind)) for wind in (0.0, 0.4))
    solver.setup(symmetric, LinearCounts())
    for take in (solver.setup, solver.settle):
        with pytest.raises(mfdeq.ArgumentError, match="symmetric"):
            take(windy, LinearCounts())
