"""Spectra whose traces, norms, ranks and determinants are estimated from random products."""

import numpy as np
from support.spectra import symmetric_matrix

P = 240
SPECTRA = {
    "decay": np.geomspace(1e-4, 1, P),
    "flat": np.random.default_rng(0).uniform(0.5, 2, P),
    "indefinite": np.r_[np.linspace(-1, 1, P - 4), 7, 8, -9, -10],
    "low rank": np.r_[np.zeros(P - 20), np.random.default_rng(1).uniform(1, 10, 20)],
}


def sampled_matrix(name):
    """Return a symmetric matrix with one of these spectra."""
    return symmetric_matrix(SPECTRA[name])
