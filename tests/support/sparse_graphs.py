"""Sparse matrices with the graphs of meshes, of networks and of special structure."""

import numpy as np
import scipy.sparse as sp
from support.matrices import diffusion


def seven_point(n):
    """Return the seven-point -Δ on n x n x n points."""
    one = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n))
    eye = sp.identity(n)
    plane = sp.kron(one, eye) + sp.kron(eye, one)
    return (sp.kron(plane, eye) + sp.kron(sp.identity(n * n), one)).tocsr()


def random_graph(n, wind=0.0):
    """Return a matrix with a random symmetric pattern; with wind its values are not symmetric."""
    A = sp.random(n, n, 2.0 / n, random_state=np.random.default_rng(1))
    A = (A + A.T + 5 * sp.identity(n)).tocsr()
    return (A + wind * sp.triu(A, 1)).tocsr()


def star(n):
    """Return a matrix with one unknown coupled to all others, which are not coupled."""
    A = 3 * np.eye(n)
    A[0] += 1 / n
    A[:, 0] += 1 / n
    return sp.csr_matrix(A)


def blocks(count, n):
    """Return a block diagonal matrix of well-conditioned random dense blocks."""
    dense = np.random.default_rng(0).standard_normal((count, n, n)) + 2 * n**0.5 * np.eye(n)
    return sp.block_diag([*dense]).tocsr()


SPARSE_MATRICES = {
    "one": sp.csr_matrix([[3.0]]),
    "diagonal": sp.diags(np.arange(1.0, 60.0)).tocsr(),
    "path": sp.diags([-1.0, 2.5, -1.0], [-1, 0, 1], shape=(700, 700)).tocsr(),
    "plane": diffusion(22),
    "windy": diffusion(21, 0.7, 0.3),
    "space": seven_point(9),
    "points of two": sp.kron(diffusion(12, 0.4), [[2.0, 0.3], [-0.2, 1.0]]).tocsr(),
    "upper triangle": sp.triu(diffusion(13)),
    "graph": random_graph(300),
    "windy graph": random_graph(300, 0.5),
    "star": star(150),
    "dense blocks": blocks(7, 33),
    "a dense matrix": sp.csr_matrix(blocks(1, 70).toarray()),
    "components": sp.block_diag([diffusion(15), diffusion(4), sp.identity(5), seven_point(5)]),
}


def zero_diagonal(n):
    """Return a regular matrix of 2n unknowns with symmetric pattern and zero diagonal."""
    C = sp.identity(n) + 0.1 * sp.diags([1.0], [1], shape=(n, n))
    return sp.bmat([[None, C.T], [C, None]]).tocsr()
