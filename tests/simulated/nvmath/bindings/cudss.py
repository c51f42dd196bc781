"""The calls of cuDSS that the library makes, in the order that cuDSS allows."""

from __future__ import annotations

import ctypes
import enum
import itertools
from types import SimpleNamespace

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

DataType = enum.IntEnum("DataType", {"R_32F": 0, "R_64F": 1, "R_32I": 10})
MatrixType = enum.IntEnum("MatrixType", {"GENERAL": 0, "SYMMETRIC": 1})
MatrixViewType = enum.IntEnum("MatrixViewType", {"FULL": 0, "LOWER": 1, "UPPER": 2})
IndexBase = enum.IntEnum("IndexBase", {"ZERO": 0})
Layout = enum.IntEnum("Layout", {"COL_MAJOR": 0})
Phase = enum.IntEnum("Phase", {"ANALYSIS": 3, "FACTORIZATION": 4, "SOLVE": 1008})
DataParam = enum.IntEnum("DataParam", {"LU_NNZ": 1})
TYPES = {DataType.R_32F: "float32", DataType.R_64F: "float64", DataType.R_32I: "int32"}

_objects: dict[int, SimpleNamespace] = {}
_numbers = itertools.count(1)


class cuDSSError(Exception):
    """A status that is not success."""


def _new(kind, **fields):
    number = next(_numbers)
    _objects[number] = SimpleNamespace(kind=kind, **fields)
    return number


def _the(kind, number):
    found = _objects[number]
    assert found.kind == kind
    return found


def _at(pointer, shape, dtype):
    size = int(np.prod(shape))
    buffer = (ctypes.c_byte * (size * np.dtype(dtype).itemsize)).from_address(pointer)
    return np.frombuffer(buffer, dtype).reshape(shape)


def create():
    return _new("handle", stream=None)


def config_create():
    return _new("config")


def data_create(handle):
    _the("handle", handle)
    return _new("data", lu=None, analysed=False)


def matrix_create_csr(
    rows, columns, nnz, start, end, indices, values, offset_type, index_type, value_type, kind,
    view, base,
):  # fmt: skip
    assert (end, offset_type, index_type, base) == (0, DataType.R_32I, DataType.R_32I, 0)
    assert (kind == MatrixType.SYMMETRIC) == (view != MatrixViewType.FULL)
    return _new(
        "csr", shape=(rows, columns), nnz=nnz, parts=(start, indices, values),
        dtype=TYPES[value_type], kind_=kind, view=view,
    )  # fmt: skip


def matrix_create_dn(rows, columns, ld, values, value_type, layout):
    assert ld == rows
    assert layout == Layout.COL_MAJOR
    return _new("dense", shape=(rows, columns), values=values, dtype=TYPES[value_type])


def set_stream(handle, stream):
    _the("handle", handle).stream = stream


def execute(handle, phase, config, data, matrix, x, b):
    assert _the("handle", handle).stream is not None
    _the("config", config)
    state, A = _the("data", data), _the("csr", matrix)
    x, b = _the("dense", x), _the("dense", b)
    assert x.shape == b.shape
    assert x.dtype == b.dtype == A.dtype
    if phase == Phase.ANALYSIS:
        state.analysed = True
    elif phase == Phase.FACTORIZATION:
        assert state.analysed
        start, indices, values = A.parts
        parts = (
            _at(values, A.nnz, A.dtype),
            _at(indices, A.nnz, "int32"),
            _at(start, A.shape[0] + 1, "int32"),
        )
        whole = sp.csr_matrix(parts, shape=A.shape)
        if A.view == MatrixViewType.UPPER:
            assert sp.tril(whole, -1).nnz == 0
            whole = whole + sp.triu(whole, 1).T
        try:
            state.lu = splu(whole.tocsc())
        except RuntimeError:  # a zero pivot is perturbed, and nothing said
            state.lu = splu((whole + 1e-13 * abs(whole).max() * sp.identity(A.shape[0])).tocsc())
    else:
        assert phase == Phase.SOLVE
        found = state.lu.solve(_at(b.values, b.shape[::-1], b.dtype).T.copy())
        _at(x.values, x.shape[::-1], x.dtype)[...] = found.T


def data_get(handle, data, parameter, value, size, written):
    _the("handle", handle)
    assert parameter == DataParam.LU_NNZ
    assert size == 8
    ctypes.c_int64.from_address(value).value = _the("data", data).lu.nnz
    ctypes.c_size_t.from_address(written).value = size


def matrix_destroy(matrix):
    del _objects[matrix]


def data_destroy(handle, data):
    _the("handle", handle)
    del _objects[data]


def config_destroy(config):
    del _objects[config]


def destroy(handle):
    del _objects[handle]
