"""Functions, ufuncs and methods: cupy's arguments, numpy's arithmetic."""

from __future__ import annotations

import functools
import inspect

import numpy as np

from ._simulated import Device, done, ndarray, outside_a_capture, read, unwrap, wrap

# The arguments that cupy 14.2 takes, and the functions that take them.
SIGNATURES = {
    "a, axis=None, dtype=None, out=None, keepdims=False": "sum prod mean argmax argmin nansum",
    "a, axis=None, out=None, keepdims=False": "max min amax amin all any ptp nanmax nanmin",
    "a, axis=None, dtype=None, out=None, ddof=0, keepdims=False": "std var",
    "a, axis=None, dtype=None, out=None": "cumsum cumprod",
    "shape, dtype=float, order='C'": "zeros ones empty",
    "shape, fill_value, dtype=None, order='C'": "full",
    "N, M=None, k=0, dtype=float, order='C'": "eye",
    "n, dtype=float": "identity",
    "start, stop=None, step=1, dtype=None": "arange",
    "start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0": "linspace",
    "a, dtype=None, order='K', subok=None, shape=None": "zeros_like ones_like",
    "prototype, dtype=None, order='K', subok=None, shape=None": "empty_like",
    "a, fill_value, dtype=None, order='K', subok=None, shape=None": "full_like",
    "condition, x=None, y=None": "where",
    "tup, axis=0, out=None, *, dtype=None, casting='same_kind'": "concatenate stack",
    "tup, *, dtype=None, casting='same_kind'": "hstack vstack",
    "tup": "column_stack",
    "a, indices, axis=None, out=None": "take",
    "m, k=0": "tril triu",
    "v, k=0": "diag diagflat",
    "a, offset=0, axis1=0, axis2=1": "diagonal",
    "a, v, side='left', sorter=None": "searchsorted",
    "a, axis=-1, kind=None": "argsort sort",
    "ar, return_index=False, return_inverse=False, return_counts=False, axis=None, "
    "*, equal_nan=True": "unique",
    "a": "nonzero flatnonzero argwhere",
    "a, axis=None": "count_nonzero squeeze flip",
    "x, weights=None, minlength=0": "bincount",
    "a, repeats, axis=None": "repeat",
    "A, reps": "tile",
    "a, n=1, axis=-1, prepend=None, append=None": "diff",
    "a, order='K'": "copy",
    "dst, src, casting='same_kind', where=None": "copyto",
    "a, newshape, order='C', *, copy=None": "reshape",
    "a, order='C'": "ravel",
    "a, axes=None": "transpose",
    "a, source, destination": "moveaxis",
    "a, axis1, axis2": "swapaxes",
    "a, axis": "expand_dims",
    "array, shape": "broadcast_to",
    "*args": "broadcast_arrays",
    "a, shift, axis=None": "roll",
    "*arys": "atleast_1d atleast_2d",
    "a, a_min, a_max, out=None": "clip",
    "a, decimals=0, out=None": "round around",
    "a, b, out=None": "outer dot",
    "a, b": "inner vdot kron",
    "a, b, axes=2": "tensordot",
    "*operands, **kwargs": "einsum",
    "a, offset=0, axis1=0, axis2=1, dtype=None, out=None": "trace",
    "a, b, rtol=1e-05, atol=1e-08, equal_nan=False": "isclose allclose",
    "a1, a2, equal_nan=False": "array_equal",
    "*xi, **kwargs": "meshgrid",
    "keys": "lexsort",
    "a, dtype=None": "ascontiguousarray asfortranarray",
    "a, indices, axis": "take_along_axis",
    "element, test_elements, assume_unique=False, invert=False": "isin",
    "a, b, axisa=-1, axisb=-1, axisc=-1, axis=None": "cross",
    "val": "real imag",
}
READING = {"nonzero", "flatnonzero", "argwhere", "unique"}  # sizes that depend on values
UFUNCS = """
    abs absolute add arccos arccosh arcsin arcsinh arctan arctan2 arctanh bitwise_and bitwise_or
    bitwise_xor cbrt ceil conj conjugate copysign cos cosh divide equal exp exp2 expm1 fabs floor
    floor_divide fmax fmin fmod greater greater_equal hypot invert isfinite isinf isnan left_shift
    less less_equal log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor
    maximum minimum mod multiply negative not_equal positive power reciprocal remainder right_shift
    rint sign signbit sin sinh sqrt square subtract tan tanh true_divide trunc
""".split()  # noqa: SIM905


