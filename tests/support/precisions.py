"""Precisions of priors that are given by other things than a matrix."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator, splu

import mfdeq


def dense(R):
    """Return a sparse or dense matrix, or one given by its diagonal, as a dense array."""
    R = R.toarray() if sp.issparse(R) else R
    return np.diag(R) if R.ndim == 1 else R


def precision_by_products(R, **options):
    """Return the precision R by its products and solves only."""
    lu = splu(sp.csc_matrix(dense(R)))
    return mfdeq.Precision(aslinearoperator(dense(R)), solve=lu.solve, **options)
