"""Factorizations by cuDSS of matrices on cupy's arrays."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close
from support.cupy_problems import cupy, needs_cupy
from support.matrices import diffusion, operator

import mfdeq


@needs_cupy
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("wind", [0.0, 0.8])
@pytest.mark.parametrize("uneven", [False, True])
def test_solves_with_A_and_its_transpose_agree_with_dense_ones(wind, dtype, uneven):
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    matrix = diffusion(20, wind)
    if uneven:
        rows = sp.diags(np.geomspace(1, 1e5, 400))
        matrix = (rows @ matrix @ rows).tocsr() if wind == 0.0 else (rows @ matrix).tocsr()
    A = operator(matrix, dtype, cupy)
    factor = mfdeq.Direct(package="cudss").setup(A)
    assert factor.name == "Direct (cuDSS)"
    rng = np.random.default_rng(0)
    dense = matrix.astype(dtype).toarray().astype(float)
    for shape in ((400,), (400, 1), (400, 5), (400, 0)):
        b = rng.standard_normal(shape).astype(dtype)
        for solve, D in ((factor.solve, dense), (factor.solve_adjoint, dense.T)):
            x = solve(cupy.asarray(b))
            assert type(x) is cupy.ndarray
            assert x.dtype == dtype
            rtol = 1e-9 if dtype == "float64" else 1e-2 if uneven else 1e-4
            close(x, np.linalg.solve(D, b), rtol)
    # The transpose of a nonsymmetric matrix has a factorization of its own.
    assert factor.counts.setups == (1 if wind == 0.0 else 2)
    assert factor.nbytes > 8 * matrix.nnz / 2


@needs_cupy
def test_a_deleted_factor_frees_its_objects_of_cudss():
    cudss = pytest.importorskip("nvmath.bindings.cudss", reason="nvmath-python is not installed")
    if not hasattr(cudss, "_objects"):
        pytest.skip("only the simulation shows what cuDSS holds")
    gc.collect()
    before = len(cudss._objects)
    factor = mfdeq.Direct(package="cudss").setup(operator(diffusion(8, 1.0), xp=cupy))
    factor.solve_adjoint(cupy.ones(64))
    assert len(cudss._objects) == before + 8  # a handle, a configuration, data and a matrix, twice
    del factor
    gc.collect()
    assert len(cudss._objects) == before


@needs_cupy
def test_a_matrix_that_cudss_cannot_factorize_goes_to_another_package():
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    singular = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(30, 30)).tolil()
    singular[0, 0] = singular[-1, -1] = 1.0
    A = operator(singular.tocsr(), xp=cupy)
    with pytest.raises(mfdeq.SingularStateError, match="superlu"):
        mfdeq.Direct(package="cudss").setup(A)
    with pytest.raises(mfdeq.SingularStateError):  # raised by SuperLU, which comes next
        mfdeq.Direct().setup(A)


@needs_cupy
def test_a_dense_matrix_is_refused():
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    with pytest.raises(mfdeq.ArgumentError, match="dense"):
        mfdeq.Direct(package="cudss").setup(operator(diffusion(5), xp=cupy).toarray())


@needs_cupy
def test_a_matrix_on_the_host_is_refused_beside_a_device():
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    with pytest.raises(mfdeq.ArgumentError, match="on the host"):
        mfdeq.Direct(package="cudss").setup(operator(diffusion(5)))


def test_a_matrix_on_the_host_is_refused():
    with pytest.raises(mfdeq.ArgumentError, match="got one on the host"):
        mfdeq.Direct(package="cudss").setup(operator(diffusion(5)))
