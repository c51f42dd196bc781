"""The array library cupy."""

from __future__ import annotations

from typing import Any

from ..locks import cached_property
from . import cuda
from .library import Array, ArrayLibrary, register


class CupyLibrary(ArrayLibrary):
    """The array library cupy, with cupyx and mfdeq's CUDA kernels."""

    packages = ("cupy", "cupyx")
    on_host = False
    kernels = cuda

    # Imported on demand, since cupyx.scipy.sparse.linalg requires a CUDA driver.

    @cached_property
    def sparse(self) -> Any:
        """`cupyx.scipy.sparse`."""
        import cupyx.scipy.sparse

        return cupyx.scipy.sparse

    @cached_property
    def sparse_linalg(self) -> Any:
        """`cupyx.scipy.sparse.linalg`."""
        import cupyx.scipy.sparse.linalg

        return cupyx.scipy.sparse.linalg

    @cached_property
    def dense_linalg(self) -> Any:
        """`cupyx.scipy.linalg`."""
        import cupyx.scipy.linalg

        return cupyx.scipy.linalg

    def is_sparse(self, x: Any) -> bool:
        """Test whether `x` is a sparse matrix of cupyx."""
        return hasattr(x, "tocsr")

    def zeros_of(self, operator: Any) -> Array:
        """Return an empty array of the dtype of an operator, on the current device."""
        import cupy

        return cupy.zeros(0, dtype=getattr(operator, "dtype", None) or "float64")

    def to_host(self, x: Array) -> Any:
        """Copy an array to the host."""
        return x.get()


register(CupyLibrary())
