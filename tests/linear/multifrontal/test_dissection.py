"""Nested dissection: what a separator must be, and how small it is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.matrices import diffusion
from support.sparse_graphs import SPARSE_MATRICES, seven_point

from mfdeq.arrays.backend import Backend
from mfdeq.linear.multifrontal import graphs
from mfdeq.linear.multifrontal.dissection import dissect
from mfdeq.linear.multifrontal.multifrontal import Multifrontal


@pytest.mark.parametrize("use_metis", [False, True])
@pytest.mark.parametrize("name", SPARSE_MATRICES)
def test_entries_join_a_front_to_its_ancestors_only(name, use_metis):
    largest = 16
    if use_metis:
        pytest.importorskip("pymetis", reason="the metis extra is not installed")
    cut = dissect(SPARSE_MATRICES[name], largest, use_metis)
    matrix = SPARSE_MATRICES[name].tocoo()
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
def test_separators_are_about_as_wide_as_the_grid(matrix, widest, fill):
    """And their ordering fills hardly more than minimum degree."""
    cut = dissect(matrix, 16)
    assert np.bincount(cut.front).max() <= widest
    order = np.argsort(-cut.front, kind="stable")
    options = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    mine = sp.linalg.splu(matrix[order][:, order].tocsc(), permc_spec="NATURAL", **options)
    theirs = sp.linalg.splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", **options)
    assert mine.nnz <= fill * theirs.nnz


def test_unknowns_with_the_same_neighbors_stay_in_one_front():
    cut = dissect(sp.kron(diffusion(20), np.ones((3, 3))).tocsr(), 16)
    np.testing.assert_array_equal(cut.front[::3], cut.front[1::3])
    np.testing.assert_array_equal(cut.front[::3], cut.front[2::3])


def test_unknowns_coupled_to_all_others_become_the_root():
    """A grid with a border of two unknowns is cut as the grid alone is."""
    inner, n = diffusion(40), 1600
    rng = np.random.default_rng(0)
    border = sp.csr_matrix(rng.standard_normal((n, 2)))
    A = sp.bmat([[inner, border], [border.T, 500 * sp.identity(2)]]).tocsr()
    cut, plain = dissect(A, 24), dissect(inner, 24)
    assert cut.front[-1] == cut.front[-2] == 0
    assert np.sum(cut.front == 0) == 2
    assert np.sum(cut.parent < 0) == 1
    assert cut.parent.size == plain.parent.size + 1
    factors = Multifrontal(A, Backend.of(A.data), symmetric=True)
    b = rng.standard_normal(n + 2)
    np.testing.assert_allclose(A @ factors.solve(b), b, atol=1e-10)


def test_vertices_are_sorted_in_one_order_if_most_of_them_are_close_together():
    """Nearly all keys are then in one bucket of the compiled sort."""
    pytest.importorskip("numba", reason="the fast extra is not installed")
    from mfdeq.linear.multifrontal import compiled_graphs

    rng = np.random.default_rng(0)
    coordinates = rng.standard_normal((3000, 2))
    coordinates[::500] *= 1e6
    inside, sizes = rng.permutation(3000), np.array([1000, 1800, 200])
    expected = graphs.order_along_axes(coordinates, inside, sizes)
    np.testing.assert_array_equal(
        compiled_graphs.order_along_axes(coordinates, inside, sizes), expected
    )
