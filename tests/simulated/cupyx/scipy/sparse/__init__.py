"""Sparse matrices: what cupyx has of scipy.sparse, with its arguments."""

import numpy as np
import scipy.sparse as host
from cupy import _simulated as _s

from ._classes import CLASSES as _CLASSES
from ._classes import _operand, _spbase, _wrapped, sparray, spmatrix  # noqa: F401

globals().update(_CLASSES)


def issparse(x):
    return isinstance(x, _spbase)


def isspmatrix(x):
    return isinstance(x, spmatrix)


def eye(m, n=None, k=0, dtype="d", format=None):
    return _wrapped(host.eye(m, n, k, dtype, format))


def identity(n, dtype="d", format=None):
    return eye(n, n, dtype=dtype, format=format)


def diags(diagonals, offsets=0, shape=None, format=None, dtype=None):
    one = np.isscalar(offsets)
    if one and isinstance(diagonals, (list, tuple)):
        diagonals = diagonals[0] if len(diagonals) == 1 else diagonals
    given = _s.unwrap(diagonals)
    given = np.asarray(given) if one else [np.atleast_1d(x) for x in given]
    return _wrapped(host.diags(given, offsets, shape, None, dtype)).asformat(format)


def diags_array(diagonals, /, *, offsets=0, shape=None, format=None, dtype=None):
    found = diags(diagonals, offsets, shape, format, dtype)
    return globals()[f"{found.format}_array"](found)


def _combined(function, parts, *args, **kwargs):
    return _wrapped(function([_operand(x) for x in parts], *args, **kwargs))


def hstack(blocks, format=None, dtype=None):
    return _combined(host.hstack, blocks, format, dtype)


def vstack(blocks, format=None, dtype=None):
    return _combined(host.vstack, blocks, format, dtype)


def block_diag(mats, format=None, dtype=None):
    return _combined(host.block_diag, mats, format, dtype)


def bmat(blocks, format=None, dtype=None):
    rows = [[None if x is None else _operand(x) for x in row] for row in blocks]
    return _wrapped(host.bmat(rows, format, dtype))


def kron(A, B, format=None):
    return _wrapped(host.kron(_operand(A), _operand(B), format))


def _triangle(name):
    def triangle(A, k=0, format=None):
        if not isinstance(A, (_s.ndarray, _spbase)):
            raise TypeError("A must be cupy.ndarray or cupyx.scipy.sparse")
        return _wrapped(getattr(host, name)(_operand(A), k, format))

    triangle.__name__ = name
    return triangle


tril, triu = _triangle("tril"), _triangle("triu")


def find(A):
    return tuple(map(_s.wrap, host.find(_operand(A))))


from . import linalg  # noqa: E402, F401
