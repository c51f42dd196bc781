"""Entries and patterns of matrices from their products, against the matrices themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.systems import convection
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.linear.operands import operator_of
from mfdeq.operators import probing
from mfdeq.operators.operator import Operator
from mfdeq.operators.probing import ColouredPattern, detect_pattern

WINDY = convection(30, peclet=0.2).A
RNG = np.random.default_rng(0)


def counted(matrix):
    """Return the matrix as an operator known by its products, and the list of their columns."""
    columns = []

    def product(x):
        columns.append(1 if x.ndim == 1 else x.shape[1])
        return matrix @ x

    adjoint = matrix.T.__matmul__
    op = LinearOperator(matrix.shape, product, adjoint, product, float, adjoint)
    backend = Backend.of(np.zeros(1))
    return mfdeq.operators.user_operators.as_operator(backend, op, matrix.shape, "A"), columns


@pytest.mark.parametrize("rows", [7, 130])
def test_the_entries_in_a_known_pattern_are_recovered(rows):
    matrix = (sp.random(rows, rows, 0.2, random_state=RNG) + sp.identity(rows)).tocsr()
    found = ColouredPattern(abs(matrix)).matrix_of(operator_of(aslinearoperator(matrix)))
    assert abs(found - matrix).max() <= 1e-14


def test_the_entries_of_a_stencil_are_recovered_from_few_products():
    coloured = ColouredPattern(WINDY.tocoo())
    assert coloured.count <= 13  # of five points: columns at most two apart need different ones
    together = (WINDY.T @ WINDY).tocoo()
    off = together.row != together.col
    assert np.all(coloured.colour[together.row[off]] != coloured.colour[together.col[off]])
    A, columns = counted(WINDY)
    coloured.matrix_of(A)
    assert sum(columns) <= 16 + 4  # four check the adjoint, and blocks against their columns


MATRICES = {
    "one": sp.csr_matrix([[3.0]]),
    "nothing": sp.csr_matrix((5, 3)),
    "five points": WINDY,
    "wide": sp.random(20, 70, 0.1, random_state=RNG),
    "tall": sp.random(70, 20, 0.1, random_state=RNG),
    "dense row": sp.vstack([np.ones((1, 40)), sp.identity(40)]),
    "dense": RNG.standard_normal((9, 9)),
    "cancelling": sp.diags([1.0, -1.0], [0, 1], shape=(33, 33)),
}


def test_colours_do_not_depend_on_the_random_numbers_of_the_user():
    """Other colours would round differently."""
    pattern = convection(30, peclet=0.2).A
    found = []
    for seed in range(4):
        np.random.seed(seed)  # noqa: NPY002
        found.append(ColouredPattern(pattern).colour)
        assert np.random.rand() == np.random.RandomState(seed).rand()  # noqa: NPY002
    assert all(np.array_equal(found[0], colour) for colour in found)


@pytest.mark.parametrize("name", MATRICES)
def test_the_pattern_of_the_entries_is_detected(name):
    matrix = sp.csr_matrix(MATRICES[name])
    found = detect_pattern(counted(matrix)[0])
    assert found.shape == matrix.shape
    assert np.array_equal(found.toarray() != 0, matrix.toarray() != 0)


def test_the_pattern_of_a_stencil_is_detected_from_few_products():
    grid = convection(100, peclet=0.2).A  # 10,000 unknowns
    A, columns = counted(grid)
    found = detect_pattern(A)
    assert found.nnz == grid.nnz
    assert sum(columns) <= 300


def test_the_pattern_of_several_operators_is_their_union():
    one, other = sp.diags([1.0, 0, 2], shape=(3, 3)).tocsr(), sp.csr_matrix(np.eye(3, k=1))
    found = detect_pattern(counted(one)[0], counted(other)[0]).toarray()
    assert np.array_equal(found != 0, (one + other).toarray() != 0)


def test_a_nan_in_a_product_counts_as_an_entry():
    other = sp.csr_matrix(np.eye(3, k=1))

    class Undefined(Operator):
        def _apply(self, x):
            return np.where(np.arange(3)[:, None] == 1, np.nan, other @ x)

    undefined = Undefined(Backend.of(np.zeros(1)), (3, 3))
    assert np.array_equal(detect_pattern(undefined).toarray(), [[0, 1, 0], [1, 1, 1], [0, 0, 0]])


def test_a_pattern_with_too_many_entries_in_a_row_is_refused(monkeypatch):
    monkeypatch.setattr(probing, "MAX_ROW_ENTRIES", 10)
    with pytest.raises(mfdeq.ArgumentError, match="a row has more than 10 entries"):
        detect_pattern(counted(np.ones((3, 40)))[0])
