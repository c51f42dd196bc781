"""The array libraries that mfdeq computes with, and what each of them must offer.

`ArrayLibrary` is the contract; its defaults serve numpy, and every other library of the array API
standard that computes in one process on the host. A library is added by one module that calls
`register`, and one line of `LIBRARY_MODULES`.
"""

from __future__ import annotations

import contextlib
import importlib
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import array_api_compat as compat
import numpy
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from . import kernels

Array = Any
host = numpy  # arrays on the host, whatever library the user's arrays are of

# The modules that register a library, by the packages whose objects belong to it. A module is
# imported when the first such object is met: no package is imported before it is needed.
LIBRARY_MODULES = {
    "cupy": "mfdeq.arrays.cupy_library",
    "cupyx": "mfdeq.arrays.cupy_library",
    "petsc4py": "mfdeq.petsc.library",
}


class ArrayLibrary:
    """What mfdeq needs of an array library beside the array API standard.

    Derive from this class, override what differs, and `register` an instance. Arrays must follow
    the array API standard (in namespaces that array-api-compat knows, or by their own
    ``__array_namespace__``) and be of float32 or float64.

    Attributes
    ----------
    name : str
        What messages call the library; empty for the name of the array namespace.
    packages : tuple of str
        The packages whose classes are arrays, matrices and operators of this library.
    sparse, sparse_linalg, dense_linalg : module
        What offers the functions of `scipy.sparse`, `scipy.sparse.linalg` (`LinearOperator` above
        all) and `scipy.linalg` on arrays of the library.
    kernels : module
        The inner loops, with the functions of `mfdeq.arrays.kernels`.
    on_host : bool
        Whether arrays are in the memory of the host, each whole in one process.
    accepts_replicated : bool
        Whether numpy arrays are accepted as arrays that every process holds in full.
    """

    name = ""
    packages: tuple[str, ...] = ("numpy", "scipy")
    on_host = True
    accepts_replicated = False
    sparse: Any = scipy.sparse
    sparse_linalg: Any = scipy.sparse.linalg
    dense_linalg: Any = scipy.linalg
    kernels: Any = kernels

    def owns(self, cls: type) -> bool:
        """Whether objects of a class (array, matrix, operator) belong to this library."""
        roots = {base.__module__.partition(".")[0] for base in cls.__mro__}
        return not roots.isdisjoint(self.packages)

    # Users' objects.

    def to_array(self, x: Any) -> Any:
        """Return a vector of the user's as an array; everything else as it is."""
        return x

    def shape_of(self, x: Any) -> tuple[int, ...]:
        """Return the shape of a matrix, array or operator; () where it has none."""
        return tuple(getattr(x, "shape", ()))

    def is_sparse(self, x: Any) -> bool:
        """Whether `x` is a sparse matrix with the formats and attributes of scipy's."""
        return scipy.sparse.issparse(x)

    def is_matrix(self, x: Any) -> bool:
        """Whether `x` is a matrix of a kind that only `as_operator` of this library takes."""
        return False

    def as_operator(self, backend: Any, matrix: Any, name: str) -> Any:
        """Return such a matrix as an `Operator`, checked."""
        raise NotImplementedError

    def zeros_of(self, operator: Any) -> Array:
        """Return an empty array of the dtype and device that an operator of the library has."""
        return host.zeros(0, dtype=getattr(operator, "dtype", None) or "float64")

    def is_product_only(self, matrix: Any) -> bool:
        """Whether a matrix or operator is known by its products alone."""
        return hasattr(matrix, "matvec")

    def to_host(self, x: Array) -> Any:
        """Return an array as a numpy array: an explicit transfer where it is on a device."""
        return host.from_dlpack(x)

    def from_host(self, backend: Any, x: Any, rows: int | None) -> Array:
        """Return a numpy array as one of the backend's; `rows` are distributed over processes."""
        return backend.xp.asarray(x, dtype=backend.dtype, device=backend.device)

    # Arrays that are made here.

    def random(self, backend: Any, shape: tuple[int, ...], seed: int) -> Array:
        """Return standard normal numbers that depend on the seed alone."""
        return backend.from_host(host.random.default_rng(seed).standard_normal(shape))

    def row_vectors(self, backend: Any, count: int, size: int) -> Array:
        """Return zeros (count, size), each row contiguous in memory."""
        return backend.zeros(count, size)

    def fingerprint(self, x: Array) -> bytes:
        """Return bytes that differ where any bit of an array differs."""
        return host.ascontiguousarray(array_on_host(x)).tobytes()

    # Calls of users' functions, and processes that must agree.

    def to_user(self, x: Array) -> Any:
        """Return an array in the form in which functions of the user take it."""
        return x

    def from_user(self, x: Any, size: int, device: Any) -> Any:
        """Check what a function of the user's returned for a vector, on all processes alike."""
        return x

    def user_call(self, device: Any, name: str) -> AbstractContextManager[Any]:
        """Return the context in which a function of the user's is called."""
        return contextlib.nullcontext()

    def on_first_rank(self, function: Callable[[], Any], device: Any) -> Any:
        """Return what a function returns, or raise what it raises, on the first process."""
        return function()

    def any_rank(self, condition: bool, device: Any) -> bool:
        """Whether a condition holds on any process."""
        return condition

    def same_on_all_ranks(self, value: float, name: str, device: Any) -> float:
        """Return a number that every process has computed; raise where they differ."""
        return value

    def global_size(self, size: Any, device: Any) -> Any:
        """Return the number of entries of a vector from a model's ``state_size``."""
        return size

    # What a library may have of its own; None leaves the choice to mfdeq.

    def default_solver(self) -> Any:
        """Return the solver that "auto" stands for, or None."""
        return None

    def definite_solver(self) -> Any:
        """Return the solver for symmetric positive definite matrices, or None."""
        return None

    def checkpoint_store(self, path: str, device: Any) -> Any:
        """Return what reads and writes the checkpoint of that name, or None for one npz file."""
        return None


