"""cupy.linalg: no LinAlgError of a matrix that is singular or not definite, but garbage."""

from __future__ import annotations

import numpy as np
from numpy.linalg import LinAlgError

from ._functions import function as _function
from ._simulated import ndarray as _ndarray


def _square(a, at_least=2):
    if a.ndim < at_least or a.shape[-1] != a.shape[-2]:
        raise LinAlgError("Last 2 dimensions of the array must be square")


def _each(compute, a, *others):
    """One matrix after the other; NaN for those that LAPACK gives up on."""
    found = []
    for index in np.ndindex(a.shape[:-2]):
        try:
            found.append(compute(a[index], *(b[index] for b in others)))
        except LinAlgError:
            example = compute(np.eye(*a.shape[-2:], dtype=a.dtype), *(b[index] for b in others))
            parts = example if isinstance(example, tuple) else (example,)
            bad = tuple(np.full_like(part, np.nan) for part in parts)
            found.append(bad if isinstance(example, tuple) else bad[0])
    if isinstance(found[0], tuple):
        parts = zip(*found, strict=True)
        return tuple(np.reshape(np.stack(p), a.shape[:-2] + p[0].shape) for p in parts)
    return np.reshape(np.stack(found), a.shape[:-2] + found[0].shape)


def _lenient(compute):
    def lenient(a, *args, **kwargs):
        def one(a):
            return compute(a, *args, **kwargs)

        try:
            return one(a)
        except LinAlgError:
            return _each(one, a)

    return lenient


def _solve(a, b):
    _square(a)
    if b.ndim == 1 and a.shape[-1] == b.size:
        b = np.broadcast_to(b, a.shape[:-1])
    if a.shape[:-1] != b.shape[: a.ndim - 1]:
        raise ValueError(
            "a must have (..., M, M) shape and b must have (..., M, K) for multidimensional b"
        )
    column = b[..., None] if b.ndim == a.ndim - 1 else b
    try:
        return np.linalg.solve(a, column).reshape(b.shape)
    except LinAlgError:
        return _each(np.linalg.solve, a, column).reshape(b.shape)


def _inv(a):
    _square(a)
    return _lenient(np.linalg.inv)(a)


def _partly(a):
    """The factor as far as it goes: potrf leaves the rest as it was."""
    try:
        return np.linalg.cholesky(a)
    except LinAlgError:
        L = np.tril(a)
        for k in range(len(a)):
            if not L[k, k] > 0:
                break
            L[k:, k] /= np.sqrt(L[k, k])
            L[k + 1 :, k + 1 :] -= np.tril(np.outer(L[k + 1 :, k], L[k + 1 :, k]))
        return L


def _cholesky(a):
    _square(a)
    return _each(_partly, a) if a.size else a.copy()


def _made(name, parameters, compute):
    inner = _function(name, parameters, compute)

    def wrapped(*args, **kwargs):
        arrays = [inner.__signature__.bind(*args, **kwargs).args[0]]
        if not isinstance(arrays[0], _ndarray):
            raise LinAlgError("cupy.linalg only supports cupy.ndarray")
        return inner(*args, **kwargs)

    wrapped.__name__, wrapped.__signature__ = name, inner.__signature__
    wrapped.__module__ = "cupy.linalg"
    return wrapped


def _pinv(a, rcond=1e-15):
    """As cupy: singular values of zero are divided by, and then set to zero."""
    u, s, vt = _lenient(np.linalg.svd)(a, full_matrices=False)
    kept = s > np.asarray(rcond) * np.amax(s, axis=-1)[..., None]
    s = np.where(kept | np.isnan(s), 1.0 / s, 0).astype(s.dtype)
    return np.swapaxes(vt, -1, -2) @ (s[..., None] * np.swapaxes(u, -1, -2))


cholesky = _made("cholesky", "a", _cholesky)
qr = _made("qr", "a, mode='reduced'", np.linalg.qr)
svd = _made("svd", "a, full_matrices=True, compute_uv=True", _lenient(np.linalg.svd))
eigh = _made("eigh", "a, UPLO='L'", _lenient(np.linalg.eigh))
eigvalsh = _made("eigvalsh", "a, UPLO='L'", _lenient(np.linalg.eigvalsh))
norm = _made("norm", "x, ord=None, axis=None, keepdims=False", np.linalg.norm)
solve = _made("solve", "a, b", _solve)
inv = _made("inv", "a", _inv)
pinv = _made("pinv", "a, rcond=1e-15", _pinv)
slogdet = _made("slogdet", "a", np.linalg.slogdet)
det = _made("det", "a", np.linalg.det)
lstsq = _made("lstsq", "a, b, rcond=None", np.linalg.lstsq)

__all__ = [
    "LinAlgError",
    "cholesky",
    "det",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
]
