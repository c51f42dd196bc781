"""Preconditioners that are built from another matrix than A."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.systems import convection
from scipy.sparse.linalg import aslinearoperator

import mfdeq
from mfdeq.linear.operands import operator_of

WINDY = convection(30, peclet=0.2).A


@pytest.mark.parametrize("given", ["matrix", "pattern"])
@pytest.mark.parametrize("by", [mfdeq.AMG(), mfdeq.ILU(), mfdeq.Jacobi(), mfdeq.Direct()], ids=str)
def test_a_nearby_matrix_preconditions_products(by, given):
    A = operator_of(aslinearoperator(WINDY))
    solver = mfdeq.Krylov("gmres", mfdeq.Approximate(by, **{given: WINDY}), restart=60)
    factor = solver.setup(A)
    b = np.random.default_rng(0).standard_normal((900, 3))
    for x, matrix in ((factor.solve(b), WINDY), (factor.solve_adjoint(b), WINDY.T)):
        residual = np.linalg.norm(b - matrix @ x, axis=0)
        assert np.all(residual <= 1.1e-10 * np.linalg.norm(b, axis=0))
    bare = mfdeq.Krylov("gmres", max_iterations=3000).setup(A)
    bare.solve(b), bare.solve_adjoint(b)
    assert factor.counts.iterations < (0.9 if isinstance(by, mfdeq.Jacobi) else 0.5) * (
        bare.counts.iterations
    ) or isinstance(by, mfdeq.Jacobi)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of"),
        ({"matrix": WINDY, "pattern": WINDY}, "exactly one of"),
        (
            {"pattern": np.ones((3, 3))},
            r"pattern of .*: expected a sparse matrix, got a ndarray of shape \(3, 3\)",
        ),
    ],
)
def test_approximate_takes_a_matrix_or_a_sparse_pattern(options, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.Approximate(mfdeq.ILU(), **options)


def test_approximate_refuses_a_matrix_of_another_size():
    A = operator_of(aslinearoperator(np.eye(3)))
    with pytest.raises(mfdeq.ArgumentError, match=r"of shape \(3, 3\), got .* \(900, 900\)"):
        mfdeq.Krylov(preconditioner=mfdeq.Approximate(mfdeq.ILU(), matrix=WINDY)).setup(A)
