"""LinearOperator: cupyx's hooks and defaults, and what traps.md says of them.

No conversion of operands; columns go to a vector product as (n, 1); `ndarray @ operator` fails;
`.T` conjugates twice; a float32 operator times a Python number is a float64 one.
"""

from __future__ import annotations

import warnings

import cupy
from cupy._simulated import ndarray

from .._classes import _spbase


class LinearOperator:
    ndim = 2

    def __new__(cls, *args, **kwargs):
        if cls is LinearOperator:
            return super().__new__(_CustomLinearOperator)
        if cls._matvec == LinearOperator._matvec and cls._matmat == LinearOperator._matmat:
            warnings.warn(
                "LinearOperator subclass should implement at least one of _matvec and _matmat.",
                RuntimeWarning,
                stacklevel=2,
            )
        return super().__new__(cls)

    def __init__(self, dtype, shape):
        self.dtype = None if dtype is None else cupy.dtype(dtype)
        self.shape = tuple(shape)
        if len(self.shape) != 2:
            raise ValueError(f"invalid shape {self.shape} (must be 2-d)")

    def _init_dtype(self):
        if self.dtype is None:
            self.dtype = self.matvec(cupy.zeros(self.shape[-1])).dtype

    # The hooks.

    def _matvec(self, x):
        return self.matmat(x.reshape(-1, 1))

    def _matmat(self, X):
        return cupy.hstack([self.matvec(column.reshape(-1, 1)) for column in X.T])

    def _rmatvec(self, x):
        if type(self)._adjoint == LinearOperator._adjoint:
            raise NotImplementedError
        return self.H.matvec(x)

    def _rmatmat(self, X):
        if type(self)._adjoint == LinearOperator._adjoint:
            return cupy.hstack([self.rmatvec(column.reshape(-1, 1)) for column in X.T])
        return self.H.matmat(X)

    def _adjoint(self):
        return _Adjoint(self)

    def _transpose(self):
        return _Transposed(self)

    # What users call.

    def matvec(self, x):
        return self._vector(self._matvec, x, *self.shape)

    def rmatvec(self, x):
        return self._vector(self._rmatvec, x, *self.shape[::-1])

    def _vector(self, product, x, rows, columns):
        if x.shape not in ((columns,), (columns, 1)):
            raise ValueError("dimension mismatch")
        return product(x).reshape((rows,) if x.ndim == 1 else (rows, 1))

    def matmat(self, X):
        return self._block(self._matmat, X, self.shape[1])

    def rmatmat(self, X):
        return self._block(self._rmatmat, X, self.shape[0])

    def _block(self, product, X, columns):
        if X.ndim != 2:
            raise ValueError(f"expected 2-d ndarray or matrix, not {X.ndim}-d")
        if X.shape[0] != columns:
            raise ValueError(f"dimension mismatch: {self.shape!r}, {X.shape!r}")
        return product(X)

    def adjoint(self):
        return self._adjoint()

    def transpose(self):
        return self._transpose()

    H, T = property(adjoint), property(transpose)

    def dot(self, x):
        if isinstance(x, LinearOperator):
            return _Product(self, x)
        if cupy.isscalar(x):
            return _Scaled(self, x)
        if x.ndim == 1 or (x.ndim == 2 and x.shape[1] == 1):
            return self.matvec(x)
        if x.ndim == 2:
            return self.matmat(x)
        raise ValueError(f"expected 1-d or 2-d array, got {x!r}")

    def __call__(self, x):
        return self * x

    def __mul__(self, x):
        return self.dot(x)

    def __matmul__(self, other):
        if cupy.isscalar(other):
            raise ValueError("Scalar operands are not allowed, use '*' instead")
        return self.__mul__(other)

    def __rmatmul__(self, other):
        if cupy.isscalar(other):
            raise ValueError("Scalar operands are not allowed, use '*' instead")
        return self.__rmul__(other)

    def __rmul__(self, x):
        return _Scaled(self, x) if cupy.isscalar(x) else NotImplemented

    def __pow__(self, p):
        return _Power(self, p) if cupy.isscalar(p) else NotImplemented

    def __add__(self, x):
        return _Sum(self, x) if isinstance(x, LinearOperator) else NotImplemented

    def __neg__(self):
        return _Scaled(self, -1)

    def __sub__(self, x):
        return self.__add__(-x)

    def __repr__(self):
        dtype = "unspecified dtype" if self.dtype is None else f"dtype={self.dtype}"
        return f"<{self.shape[0]}x{self.shape[1]} {type(self).__name__} with {dtype}>"


