"""BLAS and LAPACK routines for functions that numba compiles.

`routines` finds the routines of SciPy, and `call` calls one of them inside a compiled function. All
arguments are addresses, as in Fortran. The addresses are passed to compiled functions as data, so
that these can be kept between runs.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from scipy.linalg import cython_blas, cython_lapack

from .backend import host

GEMM, POTRF, POTRI, GETRF, GETRI = range(5)  # indices in `routines`
NAMES = ((cython_blas, "gemm"), *((cython_lapack, x) for x in ("potrf", "potri", "getrf", "getri")))


@functools.cache
def routines(dtype: str) -> Any:
    """Return the addresses of the routines for float32 or float64, an array of int64."""
    letter = {"float32": "s", "float64": "d"}[dtype]
    found = [_address(module.__pyx_capi__[letter + name]) for module, name in NAMES]
    return host.asarray(found, dtype=host.int64)


def _address(capsule: Any) -> int:
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(capsule, name(capsule)))


@intrinsic
def call(typing_context: Any, address: Any, arguments: Any) -> Any:
    """Call the routine at an address with a tuple of addresses."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        count = signature.args[1].count
        given = [builder.inttoptr(builder.extract_value(values[1], i), byte) for i in range(count)]
        kind = ir.FunctionType(ir.VoidType(), [byte] * count)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, len(arguments))), generate
