"""Matrices that are several independent systems of equations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.matrices import diffusion

import mfdeq
from mfdeq.linear.components import components_of

RNG = np.random.default_rng(0)
N = 144
WINDY = (diffusion(12, 0.5) + 0.3 * sp.identity(N)).tocsr()
BLOCKS = sp.csr_matrix(sp.block_diag([4 * np.eye(6) + RNG.standard_normal((6, 6))] * 24))


def test_components_are_independent_systems():
    assert components_of(WINDY) is None
    found = components_of(BLOCKS)
    assert found.rows.members.shape == (24, N)
    shift = sp.csr_matrix(np.roll(np.eye(6), 1, axis=0))  # equation i has only unknown i - 1
    x = np.arange(6.0)
    found = components_of(shift)
    np.testing.assert_allclose(
        found.rows.lengths_or_ones(shift @ x), found.columns.lengths_or_ones(x)
    )


def test_a_triangular_matrix_is_one_system_from_either_end():
    """Only from one end the entries lead to all unknowns."""
    A = sp.csr_matrix(np.tril(np.ones((4, 4))))
    assert components_of(A) is None
    assert components_of(A.T.tocsr()) is None
    empty = sp.csr_matrix((0, 0))
    assert components_of(empty).rows.labels.shape == (0,)


@pytest.mark.parametrize("preconditioner", [None, mfdeq.ILU(), mfdeq.Jacobi(), mfdeq.AMG()])
def test_a_large_system_does_not_spoil_an_independent_small_one(preconditioner):
    A = sp.block_diag([WINDY, WINDY], format="csr")
    b = RNG.standard_normal(N)
    x = mfdeq.Krylov(preconditioner=preconditioner).setup(A).solve(np.concatenate([1e12 * b, b]))
    np.testing.assert_allclose(x[N:], 1e-12 * x[:N], rtol=1e-5)
