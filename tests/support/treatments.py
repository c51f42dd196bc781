"""Treatments of arguments and of results of callbacks, as users may apply them.

A treatment is a function of (value, arguments of the callback). `HARMLESS` ones do not change the
mathematics; after a `HARMFUL` one the result is correct or an error names the place.
"""

from __future__ import annotations

from collections.abc import Iterator

import array_api_strict
import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator
from support.case_toy import operator

import mfdeq


def arrays_in(x) -> Iterator[np.ndarray]:
    if isinstance(x, np.ndarray):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from arrays_in(part)


def strided(x, args):
    buffer = np.full([2 * n for n in x.shape], 99, x.dtype)
    view = buffer[(slice(None, None, 2),) * x.ndim]
    view[...] = x
    return view


def backwards(x, args):
    return np.flip(np.flip(x).copy())


def read_only(x, args):
    x = x.copy()
    x.flags.writeable = False
    return x


def overwritten(x, args):
    """Return the result in the memory of an argument, and fill the other arguments with NaN."""
    given = list(arrays_in(args))
    for array in given:
        array[...] = np.nan
    for array in given:
        if array.shape == x.shape:
            array[...] = x
            return array[:]
    return x


class Refilled:
    """A treatment that returns the same array every time, with new entries."""

    def __init__(self, form=np.asarray):
        self.form, self.kept = form, {}

    def __call__(self, x, args):
        x = self.form(x)
        if sp.issparse(x):
            buffer = self.kept.setdefault((x.shape, x.nnz), x)
            buffer.data[...] = x.data
            return buffer
        buffer = self.kept.setdefault((x.shape, x.dtype), np.empty_like(x))
        buffer[...] = x
        return buffer


class Subclass(np.ndarray):
    pass


def sparse(form, array):
    make = getattr(sp, f"{form}_{'array' if array else 'matrix'}")
    return lambda x, args: make(x)


def with_zeros(x, args):
    """Return a CSR array that stores all entries, zeros too, in reverse order."""
    rows, columns = (index.ravel()[::-1] for index in np.indices(x.shape))
    return sp.csr_array(sp.coo_array((x[rows, columns], (rows, columns)), shape=x.shape))


def unsorted(x, args):
    kept = sp.csr_matrix(x)
    order = np.concatenate(
        [np.arange(a, b)[::-1] for a, b in zip(kept.indptr[:-1], kept.indptr[1:], strict=True)]
    )
    return sp.csr_matrix((kept.data[order], kept.indices[order], kept.indptr), shape=x.shape)


def duplicates(x, args):
    """Return a CSR array with three duplicates of each entry, which sum to it."""
    columns = np.indices(x.shape)[1].ravel().repeat(3)
    parts = np.array([2.0, -0.5, -0.5], x.dtype)
    values = (parts * x.reshape(-1, 1)).ravel()
    indptr = np.arange(0, values.size + 1, 3 * x.shape[1])
    return sp.csr_array((values, columns, indptr), shape=x.shape)


ARRAYS = {
    "strided": strided,
    "backwards": backwards,
    "read-only": read_only,
    "overwritten": overwritten,
    "refilled": Refilled,
    "subclass": lambda x, args: x.view(Subclass),
    "unmasked": lambda x, args: np.ma.masked_array(x),
    "long": lambda x, args: x.astype(np.longdouble),
    "double": lambda x, args: x.astype(float),
    "byte order": lambda x, args: x.astype(x.dtype.newbyteorder()),
}
HARMLESS = {
    "vector": ARRAYS
    | {"list": lambda x, args: x.tolist(), "tuple": lambda x, args: tuple(x.tolist())},
    "matrix": ARRAYS
    | {
        f"{form}_{'array' if array else 'matrix'}": sparse(form, array)
        for form in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")
        for array in (False, True)
    }
    | {
        "Fortran": lambda x, args: np.asfortranarray(x),
        "with zeros": with_zeros,
        "unsorted": unsorted,
        "duplicates": duplicates,
        "sparse, refilled": lambda: Refilled(sp.csc_array),
        "operator": lambda x, args: operator(x),
        "operator of scipy": lambda x, args: aslinearoperator(x),
    },
    "scalar": {
        "float": lambda x, args: float(x),
        "array": lambda x, args: np.array(x),
        "long": lambda x, args: np.longdouble(x),
        "overwritten": lambda x, args: [overwritten(np.zeros(0), args), x][1],
    },
}
MADE = ("refilled", "sparse, refilled")  # have a state, so they are made for every case


