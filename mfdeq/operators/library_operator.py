"""Operators that are LinearOperators of their array library.

The class of an operator is combined with the LinearOperator of the array library (scipy's or
cupyx's), so that instances can be passed to `eigsh`, `gmres` and `minimize(hessp=)`. What scipy and
cupyx call is validated here.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ..arrays.backend import Array, Backend, check_block
from ..arrays.memory import reserve, translate_memory_errors
from ..errors import ArgumentError, short_repr
from ..locks import state_to_pickle

MAX_DENSE_ENTRIES = 2**24  # entries that `toarray` forms at most, 128 MiB in float64


@functools.cache
def _joined(cls: type, base: type, dtype: Any) -> type:
    """Return a class derived from both an operator class and a library's LinearOperator.

    What the constructor of a LinearOperator sets besides the shape is set here, once for all
    operators of a dtype, since its checks take longer than a small product.
    """
    example: Any = object.__new__(base)
    base.__init__(example, dtype=dtype, shape=(1, 1))  # type: ignore[misc]
    attributes = {name: value for name, value in vars(example).items() if name != "shape"}
    attributes |= {"__module__": cls.__module__, "__doc__": cls.__doc__, "_unjoined": cls}
    return type(cls.__name__, (cls, base), attributes)


def _new(cls: type, backend: Backend) -> Any:
    """Return an operator of a class, joined to the LinearOperator of the library, without state."""
    joined = _joined(cls, backend.sparse_linalg.LinearOperator, backend.dtype)
    self: Any = object.__new__(joined)
    self.backend = backend
    return self


class LibraryOperator:
    """An operator that is an instance of its library's LinearOperator.

    Subclasses define `_apply(x)` and `_apply_adjoint(y)` for arrays of shape (n,) and (n, k), and
    return new arrays (scipy's gmres overwrites the results of products).

    Parameters
    ----------
    source : Backend or Operator
        The backend, or an operator with the same array library, dtype and device. It must be the
        first argument of the constructor of every subclass, because `__new__` joins the class to
        the LinearOperator of that library.
    shape : tuple of int
        The number of rows and of columns.
    """

    backend: Backend
    shape: tuple[int, int]
    dtype: Any
    _unjoined: type  # the class that was joined to a LinearOperator
    # Make numpy and cupy defer `x @ op` and `x * op` to the operator.
    __array_ufunc__ = None
    __array_priority__ = 1000.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set the signature of the class to that of ``__init__``, which ``__new__`` would hide."""
        super().__init_subclass__(**kwargs)
        init = inspect.signature(cls.__init__)
        parameters = list(init.parameters.values())[1:]
        cls.__signature__ = init.replace(parameters=parameters)  # type: ignore[attr-defined]

    def __new__(cls, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Join the class to the LinearOperator of the source's array library."""
        backend = source if isinstance(source, Backend) else getattr(source, "backend", None)
        if backend is None:
            raise TypeError(
                f"{cls.__name__}: expected an operator or a Backend as the first argument, which "
                f"determines the array library, got {short_repr(source)}; pass A or A.backend first"
            )
        return _new(cls, backend)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle by the class before it was joined, which can be imported."""
        return _new, (self._unjoined, self.backend), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return state_to_pickle(self)

    def __init__(self, source: Any, shape: tuple[int, int]) -> None:
        self.shape = shape

    def _apply(self, x: Array) -> Array:
        raise NotImplementedError

    def _apply_adjoint(self, y: Array) -> Array:
        raise NotImplementedError

    # Hooks that scipy and cupyx call; block products use the same code as vector products.

    @translate_memory_errors
    def _matvec(self, x: Array) -> Array:
        rows, columns = self.shape
        x = check_block(x, self.backend, columns, "the operand")
        if x.ndim == 2:
            if x.shape[1] == 0:
                return self.backend.zeros(rows, 0)
            self._reserve(rows, x.shape[1])
        return self._apply(x)

    @translate_memory_errors
    def _rmatvec(self, x: Array) -> Array:
        rows, columns = self.shape
        x = check_block(x, self.backend, rows, "the operand")
        if x.ndim == 2:
            if x.shape[1] == 0:
                return self.backend.zeros(columns, 0)
            self._reserve(columns, x.shape[1])
        return self._apply_adjoint(x)

    def _reserve(self, rows: int, columns: int) -> None:
        reserve(
            self.backend,
            rows * columns,
            f"the product of {type(self).__name__} with {columns} columns",
            "multiply fewer columns at a time",
        )

    def _matmat(self, X: Array) -> Array:
        return self._matvec(X)

    def _rmatmat(self, X: Array) -> Array:
        return self._rmatvec(X)

    def toarray(self) -> Array:
        """Return the dense matrix of a small operator.

        Raises
        ------
        ArgumentError
            If there are more than 2**24 entries, so that no large array is formed by accident.
        """
        rows, columns = self.shape
        if rows * columns > MAX_DENSE_ENTRIES:
            raise ArgumentError(
                f"toarray of {type(self).__name__}: expected at most {MAX_DENSE_ENTRIES} entries, "
                f"got {rows} x {columns} ({rows * columns * self.dtype.itemsize / 2**30:.3g} GiB). "
                "Apply the operator to a block of vectors instead (operator @ V), or use "
                "mfdeq.eigsh for its spectrum"
            )
        return self._apply(self.backend.eye(columns, columns))

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        dense = self.toarray()
        return dense if dtype is None else dense.astype(dtype)