HOST = ArrayLibrary()
_registered: list[ArrayLibrary] = [HOST]
# What `find_library` has found; classes of users may come and go.
_of_classes: weakref.WeakKeyDictionary[type, ArrayLibrary | None] = weakref.WeakKeyDictionary()


def register(library: ArrayLibrary) -> None:
    """Add a library: objects whose class it `owns` are computed with as it says."""
    _registered.insert(0, library)
    _of_classes.clear()


def unregister(library: ArrayLibrary) -> None:
    """Remove a library that `register` added; its classes belong to what owned them before."""
    _registered.remove(library)
    _of_classes.clear()


def find_library(cls: type) -> ArrayLibrary | None:
    """Return the library that a class belongs to; None where no library owns it."""
    if cls not in _of_classes:
        for base in cls.__mro__:
            module = LIBRARY_MODULES.get(base.__module__.partition(".")[0])
            if module is not None:
                importlib.import_module(module)  # which registers the library
        owners = (library for library in _registered if library.owns(cls))
        _of_classes[cls] = next(owners, None)
    return _of_classes[cls]


def library_of(x: Any) -> ArrayLibrary:
    """Return the library that an object belongs to, by default the one on the host."""
    return find_library(type(x)) or HOST


def native(x: Any) -> Any:
    """Return a vector of the user's (a PETSc Vec) as an array; everything else as it is."""
    return x if type(x) is host.ndarray else library_of(x).to_array(x)


def shape_of(x: Any) -> tuple[int, ...]:
    """Return the shape of a matrix, array or operator; () where it has none."""
    return library_of(x).shape_of(x)


def is_sparse(x: Any) -> bool:
    """Whether `x` is a sparse matrix or array of scipy, or of cupyx."""
    return library_of(x).is_sparse(x)


def is_dense(x: Any) -> bool:
    """Whether `x` is an array of any library."""
    return compat.is_array_api_obj(x)


def array_on_host(x: Array) -> Any:
    """Return an array as a numpy array: an explicit transfer where it is on a device."""
    if isinstance(x, host.ndarray | host.generic):  # numpy's sums of a vector are scalars
        return host.asarray(x)
    return library_of(x).to_host(x)