class _CustomLinearOperator(LinearOperator):
    """Of functions; the names of its attributes are those of cupyx's class."""

    def __init__(self, shape, matvec, rmatvec=None, matmat=None, dtype=None, rmatmat=None):
        super().__init__(dtype, shape)
        self.args = ()
        self.__matvec_impl, self.__rmatvec_impl = matvec, rmatvec
        self.__matmat_impl, self.__rmatmat_impl = matmat, rmatmat
        self._init_dtype()

    def _matvec(self, x):
        return self.__matvec_impl(x)

    def _rmatvec(self, x):
        if self.__rmatvec_impl is None:
            raise NotImplementedError("rmatvec is not defined")
        return self.__rmatvec_impl(x)

    def _matmat(self, X):
        return super()._matmat(X) if self.__matmat_impl is None else self.__matmat_impl(X)

    def _rmatmat(self, X):
        return super()._rmatmat(X) if self.__rmatmat_impl is None else self.__rmatmat_impl(X)

    def _adjoint(self):
        return _CustomLinearOperator(
            self.shape[::-1],
            self.__rmatvec_impl,
            self.__matvec_impl,
            self.__rmatmat_impl,
            self.dtype,
            self.__matmat_impl,
        )


class _Of(LinearOperator):
    """Of other operators: each hook is a sequence of theirs."""

    def __init__(self, shape, dtypes, *args):
        super().__init__(cupy.result_type(*dtypes), shape)
        self.args = args

    def _matvec(self, x):
        return self._by("matvec", x)

    def _rmatvec(self, x):
        return self._by("rmatvec", x)

    def _matmat(self, x):
        return self._by("matmat", x)

    def _rmatmat(self, x):
        return self._by("rmatmat", x)


OTHER = {"matvec": "_rmatvec", "rmatvec": "_matvec", "matmat": "_rmatmat", "rmatmat": "_matmat"}


class _Adjoint(_Of):
    def __init__(self, A):
        super().__init__(A.shape[::-1], [A.dtype], A)

    def _by(self, name, x):
        return getattr(self.args[0], OTHER[name])(x)


class _Transposed(_Adjoint):
    def _by(self, name, x):
        return cupy.conj(super()._by(name, cupy.conj(x)))


class _Sum(_Of):
    def __init__(self, A, B):
        if A.shape != B.shape:
            raise ValueError(f"cannot add {A!r} and {B!r}: shape mismatch")
        super().__init__(A.shape, [A.dtype, B.dtype], A, B)

    def _by(self, name, x):
        return getattr(self.args[0], name)(x) + getattr(self.args[1], name)(x)

    def _adjoint(self):
        return self.args[0].H + self.args[1].H


class _Product(_Of):
    def __init__(self, A, B):
        if A.shape[1] != B.shape[0]:
            raise ValueError(f"cannot multiply {A!r} and {B!r}: shape mismatch")
        super().__init__((A.shape[0], B.shape[1]), [A.dtype, B.dtype], A, B)

    def _by(self, name, x):
        for op in self.args if name[0] == "r" else self.args[::-1]:
            x = getattr(op, name)(x)
        return x

    def _adjoint(self):
        return self.args[1].H * self.args[0].H


class _Scaled(_Of):
    def __init__(self, A, alpha):
        super().__init__(A.shape, [A.dtype, type(alpha)], A, alpha)

    def _by(self, name, x):
        alpha = cupy.conj(self.args[1]) if name[0] == "r" else self.args[1]
        return alpha * getattr(self.args[0], name)(x)

    def _adjoint(self):
        return self.args[0].H * cupy.conj(self.args[1])


class _Power(_Of):
    def __init__(self, A, p):
        if A.shape[0] != A.shape[1]:
            raise ValueError(f"square LinearOperator expected, got {A!r}")
        super().__init__(A.shape, [A.dtype], A, p)

    def _by(self, name, x):
        x = cupy.array(x, copy=True)
        for _ in range(self.args[1]):
            x = getattr(self.args[0], name)(x)
        return x

    def _adjoint(self):
        return self.args[0].H ** self.args[1]


class MatrixLinearOperator(LinearOperator):
    def __init__(self, A):
        super().__init__(A.dtype, A.shape)
        self.A, self.args = A, (A,)

    def _matmat(self, X):
        return self.A.dot(X)

    def _adjoint(self):
        return MatrixLinearOperator(self.A.T.conj())


def aslinearoperator(A):
    if isinstance(A, LinearOperator):
        return A
    if isinstance(A, (ndarray, _spbase)):
        return MatrixLinearOperator(A)
    if hasattr(A, "shape") and hasattr(A, "matvec"):
        others = {name: getattr(A, name, None) for name in ("rmatvec", "rmatmat", "dtype")}
        return LinearOperator(A.shape, A.matvec, **others)
    raise TypeError("type not understood")
