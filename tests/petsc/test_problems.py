"""The model that the tests share is right, and both of its forms are the same."""

import numpy as np
import pytest

pytest.importorskip("petsc4py")

from support.petsc_problems import LOSS, THETA, Cubic, gathered, hessians, spread, vec_of, whole

import mfdeq


def test_the_model_verifies():
    assert mfdeq.verify(Cubic(), vec_of(THETA), LOSS)


def test_both_forms_have_one_equilibrium_gradient_and_hessian():
    H, ref = hessians()
    v = np.random.default_rng(1).standard_normal(THETA.shape)
    assert np.allclose(gathered(spread().state), whole().state, rtol=0, atol=1e-11)
    gradient = gathered(spread().gradient(LOSS))
    assert np.allclose(gradient, whole().gradient(LOSS), rtol=0, atol=1e-9)
    assert np.allclose(gathered(H * vec_of(v)), ref @ v, rtol=0, atol=1e-8)
