"""Matrices with known spectra and of grids, random columns, and true residuals."""

import numpy as np
import scipy.sparse as sp
from support.case_models import sparse_of

from mfdeq.arrays.backend import Backend
from mfdeq.operators.matrix_operator import Matrix

N = 80
RNG = np.random.default_rng(0)
BASIS, LEFT, RIGHT = (np.linalg.qr(RNG.standard_normal((N, N)))[0] for _ in range(3))


def symmetric(eigenvalues):
    """Return a symmetric matrix with these eigenvalues and the columns of BASIS as eigenvectors."""
    A = (BASIS * eigenvalues) @ BASIS.T
    return (A + A.T) / 2


def unit(*shape, seed=1):
    """Return random columns of unit length."""
    B = np.random.default_rng(seed).standard_normal(shape)
    return B / np.linalg.norm(B, axis=0)


def residuals(A, X, B):
    """Return the true residuals of all columns, relative to those of B that are not zero."""
    sizes = np.linalg.norm(B.astype(float), axis=0)
    off = np.linalg.norm(B.astype(float) - A.astype(float) @ X.astype(float), axis=0)
    return off / np.where(sizes > 0, sizes, 1)


def diffusion(n, wind=0.0, across=0.0):
    """Return the five-point -Δ + wind · d/dx + across · d/dy on n x n, upwind: an M-matrix."""
    second = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    upwind = sp.diags([-1.0, 1.0], [-1, 0], shape=(n, n))
    eye = sp.identity(n)
    along_x, along_y = second + wind * upwind, second + across * upwind
    return (sp.kron(eye, along_x) + sp.kron(along_y, eye)).tocsr()


def to_library(matrix, xp, dtype=None):
    """Convert a host matrix or array to the library xp, sparse ones in their format."""
    matrix = matrix if dtype is None else matrix.astype(dtype)
    if not sp.issparse(matrix):
        return xp.asarray(matrix)
    return matrix if xp is np else getattr(sparse_of(xp), f"{matrix.format}_matrix")(matrix)


def operator(matrix, dtype="float64", xp=np):
    """Return a sparse or dense matrix as an operator of mfdeq."""
    return Matrix(Backend.of(xp.zeros(1, dtype)), to_library(matrix, xp, dtype))
