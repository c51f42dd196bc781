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
from mfdeq.arrays.backend import Backend, check_block
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
            backend.random(4, seed=3),
            backend.eye(3, 2),
            backend.check_array(X, X.shape, "x"),
        ]

    assert_agrees_with_numpy(place, compute)


def test_arrays_of_another_library_are_refused_and_not_moved(place):
    backend = Backend.of(place(np.ones(2)))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        backend.asarray(np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        Backend.of(place(np.ones(2)), np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        mfdeq.solve(Dense(place), place(np.zeros(P)), np.zeros(N))
