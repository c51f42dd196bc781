"""The factorization with delayed pivots solves with, and counts, any regular symmetric matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from mfdeq.arrays.backend import Backend
from mfdeq.linear.direct.symmetric import SymmetricFactor
from mfdeq.linear.multifrontal.multifrontal import Multifrontal
from mfdeq.linear.multifrontal.pivoting import PivotedFronts
from mfdeq.operators.user_operators import as_operator

BACKEND = Backend.of(np.zeros(1))


def saddle_point(n, seed=0):
    """Return a banded matrix with many zeros, bordered by constraints, and its permutation."""
    rng = np.random.default_rng(seed)
    band = rng.standard_normal((5, n)) * (rng.random((5, n)) < 0.6)
    half = sp.diags(band, [-2, -1, 0, 1, 2], shape=(n, n))
    C = sp.identity(n, format="csr")[: n // 2]
    A = sp.bmat([[half + half.T, C.T], [C, None]]).tocsr()
    order = rng.permutation(A.shape[0])
    return A[order][:, order].tocsr()


@pytest.mark.parametrize("n", [20, 300, 600])
def test_solutions_and_counts_match_dense_truth(n):
    A = saddle_point(n)
    factors = PivotedFronts(A, BACKEND)
    B = np.random.default_rng(1).standard_normal((A.shape[0], 3))
    X = factors.solve(B)
    assert np.linalg.norm(A @ X - B) <= 1e-10 * np.linalg.norm(B)
    np.testing.assert_allclose(factors.solve(B[:, 0]), X[:, 0], rtol=1e-9, atol=1e-12)
    assert factors.negative_pivots() == (np.linalg.eigvalsh(A.toarray()) < 0).sum()


def test_pivots_are_delayed_only_where_they_must_be():
    A = sp.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(500, 500)).tocsr()
    assert sum(f.delayed.shape[1] for f in PivotedFronts(A, BACKEND).fronts) == 0
    saddle = PivotedFronts(saddle_point(300), BACKEND)
    assert 0 < sum(f.delayed.shape[1] for f in saddle.fronts) < 100


def test_a_singular_matrix_has_no_count():
    A = sp.diags([1.0, 1.0], [-1, 1], shape=(301, 301)).tocsr()  # singular, since 301 is odd
    assert PivotedFronts(A, BACKEND).negative_pivots() is None
    with pytest.raises(ZeroDivisionError):
        PivotedFronts(0 * A, BACKEND)


def test_fronts_that_are_singular_alone_are_factorized_with_their_neighbours():
    """The diagonal is zero, or rounding: most fronts have an odd number of unknowns."""
    n = 400
    off = np.ones(n - 1)
    A = sp.diags([off, 1e-13 * np.random.default_rng(0).standard_normal(n), off], [-1, 0, 1])
    factor = SymmetricFactor(as_operator(BACKEND, A.tocsr(), A.shape, "A"))
    assert factor.negative_pivots() == n // 2
    b = np.ones(n)
    assert np.linalg.norm(A @ factor.solve(b) - b) <= 1e-8 * np.linalg.norm(b)


def test_the_count_is_that_of_pivots_where_static_ones_are_inaccurate(monkeypatch):
    monkeypatch.setattr(Multifrontal, "solve", lambda self, b, adjoint=False: 2.0 * b)
    A = saddle_point(100)
    factor = SymmetricFactor(as_operator(BACKEND, A, A.shape, "A"))
    assert factor.negative_pivots() == (np.linalg.eigvalsh(A.toarray()) < 0).sum()
    b = np.ones(A.shape[0])
    assert np.linalg.norm(A @ factor.solve(b) - b) <= 1e-8 * np.linalg.norm(b)


def test_graphs_without_small_separators_are_solved_without_a_count(monkeypatch):
    monkeypatch.setattr("mfdeq.linear.multifrontal.pivoting.MAX_FRONT_SIZE", 100)
    monkeypatch.setattr("mfdeq.linear.multifrontal.fronts.SMALL_FRONT_SIZE", 100)
    A = sp.random(300, 300, 0.1, random_state=0)
    A = (A + A.T + sp.identity(300)).tocsr()
    factor = SymmetricFactor(as_operator(BACKEND, A, A.shape, "A"))
    assert factor.negative_pivots() is None
    b = np.ones(300)
    assert np.linalg.norm(A @ factor.solve(b) - b) <= 1e-8 * np.linalg.norm(b)
