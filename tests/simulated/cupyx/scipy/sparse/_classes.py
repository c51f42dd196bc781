"""The sparse classes that cupyx has: CSR, CSC, COO and DIA, of float or bool."""

from __future__ import annotations

import inspect

import numpy as np
import scipy.sparse
from cupy._simulated import Device, ndarray, outside_a_capture, read, unwrap, wrap

FORMATS = ("csr", "csc", "coo", "dia")
KINDS = "?fdFD"


class _spbase:
    """A sparse matrix of scipy's that pretends to be on a device."""

    __array_priority__ = 101
    ndim = 2

    def __init__(self, arg1, shape=None, dtype=None, copy=False, *, maxprint=None):
        self._m = self._scipy(_given(arg1), shape=shape, dtype=dtype, copy=copy)
        self._known = isinstance(arg1, _spbase) and arg1._known
        self._device = Device._current
        if self._m.dtype.char not in KINDS:
            raise ValueError("Only bool, float32, float64, complex64 and complex128 are supported")

    @property
    def _scipy(self):
        return getattr(scipy.sparse, type(self).__name__)

    shape = property(lambda self: self._m.shape)
    dtype = property(lambda self: self._m.dtype)
    nnz = property(lambda self: self._m.nnz)
    size = property(lambda self: self._m.size)
    device = property(lambda self: Device(self._device))
    T = property(lambda self: self.transpose())

    def get(self, stream=None):
        read(wrap(self._m.data))
        return self._m.copy()

    def asformat(self, format):
        return self if format in (None, self.format) else getattr(self, f"to{format}")()

    def tobsr(self, blocksize=None, copy=False):
        raise NotImplementedError

    def __len__(self):
        raise TypeError("sparse array length is ambiguous; use shape[0] or .nnz")

    def _canonical(self):
        """As cupyx before a product; the first time, it asks the device."""
        outside_a_capture("a call of cuSPARSE")
        if not self._known:
            read(wrap(self._m.data))
            if hasattr(self._m, "sum_duplicates"):
                self._m.sum_duplicates()
        self._known = True
        return self._m

    def __matmul__(self, other):
        if np.isscalar(other):
            raise ValueError("Scalar operands are not allowed, use '*' instead")
        m = self._canonical()
        if isinstance(other, _spbase):
            return _wrapped((m @ other._canonical()).tocsr())
        if not isinstance(other, ndarray):
            return NotImplemented
        if 0 in other.shape:  # of which some versions of cuSPARSE make no descriptor
            raise RuntimeError("CUSPARSE_STATUS_INVALID_VALUE")
        with np.errstate(all="ignore"):
            return wrap(np.asfortranarray(m @ unwrap(other)))

    def __rmatmul__(self, other):
        return (self.T @ other.T).T if isinstance(other, ndarray) else NotImplemented

    def dot(self, other):
        return self * other if np.isscalar(other) else self @ other

    def multiply(self, other):
        return _wrapped(self._canonical().multiply(_operand(other)).tocsr())

    def __truediv__(self, other):
        return _wrapped(self._m / _operand(other))

    def __neg__(self):
        return _wrapped(-self._m)

    def __abs__(self):
        return _wrapped(abs(self._m))


def _operand(x):
    return x._m if isinstance(x, _spbase) else unwrap(x)


def _given(arg1):
    """What a constructor is given, for scipy's; as cupyx, from the host only whole matrices."""
    if isinstance(arg1, _spbase):
        return arg1._m
    if scipy.sparse.issparse(arg1):
        return arg1
    if isinstance(arg1, ndarray):
        read(arg1)  # the number of entries
        return unwrap(arg1)
    if not isinstance(arg1, tuple):
        raise ValueError("Unsupported initializer format")
    if all(isinstance(n, (int, np.integer)) for n in arg1):
        return arg1
    data, *where = arg1
    where = where[0] if len(where) == 1 and isinstance(where[0], (tuple, list)) else where
    for x in (data, *where):
        if not isinstance(x, ndarray) and type(data) is not ndarray:
            raise ValueError("data, indices, and indptr must be 1-D cupy arrays")
        if isinstance(x, np.ndarray) and x.size > 1:
            raise ValueError("coordinate and data arrays must be cupy arrays")
    read(data)
    where = tuple(_operand(x) if isinstance(x, ndarray) else x for x in where)
    return (unwrap(data), where if isinstance(arg1[1], (tuple, list)) else where[0], *where[1:])[
        : len(arg1)
    ]


