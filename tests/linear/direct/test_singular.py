"""Packages that fail with a singular matrix say so, and blame a regular one on themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq


def ring(n, drain=0.0):
    """The Laplacian of a ring; without a drain constants are its null space."""
    L = 2.0 * np.eye(n) - np.roll(np.eye(n), 1, axis=0) - np.roll(np.eye(n), -1, axis=0)
    return sp.csr_array(L + drain * np.eye(n))


@pytest.mark.parametrize("package", ["superlu", "multifrontal"])
def test_every_package_calls_a_singular_matrix_singular(package):
    with pytest.raises(mfdeq.SingularStateError) as caught:
        mfdeq.Direct(package=package).setup(ring(30)).solve(np.arange(30.0))
    assert caught.value.digits < 1


@pytest.mark.parametrize(("package", "module"), [("cholmod", "kvxopt"), ("pardiso", "pypardiso")])
def test_packages_that_do_not_pivot_call_a_singular_matrix_singular(package, module):
    pytest.importorskip(module, reason="the extra of the package is not installed")
    with pytest.raises(mfdeq.SingularStateError) as caught:
        mfdeq.Direct(package=package).setup(ring(30)).solve(np.arange(30.0))
    assert caught.value.digits < 1


def test_a_package_that_pivots_too_little_does_not_call_a_regular_matrix_singular():
    pytest.importorskip("kvxopt", reason="the suitesparse extra is not installed")
    with pytest.raises(mfdeq.ArgumentError, match="cholmod"):
        mfdeq.Direct(package="cholmod").setup(ring(30, drain=-0.9))


def test_a_residual_as_large_as_its_right_hand_side_is_not_rounding():
    """Rounding in the momentum equations hides that no flow satisfies the continuity equations."""
    n = 20
    G = sp.diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))
    A = sp.block_array([[sp.eye_array(n - 1), G], [G.T, None]], format="csr")
    b = np.r_[np.zeros(n - 1), np.ones(n)]
    with pytest.raises((mfdeq.SingularStateError, mfdeq.ConvergenceError), match="singular"):
        mfdeq.Direct().setup(A).solve(b)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csc_array])
def test_nan_in_a_matrix_is_a_model_error_that_names_the_entry(form):
    A = np.array([[1.0, 2.0], [np.nan, 1.0]])
    for solver in (mfdeq.Direct(), mfdeq.Krylov(), mfdeq.Krylov(preconditioner=mfdeq.ILU())):
        if form is np.asarray and getattr(solver, "preconditioner", None):
            continue
        with pytest.raises(mfdeq.ModelError, match=r"NaN .* of 4 entries.* entry \(1, 0\)"):
            solver.setup(form(A))
