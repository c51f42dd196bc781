"""The array API namespace of distributed arrays: the functions that mfdeq's formulas use.

Given replicated arrays, its functions are those of numpy.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from array_api_compat import numpy as compat

from ..arrays.backend import host
from ..errors import ArgumentError
from .arrays import DistributedArray, TransposedArray, is_petsc, local_operand, replicate
from .ranks import Ranks, Rows

float32, float64, int64, bool = compat.float32, compat.float64, compat.int64, compat.bool
isdtype, finfo = compat.isdtype, compat.finfo


def _entrywise(name: str) -> Callable:
    function = getattr(compat, name)

    @functools.wraps(function)
    def applied(*arrays: Any, **options: Any) -> Any:
        like = next((x for x in arrays if isinstance(x, DistributedArray)), None)
        if like is None:
            return function(*arrays, **options)
        return like.like(function(*(local_operand(x, like) for x in arrays), **_local(options)))

    return applied


def _local(options: dict[str, Any]) -> dict[str, Any]:
    return {key: x for key, x in options.items() if key != "device"}


abs, sign, sqrt, exp, round = map(_entrywise, ("abs", "sign", "sqrt", "exp", "round"))
log, log1p, log2 = map(_entrywise, ("log", "log1p", "log2"))
isfinite, isinf, isnan, where = map(_entrywise, ("isfinite", "isinf", "isnan", "where"))
maximum, minimum, clip = map(_entrywise, ("maximum", "minimum", "clip"))
log10, square, floor, ceil = map(_entrywise, ("log10", "square", "floor", "ceil"))
logical_and, logical_or = map(_entrywise, ("logical_and", "logical_or"))
logical_not = _entrywise("logical_not")
zeros_like, ones_like = map(_entrywise, ("zeros_like", "ones_like"))


def astype(x: Any, dtype: Any) -> Any:
    """Return the entries in another dtype."""
    return x.like(x.local.astype(dtype)) if isinstance(x, DistributedArray) else x.astype(dtype)


def full_like(x: Any, value: Any) -> Any:
    """Return an array of that shape with one number everywhere."""
    if isinstance(x, DistributedArray):
        return x.like(host.full_like(x.local, value))
    return host.full_like(x, value)


# Creating arrays.


def _create(
    function: Callable, shape: Any, dtype: Any = None, device: Ranks | None = None, **options: Any
) -> Any:
    rows, *columns = shape if isinstance(shape, tuple) else (shape,)
    if device is None or (split := device.rows(rows)) is None:
        return function(shape, dtype=dtype, **options)
    local = function((split.count(device.rank), *columns), dtype=dtype, **options)
    return DistributedArray(local, device, split)


zeros, ones = functools.partial(_create, host.zeros), functools.partial(_create, host.ones)


def arange(n: int, device: Ranks | None = None) -> Any:
    """Return the numbers 0 to n - 1."""
    return asarray(host.arange(n), device=device)


def nonzero(x: Any) -> Any:
    """Return the indices of nonzero entries, for the whole array on every rank."""
    return host.nonzero(replicate(x))


def eye(rows: int, columns: int, dtype: Any = None, device: Ranks | None = None) -> Any:
    """Return ones on the diagonal and zeros elsewhere."""
    identity = zeros((rows, columns), dtype=dtype, device=device)
    for j in range(rows if rows < columns else columns):
        identity[j, j] = 1.0
    return identity


def asarray(
    x: Any,
    dtype: Any = None,
    device: Ranks | None = None,
    copy: Any = None,
    order: Any = None,
    rows: int | None = None,
) -> Any:
    """Return a Vec, a distributed array, or a numpy array that every rank has as a distributed one.

    A numpy array is distributed as arrays with `rows` rows are (by default its own number of rows),
    and left whole on every rank if `rows` is 0.
    """
    if is_petsc(x, "Vec", "Mat"):
        x = DistributedArray.from_petsc(x)
    if isinstance(x, TransposedArray):
        raise ArgumentError("expected an array, got the transpose of a distributed array")
    if not isinstance(x, DistributedArray):
        x = host.asarray(x)
        total = x.shape[0] if rows is None and x.ndim else rows or 0
        if total == 0 or device is None or (split := device.rows(total)) is None:
            return host.array(x, dtype=dtype) if copy else host.asarray(x, dtype=dtype)
        return DistributedArray(_own_rows(x, device, split).astype(dtype or x.dtype), device, split)
    if not copy and dtype in (None, x.dtype):
        return x
    return x.like(host.array(x.local, dtype=dtype))


def _own_rows(x: Any, device: Any, rows: Rows) -> Any:
    """Return this rank's rows of an array that every rank has whole."""
    if not rows.parts:
        return x[rows.slice_of(device.rank)].copy()
    starts = host.cumsum([0, *(part.total for part in rows.parts)])
    return host.concatenate(
        [_own_rows(x[starts[i] : starts[i + 1]], device, p) for i, p in enumerate(rows.parts)]
    )


