"""Fingerprints of arrays, by which changes in place are noticed.

Small arrays have a checksum of their bytes. Larger ones have the sums of every 1021st word, at the
speed of memory, which is three to ten times that of a checksum: an exchange of two rows moves words
to other sums, since 1021 is a prime number. Of arrays that take too long to read, and of arrays on
a device, words at regular distances are compared.
"""

from __future__ import annotations

import array
import zlib
from typing import Any

import array_api_compat as compat

from ..arrays.backend import array_on_host, host
from ..arrays.library import find_library

MAX_CHECKSUM_BYTES = 2**16  # above which sums are faster
WORD_SUMS = 1021  # a prime number
MAX_SUMMED_BYTES = 2**30  # a tenth of a second
SAMPLED_WORDS = 2**16
BUFFERS = (bytearray, array.array)


def fingerprint(x: Any) -> int:
    """Return a number that changes, in all likelihood, with the entries of an array.

    Parameters
    ----------
    x : array of numpy, of cupy or of Python

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0.0, 1.0, 100_000)
    >>> before = fingerprint(x)
    >>> x[5] += 1e-16
    >>> fingerprint(x) == before
    False
    """
    if isinstance(x, BUFFERS):
        x = host.frombuffer(x, host.uint8)
    if not isinstance(x, host.ndarray):
        xp = compat.array_namespace(x)
        flat = xp.reshape(x, (-1,))
        samples = array_on_host(xp.asarray(flat[:: _sample_step(x)], copy=True))
        # With a sum, since samples miss most entries.
        return hash((float(abs(xp.sum(flat))), fingerprint(samples)))
    if x.T.flags.c_contiguous:
        x = x.T
    if x.nbytes > MAX_SUMMED_BYTES or isinstance(x, host.memmap):
        flat = x.reshape(-1) if x.flags.c_contiguous else x.flat
        x = flat[:: _sample_step(x)]
    if x.dtype.hasobject:  # the addresses of its objects
        data: Any = host.frombuffer(x.tobytes(), host.uint8)
    else:
        data = host.ascontiguousarray(x).reshape(-1).view(host.uint8)
    if data.nbytes <= MAX_CHECKSUM_BYTES:
        return zlib.crc32(data)
    end = data.nbytes // (8 * WORD_SUMS) * 8 * WORD_SUMS
    sums = data[:end].view(host.uint64).reshape(-1, WORD_SUMS).sum(axis=0)
    return zlib.crc32(data[end:], zlib.crc32(sums))


def is_watched_array(x: Any) -> bool:
    """Return whether an object has a fingerprint: an array of numpy, of cupy or of Python.

    Arrays of JAX and scalars of numpy are immutable, and tensors of PyTorch have versions.
    """
    if isinstance(x, (host.ndarray, *BUFFERS)):
        return True
    is_array = find_library(type(x)) is not None and compat.is_array_api_obj(x)
    return is_array and not isinstance(x, host.generic)


def _sample_step(x: Any) -> int:
    return -(-x.size // SAMPLED_WORDS) or 1
