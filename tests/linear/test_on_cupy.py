"""The choice of a linear solver for matrices on cupy's arrays."""

from __future__ import annotations

import pytest
from support.case_models import sparse_of
from support.cupy_problems import assert_cupy_agrees_with_numpy, cupy, needs_cupy
from support.matrices import diffusion, operator, to_library

import mfdeq


@needs_cupy
def test_auto_solves_many_unknowns_as_with_numpy():
    """The model is large enough for "auto" to estimate the cost of LU and try other solvers."""

    def compute(xp):
        A = to_library(diffusion(75, wind=0.3), xp)
        J = sparse_of(xp).identity(5625, format="csr") - A

        class Advection(mfdeq.FixedPointModel):
            state_size, param_size = 5625, 1

            def map(self, h, theta):
                return J @ h + theta

            def linearize(self, h, theta):
                return mfdeq.Linearization(J, xp.ones((5625, 1)), lambda lam: mfdeq.Curvature())

        eq = mfdeq.solve(Advection(), xp.ones(1))
        return eq.state, eq.gradient(mfdeq.LeastSquares(xp.arange(9), xp.ones(9)))

    assert_cupy_agrees_with_numpy(compute)


@needs_cupy
def test_auto_factorizes_small_grids_and_iterates_on_large_ones(monkeypatch):
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    small, large = (operator(diffusion(n), xp=cupy) for n in (75, 200))
    assert mfdeq.Auto(solves=100).setup(small).name == "Direct (cuDSS)"
    assert "AMG" in mfdeq.Auto(solves=100).setup(large).name
    # Without cuDSS, the next package factorizes.
    monkeypatch.setattr("mfdeq.linear.direct.cudss.has_cudss", lambda: False)
    assert mfdeq.Auto(solves=100).setup(small).name == "Direct (multifrontal)"
    assert mfdeq.Direct().setup(small).name == "Direct (multifrontal)"
    with pytest.raises(mfdeq.ArgumentError, match="needs nvmath-python"):
        mfdeq.Direct(package="cudss").setup(small)
