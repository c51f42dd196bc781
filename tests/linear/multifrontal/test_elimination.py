"""Factors by compiled loops, against those by numpy and on several threads."""

from __future__ import annotations

import numpy as np
import pytest
from support.matrices import diffusion
from support.sparse_graphs import SPARSE_MATRICES

import mfdeq
from mfdeq.arrays import jit
from mfdeq.arrays.sparse import to_canonical_format
from mfdeq.linear.multifrontal import elimination, fronts

CASES = {**SPARSE_MATRICES, "large fronts": diffusion(70, 0.3)}


def factors(matrix, symmetric):
    """F11^-1, D and E of all batches."""
    fronts.clear_cache()
    layout = fronts.Fronts.of(matrix)
    return [part for batch in elimination.eliminate(matrix, layout, symmetric) for part in batch]


def canonical(name, dtype="float64"):
    matrix = to_canonical_format(CASES[name].tocsr().astype(dtype))
    return matrix, abs(matrix - matrix.T).max() == 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_factors_do_not_depend_on_the_compiler(name, dtype, monkeypatch):
    matrix, symmetric = canonical(name, dtype)
    found = factors(matrix, symmetric)
    monkeypatch.setattr(jit, "is_available", lambda: False)
    rtol = 1e-9 if dtype == "float64" else 2e-2
    for x, y in zip(found, factors(matrix, symmetric), strict=True):
        assert (x is None) == (y is None)
        if x is not None and x.size:
            np.testing.assert_allclose(x, y, rtol=0.0, atol=rtol * abs(y).max())


@pytest.mark.parametrize("name", ["large fronts", "windy", "plane"])
def test_factors_do_not_depend_on_the_number_of_threads(name, monkeypatch):
    matrix, symmetric = canonical(name)
    monkeypatch.setattr(elimination, "MIN_SHARED_OPERATIONS", 0.0)
    with mfdeq.threads(1):
        expected = factors(matrix, symmetric)
    with mfdeq.threads(3):
        for x, y in zip(expected, factors(matrix, symmetric), strict=True):
            assert (x is None and y is None) or np.array_equal(x, y)


@pytest.mark.parametrize("count", [1, 3])
def test_a_singular_front_is_an_error(count, monkeypatch):
    matrix = diffusion(20).tolil()
    matrix[7, :] = 0.0
    matrix[:, 7] = 0.0
    matrix[7, 7] = 0.0  # stored
    matrix = (diffusion(20) * 0.0 + matrix).tocsr()
    monkeypatch.setattr(elimination, "MIN_SHARED_OPERATIONS", 0.0)
    with mfdeq.threads(count), pytest.raises(np.linalg.LinAlgError):
        factors(to_canonical_format(matrix), True)
