"""The interface of array libraries, and their registry.

The defaults of `ArrayLibrary` are for numpy and other libraries of the array API standard that
compute in one process on the host. To add a library, write a module that calls `register` and list
it in `LIBRARY_MODULES`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import array_api_compat as compat
import numpy
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from . import compiled, jit, kernels
from .optional_packages import import_optional

Array = Any
host = numpy  # for arrays on the host, whatever the library of the user's arrays

MAX_KEPT_NUMBERS = 2**12  # random numbers of one seed that are kept: a generator costs more to make

# The modules that register a library, by the packages whose objects belong to it. A module is
# imported when the first such object is met, so that no package is imported before it is needed.
LIBRARY_MODULES = {
    "cupy": "mfdeq.arrays.cupy_library",
    "cupyx": "mfdeq.arrays.cupy_library",
    "petsc4py": "mfdeq.petsc.library",
}


class ArrayLibrary:
    """Functions of an array library that mfdeq requires beyond the array API standard.

    Derive from this class, override what differs, and `register` an instance. Arrays must follow
    the array API standard (in namespaces that array-api-compat supports, or by their own
    ``__array_namespace__``) and have dtype float32 or float64.

    Attributes
    ----------
    name : str
        The name of the library in messages; if empty, that of the array namespace.
    packages : tuple of str
        The packages whose classes are arrays, matrices and operators of this library.
    sparse, sparse_linalg, dense_linalg : module
        Modules with the functions of `scipy.sparse`, `scipy.sparse.linalg` (in particular
        `LinearOperator`) and `scipy.linalg` for arrays of the library.
    kernels : module
        The inner loops, with the functions of `mfdeq.arrays.kernels`; by default those of
        `mfdeq.arrays.compiled`, if numba is installed.
    on_host : bool
        Whether arrays are in host memory and not distributed over processes.
    accepts_replicated : bool
        Whether numpy arrays are accepted as arrays replicated on every process.
    declares_null_spaces : bool
        Whether matrices may carry their null spaces.
    distributed : bool
        Whether arrays may be distributed over several processes.

    Examples
    --------
    A library finds its arrays by the packages of their classes:

    >>> import numpy as np
    >>> from mfdeq.arrays.library import ArrayLibrary
    >>> class OwnLibrary(ArrayLibrary):
    ...     packages = ("own_arrays",)
    >>> class OwnArray:
    ...     __module__ = "own_arrays.vectors"
    >>> library = OwnLibrary()
    >>> library.owns(OwnArray), library.owns(np.ndarray)
    (True, False)
    """

    name = ""
    packages: tuple[str, ...] = ("numpy", "scipy")
    on_host = True
    accepts_replicated = False
    distributed = False
    declares_null_spaces = False
    sparse: Any = scipy.sparse
    sparse_linalg: Any = scipy.sparse.linalg
    dense_linalg: Any = scipy.linalg
    kernels: Any = compiled if jit.is_available() else kernels

    def __reduce__(self) -> tuple[Any, ...]:
        return _registered_library, (type(self),)

    def __deepcopy__(self, memo: Any) -> ArrayLibrary:
        return self

    def owns(self, cls: type) -> bool:
        """Return whether objects of a class (array, matrix, operator) belong to this library."""
        roots = {base.__module__.partition(".")[0] for base in cls.__mro__}
        return not roots.isdisjoint(self.packages)

    # Objects passed by the user.

    def to_array(self, x: Any) -> Any:
        """Convert a vector object of the library to an array; return other objects unchanged."""
        return x

    def shape_of(self, x: Any) -> tuple[int, ...]:
        """Return the shape of a matrix, array or operator, or () if it has none."""
        return tuple(getattr(x, "shape", ()))

    def is_sparse(self, x: Any) -> bool:
        """Test whether `x` is a sparse matrix with the formats and attributes of scipy's."""
        return scipy.sparse.issparse(x)

    def is_matrix(self, x: Any) -> bool:
        """Test whether `x` is a matrix that only this library's `as_operator` can convert."""
        return False

    def as_operator(self, backend: Any, matrix: Any, name: str) -> Any:
        """Convert a matrix for which `is_matrix` is true to an `Operator`, after checking it."""
        raise NotImplementedError

    def zeros_of(self, operator: Any) -> Array:
        """Return an empty array with the dtype and device of an operator of the library."""
        return host.zeros(0, dtype=getattr(operator, "dtype", None) or "float64")

    def is_product_only(self, matrix: Any) -> bool:
        """Test whether a matrix or operator is known only by its products."""
        return hasattr(matrix, "matvec")

    def to_host(self, x: Array) -> Any:
        """Return an array as a numpy array, transferring it from a device if necessary."""
        return host.from_dlpack(x)

    def from_host(self, backend: Any, x: Any, rows: int | None) -> Array:
        """Transfer a numpy array to the backend; `rows` determines its distribution."""
        if backend.is_numpy:
            return host.asarray(x, dtype=backend.dtype)
        return backend.xp.asarray(x, dtype=backend.dtype, device=backend.device)

    def replicated(self, x: Array) -> Array:
        """Return an array whole on every process."""
        return x

    def rows_of(self, backend: Any, given: Any, count: int, size: int) -> Array | None:
        """Return a few rows that only this library knows, as a (count, size) array, or None."""
        return None

    # Creation of arrays.

    def random(self, backend: Any, shape: tuple[int, ...], seed: int) -> Array:
        """Return standard normal numbers that depend only on the seed."""
        few = math.prod(shape) <= MAX_KEPT_NUMBERS
        return backend.from_host(_kept_numbers(shape, seed) if few else _numbers(shape, seed))

    def row_vectors(self, backend: Any, count: int, size: int) -> Array:
        """Return a (count, size) array of zeros whose rows are contiguous in memory."""
        return backend.zeros(count, size)

    def fingerprint(self, x: Array) -> bytes:
        """Return bytes that are equal only for arrays with identical entries."""
        return host.ascontiguousarray(array_on_host(x)).tobytes()

    # Calls of user functions, and collective operations over processes.

    def to_user(self, x: Array) -> Any:
        """Convert an array to the type that user functions accept."""
        return x

    def from_user(self, x: Any, size: int | None, device: Any) -> Any:
        """Check what a user function returned, consistently on all processes.

        `size` is the number of entries of a vector, and None for anything else.
        """
        return x

    def user_call(self, device: Any, name: str) -> AbstractContextManager[Any]:
        """Return the context in which a user function is called."""
        return contextlib.nullcontext()

    def public_call(
        self, name: str, signature: Any, args: Any, kwargs: Any
    ) -> AbstractContextManager[Any] | None:
        """Return the context of a public function's call, None if no argument is distributed."""
        return None

    def several_processes(self) -> bool:
        """Return whether this program runs in several processes."""
        return False

    def on_first_rank(self, function: Callable[[], Any], device: Any) -> Any:
        """Call a function on the first process, and return or raise its outcome on all."""
        return function()

    def any_rank(self, condition: bool, device: Any) -> bool:
        """Return whether a condition holds on any process."""
        return condition

    def same_on_all_ranks(self, value: float, name: str, device: Any) -> float:
        """Return a number computed on every process, or raise an error if the values differ."""
        return value

    def global_size(self, size: Any, device: Any) -> Any:
        """Return the global number of entries of a vector from a model's ``state_size``."""
        return size

    # Optional solvers and storage of the library; None selects those of mfdeq.

    def default_solver(self) -> Any:
        """Return the solver that "auto" selects, or None."""
        return None

    def definite_solver(self) -> Any:
        """Return the solver for symmetric positive definite matrices, or None."""
        return None

    def checkpoint_store(self, path: str, device: Any) -> Any:
        """Return an object that reads and writes the checkpoint `path`, or None for npz files."""
        return None


