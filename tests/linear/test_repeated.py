"""One factor for several systems with the same matrix."""

from __future__ import annotations

import numpy as np
import pytest

import mfdeq
from mfdeq.linear import operator_of
from mfdeq.linear.repeated import RepeatedFactor
from mfdeq.models.stacking import StackedParamOperator, StackedStateOperator

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((4, 4)) + 4.0 * np.eye(4)
DENSE = np.kron(np.eye(3), MATRIX)


@pytest.fixture
def factor():
    A = operator_of(MATRIX)
    return RepeatedFactor(StackedStateOperator(A, [A] * 3), mfdeq.Direct().setup(A), 3)


@pytest.mark.parametrize("shape", [(12,), (12, 2)])
def test_solves_of_both_sides_are_those_of_the_block_diagonal_matrix(factor, shape):
    b = RNG.standard_normal(shape)
    for x, dense in (
        (factor._solve_checked(b), DENSE),
        (factor._solve_checked(b, adjoint=True), DENSE.T),
        (factor.approximate(b), DENSE),
        (factor.approximate(b, adjoint=True), DENSE.T),
        (factor.A._apply(b), np.linalg.inv(DENSE)),
        (factor.A._apply_adjoint(b), np.linalg.inv(DENSE).T),
    ):
        np.testing.assert_allclose(x, np.linalg.solve(dense, b), rtol=1e-9, atol=1e-12)
    assert factor.counts.solves == factor.counts.adjoint_solves == 1
    assert factor.counts.setups == 1
    assert factor.counts.columns == 6 * (1 if len(shape) == 1 else 2)


def test_stacked_rows_multiply_from_both_sides():
    blocks = [RNG.standard_normal((n, 3)) for n in (2, 4)]
    operators = [mfdeq_operator(B) for B in blocks]
    stacked = StackedParamOperator(operators[0].backend, operators)
    dense = np.vstack(blocks)
    x, y = RNG.standard_normal((3, 2)), RNG.standard_normal((6, 2))
    np.testing.assert_allclose(stacked @ x, dense @ x)
    np.testing.assert_allclose(stacked.H @ y, dense.T @ y)
    np.testing.assert_allclose(stacked.H @ y[:, 0], dense.T @ y[:, 0])


def mfdeq_operator(array):
    from mfdeq.operators.user_operators import as_operator, backend_of

    return as_operator(backend_of(array), array, array.shape, "B")
