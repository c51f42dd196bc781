"""Products with matrices stored by diagonals, by compiled loops."""

import numpy as np
import pytest
import scipy.sparse as sp
from support.compiled_loops import any_size  # noqa: F401
from support.matrices import diffusion

import mfdeq
from mfdeq.arrays import compiled, diagonals

TOLERANCE = {"float32": 5e-6, "float64": 1e-13}
MATRICES = {
    "symmetric": diffusion(50),
    "not symmetric": diffusion(50, 1.5, 0.3),
    "far from the main diagonal": sp.diags([2.0, -1.0], [1500, -900], shape=(1600, 1600)),
    "mirrored pattern": sp.diags([2.0, -1.0], [3, -3], shape=(60, 60)),
    "identity": sp.identity(70),
}


def columns(n, k, dtype, seed=0):
    shape = (n,) if k is None else (n, k)
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("k", [None, 1, 2, 3, 8])
@pytest.mark.parametrize("name", MATRICES)
def test_products_are_those_of_scipy(name, k, form, dtype, monkeypatch):
    monkeypatch.setattr(diagonals, "MIN_FILL", 0.2)
    A = MATRICES[name].asformat(form).astype(dtype)
    rows, x = compiled.products(A), columns(A.shape[0], k, dtype)
    for _ in range(2):
        for product, matrix in ((rows, A), (rows.T, A.T)):
            tolerance = TOLERANCE[dtype]
            np.testing.assert_allclose(product @ x, matrix @ x, atol=tolerance)
            np.testing.assert_allclose(abs(product) @ x, abs(matrix) @ x, atol=tolerance)
            for sign in (1, -1):
                y = columns(A.shape[0], k, dtype, 1)
                expected = y + sign * (matrix @ x)
                assert product.add_to(y, x, sign) is y
                np.testing.assert_allclose(y, expected, atol=tolerance)
    assert diagonals.diagonals_of(A) is not None


def test_half_of_a_symmetric_matrix_is_stored():
    stored = diagonals.diagonals_of(diffusion(50))
    assert stored.offsets.tolist() == [0, 1, 50]
    assert diagonals.diagonals_of(diffusion(50, 1.0)).offsets.tolist() == [-50, -1, 0, 1, 50]
    rows = compiled.products(diffusion(50))
    before = rows.nbytes
    rows @ np.ones(2500)
    rows.T @ np.ones(2500)
    assert rows.nbytes == before + 3 * 2500 * 8


@pytest.mark.parametrize(
    "matrix",
    [
        sp.random_array((300, 300), density=0.1, format="csr", rng=0),  # many diagonals
        sp.random_array((300, 200), density=0.1, format="csr", rng=0),
        sp.csr_array(([1.0], ([4], [0])), shape=(9, 9)),  # nearly empty
        sp.csr_array(sp.block_diag([np.ones((25, 25))] * 4)),  # half empty
        sp.csr_array((7, 7)),
    ],
)
def test_other_matrices_are_stored_by_rows(matrix):
    assert diagonals.diagonals_of(matrix) is None
    assert diagonals.diagonals_of(matrix.tocsc()) is None


def test_crowded_rows_that_a_sample_misses(monkeypatch):
    A = sp.lil_array(sp.eye_array(400))
    A[7, ::5] = 1.0
    monkeypatch.setattr(diagonals, "SAMPLE_ROWS", 2)
    assert diagonals.diagonals_of(A.tocsr()) is None


def test_combinations_of_vectors_and_a_product():
    A = diffusion(40)
    for dtype in TOLERANCE:
        stored = compiled.by_diagonals(A.astype(dtype))
        for k in (None, 4, 0):
            x, z = columns(1600, k, dtype), columns(1600, k, dtype, 1)
            found = compiled.combine(stored, x, 0.5, -0.3, z, 2.0)
            tolerance = TOLERANCE[dtype]
            np.testing.assert_allclose(found, 2 * z + 0.5 * x - 0.3 * (A @ x), atol=tolerance)
            found = compiled.combine(stored, x, 0.5, -0.3)
            np.testing.assert_allclose(found, 0.5 * x - 0.3 * (A @ x), atol=tolerance)
    scaled = diffusion(40) / 4.0
    others = compiled.by_diagonals(scaled).without_unit_diagonal()
    x = columns(1600, None, "float64")
    np.testing.assert_allclose(compiled.combine(others, x, 1.0, 1.0), scaled @ x, atol=1e-13)


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("name", ["symmetric", "not symmetric"])
def test_results_do_not_depend_on_the_number_of_threads(name, k):
    A = MATRICES[name].tocsr()
    x, found = columns(2500, k, "float64"), []
    for threads in (1, 2, 5):
        with mfdeq.threads(threads):
            rows = compiled.products(A)
            found.append([rows @ x, rows.T @ x, rows.add_to(x.copy(), x, 1)])
    for others in found[1:]:
        np.testing.assert_array_equal(others, found[0])