def _numbers(shape: tuple[int, ...], seed: int) -> Any:
    return host.random.default_rng(seed).standard_normal(shape)


@functools.lru_cache(maxsize=64)
def _kept_numbers(shape: tuple[int, ...], seed: int) -> Any:
    numbers = _numbers(shape, seed)
    numbers.setflags(write=False)
    return numbers


HOST = ArrayLibrary()
_registered: list[ArrayLibrary] = [HOST]
# The cache of `find_library`, with weak keys since user-defined classes may be deleted.
_library_of_class: weakref.WeakKeyDictionary[type, ArrayLibrary | None] = (
    weakref.WeakKeyDictionary()
)


NOT_KNOWN: Any = object()


def register(library: ArrayLibrary) -> None:
    """Register a library, to be used for all objects whose class it `owns`."""
    _registered.insert(0, library)
    _library_of_class.clear()
    library_of_numpy.cache_clear()


def _registered_library(cls: type) -> ArrayLibrary:
    return next(library for library in _registered if type(library) is cls)


def unregister(library: ArrayLibrary) -> None:
    """Remove a library that was added by `register`."""
    _registered.remove(library)
    _library_of_class.clear()
    library_of_numpy.cache_clear()


def distributed_libraries() -> list[ArrayLibrary]:
    """Return the registered libraries whose arrays may be distributed over processes."""
    return [library for library in _registered if library.distributed]


def find_library(cls: type) -> ArrayLibrary | None:
    """Return the library that a class belongs to, or None if no library owns it."""
    found = _library_of_class.get(cls, NOT_KNOWN)
    if found is NOT_KNOWN:
        for base in cls.__mro__:
            module = LIBRARY_MODULES.get(base.__module__.partition(".")[0])
            if module is not None:
                importlib.import_module(module)  # registers the library
        owners = (library for library in _registered if library.owns(cls))
        found = _library_of_class[cls] = next(owners, None)
    return found


def library_of(x: Any) -> ArrayLibrary:
    """Return the library that an object belongs to, by default `HOST`."""
    return find_library(type(x)) or HOST


@functools.cache
def library_of_numpy() -> ArrayLibrary:
    """Return the library that numpy arrays belong to, which is `HOST` by default."""
    return find_library(host.ndarray) or HOST


def native(x: Any) -> Any:
    """Convert a vector object, such as a PETSc Vec, to an array; return others unchanged."""
    return x if type(x) is host.ndarray else library_of(x).to_array(x)


def shape_of(x: Any) -> tuple[int, ...]:
    """Return the shape of a matrix, array or operator, or () if it has none."""
    return library_of(x).shape_of(x)


def is_sparse(x: Any) -> bool:
    """Test whether `x` is a sparse matrix or array of scipy or cupyx."""
    return type(x) is not host.ndarray and library_of(x).is_sparse(x)


def is_dense(x: Any) -> bool:
    """Test whether `x` is an array of any library."""
    return type(x) is host.ndarray or compat.is_array_api_obj(x)


def array_on_device(x: Any) -> Any:
    """Share an array on a CUDA device, of any library with DLPack, as a cupy array."""
    return import_optional("cupy", "gpu").from_dlpack(x)


def array_on_host(x: Array) -> Any:
    """Return an array as a numpy array, transferring it from a device if necessary."""
    if isinstance(x, host.ndarray | host.generic):  # numpy returns sums of vectors as scalars
        return host.asarray(x)
    return library_of(x).to_host(x)
