"""Dense factorizations; a singular matrix is not told."""

import warnings

import numpy as np
import scipy.linalg
from cupy import _simulated as _s
from cupy._functions import function as _function


def _finite(x, check, what="array must not contain infs or NaNs"):
    if check:
        _s.read(x)
        if not np.isfinite(_s.unwrap(x)).all():
            raise ValueError(what)


def lu_factor(a, overwrite_a=False, check_finite=True):
    if a.ndim != 2:
        raise ValueError("expected a two-dimensional array")
    _finite(a, check_finite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lu, pivots = scipy.linalg.lu_factor(_s.unwrap(a), check_finite=False)
    _s.read(a), _s.read(a)  # what the factorization says of itself, twice
    if not lu.diagonal().all():
        warnings.warn("A diagonal is exactly zero. Singular matrix.", RuntimeWarning, stacklevel=2)
        lu = np.full_like(lu, np.nan)
    return _s.wrap(lu), _s.wrap(pivots)


def lu_solve(lu_and_piv, b, trans=0, overwrite_b=False, check_finite=True):
    lu, pivots = lu_and_piv
    if lu.shape[0] != b.shape[0]:
        raise ValueError("incompatible dimensions.")
    for x in (lu, b):
        _finite(x, check_finite)
    _s.read(b)
    factors, right = (_s.unwrap(lu), _s.unwrap(pivots)), _s.unwrap(b).astype(lu.dtype)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        x = scipy.linalg.lu_solve(factors, right, trans, check_finite=False)
    return _s.wrap(np.asfortranarray(x))


solve_triangular = _function(
    "solve_triangular",
    "a, b, trans=0, lower=False, unit_diagonal=False, overwrite_b=False, check_finite=False",
    scipy.linalg.solve_triangular,
)
