"""The array API of distributed arrays, as much of it as the formulas use; of others, numpy's."""

from __future__ import annotations

import builtins
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from array_api_compat import numpy as compat

from ..arrays.backend import host
from ..errors import ArgumentError
from .arrays import Distributed, Transposed, held_by_all, on_rows
from .ranks import Ranks, Rows

float32, float64, int64, bool = compat.float32, compat.float64, compat.int64, compat.bool
isdtype, finfo = compat.isdtype, compat.finfo


def _entrywise(name: str) -> Callable:
    function = getattr(compat, name)

    @functools.wraps(function)
    def applied(*arrays: Any, **options: Any) -> Any:
        like = next((x for x in arrays if isinstance(x, Distributed)), None)
        if like is None:
            return function(*arrays, **options)
        return like.like(function(*(on_rows(x, like) for x in arrays), **_local(options)))

    return applied


def _local(options: dict[str, Any]) -> dict[str, Any]:
    return {key: x for key, x in options.items() if key != "device"}


abs, sign, sqrt, exp, round = map(_entrywise, ("abs", "sign", "sqrt", "exp", "round"))
log, log1p, log2 = map(_entrywise, ("log", "log1p", "log2"))
isfinite, isnan, where = map(_entrywise, ("isfinite", "isnan", "where"))
maximum, minimum = map(_entrywise, ("maximum", "minimum"))
zeros_like, ones_like = map(_entrywise, ("zeros_like", "ones_like"))


def astype(x: Any, dtype: Any) -> Any:
    """The numbers in another dtype."""
    return x.like(x.local.astype(dtype)) if isinstance(x, Distributed) else x.astype(dtype)


def full_like(x: Any, value: Any) -> Any:
    """One number everywhere."""
    if isinstance(x, Distributed):
        return x.like(host.full_like(x.local, value))
    return host.full_like(x, value)


# Making arrays.


def _made(
    function: Callable, shape: Any, dtype: Any = None, device: Ranks | None = None, **options: Any
) -> Any:
    rows, *columns = shape if isinstance(shape, tuple) else (shape,)
    if device is None or (spread := device.rows(rows)) is None:
        return function(shape, dtype=dtype, **options)
    local = function((spread.count(device.rank), *columns), dtype=dtype, **options)
    return Distributed(local, device, spread)


zeros, ones = functools.partial(_made, host.zeros), functools.partial(_made, host.ones)


def arange(n: int, device: Ranks | None = None) -> Any:
    """0 to n - 1."""
    return asarray(host.arange(n), device=device)


def nonzero(x: Any) -> Any:
    """Where an array that every rank holds is not zero."""
    return host.nonzero(held_by_all(x))


def eye(rows: int, columns: int, dtype: Any = None, device: Ranks | None = None) -> Any:
    """Ones on the diagonal."""
    found = zeros((rows, columns), dtype=dtype, device=device)
    for j in range(rows if rows < columns else columns):
        found[j, j] = 1.0
    return found


def asarray(
    x: Any,
    dtype: Any = None,
    device: Ranks | None = None,
    copy: Any = None,
    order: Any = None,
    rows: int | None = None,
) -> Any:
    """A Vec or a distributed array; the rows of a numpy array that every rank has.

    Those of an array of `rows`, or of as many as it has: of 0 all.
    """
    if hasattr(x, "getOwnershipRanges"):
        x = Distributed.of(x)
    if isinstance(x, Transposed):
        raise ArgumentError("the transpose of a distributed array; an array was expected")
    if not isinstance(x, Distributed):
        x = host.asarray(x)
        many = x.shape[0] if rows is None and x.ndim else rows or 0
        if many == 0 or device is None or (spread := device.rows(many)) is None:
            return host.array(x, dtype=dtype) if copy else host.asarray(x, dtype=dtype)
        return Distributed(_own_rows(x, device, spread).astype(dtype or x.dtype), device, spread)
    if not copy and dtype in (None, x.dtype):
        return x
    return x.like(host.array(x.local, dtype=dtype))


def _own_rows(x: Any, device: Any, rows: Rows) -> Any:
    if not rows.parts:
        return x[rows.of(device.rank)].copy()
    starts = host.cumsum([0, *(part.total for part in rows.parts)])
    return host.concatenate(
        [_own_rows(x[starts[i] : starts[i + 1]], device, p) for i, p in enumerate(rows.parts)]
    )


def concat(arrays: Any, axis: int = 0) -> Any:
    """One below the other, or side by side."""
    arrays = list(arrays)
    first = arrays[0]
    if not isinstance(first, Distributed):
        return host.concatenate(arrays, axis=axis)
    if axis == 1:
        return first.like(host.concatenate([on_rows(x, first) for x in arrays], axis=1))
    if len(arrays) == 1:
        return first
    rows = Rows.stacked(tuple(x.rows for x in arrays))
    return Distributed(host.concatenate([x.local for x in arrays]), first.device, rows)


