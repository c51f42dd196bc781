"""Singular matrices with known null vectors, and the regular ones next to them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.matrices import to_library
from support.places import LIBRARIES, to_numpy
from support.singular_systems import grid

import mfdeq
from mfdeq.linear import operator_of
from mfdeq.linear.null_space import NullSpace, PinnedMatrix

RNG = np.random.default_rng(0)


def space(right):
    right = np.asarray(right, float)
    return NullSpace(np.ones_like(right), right)


def test_multigrid_gets_one_vector_of_those_of_separate_unknowns():
    two = np.array([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    third = 1.0 / 3.0
    mean = (0.5 + 1.0 + third + 1.0) / 4
    np.testing.assert_allclose(space(two).candidates(), [0.5, 1.0, third, 1.0, mean])


def test_multigrid_gets_all_vectors_that_share_unknowns():
    both = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    np.testing.assert_array_equal(space(both).candidates(), both)


def test_multigrid_gets_nothing_for_constants():
    assert space(np.kron(np.eye(2), np.ones((3, 1)))).candidates() is None
    assert NullSpace(np.ones((3, 1)), None).candidates() is None


def test_right_hand_sides_are_balanced_on_each_side():
    W, V = RNG.standard_normal((2, 7, 2))
    for b in (RNG.standard_normal(7), RNG.standard_normal((7, 3))):
        balanced = NullSpace(W, V).balanced(b), NullSpace(W, V).balanced(b, adjoint=True)
        for X, y in zip((W, V), balanced, strict=True):
            np.testing.assert_allclose(X.T @ y, 0.0, atol=1e-13)
            np.testing.assert_allclose(y - b, X @ (np.linalg.pinv(X) @ (y - b)), atol=1e-13)
    assert NullSpace(W, None).balanced(b, adjoint=True) is b


@pytest.mark.parametrize("dense", [False, True])
def test_a_pinned_matrix_is_regular_and_solves_balanced_systems(dense):
    A = sp.block_diag([grid(4, True), grid(3, True)], format="csr")
    d = np.exp(RNG.standard_normal(25))
    A = sp.csr_matrix(A @ sp.diags(d))  # left and right null vectors differ
    left = np.r_[np.ones(16), np.zeros(9)][:, None], np.r_[np.zeros(16), np.ones(9)][:, None]
    W = np.hstack(left)
    given = operator_of(A.toarray() if dense else A)
    pinned = PinnedMatrix.of(given, W, W / d[:, None])
    change = (pinned.array if dense else pinned.array.toarray()) - A.toarray()
    assert np.count_nonzero(change) == 2
    b = A @ RNG.standard_normal(25)
    x = np.linalg.solve(A.toarray() + change, b)
    np.testing.assert_allclose(A @ x, b, atol=1e-12)
    assert pinned.singular is given


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(**LIBRARIES)
@pytest.mark.parametrize("columns", [None, 3])
def test_cg_with_multigrid_solves_with_the_singular_matrix(columns, xp, dtype):
    n = 40  # more unknowns than the coarsest level has
    d = np.exp(np.linspace(-1.0, 1.0, n * n))
    A = sp.csr_matrix(sp.diags(d) @ grid(n, True) @ sp.diags(d)).astype(dtype)
    V = (1.0 / d[:, None]).astype(dtype)
    given = operator_of(to_library(A, xp))
    pinned = PinnedMatrix.of(given, xp.asarray(V), xp.asarray(V))
    factor = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()).setup(pinned)
    b = RNG.standard_normal((n * n, columns or 1)).astype(dtype)
    b = NullSpace(V, V).balanced(b)
    b = b if columns else b[:, 0]
    for solve in (factor.solve, factor.solve_adjoint):
        x = to_numpy(solve(xp.asarray(b)))
        limit = 1e-4 if dtype == "float32" else 1e-9
        assert np.linalg.norm(A @ x - b) < limit * np.linalg.norm(b)
    assert factor.counts.iterations <= 2 * 25
    assert factor.A is given
