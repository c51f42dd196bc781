"""The model that the tests share has right derivatives, and its two forms agree."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from support.petsc_problems import (
    LOSS,
    THETA,
    Cubic,
    gathered,
    hessians,
    on_one_machine,
    on_ranks,
    vec_of,
)

import mfdeq


def test_derivatives_of_the_model_verify():
    assert mfdeq.verify(Cubic(), vec_of(THETA), LOSS)


def test_vec_and_numpy_forms_agree():
    H, ref = hessians()
    v = np.random.default_rng(1).standard_normal(THETA.shape)
    assert np.allclose(gathered(on_ranks().state), on_one_machine().state, rtol=0, atol=1e-11)
    gradient = gathered(on_ranks().gradient(LOSS))
    assert np.allclose(gradient, on_one_machine().gradient(LOSS), rtol=0, atol=1e-9)
    assert np.allclose(gathered(H * vec_of(v)), ref @ v, rtol=0, atol=1e-8)
