"""A simulation of cupy for tests: see README.md beside it."""

import numpy as np

from . import cuda
from ._functions import array, asarray, astype, isdtype  # noqa: F401
from ._functions import functions as _functions_
from ._functions import install as _install
from ._functions import ufunc as ufunc
from ._simulated import done as _done
from ._simulated import ndarray
from ._simulated import unwrap as _unwrap

__version__ = "14.2.0"
OF_NUMPY = """
    bool_ broadcast_shapes can_cast complex64 complex128 complexfloating dtype e finfo float16
    float32 float64 floating generic iinfo inexact inf int8 int16 int32 int64 integer intp
    issubdtype nan newaxis number pi promote_types signedinteger uint8 uint16 uint32 uint64
    unsignedinteger
""".split()  # noqa: SIM905
globals().update({name: getattr(np, name) for name in OF_NUMPY})
del OF_NUMPY
_made = _functions_()
_install(_made)
globals().update(_made)


asanyarray = asarray


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a, order=order)


def permute_dims(a, axes=None):
    return transpose(a, axes)  # noqa: F821


def matrix_transpose(x, /):
    return x.mT


def result_type(*arrays_and_dtypes):
    return np.result_type(*(_unwrap(x) for x in arrays_and_dtypes))


def common_type(*arrays):
    return np.common_type(*(_unwrap(x) for x in arrays))


def isscalar(element):
    return np.isscalar(element)


def from_dlpack(x, /, *, device=None, copy=None):
    if x.__dlpack_device__()[0] != 2:
        raise RuntimeError("CPU arrays cannot be directly imported to CuPy: no memory of a device")
    return x


def get_array_module(*args):
    import cupy

    return cupy if any(isinstance(x, ndarray) for x in args) else np


def get_default_memory_pool():
    return cuda.MemoryPool()


def is_available():
    return True


def fuse(*args, **kwargs):
    """One kernel of several operations: here, the operations."""
    return args[0] if args and callable(args[0]) else lambda function: function


class ElementwiseKernel:
    def __init__(self, *args, **kwargs):
        raise NotImplementedError("the simulation of cupy compiles nothing")


RawKernel = ReductionKernel = ElementwiseKernel


class RawModule:
    """Kernels of one's own, run by gcc."""

    def __init__(self, *, code=None, options=(), name_expressions=None):
        from support.emulated_cuda import Module

        self._module = Module(code)

    def get_function(self, name):
        kernel = self._module.get_function(name)

        def launch(grid, block, args):
            kernel(grid, block, args)
            _done(lambda: kernel(grid, block, args))

        return launch


from . import fft, linalg  # noqa: E402, F401
