"""`mfdeq.Nystrom` as a preconditioner: fewer iterations, low rank, and refused operators."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.linalg import cg
from support.sampled_spectra import P, sampled_matrix
from support.spectra import symmetric_matrix

import mfdeq


@pytest.mark.parametrize("shift", [0.0, 1e-3])
def test_nystrom_speeds_up_conjugate_gradients(shift):
    values = np.r_[np.geomspace(1e3, 1, 20), np.linspace(0.5, 1, P - 20)]
    H = symmetric_matrix(values)
    shifted, b = H + shift * np.eye(P), np.random.default_rng(0).standard_normal(P)
    taken = []
    for M in (None, mfdeq.Nystrom(H, 30, shift)):
        steps = []
        x, info = cg(shifted, b, M=M, rtol=1e-10, callback=lambda _, s=steps: s.append(1))
        assert info == 0
        np.testing.assert_allclose(shifted @ x, b, atol=1e-7)
        taken.append(len(steps))
    assert taken[1] < 0.4 * taken[0]
    whole = mfdeq.Nystrom(H, P, shift)
    np.testing.assert_allclose(whole @ shifted, (0.5 + shift) * np.eye(P), atol=1e-6)
    assert np.all(np.diff(whole.values) <= 0)
    np.testing.assert_allclose(mfdeq.Nystrom(H, 30).values[:5], np.sort(values)[:-6:-1], rtol=0.1)


def test_nystrom_does_not_change_unsampled_directions():
    """With a shift, unsampled directions are unchanged; without one, a zero H is refused."""
    H = sampled_matrix("low rank")
    M = mfdeq.Nystrom(H, 60, 0.1)
    assert M.values.shape == (20,)
    flat = np.linalg.eigvals(M @ (H + 0.1 * np.eye(P))).real
    np.testing.assert_allclose(np.sort(flat)[20:], flat.max(), rtol=1e-6)
    with pytest.raises(mfdeq.ArgumentError, match="shift: expected a positive number"):
        mfdeq.Nystrom(0 * H, 5)
    np.testing.assert_allclose(mfdeq.Nystrom(0 * H, 5, 2.0) @ np.ones(P), 1.0)


def test_an_indefinite_h_is_refused():
    with pytest.raises(mfdeq.ArgumentError, match="semidefinite"):
        mfdeq.Nystrom(sampled_matrix("indefinite"), 10)


def test_float32_stays_float32():
    assert mfdeq.Nystrom(sampled_matrix("flat").astype("float32"), 5).dtype == np.float32