def stack(arrays: Any, axis: int = 0) -> Any:
    """(n,) arrays as the columns of (n, k)."""
    arrays = list(arrays)
    first = arrays[0]
    if not isinstance(first, Distributed):
        return host.stack(arrays, axis=axis)
    if axis != 1:
        raise ArgumentError(f"distributed arrays are stacked along axis 1, not {axis}")
    return first.like(host.stack([on_rows(x, first) for x in arrays], axis=1))


def reshape(x: Any, shape: tuple[int, ...]) -> Any:
    """Of what every rank holds; a distributed array as it is."""
    if not isinstance(x, Distributed):
        return host.reshape(x, shape)
    if shape == x.shape:
        return x
    if len(shape) == 2 and shape == (x.shape[0], 1):
        return x.like(x.local[:, None])
    raise ArgumentError(f"a distributed array of shape {x.shape} in that of {shape}")


def take(x: Any, indices: Any, axis: int) -> Any:
    """Columns of (n, k)."""
    if not isinstance(x, Distributed):
        return host.take(x, indices, axis=axis)
    if axis not in (1, -1) or x.ndim == 1:
        raise ArgumentError("rows of a distributed array cannot be taken")
    return x.like(x.local[:, held_by_all(indices)])


# Over rows: over the ranks.


def _reduced(name: str, how: str, empty: Any) -> Callable:
    function = getattr(host, name)

    def applied(x: Any, axis: Any = None, **options: Any) -> Any:
        if not isinstance(x, Distributed):
            return function(x, axis=axis, **options)
        if axis in (1, -1) and x.ndim == 2:
            return x.like(function(x.local, axis=1, **options))
        start = {} if empty is None else {"initial": empty(x.dtype)}
        return x.device.reduced(function(x.local, axis=axis, **start, **options), how)

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
    """What puts an array that every rank holds in order."""
    return host.argsort(held_by_all(x), kind="stable")


def argmax(x: Any) -> Any:
    """The first row of those where an (n,) array is largest."""
    if not isinstance(x, Distributed):
        return host.argmax(x)
    return int(host.argmax(x.gathered()))


def vecdot(x: Any, y: Any, axis: int = -1) -> Any:
    """Inner products along an axis."""
    if not isinstance(x, Distributed):
        return host.sum(x * y, axis=axis) if x.ndim > 1 else x @ y
    if axis not in (0, -x.ndim):
        return x.like(compat.vecdot(x.local, on_rows(y, x), axis=axis))
    other = on_rows(y, x)
    if x.ndim == 1:
        return x.device.sum(x.local @ other)
    return x.device.sum(host.einsum("ij,ij->j", x.local, other))


def _vector_norm(x: Any) -> Any:
    if not isinstance(x, Distributed):
        return host.linalg.norm(host.ravel(x))
    mine = x.local.ravel()
    return host.sqrt(x.device.sum(mine @ mine))


def _qr(x: Any) -> Any:
    """Q of orthonormal columns and R: of what each rank has, and then of their factors."""
    if not isinstance(x, Distributed):
        return host.linalg.qr(x)
    Q, R = host.linalg.qr(x.local)
    if x.device.size == 1:
        return x.like(Q), R
    factors = x.device.mpi.allgather(R)
    before = builtins.sum(factor.shape[0] for factor in factors[: x.device.rank])
    together, R = host.linalg.qr(host.concatenate(factors))
    return x.like(Q @ together[before : before + Q.shape[1]]), R


def _pinv(x: Any, rtol: float) -> Any:
    """The pseudoinverse, of (n, k) by that of R."""
    if not isinstance(x, Distributed):
        return compat.linalg.pinv(x, rtol=rtol)
    Q, R = _qr(x)
    return (Q @ compat.linalg.pinv(R, rtol=rtol).T).T


def _svd(x: Any, full_matrices: Any = True) -> Any:
    """U, of as many columns as x where that is distributed, the singular values, and V'."""
    if not isinstance(x, Distributed):
        return host.linalg.svd(x, full_matrices=full_matrices)
    Q, R = _qr(x)
    U, values, V = host.linalg.svd(R)
    return Q @ U, values, V


def _solve(a: Any, b: Any) -> Any:
    """x with a x = b, of a small matrix."""
    if not isinstance(b, Transposed):
        return host.linalg.solve(a, b)
    return b.T.like(host.linalg.solve(a, b.T.local.T).T).T


def matrix_transpose(x: Any) -> Any:
    """Of (n, k)."""
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
