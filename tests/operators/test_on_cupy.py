"""Operators on cupy's arrays are operators of cupyx, and go into its algebra and solvers."""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import ROWS, case_of, close, to_numpy
from support.cupy_problems import bratu, bratu_hessian, bratu_prior, cupy, needs_cupy


@needs_cupy
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_operator_composes_with_those_of_cupyx(dtype):
    from cupyx.scipy.sparse.linalg import LinearOperator, aslinearoperator

    case = case_of(*ROWS["smooth"](), name="smooth", dtype=dtype, xp=cupy)
    eq = case.solve()
    rtol = 1e-3 if dtype == "float32" else 1e-10
    for op in (eq.sensitivity, eq.tangent, eq.hessian(case.loss), eq.inverse.H):
        rows, columns = op.shape
        D = to_numpy(op.toarray())
        x, X, Y = case.random(columns), case.random(columns, 3), case.random(rows, 3)
        F = case.random(rows, columns, seed=5)
        given = aslinearoperator(F)
        assert aslinearoperator(op) is op
        for found, expected in (
            (op @ x, D @ to_numpy(x)),
            (op * X, D @ to_numpy(X)),
            (op(x), D @ to_numpy(x)),
            (op.matvec(x[:, None]), D @ to_numpy(x)[:, None]),
            (op.rmatmat(Y), D.T @ to_numpy(Y)),
            (op.T @ Y, D.T @ to_numpy(Y)),
            (op @ X[:, :0], np.zeros((rows, 0))),
            ((op - 2 * op) @ X, -D @ to_numpy(X)),
            (-op @ X, -D @ to_numpy(X)),
            ((op.H @ op) @ X, D.T @ D @ to_numpy(X)),
            ((op + given) @ X, (D + to_numpy(F)) @ to_numpy(X)),
            ((given + op) @ x, (D + to_numpy(F)) @ to_numpy(x)),
            ((op + given).H @ Y, (D + to_numpy(F)).T @ to_numpy(Y)),
            ((op - given) @ X, (D - to_numpy(F)) @ to_numpy(X)),
            ((given.H @ op) @ X, to_numpy(F).T @ D @ to_numpy(X)),
        ):
            assert type(found) is cupy.ndarray
            assert found.dtype == dtype
            close(found, expected, rtol)
        for made in (2 * op, op * 0.5, np.float64(3) * op, x[0] * op, op * x[0], op.H @ op):
            assert isinstance(made, LinearOperator)
            assert made.dtype == dtype
        y = Y[:, 0]
        for found, expected in ((y @ op, to_numpy(y) @ D), (Y.T @ op, to_numpy(Y).T @ D)):
            assert type(found) is cupy.ndarray
            close(found, expected, rtol)


@needs_cupy
@pytest.mark.parametrize("method", ["cg", "gmres", "minres", "bicgstab"])
def test_the_solvers_of_cupyx_solve_with_an_operator(method):
    from cupyx.scipy.sparse import linalg

    H, b = bratu_hessian(cupy) + bratu_prior(cupy), bratu(cupy).random(81)
    rtol = {"tol" if method == "minres" else "rtol": 1e-10}
    x, info = getattr(linalg, method)(H, b, **rtol)
    assert info == 0
    close(H @ x, to_numpy(b), 1e-6)
