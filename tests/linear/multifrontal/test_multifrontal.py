"""Multifrontal factorizations, against dense truth and on every array library."""

from __future__ import annotations

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp
from support.matrices import diffusion, residuals
from support.places import HOST, Place, assert_agrees_with_numpy
from support.sparse_graphs import SPARSE_MATRICES

from mfdeq.arrays.backend import Backend
from mfdeq.linear.multifrontal import fronts
from mfdeq.linear.multifrontal.dissection import dissect_graph
from mfdeq.linear.multifrontal.multifrontal import Batch, Level, Multifrontal

RNG = np.random.default_rng(0)


def factorize(matrix, dtype="float64"):
    matrix = matrix.tocsr().astype(dtype)
    symmetric = abs(matrix - matrix.T).max() == 0
    return Multifrontal(matrix, Backend.of(matrix.data), symmetric)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", SPARSE_MATRICES)
def test_solves_with_a_matrix_and_its_adjoint(name, dtype):
    dense = SPARSE_MATRICES[name].toarray()
    factors = factorize(SPARSE_MATRICES[name], dtype)
    B = RNG.standard_normal((dense.shape[0], 5)).astype(dtype)
    for adjoint, b in itertools.product(
        (False, True), (B, np.asfortranarray(B), B[:, 0], B[:, :1], B[:, ::2], B[:, :0])
    ):
        before = b.copy()
        x = factors.solve(b, adjoint)
        assert x.shape == b.shape
        assert x.dtype == dtype
        assert np.array_equal(b, before)
        A = dense.T if adjoint else dense
        off = residuals(A, *(y[:, None] if y.ndim == 1 else y for y in (x, b)))
        assert np.all(off <= (1e-13 if dtype == "float64" else 1e-4))


def test_infinite_columns_leave_the_other_columns_alone():
    factors = factorize(SPARSE_MATRICES["windy"])
    B = RNG.standard_normal((441, 3))
    B[:, 1] = 0.0
    B[7, 2] = np.inf
    with np.errstate(invalid="ignore"):
        x = factors.solve(B)
    np.testing.assert_array_equal(x[:, 1], 0.0)
    assert residuals(SPARSE_MATRICES["windy"].toarray(), x[:, :1], B[:, :1]) < 1e-13


def test_matrices_of_one_pattern_are_dissected_once(monkeypatch):
    count = []
    monkeypatch.setattr(
        fronts, "dissect_graph", lambda *args: count.append(1) or dissect_graph(*args)
    )
    factorize(diffusion(23))
    other = factorize(diffusion(23) + 0.5 * sp.identity(23**2))
    assert len(count) == 1
    b = RNG.standard_normal((23**2, 1))
    dense = (diffusion(23) + 0.5 * sp.identity(23**2)).toarray()
    assert residuals(dense, other.solve(b), b) < 1e-13
    factorize(diffusion(24))
    assert len(count) == 2


def test_threads_solve_with_the_same_factors():
    factors, B = factorize(diffusion(60, 0.3)), RNG.standard_normal((60**2, 24))
    expected = factors.solve(B)
    with ThreadPoolExecutor(4) as pool:
        for x in pool.map(lambda _: factors.solve(B), range(24)):
            np.testing.assert_array_equal(x, expected)


def test_solves_blocks_of_any_width_and_memory_layout():
    """Wider than what is solved for at once, then narrower, in a work array that was used."""
    matrix = diffusion(24, 0.4)
    factors, B = factorize(matrix), RNG.standard_normal((24**2, 75))
    for b in (B, B[:, :3], np.asfortranarray(B), B[::-1, ::-1], B[:, 40]):
        block = b if b.ndim == 2 else b[:, None]
        assert residuals(matrix, factors.solve(b).reshape(block.shape), block).max() <= 1e-13


def factors_on(factors, place):
    """The same factors on another array library, the sparse matrices as dense ones."""
    if place is HOST:
        return factors
    moved = copy.copy(factors)
    moved._work = []
    moved.backend = Backend(place.xp, place.xp.float64, place.device)
    moved.order, moved.position = place(factors.order), place(factors.position)
    moved.levels = [
        Level(
            level.own,
            None
            if level.incoming is None
            else place(level.incoming @ np.eye(level.incoming.shape[1])),
            place(level.above),
            [Batch(*(place(part) for part in vars(batch).values())) for batch in level.batches],
        )
        for level in factors.levels
    ]
    return moved


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
@pytest.mark.parametrize("name", ["windy", "plane", "dense blocks"])
def test_solves_run_on_any_array_library(name, device):
    matrix = SPARSE_MATRICES[name].tocsr()
    factors = factorize(matrix)
    b = RNG.standard_normal((matrix.shape[0], 3))

    def compute(place):
        return [
            factors_on(factors, place).solve(place(x), adjoint)
            for x, adjoint in ((b, False), (b, True), (b[:, 0], False))
        ]

    assert_agrees_with_numpy(Place(device), compute)
    np.testing.assert_allclose(matrix @ compute(HOST)[0], b, atol=1e-10)
