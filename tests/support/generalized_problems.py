"""Hessians and precisions on a grid, for H x = mu R x and its posterior."""

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from support.matrices import diffusion
from support.precisions import precision_by_products

SIDE = 9
P = SIDE * SIDE
GRID = (diffusion(SIDE) + 0.05 * sp.identity(P)).tocsr()
R = (GRID @ GRID).tocsr()
SEEN = np.random.default_rng(0).standard_normal((P, 12))
HESSIANS = {
    "low rank": SEEN @ SEEN.T,
    "indefinite": SEEN @ np.diag((-0.7) ** np.arange(12)) @ SEEN.T,
    "full rank": SEEN @ SEEN.T + 0.3 * R.toarray() @ R.toarray(),
    "zero": np.zeros((P, P)),
    "multiple of R": 3.0 * R.toarray(),
}
# R by its entries, by its products and solves, and by its diagonal alone.
PRECISIONS = {
    "sparse": R,
    "dense": R.toarray(),
    "products": precision_by_products(R),
    "diagonal": R.diagonal(),
}


def dense_precision(name):
    """Return the dense matrix of one of PRECISIONS."""
    return np.diag(R.diagonal()) if name == "diagonal" else R.toarray()


def generalized_eigenvalues(H, M, k, which):
    """Return k eigenvalues of H x = mu M x in ascending order, selected by `which`."""
    values = scipy.linalg.eigh(H, M, eigvals_only=True)
    order = {"LM": np.argsort(-abs(values)), "LA": np.argsort(-values), "SA": np.argsort(values)}
    return np.sort(values[order[which][:k]])


def assert_residuals_within_bounds(H, M, pairs):
    """Assert that vectors are M-orthonormal and residuals within bounds in the norm of M^-1."""
    V, inverse = pairs.vectors, np.linalg.inv(M)
    np.testing.assert_allclose(V.T @ M @ V, np.eye(V.shape[1]), atol=1e-9)
    off = H @ V - M @ V * pairs.values
    true = np.sqrt(np.einsum("ij,ik,kj->j", off, inverse, off))
    assert np.all(true <= pairs.error_bounds + 1e-12 * pairs.report.norm)
