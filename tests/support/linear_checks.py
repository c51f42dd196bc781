"""Matrices for linear solvers, and a check of solves with A and its transpose."""

import numpy as np
import scipy.sparse as sp
from support.matrices import diffusion
from support.places import to_numpy


def contraction(n, seed=0):
    """Return a dense I - J with |J| = 1/2."""
    rng = np.random.default_rng(seed)
    J = rng.standard_normal((n, n))
    return np.eye(n) - 0.5 * J / np.linalg.norm(J, 2)


MATRICES = {
    "symmetric": diffusion(22),
    "windy": diffusion(22, wind=0.7),
    "contraction": sp.csr_matrix(contraction(40)),
}


def check_solves(factor, dense, dtype="float64", rtol=None):
    """Check the true residuals of solves with A and A' for vectors, blocks and special columns."""
    n = dense.shape[0]
    rng = np.random.default_rng(2)
    B = rng.standard_normal((n, 5)).astype(dtype)
    B[:, 1] = 0.0
    B[:, 3] = -2.0 * B[:, 2]
    B[:, 4] *= 1e-12
    rtol = (1.01e-10 if dtype == "float64" else 3e-5) if rtol is None else rtol
    xp, B = factor.backend.xp, factor.backend.from_host(B)
    for solve, A in ((factor.solve, dense), (factor.solve_adjoint, dense.T)):
        for b in (B, xp.asfortranarray(B), B[:, 0], B[:, 1], B[:, :1], B[:, ::2], B[:, :0]):
            before = b.copy()
            x = solve(b)
            assert type(x) is type(b)
            assert x.shape == b.shape
            assert x.dtype == dtype
            b, x = to_numpy(b), to_numpy(x)
            assert np.array_equal(b, to_numpy(before))
            residual = np.linalg.norm(b - A.astype(float) @ x, axis=0)
            assert np.all(residual <= rtol * np.linalg.norm(b, axis=0))
