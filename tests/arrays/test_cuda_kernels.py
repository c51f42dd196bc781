"""The CUDA kernels, their source compiled for the host, compute what the array library does."""

import functools

import numpy as np
import pytest
import scipy.sparse as sp
from array_api_compat import numpy as compat
from support import emulated_cuda

from mfdeq.arrays import cuda, kernels
from mfdeq.arrays.backend import Backend
from mfdeq.linear.krylov.cg import cg

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _emulated(monkeypatch):
    monkeypatch.setattr(cuda, "_module", functools.cache(emulated_cuda.Module))


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return request.param


def tolerance(dtype):
    return 100 * np.finfo(dtype).eps


def blocks(dtype, count, n, k):
    return [RNG.standard_normal((n, k)).astype(dtype) for _ in range(count)]


SHAPES = [(1, 1), (7, 3), (1000, 1), (777, 5), (5000, 32), (300_000, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_column_dots_equal_those_of_numpy(dtype, shape):
    x, y = blocks(dtype, 2, *shape)
    found = cuda.column_dots(np, x, y)
    assert found.dtype == dtype
    sizes = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    np.testing.assert_array_less(abs(found - (1.0 * x * y).sum(axis=0)), tolerance(dtype) * sizes)
    np.testing.assert_allclose(cuda.column_dots(np, x[:, 0], y[:, 0]), found[0], rtol=1e-5)
    in_columns = np.asfortranarray(x)
    np.testing.assert_array_equal(cuda.column_dots(np, in_columns, y), found)


@pytest.mark.parametrize("shape", [(5, 0), (0, 3)], ids=str)
def test_column_dots_of_an_empty_block_are_zero(dtype, shape):
    x = np.zeros(shape, dtype)
    np.testing.assert_array_equal(cuda.column_dots(np, x, x), np.zeros(shape[1]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_of_conjugate_gradients_equals_that_of_the_array_library(dtype, shape):
    X, R, P, Q = blocks(dtype, 4, *shape)
    step, ratio = blocks(dtype, 2, 1, shape[1])
    expected = [x.copy() for x in (X, R, P)]
    squares = kernels.advance(compat, *expected, Q, step[0])
    found = cuda.advance(np, X, R, P, Q, step[0])
    rounding = np.finfo(dtype).eps * shape[0] ** 0.5  # of sums in another order
    np.testing.assert_allclose(found, squares, rtol=max(tolerance(dtype), rounding))
    kernels.redirect(compat, expected[2], Q, ratio[0])
    cuda.redirect(np, P, Q, ratio[0])
    for here, there in zip(expected, (X, R, P), strict=True):
        np.testing.assert_allclose(there, here, rtol=tolerance(dtype), atol=tolerance(dtype))


@pytest.mark.parametrize("per_row", [0.5, 3, 7, 15, 40, 100])
@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("k", [None, 1, 2, 5, 33])
def test_sparse_products_equal_those_of_scipy(dtype, per_row, index, k):
    A = sp.random(311, 200, per_row / 200, "csr", dtype, np.random.default_rng(1))
    A.indptr, A.indices = A.indptr.astype(index), A.indices.astype(index)
    x, y = (RNG.standard_normal((n,) if k is None else (n, k)).astype(dtype) for n in A.shape[::-1])
    rows = cuda.products(A)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=30 * tolerance(dtype))
    close(rows @ x, A @ x)
    close(rows.T @ y, A.T @ y)
    for sign in (1, -1):
        expected = y + sign * (A @ x)
        close(kernels.add_product(y, rows, x, sign), expected)
        close(y, expected)  # in place
    assert rows.nbytes == A.data.nbytes + A.indices.nbytes + A.indptr.nbytes


@pytest.mark.parametrize("shape", [(50,), (50, 0), *SHAPES], ids=str)
@pytest.mark.parametrize("diagonal", ["vector", "sparse matrix"])
def test_a_chebyshev_step_equals_that_of_the_array_library(dtype, shape, diagonal):
    d, x, r = (RNG.standard_normal(shape).astype(dtype) for _ in range(3))
    weights = RNG.standard_normal(shape[0]).astype(dtype)
    D = sp.diags(weights).tocsr() if diagonal == "sparse matrix" else weights
    expected = d.copy(), x.copy()
    kernels.chebyshev(*expected, r, D, 0.3, 1.7)
    cuda.chebyshev(d, x, r, cuda.products(D), 0.3, 1.7)
    for here, there in zip(expected, (d, x), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=10 * tolerance(dtype))


@pytest.mark.parametrize("diagonal", ["vector", "sparse matrix"])
def test_a_chebyshev_step_without_rows_returns_no_rows(dtype, diagonal):
    d, x, r = (np.zeros((0, 2), dtype) for _ in range(3))
    D = sp.csr_matrix((0, 0), dtype=dtype) if diagonal == "sparse matrix" else np.zeros(0, dtype)
    kernels.chebyshev(d, x, r, D, 0.3, 1.7)
    assert d.shape == x.shape == (0, 2)


def test_a_replayable_dense_matrix_multiplies_as_that_of_numpy(dtype):
    A = RNG.standard_normal((40, 30)).astype(dtype)
    x = RNG.standard_normal(30).astype(dtype)
    np.testing.assert_allclose(cuda.capturable_matrix(A) @ x, A @ x, rtol=1e-4, atol=1e-5)
    assert cuda.products(A) is A


def test_more_threads_share_a_row_the_longer_it_is():
    """65 rows do not fill the last block of threads."""
    for entries, lanes in ((1, 2), (4, 2), (5, 4), (9, 8), (20, 16), (64, 32), (500, 32)):
        A = sp.csr_matrix(np.ones((65, entries)))
        rows = cuda.products(A)
        assert rows.lanes == lanes
        np.testing.assert_array_equal(rows @ np.ones(entries), np.full(65, float(entries)))


def test_conjugate_gradients_take_the_same_steps_with_these_kernels(monkeypatch):
    n = 300
    A = sp.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(n, n)).tocsr()
    B = RNG.standard_normal((n, 4))
    B /= np.linalg.norm(B, axis=0)
    histories = []
    for module in (kernels, cuda):
        monkeypatch.setattr(Backend, "kernels", module)
        steps = []
        rows = module.products(A)
        solved = cg(Backend.of(B), lambda X, A=rows: A @ X, np.copy, B, 1e-10, 100, steps.append)
        np.testing.assert_allclose(A @ solved.X, B, atol=1e-9)
        histories.append(steps)
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-6)
