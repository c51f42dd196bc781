"""array_api_strict registered as an array library, as docs/extending.rst shows."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np

from mfdeq.arrays.library import ArrayLibrary, register, unregister


class StrictOperator:
    """The base class of operators on strict arrays; scipy's knows numpy's dtypes only."""

    def __init__(self, dtype, shape):
        self.dtype, self.shape = dtype, shape

    @property
    def H(self):
        return self._adjoint()


class StrictLibrary(ArrayLibrary):
    """The arrays of array_api_strict, with a count of the transfers to numpy."""

    name = "array-api-strict"
    packages = ("array_api_strict",)
    sparse_linalg = SimpleNamespace(LinearOperator=StrictOperator)

    def __init__(self):
        self.transfers = 0

    def to_host(self, x):
        self.transfers += 1
        return np.from_dlpack(x)


@contextlib.contextmanager
def strict_library():
    """Register a `StrictLibrary` inside the block."""
    library = StrictLibrary()
    register(library)
    try:
        yield library
    finally:
        unregister(library)