def _wrapped(x):
    """A result of scipy's as cupyx's."""
    if not scipy.sparse.issparse(x):
        return wrap(np.asarray(x))
    x = x if x.format in FORMATS else x.tocsr()
    kind = "array" if isinstance(x, scipy.sparse.sparray) else "matrix"
    found = object.__new__(CLASSES[f"{x.format}_{kind}"])
    found._m, found._known, found._device = x, False, Device._current
    return found


def _operator(name):
    def operate(self, other):
        if isinstance(other, (np.ndarray, list)) or scipy.sparse.issparse(other):
            return NotImplemented
        return _wrapped(getattr(self._canonical(), name)(_operand(other)))

    operate.__name__ = name
    return operate


METHODS = {
    "": "nonzero sqrt",
    "copy=True": "conj conjugate",
    "copy=False": "tocoo tocsc tocsr todia",
    "dtype, copy=True": "astype",
    "axis=None": "count_nonzero",
    "k=0": "diagonal",
    "offset=0": "trace",
    "other": "maximum minimum",
    "axis=None, dtype=None, out=None": "sum mean",
    "n, dtype=None": "power",
    "*shape, order='C'": "reshape",
    "values, k=0": "setdiag",
    "order=None, out=None": "toarray todense",
    "axes=None, copy=False": "transpose",
}


def _method(name, parameters=""):
    """scipy's, with cupyx's parameters."""
    signature = inspect.signature(eval(f"lambda {('self, ' + parameters).rstrip(', ')}: 0"))

    def method(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        m, *args = (_operand(x) for x in bound.args)
        kwargs = {k: _operand(x) for k, x in bound.kwargs.items()}
        return _wrapped_all(getattr(m, name)(*args, **kwargs))

    method.__name__, method.__signature__ = name, signature
    return method


def _wrapped_all(x):
    return tuple(map(_wrapped, x)) if isinstance(x, tuple) else None if x is None else _wrapped(x)


def _array(name):
    def put(self, value):
        setattr(self._m, name, unwrap(value))

    return property(lambda self: wrap(getattr(self._m, name), self._device), put)


for _parameters, _names in METHODS.items():
    for _name in _names.split():
        setattr(_spbase, _name, _method(_name, _parameters))
for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "ne", "lt", "gt", "eq"):
    setattr(_spbase, f"__{_name}__", _operator(f"__{_name}__"))
_spbase.copy = _method("copy")
_spbase.__hash__ = None


def _getitem(self, key):
    key = key if isinstance(key, tuple) else (key,)
    return _wrapped(self._m[tuple(unwrap(k) if isinstance(k, ndarray) else k for k in key)])


def _sum_duplicates(self):
    self._canonical()


class spmatrix:
    def getnnz(self, axis=None):
        return _wrapped(self._m.getnnz(axis)) if axis is not None else self.nnz


class sparray:
    pass


def _classes():
    found = {}
    for form in FORMATS:
        own = {"format": form, "data": _array("data")}
        if form in ("csr", "csc"):
            own |= {name: _array(name) for name in ("indices", "indptr")}
            own["__getitem__"] = _getitem
            own |= {name: _method(name) for name in ("sort_indices", "sorted_indices")}
            own |= {
                name: _method(name, "axis=None, out=None, *, explicit=False")
                for name in ("max", "min")
            }
            own["has_sorted_indices"] = property(lambda self: bool(self._m.has_sorted_indices))
            own["has_canonical_format"] = property(
                lambda self: self._known or bool(read(wrap(self._m.has_canonical_format)))
            )
        elif form == "coo":
            own |= {name: _array(name) for name in ("row", "col")}
            own["has_canonical_format"] = property(lambda self: self._m.has_canonical_format)
        else:
            own["offsets"] = _array("offsets")
        if form != "dia":
            own |= {
                "eliminate_zeros": _method("eliminate_zeros"),
                "sum_duplicates": _sum_duplicates,
            }
        for kind, base in (("matrix", spmatrix), ("array", sparray)):
            name = f"{form}_{kind}"
            found[name] = type(name, (base, _spbase), {**own, "__module__": "cupyx.scipy.sparse"})
    return found


CLASSES = _classes()
