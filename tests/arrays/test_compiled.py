"""Compiled loops give what numpy and scipy give, whatever the number of threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from support.compiled_loops import any_size  # noqa: F401

import mfdeq
from mfdeq.arrays import compiled, jit, kernels
from mfdeq.arrays.backend import Backend

DTYPES = ["float32", "float64"]
COLUMNS = [None, 1, 2, 5, 8, 13]
TOLERANCE = {"float32": 2e-5, "float64": 1e-13}


def matrix(dtype, form, rows=300, columns=200, density=0.05):
    found = sp.random_array((rows, columns), density=density, format="csr", rng=3, dtype=dtype)
    found.data -= np.asarray(0.4, dtype)
    return form(found)


FORMATS = {
    "csr_array": lambda A: A,
    "csr_matrix": sp.csr_matrix,
    "csc_array": sp.csc_array,
    "csc_matrix": sp.csc_matrix,
}


def block(rows, k, dtype, seed=0):
    shape = (rows,) if k is None else (rows, k)
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", COLUMNS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_products_are_those_of_scipy(dtype, k, form, threads):
    A = matrix(dtype, FORMATS[form])
    rows = compiled.products(A)
    assert type(rows) is compiled.Rows
    assert (rows.shape, rows.dtype, rows.nnz, rows.ndim) == (A.shape, A.dtype, A.nnz, 2)
    with mfdeq.threads(threads):
        for _ in range(10):  # later ones are of a matrix that is also stored by rows
            x, y = block(200, k, dtype), block(300, k, dtype, 1)
            for found, expected in ((rows @ x, A @ x), (rows.T @ y, A.T @ y)):
                assert found.dtype == dtype
                assert found.shape == expected.shape
                np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype])
            for sign in (1, -1):
                total = y.copy()
                assert compiled.add_product(total, rows, x, sign) is total
                np.testing.assert_allclose(total, y + sign * (A @ x), atol=TOLERANCE[dtype])
                total = x.copy()
                compiled.add_product(total, rows.T, y, sign)
                np.testing.assert_allclose(total, x + sign * (A.T @ y), atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [0, 1, -1])
def test_long_rows_are_multiplied_as_short_ones_are(dtype, sign, monkeypatch):
    A, x, y = matrix(dtype, sp.csr_array), block(200, None, dtype), block(300, None, dtype, 1)
    found = []
    for entries in (0, A.shape[1]):
        monkeypatch.setattr(compiled, "LONG_ROW", entries)
        rows = compiled.products(A)
        found.append(rows.add_to(y.copy(), x, sign) if sign else rows @ x)
    np.testing.assert_allclose(*found, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        found[0], abs(sign) * y + (sign or 1) * (A @ x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_transpose_is_the_exact_adjoint(dtype):
    rows = compiled.products(matrix(dtype, sp.csr_array))
    x, y = block(200, 40, dtype), block(300, 40, dtype, 1)
    left, right = np.sum((rows @ x) * y, axis=0), np.sum(x * (rows.T @ y), axis=0)
    np.testing.assert_allclose(left, right, atol=100 * TOLERANCE[dtype])
    assert rows.T.T is rows
    assert rows.T.T @ x is not None
    np.testing.assert_array_equal(rows.T.T @ x, rows @ x)


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_arrays_are_multiplied_by_scipy(dtype, k):
    """Other dtypes, orders and strides, and empty blocks."""
    A = matrix(dtype, sp.csr_array)
    rows, x = compiled.products(A), block(200, k, dtype)
    other = x.astype("float64" if dtype == "float32" else "float32")
    wide = np.repeat(x, 2, axis=0)[::2]
    for given in (other, wide, np.asfortranarray(x), x.astype(int), np.zeros((200, 0), dtype)):
        found = rows @ given
        expected = A @ given
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, atol=TOLERANCE["float32"])
    y = np.asfortranarray(np.zeros((300, 2), dtype))
    rows.add_to(y, np.ones((200, 2), dtype), 1)
    np.testing.assert_allclose(y, A @ np.ones((200, 2), dtype), atol=TOLERANCE[dtype])
    with pytest.raises(ValueError, match=r"shape|dimension"):
        rows @ block(199, k, dtype)


def test_only_large_sparse_matrices_are_compiled(monkeypatch):
    A = matrix("float64", sp.csr_array)
    for other in (A.tocoo(), A.tobsr(), A.astype("complex128"), A.astype(int), A.toarray()):
        assert compiled.products(other) is other
    monkeypatch.setattr(jit, "min_entries", lambda: A.nnz + 1)
    assert compiled.products(A) is A
    monkeypatch.setattr(jit, "min_entries", lambda: A.nnz)
    assert type(compiled.products(A)) is compiled.Rows
    monkeypatch.setattr(jit, "is_available", lambda: False)
    assert compiled.products(A) is A


def test_empty_rows_and_columns_and_long_indices():
    A = sp.csr_array(([1.0, 2.0], ([4, 4], [0, 6])), shape=(9, 8))
    for given in (A, A.tocsc(), A.tocsr()):
        given.indices, given.indptr = given.indices.astype("int64"), given.indptr.astype("int64")
        rows = compiled.products(given)
        np.testing.assert_array_equal(rows @ np.ones(8), A @ np.ones(8))
        np.testing.assert_array_equal(rows.T @ np.ones((9, 3)), A.T @ np.ones((9, 3)))


def test_nan_and_infinity_are_kept():
    A = sp.eye_array(70, format="csr")
    for value in (np.nan, np.inf):
        x = np.ones(70)
        x[5] = value
        np.testing.assert_array_equal(compiled.products(A) @ x, x)
        np.testing.assert_array_equal(compiled.column_dots(np, x, x), value)
        np.testing.assert_array_equal(compiled.difference_squares(np, x, np.ones(70)), value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", COLUMNS)
def test_inner_products_and_norms(dtype, k):
    x, y = block(1000, k, dtype), block(1000, k, dtype, 1)
    for name, expected in (("column_dots", x * y), ("difference_squares", (x - y) ** 2)):
        found = getattr(compiled, name)(np, x, y)
        assert found.dtype == dtype
        assert np.shape(found) == np.shape(getattr(kernels, name)(np, x, y))
        tolerance = 1000 * TOLERANCE[dtype]
        np.testing.assert_allclose(found, expected.astype(float).sum(axis=0), atol=tolerance)
        for order in (np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2]):
            np.testing.assert_array_equal(getattr(compiled, name)(np, order(x), order(y)), found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_updates_of_conjugate_gradients(dtype, k):
    X, R, P, Q = (block(700, k, dtype, seed) for seed in range(4))
    step = block(k, None, dtype, 5)
    expected = [X.copy(), R.copy(), P.copy()]
    squares = kernels.advance(np, expected[0], expected[1], P, Q, step)
    np.testing.assert_allclose(
        compiled.advance(np, X, R, P, np.asfortranarray(Q), step), squares, rtol=1e-3
    )
    kernels.redirect(np, expected[2], R, step)
    compiled.redirect(np, P, np.asfortranarray(R), step)
    for found, wanted in zip((X, R, P), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", COLUMNS)
def test_steps_of_a_chebyshev_smoother(dtype, k):
    d, x, r = (block(400, k, dtype, seed) for seed in range(3))
    for D in (block(400, None, dtype, 4), matrix(dtype, sp.csr_array, 400, 400)):
        expected, found = [d.copy(), x.copy()], [d.copy(), x.copy()]
        kernels.chebyshev(*expected, r, D, 0.3, 0.7)
        compiled.chebyshev(*found, r, compiled.products(D), 0.3, 0.7)
        np.testing.assert_allclose(found, expected, atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 4, 5])
@pytest.mark.parametrize("m", [1, 4, 7])
def test_gram_schmidt_against_the_rows_of_a_basis(dtype, k, m, monkeypatch):
    monkeypatch.setattr(compiled, "PIECE_COLUMNS", 100)
    monkeypatch.setattr(kernels, "PIECE_COLUMNS", 90)
    V, W = block(m, 777, dtype), block(777, k, dtype, 1)
    products = V @ W
    expected = W - V.T @ products
    for loops in (compiled, kernels):
        for order in ("C", "F"):
            given = np.array(W, order=order)
            h = loops.inner_products(V, given)
            np.testing.assert_allclose(h, products, atol=1000 * TOLERANCE[dtype])
            assert loops.subtract_combination(given, V, h) is given
            np.testing.assert_allclose(given, expected, atol=1000 * TOLERANCE[dtype])
    found = compiled.inner_products(V[:, ::2], W[::2])
    np.testing.assert_allclose(found, V[:, ::2] @ W[::2], atol=1000 * TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(500,), (500, 3)])
def test_conversions_of_precision(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    for given, dtype in ((x, "float32"), (x.astype("float32"), "float64"), (x, "float64")):
        for divisor in (1.0, 3.0):
            found = compiled.converted(np, given.copy(), np.dtype(dtype), divisor)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, given.astype(dtype) / np.asarray(divisor, dtype))


def everything(threads):
    """The bits of one call of each loop."""
    X, R, P, Q = (block(3000, 3, "float64", seed) for seed in range(4))
    step = np.array([0.3, -0.2, 0.1])
    A = compiled.products(matrix("float64", sp.csr_array, 3000, 3000))
    with mfdeq.threads(threads):
        found = [A @ X, A.T @ X, A @ X[:, 0], compiled.advance(np, X, R, P, Q, step)]
        compiled.redirect(np, P, Q, step)
        compiled.chebyshev(X, Q, R, np.ones(3000), 0.5, 0.2)
        h = compiled.inner_products(X.T.copy(), P.copy("F"))
        found += [h, compiled.subtract_combination(P.copy("F"), X.T.copy(), h)]
        found += [compiled.converted(np, X, np.dtype("float32"), 3.0)]
        found += [compiled.column_dots(np, X, R), compiled.column_dots(np, X[:, 0], R[:, 1])]
        return [*found, compiled.difference_squares(np, X, R), X, P, Q, R]


def test_results_do_not_depend_on_the_number_of_threads():
    expected = everything(1)
    for threads in (1, 2, 5):
        for found, wanted in zip(everything(threads), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_threads_use_loops_at_the_same_time():
    expected = everything(1)
    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(everything, [2] * 12):
            for found, wanted in zip(results, expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


def test_a_matrix_stored_by_columns_is_converted_after_some_products():
    A = matrix("float64", sp.csc_array)
    rows = compiled.products(A)
    before = rows.nbytes
    for _ in range(compiled.COLUMNS_BEFORE_CONVERSION):
        rows @ np.ones(200)
    assert rows.nbytes == before
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: rows @ np.ones(200), range(8)):
            np.testing.assert_allclose(found, A @ np.ones(200))
    assert rows.nbytes > 1.9 * before


def test_blas_has_one_thread_in_the_loops_of_krylov_methods(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="the fast extra is not installed")
    blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
    numbers = []

    def product(x):
        numbers.extend(library.num_threads for library in blas.lib_controllers)
        return 2.0 * x

    A = sp.linalg.LinearOperator((40, 40), matvec=product, rmatvec=product, dtype=float)
    factor = mfdeq.Krylov().setup(A)
    for threads, expected in ((1, {2}), (2, {1, 2})):  # the residual is checked outside
        numbers.clear()
        with blas.limit(limits=2), mfdeq.threads(threads):
            factor.solve(np.arange(40.0))
        assert set(numbers) == expected


def test_a_numba_that_cannot_be_imported_is_done_without(monkeypatch):
    A = matrix("float64", sp.csr_array)
    monkeypatch.setitem(sys.modules, "numba", None)
    jit._is_usable.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="without compiled loops"):
            assert compiled.products(A) is A
        assert compiled.column_dots(np, np.ones(60), np.ones(60)) == 60.0
    finally:
        jit._is_usable.cache_clear()


def test_loops_are_compiled_where_no_folder_for_them_can_be_written(monkeypatch):
    numba = pytest.importorskip("numba")
    compiler = numba.njit

    def without_cache(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return compiler(**options)

    monkeypatch.setattr(numba, "njit", without_cache)
    assert jit.njit(lambda x: x + 1)(2) == 3
    assert jit.njit(fastmath=True)(lambda x: x + 1)(2) == 3


def test_small_problems_do_not_import_numba():
    script = """if True:
        import sys, numpy as np, scipy.sparse as sp, mfdeq
        T = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(60, 60))
        A = sp.csr_array(sp.kronsum(T, T))
        x = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()).setup(A).solve(np.ones(3600))
        print("numba" in sys.modules)
        T = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(250, 250))
        A = sp.csr_array(sp.kronsum(T, T))
        x = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()).setup(A).solve(np.ones(62500))
        print("numba" in sys.modules, np.linalg.norm(A @ x - 1) < 1e-7)
    """
    environment = {**os.environ, jit.VARIABLE: "1"}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["False", "True", "True"]


@pytest.mark.parametrize(("value", "expected"), [("0", "kernels"), ("always", "compiled")])
def test_the_environment_chooses_the_loops(value, expected):
    script = "from mfdeq.arrays.library import HOST; print(HOST.kernels.__name__)"
    environment = {**os.environ, jit.VARIABLE: value}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [f"mfdeq.arrays.{expected}"]


def test_arrays_of_other_libraries_are_left_to_their_namespace(monkeypatch):
    strict = pytest.importorskip("array_api_strict")
    x = strict.asarray(np.ones((50, 2)))
    assert type(compiled.column_dots(strict, x, x)) is type(x)
    W, V = np.ones((250, 2)), np.ones((3, 250))
    given = strict.asarray(W.copy()), strict.asarray(V)
    for pieces in (100, 1000):
        monkeypatch.setattr(kernels, "PIECE_COLUMNS", pieces)
        h = compiled.inner_products(given[1], given[0])
        np.testing.assert_allclose(np.asarray(h), V @ W)
        found = compiled.subtract_combination(strict.asarray(W.copy()), given[1], h)
        np.testing.assert_allclose(np.asarray(found), W - V.T @ (V @ W))
    assert Backend.of(x).kernels is compiled or not jit.is_available()


def test_rows_of_a_basis_are_combined_in_place():
    rng = np.random.default_rng(0)
    V, C = rng.standard_normal((9, 5000)), rng.standard_normal((6, 4))
    expected = V.copy()
    expected[2:6] = C.T @ V[2:8]
    kernels.combine_rows(V, 2, C)
    np.testing.assert_allclose(V, expected, atol=1e-13)
