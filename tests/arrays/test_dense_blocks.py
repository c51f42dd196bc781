"""Compiled loops over stacks of dense blocks give what LAPACK gives."""

import numpy as np
import pytest
from array_api_compat import numpy as xp
from support.compiled_loops import any_size  # noqa: F401

import mfdeq
from mfdeq.arrays import dense_blocks, jit

DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 2e-4, "float64": 1e-11}


def blocks(dtype, count=7, n=5):
    """Blocks that need row exchanges: a diagonal entry of each is zero."""
    found = np.random.default_rng(3).standard_normal((count, n, n)).astype(dtype)
    found[:, 0, 0] = 0.0
    return found


def rows(dtype, count=7, n=5, seed=1):
    return np.random.default_rng(seed).standard_normal((count, n)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 5, 17])
@pytest.mark.parametrize("threads", [1, 2])
def test_inverses_are_those_of_numpy(dtype, n, threads):
    M = blocks(dtype, n=n) + (n == 1)
    with mfdeq.threads(threads):
        for given in (M, np.swapaxes(M, 1, 2), np.repeat(M, 2, axis=0)[::2]):
            found = dense_blocks.invert(np, given)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, np.linalg.inv(given), atol=TOLERANCE[dtype] * 100)


def test_a_block_with_a_zero_pivot_has_no_inverse():
    M = blocks("float64")
    M[3, :, 2] = 0.0
    with pytest.raises(np.linalg.LinAlgError, match="Singular"):
        dense_blocks.invert(np, M)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("identity_minus", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_newton_steps_solve_with_each_block(dtype, identity_minus, threads):
    J, R, sizes = blocks(dtype), rows(dtype), abs(rows(dtype, seed=2))
    A = np.eye(5, dtype=dtype) - J if identity_minus else J
    with mfdeq.threads(threads):
        step = dense_blocks.CompiledStep(R, J, sizes, identity_minus)
        b = np.random.default_rng(5).standard_normal((7, 5, 3)).astype(dtype)
        X = step.solve(b)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(X, np.linalg.solve(A, b), rtol=100 * tolerance, atol=tolerance)
    D = np.linalg.solve(A, R[:, :, None])[:, :, 0]
    np.testing.assert_allclose(step.D, D, rtol=100 * tolerance, atol=tolerance)
    for found, wide in ((step.terms, sizes), (step.wide, np.maximum(sizes, abs(D)))):
        expected = (abs(A) @ wide[:, :, None])[:, :, 0]
        np.testing.assert_allclose(found, expected, rtol=100 * tolerance)


@pytest.mark.parametrize("n", [2, 15, 16, 17, 40])  # around the strides of vectorized loops
def test_newton_steps_solve_with_blocks_of_any_size(n):
    J, R = blocks("float64", n=n), rows("float64", n=n)
    step = dense_blocks.CompiledStep(R, J, np.ones_like(R), False)
    np.testing.assert_allclose((J @ step.D[:, :, None])[:, :, 0], R, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 33])
def test_sizes_of_entries_are_those_of_numpy(dtype, n, monkeypatch):
    M, x = blocks(dtype, n=n), np.random.default_rng(4).standard_normal((7, n, 2)).astype(dtype)
    M = np.swapaxes(M, 1, 2)
    found = []
    for by_loops in (True, False):
        if not by_loops:
            monkeypatch.setattr(dense_blocks, "loops_pay", lambda *_: False)
        found.append((*dense_blocks.largest_entries(np, M), dense_blocks.multiply_sizes(np, M, x)))
    expected = abs(M).max(axis=2), abs(M).max(axis=1), abs(M) @ abs(x)
    for both in zip(*found, expected, strict=True):
        for values in both[:2]:
            assert values.dtype == dtype
            np.testing.assert_allclose(values, both[2], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_step_of_a_singular_block_is_not_finite_and_leaves_the_others(bad):
    J, R, sizes = blocks("float64"), rows("float64"), np.ones((7, 5))
    whole = dense_blocks.CompiledStep(R, J, sizes, False)
    J = J.copy()
    J[2] = bad
    step = dense_blocks.CompiledStep(R, J, sizes, False)
    assert not np.isfinite(step.D[2]).all()
    assert not np.isfinite(step.solve(R[:, :, None])[2]).all()
    others = np.arange(7) != 2
    np.testing.assert_array_equal(step.D[others], whole.D[others])


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_find_the_largest_singular_values(dtype, monkeypatch):
    M, start = blocks(dtype), rows(dtype)
    expected = np.linalg.svd(M.astype(float), compute_uv=False)[:, 0]
    by_loops = dense_blocks.iterate_powers(xp, M, start, 200)
    monkeypatch.setattr(dense_blocks, "loops_pay", lambda *_: False)
    for u, v, values in (by_loops, dense_blocks.iterate_powers(xp, M, start, 200)):
        np.testing.assert_allclose(values, expected, rtol=1e-4)
        product = (M @ u[:, :, None])[:, :, 0]
        np.testing.assert_allclose(product, values[:, None] * v, atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1.0, rtol=1e-5)


def test_large_blocks_and_other_dtypes_are_left_to_numpy():
    x = np.ones(3)
    assert dense_blocks.loops_pay(x, 3, 8)
    assert not dense_blocks.loops_pay(x, 3, dense_blocks.MAX_SIZE + 1)
    assert not dense_blocks.loops_pay(x.astype("complex128"), 3, 8)
    assert not dense_blocks.loops_pay(x, 3, 0)


def test_few_small_blocks_do_not_pay_for_the_import_of_numba(monkeypatch):
    monkeypatch.setattr(jit, "min_rows", lambda: 1000)
    assert not dense_blocks.loops_pay(np.ones(3), 15, 8)
    assert dense_blocks.loops_pay(np.ones(3), 16, 8)


@pytest.mark.parametrize("kind", ["map", "residual"])
def test_batches_are_solved_alike_with_and_without_loops(kind, monkeypatch):
    rng = np.random.default_rng(0)
    W, x = 0.4 * rng.standard_normal((3, 3)), rng.standard_normal((6, 3))

    def f(h, theta, x):
        return np.tanh(theta[0] * W @ h + x) - (h if kind == "residual" else 0.0)

    found = []
    for pays in (True, False):
        if not pays:
            monkeypatch.setattr(dense_blocks, "loops_pay", lambda *_: False)
        model = mfdeq.from_function(f, 3, 1, kind, args=x, batched=True)
        eq = mfdeq.solve(model, np.array([0.9]))
        found.append((eq.state, eq.sensitivity @ np.ones(1), eq.smallest_singular.value))
    for by_loops, by_lapack in zip(*found, strict=True):
        np.testing.assert_allclose(by_loops, by_lapack, rtol=1e-7, atol=1e-9)
