"""Backends compute on any array library and device, and copy nothing between them.

array_api_strict refuses all that the standard does not promise; on its second device also every
silent copy to the host and every mix of devices. Each room that computes has such tests, in its
test_array_libraries.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.places import Dense, N, P, Place, assert_agrees_with_numpy

import mfdeq
from mfdeq.arrays.backend import Backend, array_on_host, check_block
from mfdeq.arrays.kernels import scale_rows
from mfdeq.operators.operator import columnwise

BLOCK = np.random.default_rng(0).standard_normal((12, 4))


@pytest.fixture(params=["CPU_DEVICE", "device1"])
def place(request):
    return Place(request.param)


def test_functions_of_blocks_agree_with_numpy(place):
    def compute(place):
        X = place(BLOCK)
        backend = Backend.of(X)
        return [
            scale_rows(place(BLOCK[:, 0]), X),
            scale_rows(place(BLOCK[:, 0]), place(BLOCK[:, 1])),
            columnwise(lambda x: 2 * x[:3], X, backend, 3),
            check_block(X, backend, 12, "x"),
            backend.column_norms(X),
            backend.inner_products(X, place(BLOCK[:, 1])),
            backend.inner_products(X, place(BLOCK[:, 1:])),
            backend.random(4, seed=3),
            backend.eye(3, 2),
            backend.check_array(X, X.shape, "x"),
        ]

    assert_agrees_with_numpy(place, compute)


@pytest.mark.parametrize("rows", [12, 60_000])
@pytest.mark.parametrize("columns", [(), (1,), (3,)])
def test_combinations_of_few_columns(place, rows, columns):
    """Long ones are multiplied by compiled loops, if there are any."""
    rng = np.random.default_rng(1)
    X, b = rng.standard_normal((rows, 2)), rng.standard_normal((rows, *columns))
    h = rng.standard_normal((2, *columns))
    for home in (place, np.array):
        backend = Backend.of(home(X))
        found = backend.subtract_columns(home(b.copy()), home(X), home(h))
        np.testing.assert_allclose(array_on_host(found), b - X @ h, atol=1e-12)
        found = backend.inner_products(home(X), home(b))
        np.testing.assert_allclose(array_on_host(found), X.T @ b, atol=1e-10)


@pytest.mark.parametrize("entry", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 8191, 8192, 20_000])
def test_no_entry_of_a_long_vector_is_overlooked(entry, at):
    backend, x = Backend.of(np.zeros(1)), np.full(20_001, 1e200)
    assert backend.is_finite(x)
    x[at] = entry
    assert not backend.is_finite(x)


def test_arrays_of_another_library_are_refused_and_not_moved(place):
    backend = Backend.of(place(np.ones(2)))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        backend.asarray(np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        Backend.of(place(np.ones(2)), np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        mfdeq.solve(Dense(place), place(np.zeros(P)), np.zeros(N))
