"""Problems in numpy and cupy arrays, and the comparison of their results.

`needs_cupy` marks the tests that need a CUDA device or its simulation (tests/simulated). All
problems are functions of the array namespace `xp`, numpy or cupy.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_models import sparse_of
from support.cases import bratu_field, case_of, close, to_numpy
from support.matrices import diffusion, to_library
from support.places import NO_CUPY, available_cupy

import mfdeq

cupy = available_cupy()
needs_cupy = pytest.mark.skipif(cupy is None, reason=NO_CUPY)


@cache
def bratu(xp, n=9):
    """Return Bratu's equation on n x n points and as many parameters, with sparse matrices."""
    return case_of(*bratu_field(n), name="bratu_field", xp=xp)


@cache
def bratu_equilibrium(xp, rtol=None):
    """Return the equilibrium of `bratu(xp)`, with linear systems solved to `rtol` if it is set."""
    return bratu(xp).solve(solver="auto" if rtol is None else mfdeq.Krylov(rtol=rtol))


@cache
def bratu_hessian(xp):
    """Return the reduced Hessian of the loss of `bratu(xp)`, (81, 81)."""
    return bratu_equilibrium(xp).hessian(bratu(xp).loss)


@cache
def bratu_prior(xp):
    """Return a sparse precision of a prior for the parameters of `bratu(xp)`."""
    return mfdeq.Precision(to_library((diffusion(9) + 0.3 * sp.identity(81)).tocsr(), xp))


@cache
def sparse_hessian(xp):
    """Return a reduced Hessian whose blocks are all sparse matrices, (81, 81)."""
    misfit = mfdeq.LeastSquares(xp.arange(0, 81, 4), xp.zeros(21), xp.full(21, 30.0))
    prior = mfdeq.QuadraticPrior(sparse_of(xp).identity(81) / 50)
    return bratu_equilibrium(xp).hessian(misfit + prior)


@cache
def misfit_hessian(xp):
    """Return a reduced Hessian of rank 5, of a misfit without a prior, (81, 81)."""
    observed = xp.asarray([3, 17, 40, 55, 78])
    return bratu_equilibrium(xp).hessian(
        mfdeq.LeastSquares(observed, xp.zeros(5), xp.full(5, 30.0))
    )


def assert_cupy_agrees_with_numpy(compute, rtol=1e-9, results_are_on_host=False):
    """Assert that `compute(cupy)` returns what `compute(numpy)` does, in cupy's arrays.

    Parameters
    ----------
    compute : callable
        Takes the array namespace; returns numbers and arrays, none of them zero.
    rtol : float or callable
        Allowed error of each result, or a function of numpy's result that returns it.
    results_are_on_host : bool
        Whether arrays are numpy's in both cases.
    """
    expected, found = compute(np), compute(cupy)
    assert len(found) == len(expected) > 0
    for there, here in zip(found, expected, strict=True):
        # A number where numpy's is one, else an array of cupy's in the same precision.
        is_array = isinstance(here, np.ndarray)
        assert isinstance(there, cupy.ndarray) == (is_array and not results_are_on_host)
        if is_array:
            assert there.dtype == here.dtype
        assert np.linalg.norm(here) > 0
        close(there, to_numpy(here), rtol(here) if callable(rtol) else rtol)