def harmless_treatment(kind, name):
    treatment = HARMLESS[kind][name]
    return treatment() if name in MADE else treatment


class UserError(Exception):
    pass


def with_last_entry(value):
    def spoil(x, args):
        x = np.array(x)
        x.flat[-1] = value
        return x

    return spoil


def masked(x, args):
    """Return a masked array with another value beneath the mask."""
    x = np.atleast_1d(np.array(x))
    hidden = np.arange(x.size).reshape(x.shape) == 0
    x[hidden] = 1
    return np.ma.masked_array(x, mask=hidden)


def raising(kind):
    def spoil(x, args):
        raise kind("of the user's own")

    return spoil


RAISED = (
    UserError,
    ValueError,
    TypeError,
    AttributeError,
    NotImplementedError,
    ZeroDivisionError,
    np.linalg.LinAlgError,
    StopIteration,
    mfdeq.ConvergenceError,
)
HARMFUL = {
    "none": lambda x, args: None,
    "nan": with_last_entry(np.nan),
    "infinity": with_last_entry(np.inf),
    "minus infinity": with_last_entry(-np.inf),
    "complex": lambda x, args: x + 1j,
    "half": lambda x, args: np.asarray(x).astype(np.float16),
    "single": lambda x, args: np.asarray(x).astype(np.float32),
    "objects": lambda x, args: np.asarray(x).astype(object),
    "dates": lambda x, args: np.asarray(x).astype("datetime64[s]"),
    "text": lambda x, args: "some text",
    "texts": lambda x, args: np.asarray(x).astype(str),
    "dict": lambda x, args: {0: x},
    "generator": lambda x, args: (part for part in [x]),
    "ragged": lambda x, args: [[1.0], [1.0, 2.0]],
    "short": lambda x, args: np.atleast_1d(x)[:-1],
    "long": lambda x, args: np.concatenate([np.atleast_1d(x)] * 2),
    "empty": lambda x, args: np.zeros((0, *np.shape(x)[1:])),
    "column": lambda x, args: np.asarray(x)[..., None],
    "row": lambda x, args: np.asarray(x)[None],
    "number": lambda x, args: np.array(2.0),
    "sparse": lambda x, args: sp.csr_array(np.atleast_2d(x)),
    "sparse nan": lambda x, args: sp.csc_matrix(with_last_entry(np.nan)(np.atleast_2d(x), args)),
    "masked": masked,
    "of another library": lambda x, args: array_api_strict.asarray(np.array(x)),
    "of another device": lambda x, args: array_api_strict.asarray(
        np.array(x), device=array_api_strict.Device("device1")
    ),
    "function": lambda x, args: lambda *args: x,
    **{f"raises {kind.__name__}": raising(kind) for kind in RAISED},
}

# Errors that only show in comparison with other values or derivatives of the callback.
CHANGED = {
    "scaled": lambda x, args: 1.25 * x,
    "zero": lambda x, args: 0.0 * x,
    "moved": lambda x, args: x + 0.5,
    "one entry": lambda x, args: x + (np.arange(x.size).reshape(x.shape) == 1),
    "transposed": lambda x, args: np.reshape(x.T, x.shape),
}


class SomeCalls:
    """A treatment of some of the calls.

    Parameters
    ----------
    treatment : function
    when : "always", "once", "alternately" or int
        The calls to treat; an int means all calls after that many.
    """

    def __init__(self, treatment, when):
        self.treatment, self.when = treatment, when
        self.calls = self.done = 0

    def __call__(self, x, args):
        self.calls += 1
        due = {
            "always": True,
            "once": self.calls == 1,
            "alternately": self.calls % 2 == 0,
        }.get(self.when, self.calls > (self.when if isinstance(self.when, int) else 0))
        if not due:
            return x
        self.done += 1
        return self.treatment(x, args)