def function(name, parameters, compute, reading=False):
    """The function of cupy's parameters that numpy's `compute` is called for."""
    signature = inspect.signature(eval(f"lambda {parameters}: 0", {"float": float}))
    unset = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty}

    def wrapped(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        args = [unwrap(x) for x in bound.args]
        kwargs = {
            k: unwrap(x)
            for k, x in bound.kwargs.items()
            if k not in unset or x is not unset[k]
        }  # fmt: skip
        out = args[-1] if kwargs.get("out") is None else kwargs["out"]
        if reading:
            read(wrap(args[0]))
        with np.errstate(all="ignore"):
            found = compute(*args, **kwargs)
        if isinstance(found, np.ndarray):
            done(lambda: np.copyto(found, compute(*args, **kwargs)))
        return _same(out, found, bound) if isinstance(found, np.ndarray) else wrap(found)

    wrapped.__name__ = wrapped.__qualname__ = name
    wrapped.__signature__, wrapped.__module__ = signature, "cupy"
    return wrapped


def _same(out, found, bound):
    """The array that `out=` was, where numpy returned it."""
    given = bound.arguments.get("out")
    return given if given is not None and found is out else wrap(found)


class ufunc:
    """An elementwise function: no lists, no numpy arrays, no where=."""

    def __init__(self, name, compute):
        self.name = self.__name__ = name
        self.compute, self.nin, self.nout = compute, compute.nin, compute.nout

    def __call__(self, *args, out=None, dtype=None, casting="same_kind"):
        if any(isinstance(x, (list, tuple)) for x in args):
            raise TypeError(f"Unsupported type {list}")
        args, (out_,) = [unwrap(x) for x in args], unwrap([out])
        options = {"dtype": dtype, "casting": casting}
        with np.errstate(all="ignore"):
            found = self.compute(*args, out=out_, **options)
        if out is None:
            out = wrap(found)
            out_ = out._a if isinstance(out, ndarray) else tuple(x._a for x in out)
        done(lambda: self.compute(*args, out=out_, **options))
        return out


class _Matmul:
    """Its arguments are a generalized ufunc's."""

    __name__ = "matmul"

    def __call__(
        self,
        *args,
        axes=None,
        axis=None,
        keepdims=False,
        casting="same_kind",
        dtype=None,
        signature=None,
        order="K",
        out=None,
    ):
        outside_a_capture("a call of cuBLAS")
        a, b = (unwrap(x) for x in args[:2])
        with np.errstate(all="ignore"):
            found = np.matmul(a, b, dtype=dtype, casting=casting)
        if out is None:
            return wrap(found)
        out[...] = wrap(found)
        return out


def _einsum(*operands, dtype=None, optimize=False):
    """Without out=, order= and casting=."""
    return np.einsum(*operands, dtype=dtype, optimize=optimize)


def functions():
    """All of them, by name."""
    found = {
        name: function(name, parameters, getattr(np, name), name in READING)
        for parameters, names in SIGNATURES.items()
        for name in names.split()
    }
    found["diff"] = function("diff", "a, n=1, axis=-1", np.diff)
    found["einsum"] = function("einsum", "*operands, **kwargs", _einsum)
    found |= {name: ufunc(name, getattr(np, name)) for name in UFUNCS}
    return found | {"matmul": _Matmul()}


# Methods: cupy's parameters after self, by name; what they compute is numpy's method.
METHODS = {
    "axis=None, dtype=None, out=None, keepdims=False": "sum mean prod",
    "axis=None, out=None, keepdims=False": "max min all any",
    "axis=None, out=None, dtype=None, keepdims=False": "argmax argmin",
    "axis=None, dtype=None, out=None, ddof=0, keepdims=False": "std var",
    "axis=None, dtype=None, out=None": "cumsum cumprod",
    "order='C'": "copy flatten ravel",
    "b, out=None": "dot",
    "indices, axis=None, out=None": "take",
    "axis=-1, kind=None": "sort argsort",
    "offset=0, axis1=0, axis2=1": "diagonal",
    "value": "fill",
    "": "conj conjugate nonzero",
    "decimals=0, out=None": "round",
    "repeats, axis=None": "repeat",
    "axis=None": "squeeze",
    "axis1, axis2": "swapaxes",
    "*axes": "transpose",
    "offset=0, axis1=0, axis2=1, dtype=None, out=None": "trace",
    "dtype=None, type=None": "view",
}
BINARY = """add sub mul truediv floordiv mod pow matmul and or xor lshift rshift""".split()  # noqa: SIM905
NAMES = {
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
    "neg": "negative",
    "pos": "positive",
    "abs": "absolute",
}


def _method(name, parameters):
    def compute(a, *args, **kwargs):
        return getattr(a, name)(*args, **kwargs)

    text = f"self, {parameters}" if parameters else "self"
    return function(name, text, compute, name in READING)


def _astype(self, dtype, order="K", casting=None, subok=None, copy=True):
    if not copy and np.dtype(dtype) == self.dtype and order == "K":
        return self
    return wrap(self._a.astype(dtype, order), self._device)


def _reshape(self, *shape, order="C", copy=None):
    shape = shape[0] if len(shape) == 1 else shape
    return wrap(self._a.reshape(unwrap(shape), order=order), self._device)


def _binary(name, of, reflected=False, in_place=False):
    def operate(self, other):
        above = getattr(other, "__array_priority__", 0) > ndarray.__array_priority__
        if above and not isinstance(other, ndarray) and not in_place:
            return NotImplemented
        if in_place:
            return of(self, other, out=self)
        return of(other, self) if reflected else of(self, other)

    operate.__name__ = name
    return operate


def install(found):
    """Give the array its methods and operators."""
    for parameters, names in METHODS.items():
        for name in names.split():
            setattr(ndarray, name, _method(name, parameters))
    ndarray.astype, ndarray.reshape = _astype, _reshape
    for name in BINARY:
        of = found[NAMES.get(name, name)]
        setattr(ndarray, f"__{name}__", _binary(name, of))
        setattr(ndarray, f"__r{name}__", _binary(name, of, reflected=True))
        if name != "matmul":
            setattr(ndarray, f"__i{name}__", _binary(name, of, in_place=True))
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(ndarray, f"__{name}__", _binary(name, found[NAMES[name]]))
    for name in ("neg", "pos", "abs", "invert"):
        setattr(ndarray, f"__{name}__", functools.partialmethod(found[NAMES.get(name, name)]))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """Of anything; a host array is copied to the device."""
    if isinstance(obj, ndarray) and obj._device != Device._current:
        obj = wrap(obj._a.copy(), Device._current)  # what cupy copies between devices
    if isinstance(obj, ndarray) and not copy and dtype in (None, obj.dtype) and ndmin <= obj.ndim:
        return obj
    values = obj if isinstance(obj, np.ndarray) else unwrap(obj)
    values = np.array(values, dtype, order=order, ndmin=ndmin)
    if values.dtype.kind not in "?biufc":
        raise ValueError(f"Unsupported dtype {values.dtype}")
    return wrap(values)


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, bool(copy), order or "K")


def astype(x, dtype, /, *, copy=True):
    return x.astype(dtype, copy=copy)


def isdtype(dtype, kind):
    return np.isdtype(dtype, kind)
