"""The functions of `kernels` for cupy arrays, by CUDA kernels (`cuda.cu`) and CUDA graphs.

cupy's own sparse products accept only columns in Fortran order, its library calls cannot be
captured in a CUDA graph, and its sums over the rows of a tall block use only a few
multiprocessors.
"""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from importlib import resources
from types import ModuleType
from typing import Any

from ..locks import lock_of
from .backend import Array, Backend, is_sparse
from .kernels import by_diagonals, converted, inner_loops  # noqa: F401

MAX_BLOCK_COLUMNS = 32  # columns in one block product
MAX_BLOCK_ENTRIES = 2**31  # entries in one block product
THREADS_PER_BLOCK = 256
REDUCTION_BLOCKS = 1024  # blocks of a reduction, as many as a large device runs at once
MAX_BLOCKS = 65_536  # blocks of any other launch
ROW_THREADS = (2, 4, 8, 16, 32)  # possible numbers of threads for one row
CALLS_BEFORE_CAPTURE = 3  # calls with the same shape before its launches are captured
MAX_GRAPHS = 4  # graphs kept, one for each shape
MAX_REPLAYED_SIZE = 2**25  # entries of an array, above which launches are relatively cheap


@functools.cache
def _module(code: str) -> Any:
    import cupy

    return cupy.RawModule(code=code)


@functools.cache
def source(real: str, index: str = "int") -> str:
    """Return the source of the kernels for numbers and indices of these C types."""
    code = resources.files(__package__).joinpath("cuda.cu").read_text()
    return f"typedef {real} real;\ntypedef {index} index;\n{code}"


@functools.cache  # cupy loads the kernel once for each device
def _kernel(name: str, real: str, index: str = "int") -> Any:
    return _module(source(real, index)).get_function(name)


def pointer(x: Array) -> int:
    """Return the address of an array on the device."""
    return x.data.ptr


def stream_pointer() -> int:
    """Return the address of the current stream."""
    import cupy

    return cupy.cuda.get_current_stream().ptr


def _real(dtype: Any) -> str:
    return {4: "float", 8: "double"}[dtype.itemsize]


