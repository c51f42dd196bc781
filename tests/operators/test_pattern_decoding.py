"""Sparsity patterns from the ratios of few products."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from mfdeq.arrays.backend import Backend
from mfdeq.operators.operator import Operator
from mfdeq.operators.pattern_decoding import decode_pattern
from mfdeq.operators.probing import ColouredPattern

RNG = np.random.default_rng(0)


class Counted(Operator):
    """A matrix that counts its products, and may round them."""

    def __init__(self, source, matrix, noise=0.0):
        super().__init__(source, matrix.shape)
        self.matrix, self.noise, self.products = matrix, noise, 0

    def _apply(self, x):
        self.products += 1 if x.ndim == 1 else x.shape[1]
        y = self.matrix @ x
        return y * (1 + self.noise * RNG.standard_normal(y.shape))


def counted(matrix, noise=0.0):
    matrix = sp.csr_matrix(matrix)
    matrix.data = RNG.standard_normal(matrix.nnz)
    return Counted(Backend.of(matrix.data), matrix, noise)


def stencil(n, *offsets):
    both = sorted({*offsets, *(-o for o in offsets)})
    return sp.diags([np.ones(n - abs(o)) for o in both], both, shape=(n, n)).tocsr()


def permuted(matrix):
    order = RNG.permutation(matrix.shape[0])
    return matrix[order][:, order]


N = 4_000
STENCILS = {
    "diagonal": stencil(N, 0),
    "chain": stencil(N, 0, 1),
    "surface": stencil(N, 0, 1, 63),
    "nine points": stencil(N, 0, 1, 62, 63, 64),
    "volume": stencil(N, 0, 1, 16, 256),
    "surface in any order": permuted(stencil(N, 0, 1, 63)),
    "two unknowns a point": sp.kron(stencil(N // 2, 0, 1, 45), np.ones((2, 2))),
    "wide": stencil(N, 0, 1)[:300],
    "tall": stencil(N, 0, 1)[:, :300],
}


@pytest.mark.parametrize("name", STENCILS)
def test_the_pattern_is_exact_and_takes_few_products(name):
    A = counted(STENCILS[name])
    found = decode_pattern(A)
    assert np.array_equal(found.toarray() != 0, A.matrix.toarray() != 0)
    assert A.products <= 14 * ColouredPattern(A.matrix).count


@pytest.mark.parametrize("noise", [1e-14, 1e-9])
@pytest.mark.parametrize("name", ["chain", "surface", "volume"])
def test_inexact_products_are_decoded(name, noise):
    A = counted(STENCILS[name], noise)
    A.matrix.data = np.sign(A.matrix.data) * (0.1 + abs(A.matrix.data))
    found = decode_pattern(A, max(noise, 1e-13))
    assert np.array_equal(found.toarray() != 0, A.matrix.toarray() != 0)


@pytest.mark.parametrize("kind", ["dense", "a full row", "NaN"])
def test_what_cannot_be_decoded_is_left_to_others(kind):
    matrix = sp.random(200, 200, 0.02, random_state=RNG).tolil()
    if kind == "dense":
        matrix = sp.csr_matrix(np.ones((200, 200)))
    elif kind == "a full row":
        matrix[3, :] = 1.0
    A = counted(matrix)
    if kind == "NaN":
        A.matrix.data[5] = np.nan
    assert decode_pattern(A) is None


def test_small_entries_beside_large_ones_are_found():
    A = counted(STENCILS["chain"])
    A.matrix.data *= 10.0 ** RNG.uniform(-2, 2, A.matrix.nnz)
    found = decode_pattern(A)
    assert np.array_equal(found.toarray() != 0, A.matrix.toarray() != 0)
