"""Preconditioners on cupy's arrays: built from products, and multigrid cycles as CUDA graphs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_models import linear_operator_of
from support.cases import close, to_numpy
from support.cupy_problems import assert_cupy_agrees_with_numpy, bratu, cupy, needs_cupy
from support.matrices import diffusion, operator, to_library

import mfdeq
from mfdeq.linear.preconditioners import amg_cycle


@needs_cupy
@pytest.mark.parametrize("given", ["pattern", "matrix"])
@pytest.mark.parametrize("by", [mfdeq.ILU(), mfdeq.AMG(), mfdeq.Jacobi(), mfdeq.Direct()], ids=str)
def test_solves_preconditioned_by_a_pattern_or_matrix_agree_with_numpy(by, given):
    def compute(xp):
        A = to_library((diffusion(9) + sp.identity(81)).tocsr(), xp)
        op = linear_operator_of(xp)(
            A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y, dtype=A.dtype
        )
        M = mfdeq.Approximate(by, **{given: A})
        factor = mfdeq.Krylov(preconditioner=M, rtol=1e-12).setup(op)
        return factor.solve(xp.ones(81)), factor.solve_adjoint(bratu(xp).random(81, 2))

    assert_cupy_agrees_with_numpy(compute)


CYCLES = {
    "collapsed": mfdeq.AMG(),
    "double": mfdeq.AMG(levels="float64"),
    "chebyshev": mfdeq.AMG(degree=3),
    "chebyshev in blocks": mfdeq.AMG(degree=2, block_size=3),
    "ruge stuben": mfdeq.AMG("ruge_stuben"),
    "air": mfdeq.AMG("air"),
}


@needs_cupy
@pytest.mark.parametrize("wind", [0.0, 0.8])
@pytest.mark.parametrize("name", CYCLES)
def test_a_cycle_and_its_adjoint_are_replayed_and_agree_with_numpy(name, wind, monkeypatch):
    """For each shape the first calls launch, one is captured, and the later ones are replayed."""
    launched = []

    def counted(levels, coarse, b, v_cycle=amg_cycle.v_cycle):
        launched.append(b.shape)
        return v_cycle(levels, coarse, b)

    matrix = diffusion(45, wind)
    here = CYCLES[name].setup(operator(matrix))
    monkeypatch.setattr(amg_cycle, "v_cycle", counted)
    M = CYCLES[name].setup(operator(matrix, xp=cupy))
    rng = np.random.default_rng(0)
    rounding = 1e-5 if M.flexible else 1e-11
    shapes = ((2025,), (2025, 4), (2025, 1))
    for shape in shapes:
        for _ in range(5):
            x = rng.standard_normal(shape)
            there = cupy.asarray(x)
            for one, other in ((M, here), (M.H, here.H)):
                found = one @ there
                assert found.dtype == x.dtype
                close(found, other @ x, rounding)
    launched.clear()
    for shape in shapes:
        M @ cupy.ones(shape), M.H @ cupy.ones(shape)
    assert not launched
    first, second = M @ there, M @ (2 * there)  # two results, each with memory of its own
    close(second, 2 * to_numpy(first), rounding)


@needs_cupy
def test_a_refreshed_cycle_is_captured_again():
    A, B = diffusion(45), (diffusion(45) + sp.diags(np.linspace(0, 5, 2025))).tocsr()
    operators = [[operator(matrix, xp=xp) for matrix in (A, B)] for xp in (np, cupy)]
    here, there = (mfdeq.AMG().setup(first) for first, _ in operators)
    x = np.random.default_rng(0).standard_normal(2025)
    for _ in range(5):
        before = there @ cupy.asarray(x)
    assert here.refresh(operators[0][1])
    assert there.refresh(operators[1][1])
    for _ in range(5):
        after = there @ cupy.asarray(x)
        close(after, here @ x, 1e-5)
    assert np.linalg.norm(to_numpy(after - before)) > 0.1 * np.linalg.norm(to_numpy(before))