def _threads(size: int, k: int, most: int) -> tuple[tuple[int], tuple[int]]:
    """Return blocks and threads of a launch for `size` numbers, with a multiple of k threads."""
    blocks = max(1, min(-(-size // (THREADS_PER_BLOCK * k)), most // k))
    return (blocks * k,), (THREADS_PER_BLOCK,)


def column_dots(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the inner products of the columns of two (n, k) blocks, or of (n,) vectors."""
    k = 1 if x.ndim == 1 else x.shape[1]
    if x.size == 0 or x.dtype.kind != "f" or x.dtype != y.dtype:
        return xp.sum(x * y, axis=0)
    x, y = xp.ascontiguousarray(x), xp.ascontiguousarray(y)
    grid, block = _threads(x.size, k, REDUCTION_BLOCKS)
    sums = xp.empty((grid[0] * block[0] // k, k), dtype=x.dtype)
    _kernel("column_dots", _real(x.dtype))(grid, block, (x, y, sums, xp.int64(x.size)))
    return xp.sum(sums, axis=0) if x.ndim == 2 else xp.sum(sums)


def difference_squares(xp: ModuleType, x: Array, y: Array) -> Array:
    """Return the squared norms of the columns of x - y."""
    difference = x - y
    return column_dots(xp, difference, difference)


def transpose_into(target: Array, x: Array) -> None:
    """Assign x' to target."""
    target[:, :] = x.T


def advance(xp: ModuleType, X: Array, R: Array, P: Array, Q: Array, step: Array) -> Array:
    """Compute X += P step and R -= Q step in place; return the squared column norms of R."""
    k, kind = X.shape[1], _real(X.dtype)
    if X.size == 0:
        return xp.zeros(k, dtype=X.dtype)
    P, Q, step = (xp.ascontiguousarray(x) for x in (P, Q, step))
    grid, block = _threads(X.size, k, REDUCTION_BLOCKS)
    sums = xp.empty((grid[0] * block[0] // k, k), dtype=X.dtype)
    sizes = xp.int64(X.size), xp.int32(k)
    _kernel("advance", kind)(grid, block, (X, R, P, Q, step, sums, *sizes))
    return xp.sum(sums, axis=0)


def redirect(xp: ModuleType, P: Array, Z: Array, ratio: Array) -> None:
    """Compute P = Z + P ratio in place."""
    k = P.shape[1]
    if P.size == 0:
        return
    grid, block = _threads(P.size, k, MAX_BLOCKS)
    given = P, xp.ascontiguousarray(Z), xp.ascontiguousarray(ratio), xp.int64(P.size), xp.int32(k)
    _kernel("redirect", _real(P.dtype))(grid, block, given)


def inner_products(V: Array, W: Array) -> Array:
    """Return V W for the (m, n) rows of a basis and an (n, k) block of few columns."""
    return V @ W


def subtract_combination(W: Array, V: Array, h: Array) -> Array:
    """Subtract V' h from an (n, k) block of few columns in place and return it."""
    W -= V.T @ h
    return W


def combine_rows(V: Array, first: int, C: Array) -> None:
    """Replace the first k of m rows of V, which begin at `first`, by C' times these m, in place."""
    V[first : first + C.shape[1], :] = C.T @ V[first : first + C.shape[0], :]


def chebyshev(d: Array, x: Array, r: Array, D: Any, a: float, c: float) -> None:
    """Compute d = a d + c D r and x += d in place; D is a matrix or a diagonal as a vector."""
    xp, rows, k = Backend.of(d).xp, d.shape[0], 1 if d.ndim == 1 else d.shape[1]
    if d.size == 0:
        return
    if D.ndim == 2:
        r, D = D @ r, xp.ones(rows, dtype=d.dtype)
    scalars = d.dtype.type(a), d.dtype.type(c), xp.int64(rows), xp.int32(k)
    launch = _threads(d.size, k, MAX_BLOCKS)
    _kernel("chebyshev", _real(d.dtype))(*launch, (d, x, xp.ascontiguousarray(r), D, *scalars))


def available_bytes(device: Any = None) -> int:
    """Return the free memory of the device and of cupy's pool, in bytes."""
    import cupy

    return cupy.cuda.Device().mem_info[0] + cupy.get_default_memory_pool().free_bytes()


def peak_bytes() -> int:
    """Return the peak memory in bytes since cupy's pool was last emptied."""
    import cupy

    return cupy.get_default_memory_pool().total_bytes()


class Rows:
    """A matrix in CSR format, for products with vectors and blocks.

    Parameters
    ----------
    matrix : sparse matrix or array of cupyx, or a dense array
    """

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        backend = Backend.of(matrix.data if is_sparse(matrix) else matrix)
        csr = matrix.tocsr() if is_sparse(matrix) else backend.sparse.csr_matrix(matrix)
        self.xp, self.matrix = backend.xp, csr
        self.shape, self.dtype = csr.shape, csr.dtype
        per_row = csr.nnz / max(csr.shape[0], 1)
        self.lanes = next((lanes for lanes in ROW_THREADS if 2 * lanes >= per_row), ROW_THREADS[-1])
        self.index = {4: "int", 8: "long long"}[csr.indices.dtype.itemsize]

    @property
    def _parts(self) -> tuple[Array, Array, Array]:
        return self.matrix.indptr, self.matrix.indices, self.matrix.data

    @property
    def nbytes(self) -> int:
        """The size of the entries and their indices in bytes."""
        return int(sum(part.nbytes for part in self._parts))

    @property
    def T(self) -> Rows:
        """The transpose, also stored by rows, since sums along columns would need atomics."""
        return Rows(self.matrix.T)

    def __abs__(self) -> Rows:
        return Rows(abs(self.matrix))

    def __matmul__(self, x: Array) -> Array:
        y = self.xp.empty((self.shape[0], *x.shape[1:]), dtype=self.matrix.dtype)
        return self._into(y, x, 0)

    def add_to(self, y: Array, x: Array, sign: int) -> Array:
        """Compute y += A x or, with sign -1, y -= A x in place."""
        return self._into(y, x, sign)

    def _into(self, y: Array, x: Array, sign: int) -> Array:
        xp, k = self.xp, 1 if x.ndim == 1 else x.shape[1]
        if y.size == 0:
            return y
        kind, rows = self.matrix.dtype, self.shape[0]
        given = *self._parts, xp.ascontiguousarray(x.astype(kind, copy=False)), y, xp.int64(rows)
        if k == 1:
            blocks = min(-(-rows * self.lanes // THREADS_PER_BLOCK), MAX_BLOCKS)
            launch, by, count = ((blocks,), (THREADS_PER_BLOCK,)), "csr_vector", self.lanes
        else:
            launch, by, count = _threads(rows * k, k, MAX_BLOCKS), "csr_block", k
        kernel = _kernel(by, _real(kind), self.index)
        kernel(*launch, (*given, xp.int32(count), xp.int32(sign)))
        return y


def products(matrix: Any) -> Any:
    """Return an object that multiplies by a matrix; `Rows` if it is sparse."""
    return Rows(matrix) if is_sparse(matrix) else matrix


def capturable_matrix(matrix: Array) -> Rows:
    """Return an object that multiplies by a dense matrix and whose launches can be captured."""
    return Rows(matrix)


class CapturedLaunches:
    """A function of an (n,) or (n, k) array whose kernel launches are captured and replayed.

    On coarse levels a cycle takes longer to launch than to run. Each shape has its own memory pool.

    Parameters
    ----------
    function : callable
        A function that only launches kernels; it must not read from the device or call a library.
    """

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self.function = function
        self.stream: int | None = None  # of the last replay
        self.calls: dict[tuple[int, ...], int] = {}
        self.graphs: OrderedDict[tuple[int, ...], tuple[Any, Array, Array, Any]] = OrderedDict()

    def __call__(self, b: Array) -> Array:
        """Evaluate the function, and return the result as a new array."""
        if b.size > MAX_REPLAYED_SIZE:
            return self.function(b)
        with lock_of(self):  # A graph has one array for its argument and one for its result.
            if b.shape in self.graphs:
                return self._replay(b)
            self.calls[b.shape] = self.calls.get(b.shape, 0) + 1
            if self.calls[b.shape] == CALLS_BEFORE_CAPTURE:
                self._capture(b)
        return self.function(b)

    def _replay(self, b: Array) -> Array:
        stream = stream_pointer()
        if self.stream not in (None, stream):  # that of another thread, which may not have finished
            import cupy

            cupy.cuda.Device().synchronize()
        self.stream = stream
        self.graphs.move_to_end(b.shape)
        graph, given, found, _ = self.graphs[b.shape]
        given[...] = b
        graph.launch()
        return found.copy()

    def _capture(self, b: Array) -> None:
        import cupy

        pool = cupy.cuda.MemoryPool()
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.Device().synchronize()  # the new stream does not wait for the current one
        try:
            with cupy.cuda.using_allocator(pool.malloc), stream:
                given = cupy.zeros_like(b, order="C")
                self.function(given)  # fills the pool, since a capture must not allocate memory
                stream.synchronize()
                stream.begin_capture()
                try:
                    found = self.function(given)
                finally:
                    graph = stream.end_capture()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            warnings.warn(
                f"{error}: the kernels could not be captured in a CUDA graph and are launched one "
                "by one, which is slower for small arrays",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        self.graphs[b.shape] = graph, given, found, pool
        if len(self.graphs) > MAX_GRAPHS:
            self.graphs.popitem(last=False)


def capture_launches(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Capture the kernel launches of a function, and replay them as one CUDA graph."""
    return CapturedLaunches(function)