def concat(arrays: Any, axis: int = 0) -> Any:
    """Join arrays one below the other (axis 0) or side by side (axis 1)."""
    arrays = list(arrays)
    first = arrays[0]
    if isinstance(first, TransposedArray) and axis == 0:
        return concat([x.T for x in arrays], axis=1).T
    if not isinstance(first, DistributedArray):
        return host.concatenate(arrays, axis=axis)
    if axis == 1:
        return first.like(host.concatenate([local_operand(x, first) for x in arrays], axis=1))
    if len(arrays) == 1:
        return first
    rows = Rows.stack(tuple(x.rows for x in arrays))
    return DistributedArray(host.concatenate([x.local for x in arrays]), first.device, rows)


def stack(arrays: Any, axis: int = 0) -> Any:
    """Stack (n,) arrays as the columns of an (n, k) one."""
    arrays = list(arrays)
    first = arrays[0]
    if not isinstance(first, DistributedArray):
        return host.stack(arrays, axis=axis)
    if axis != 1:
        raise ArgumentError(f"expected axis=1 to stack distributed arrays, got {axis}")
    return first.like(host.stack([local_operand(x, first) for x in arrays], axis=1))


def reshape(x: Any, shape: tuple[int, ...]) -> Any:
    """Reshape a replicated array; a distributed (n,) array only to (n, 1)."""
    if not isinstance(x, DistributedArray):
        return host.reshape(x, shape)
    if shape == x.shape:
        return x
    if len(shape) == 2 and shape == (x.shape[0], 1):
        return x.like(x.local[:, None])
    raise ArgumentError(f"a distributed array of shape {x.shape} cannot be reshaped to {shape}")


def take(x: Any, indices: Any, axis: int) -> Any:
    """Return columns of an (n, k) array."""
    if not isinstance(x, DistributedArray):
        return host.take(x, indices, axis=axis)
    if axis not in (1, -1) or x.ndim == 1:
        raise ArgumentError(
            f"expected axis=1 to take columns of a distributed (n, k) array, got axis={axis} of an "
            f"array of shape {x.shape}"
        )
    return x.like(x.local[:, replicate(indices)])


# Reductions; those over rows are over all ranks.


def _reduced(name: str, how: str, empty: Any) -> Callable:
    function = getattr(host, name)

    def applied(x: Any, axis: Any = None, **options: Any) -> Any:
        if not isinstance(x, DistributedArray):
            return function(x, axis=axis, **options)
        if axis in (1, -1) and x.ndim == 2:
            return x.like(function(x.local, axis=1, **options))
        start = {} if empty is None else {"initial": empty(x.dtype)}
        return x.device.allreduce(function(x.local, axis=axis, **start, **options), how)

    return applied


def _extreme(sign: int) -> Callable:
    def empty(dtype: Any) -> Any:
        limits = host.finfo(dtype) if dtype.kind == "f" else host.iinfo(dtype)
        return sign * (host.inf if dtype.kind == "f" else limits.max)

    return empty


sum = _reduced("sum", "SUM", None)
all, any = _reduced("all", "LAND", None), _reduced("any", "LOR", None)
max, min = _reduced("max", "MAX", _extreme(-1)), _reduced("min", "MIN", _extreme(1))


def argsort(x: Any) -> Any:
    """Return the indices that sort an array, for the whole array on every rank."""
    return host.argsort(replicate(x), kind="stable")


