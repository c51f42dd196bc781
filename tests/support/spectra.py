"""Spectra that are awkward for eigensolvers, and symmetric operators that have them."""

import numpy as np
from scipy.sparse.linalg import LinearOperator

SIZE = 120
DECAY = np.exp(-0.08 * np.arange(SIZE))
AWKWARD_SPECTRA = {
    "decay": DECAY,
    "indefinite": np.where(np.arange(SIZE) % 2, DECAY, -0.7 * DECAY),
    "clusters": np.r_[
        np.linspace(0, 0.5, SIZE - 12), 1 + 1e-4 * np.arange(6), -1.01 - 1e-4 * np.arange(6)
    ],
    "repeated": np.r_[
        np.linspace(-0.2, 0.5, SIZE - 9), np.ones(4), -1.1 * np.ones(3), 2 * np.ones(2)
    ],
    "low rank": np.r_[np.zeros(SIZE - 5), -3.0, 1.0, 1.0, 2.0, 2.0],
    "identity": np.ones(SIZE),
    "two values": np.r_[np.ones(SIZE // 2), -0.9 * np.ones(SIZE // 2)],
    "zero": np.zeros(SIZE),
    "gap": np.r_[np.linspace(0, 1, SIZE - 3), 1e3, 1e4, -1e4],
}


def symmetric_matrix(values, seed=0, dtype=float):
    """Return Q diag(values) Q' with a random orthogonal Q."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((len(values),) * 2))[0]
    dense = ((Q * values) @ Q.T).astype(dtype)
    return (dense + dense.T) / 2


def symmetric_operator(values, seed=0, dtype=float, noise=0.0):
    """Return an operator of the same matrix, with random errors of length `noise` in products."""
    dense = symmetric_matrix(values, seed, dtype)
    rng = np.random.default_rng(seed + 1)

    def product(X):
        off = rng.standard_normal(X.shape)
        return (dense @ X + noise * off / np.linalg.norm(off, axis=0)).astype(dtype)

    return LinearOperator(dense.shape, matvec=product, matmat=product, dtype=dtype)


def awkward_operator(name):
    """Return the operator of one of the awkward spectra."""
    return symmetric_operator(AWKWARD_SPECTRA[name])


def wanted_eigenvalues(values, k, which):
    """Return k eigenvalues in ascending order, selected by `which` as in `mfdeq.eigsh`."""
    values = np.sort(values)
    n = len(values)
    return {
        "LM": lambda: np.sort(values[np.argsort(-abs(values), kind="stable")][:k]),
        "LA": lambda: values[n - k :],
        "SA": lambda: values[:k],
        "BE": lambda: np.concatenate([values[: k // 2], values[n - (k - k // 2) :]]),
    }[which]()


# A definite matrix of condition 1e6 and an approximate inverse of it, for preconditioned methods.
ILL_CONDITIONED_VALUES = np.r_[np.geomspace(1e-6, 1e-3, 20), np.geomspace(1e-2, 1, 124)]
ILL_CONDITIONED = symmetric_matrix(ILL_CONDITIONED_VALUES)
APPROXIMATE_INVERSE = np.linalg.inv(ILL_CONDITIONED + 1e-3 * np.diag(np.linspace(0.1, 1, 144)))
