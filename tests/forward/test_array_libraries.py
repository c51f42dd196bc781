"""Anderson acceleration runs on any array library and device."""

from __future__ import annotations

import numpy as np
import pytest
from support.places import Place, assert_agrees_with_numpy

from mfdeq.arrays.backend import Backend
from mfdeq.forward.anderson import anderson_step

RNG = np.random.default_rng(0)


@pytest.fixture(params=["CPU_DEVICE", "device1"])
def place(request):
    return Place(request.param)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_an_anderson_step_agrees_with_numpy(place, depth):
    G, *past = RNG.standard_normal((2 * depth + 1, 9))

    def compute(place):
        moved = [place(x) for x in past]
        backend = Backend.of(place(G))
        return [anderson_step(backend, place(G), moved[:depth], moved[depth:], 0.7)]

    assert_agrees_with_numpy(place, compute)


def test_an_anderson_step_with_dependent_differences_agrees_with_numpy(place):
    G, d = RNG.standard_normal((2, 6))

    def compute(place):
        dh, dG = [place(d), place(2 * d)], [place(G), place(2 * G)]
        return [anderson_step(Backend.of(place(G)), place(G), dh, dG, 1.0)]

    assert_agrees_with_numpy(place, compute)