def sort(x: Any, axis: int = -1, descending: builtins.bool = False) -> Any:
    """Return an (n, k) array with sorted rows, or the sorted entries of an (n,) array, whole."""
    step = -1 if descending else 1
    if not isinstance(x, DistributedArray):
        return host.flip(host.sort(x, axis), axis) if descending else host.sort(x, axis)
    if x.ndim == 1:
        return host.sort(replicate(x))[::step]
    if axis not in (1, -1):
        raise ArgumentError(f"sort: expected axis=1 for a distributed (n, k) array, got {axis}")
    return x.like(host.sort(x.local, axis=1)[:, ::step])


def _position_of_extreme(name: str) -> Callable:
    position, extreme = getattr(host, name), getattr(host, name.removeprefix("arg"))

    def applied(x: Any) -> Any:
        if not isinstance(x, DistributedArray):
            return position(x)
        if x.ndim != 1:
            raise ArgumentError(f"{name}: expected a distributed array of shape (n,), got {x!r}")
        mine = None
        if x.local.shape[0]:
            local = int(position(x.local))
            mine = x.local[local], int(x.row_numbers()[local])
        found = [entry for entry in x.device.allgather(mine) if entry is not None]
        values = host.asarray([value for value, _ in found])
        # As numpy has it, NaN is more extreme than any number.
        best = values == extreme(values) if not host.isnan(extreme(values)) else host.isnan(values)
        return builtins.min(row for (_, row), wanted in zip(found, best, strict=True) if wanted)

    return applied


# The first index of the largest or smallest entry of an (n,) array.
argmax, argmin = map(_position_of_extreme, ("argmax", "argmin"))


def vecdot(x: Any, y: Any, axis: int = -1) -> Any:
    """Return inner products along an axis."""
    if not isinstance(x, DistributedArray):
        return host.sum(x * y, axis=axis) if x.ndim > 1 else x @ y
    if axis not in (0, -x.ndim):
        return x.like(compat.vecdot(x.local, local_operand(y, x), axis=axis))
    other = local_operand(y, x)
    if x.ndim == 1:
        return x.device.sum(x.local @ other)
    return x.device.sum(host.einsum("ij,ij->j", x.local, other))


def _vector_norm(x: Any) -> Any:
    if not isinstance(x, DistributedArray):
        return host.linalg.norm(host.ravel(x))
    mine = x.local.ravel()
    return host.sqrt(x.device.sum(mine @ mine))


def _qr(x: Any) -> Any:
    """Return Q and R, from the factors of each rank's rows: a QR of the stacked R (TSQR)."""
    if not isinstance(x, DistributedArray):
        return host.linalg.qr(x)
    Q, R = host.linalg.qr(x.local)
    if x.device.size == 1:
        return x.like(Q), R
    factors = x.device.mpi.allgather(R)
    before = builtins.sum(factor.shape[0] for factor in factors[: x.device.rank])
    stacked, R = host.linalg.qr(host.concatenate(factors))
    return x.like(Q @ stacked[before : before + Q.shape[1]]), R


def _pinv(x: Any, rtol: float) -> Any:
    """Return the pseudoinverse, from that of R in x = Q R."""
    if not isinstance(x, DistributedArray):
        return compat.linalg.pinv(x, rtol=rtol)
    Q, R = _qr(x)
    return (Q @ compat.linalg.pinv(R, rtol=rtol).T).T


def _svd(x: Any, full_matrices: Any = True) -> Any:
    """Return U, the singular values and V'; U has as many columns as a distributed x."""
    if not isinstance(x, DistributedArray):
        return host.linalg.svd(x, full_matrices=full_matrices)
    Q, R = _qr(x)
    U, values, V = host.linalg.svd(R)
    return Q @ U, values, V


def _solve(a: Any, b: Any) -> Any:
    """Return x with a x = b, for a small matrix a."""
    if not isinstance(b, TransposedArray):
        return host.linalg.solve(a, b)
    return b.T.like(host.linalg.solve(a, b.T.local.T).T).T


def matrix_transpose(x: Any) -> Any:
    """Return the transpose of an (n, k) array."""
    return x.T


linalg = SimpleNamespace(
    vector_norm=_vector_norm,
    eigh=host.linalg.eigh,
    solve=_solve,
    cholesky=host.linalg.cholesky,
    qr=_qr,
    svd=_svd,
    pinv=_pinv,
)

DistributedArray.namespace = sys.modules[__name__]
