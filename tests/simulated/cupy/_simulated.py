"""The array, its device, and the way from it to numpy and back."""

from __future__ import annotations

import threading

import numpy as np

COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
reads = 0  # values read by the host, each of which waits for the device
limit = 0  # bytes of one allocation, 0 for any
largest = 0  # bytes of the largest allocation, which stands for what a pool holds


class Capture(threading.local):
    """What the graph of a capturing stream will do again.

    Other threads may read meanwhile: cupy captures in relaxed mode.
    """

    work = None


capture = Capture()


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime's."""


def done(again):
    """Take note of work that has been done, for a graph."""
    if capture.work is not None:
        capture.work.append(again)


def outside_a_capture(what):
    """Refuse what a graph cannot hold."""
    if capture.work is not None:
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what}")


def read(array):
    """A host copy, counted."""
    global reads
    outside_a_capture("a read")
    reads += 1
    return array._a.copy()


class Device:
    _current = 0
    _count = 2

    def __init__(self, device=None):
        self.id = Device._current if device is None else int(device)
        if not 0 <= self.id < Device._count:
            raise ValueError(f"invalid device ordinal {self.id}")
        self._before = []

    def use(self):
        Device._current = self.id

    def __enter__(self):
        self._before.append(Device._current)
        self.use()
        return self

    def __exit__(self, *_):
        Device._current = self._before.pop()

    def synchronize(self):
        global reads
        reads += 1

    @property
    def mem_info(self):
        size = limit or 2**40
        return size, size

    def __int__(self):
        return self.id

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory's."""

    def __init__(self, size, total, limit=0):
        set_to = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{set_to})."
        )


class MemoryPointer:
    """Where an array's data are: an address, and a device."""

    def __init__(self, array):
        self.ptr, self.device_id = array._a.ctypes.data, array._device

    @property
    def device(self):
        return Device(self.device_id)


class ndarray:
    """A numpy array that pretends to be on a device."""

    __module__ = "cupy"
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        _adopt(self, np.zeros(shape, dtype, order))

    # Implicit conversions that cupy refuses, and explicit ones.

    def __array__(self, dtype=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct "
            "a NumPy array explicitly."
        )

    def get(self, stream=None, order="C", out=None, blocking=True):
        found = np.array(read(self), order=order)
        if out is None:
            return found
        out[...] = found
        return out

    def set(self, arr, stream=None):
        self._a[...] = arr

    def item(self):
        return read(self).item()

    def tolist(self):
        return read(self).tolist()

    def __bool__(self):
        return bool(read(self))

    def __int__(self):
        return int(self.item())

    def __float__(self):
        return float(self.item())

    def __complex__(self):
        return complex(self.item())

    def __repr__(self):
        return repr(read(self))

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        raise BufferError("the simulation has no memory to hand over")

    def __dlpack_device__(self):
        return 2, self._device  # CUDA's

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    __hash__ = None

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    # What numpy functions and scalars do with it.

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        import cupy

        function = getattr(cupy, ufunc.__name__, None)
        if method != "__call__" or function is None:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        if ufunc.__name__ in COMPARISONS:  # numpy makes 0-d arrays of its scalars there
            inputs = [x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs]
        return function(*inputs, **kwargs)

    def __array_function__(self, func, types, args, kwargs):
        import cupy

        module = cupy
        for name in func.__module__.split(".")[1:]:
            module = getattr(module, name, None)
        function = getattr(module, func.__name__, None)
        if function in (None, func) or not all(issubclass(t, (ndarray, np.generic)) for t in types):
            return NotImplemented
        return function(*args, **kwargs)

    # Attributes.

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: self._a.flags)
    device = property(lambda self: Device(self._device))
    data = property(MemoryPointer)
    T = property(lambda self: wrap(self._a.T, self._device))
    mT = property(lambda self: wrap(self._a.swapaxes(-1, -2), self._device))
    real = property(lambda self: wrap(self._a.real, self._device))
    imag = property(lambda self: wrap(self._a.imag, self._device))

    def __getitem__(self, key):
        key = _index(key)
        if any(getattr(k, "dtype", None) == np.dtype(bool) for k in key):
            read(self)  # the number of those that are True
        return wrap(self._a[key], self._device)

    def __setitem__(self, key, value):
        if isinstance(value, (list, tuple)):
            raise ValueError("a list is no value to fill an array with")
        target, key, value = self._a, _index(key), unwrap(value)

        def assign():
            target[key] = value

        assign()
        done(assign)

    def __dir__(self):
        return [n for n in super().__dir__() if not n.startswith("__") or n in vars(ndarray)]


def _index(key):
    """Stricter than cupy, which copies lists and host arrays to the device without a word."""
    key = key if isinstance(key, tuple) else (key,)
    if any(isinstance(k, (list, np.ndarray)) for k in key):
        raise TypeError("an index on the host, for an array on the device")
    return tuple(unwrap(k) if isinstance(k, ndarray) else k for k in key)


def _adopt(array, values):
    array._a, array._device = values, Device._current
    global largest
    owner = values if values.base is None else values.base
    size = getattr(owner, "nbytes", 0)
    if limit and size > limit:
        raise OutOfMemoryError(size, 0, limit)
    largest = max(largest, size)
    return array


def wrap(x, device=None):
    """What numpy returned, as cupy returns it: 0-d arrays for scalars, tuples for named ones."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(wrap, x)) if type(x) in (tuple, list) else tuple(map(wrap, x))
    if not isinstance(x, (np.ndarray, np.generic, bool, int, float, complex)):
        return x
    array = _adopt(ndarray.__new__(ndarray), np.asarray(x))
    if device is not None:
        array._device = device
    return array


def unwrap(x):
    """An argument for numpy, or the error that cupy raises."""
    if isinstance(x, ndarray):
        if x._device != Device._current:
            raise ValueError(
                "Array device must be same as the current device: array device = "
                f"{x._device} while current = {Device._current}."
            )
        return x._a
    if isinstance(x, (tuple, list)):
        return type(x)(map(unwrap, x))
    if isinstance(x, np.ndarray) or hasattr(x, "tocsr") or hasattr(x, "matvec"):
        raise TypeError(f"Unsupported type {type(x)}")
    return x
