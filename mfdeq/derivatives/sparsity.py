"""What is known of where the derivatives of a function have entries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from scipy import sparse

from ..arrays.backend import Array, Backend, is_sparse
from ..errors import ArgumentError, DerivativeError
from ..operators.operator import Matrix, Operator
from ..operators.probing import Coloured, detect_pattern, host_pattern

KINDS = ("map", "residual")
DETECT = "detect"
PLACES = 2  # where a pattern is looked for, beside the first one asked about
FIELDS = ("d_state", "d_params")


class Sparsity:
    """Patterns of df/dh and df/dtheta, given or found, and the matrices in them.

    Parameters
    ----------
    given : None, "detect" or pair
        No pattern, patterns to be found by products, or (N, N) and (N, P) sparse matrices, of
        which each may be None or "detect".
    state_size, param_size : int
        N and P.
    """

    def __init__(self, given: Any, state_size: int, param_size: int) -> None:
        shapes = (state_size, state_size), (state_size, param_size)
        pair = (given, given) if given is None or isinstance(given, str) else given
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise _unexpected(given, shapes)
        for pattern, shape in zip(pair, shapes, strict=True):
            known = is_sparse(pattern) and tuple(pattern.shape) == shape
            word = isinstance(pattern, str) and pattern == DETECT
            if not (known or word or pattern is None):
                raise _unexpected(given, shapes)
        self.given = tuple(pair)
        self.coloured = [Coloured(p) if is_sparse(p) else None for p in pair]
        self.dense = [False, False]

    def assembled(
        self,
        derivatives: list[Operator],
        nearby: Callable[[int], list[Operator]],
        rtol: float,
    ) -> list[Operator]:
        """The derivatives, as matrices where their patterns are known or sparse.

        Parameters
        ----------
        derivatives : list of two Operators
            By their products.
        nearby : callable
            The same at other places: the first, second...
        rtol : float
            To which a product with the matrix and of the operator agree if the pattern holds.
        """
        return [self._one(which, derivatives[which], nearby, rtol) for which in range(2)]

    def joint(self) -> Coloured | None:
        """The pattern over (theta, h), coloured; None where one of the two is dense."""
        state, params = self.coloured
        if state is None or params is None:
            return None
        return Coloured(sparse.hstack([params.pattern, state.pattern]))

    def _one(
        self, which: int, of: Operator, nearby: Callable[[int], list[Operator]], rtol: float
    ) -> Operator:
        if self.given[which] is None or self.dense[which]:
            return of
        known = self.coloured[which]
        if known is not None:
            found = Matrix(of.backend, known.matrix_of(of))
            where = _differs(found, of, rtol)
            if where is None:
                return found
            if is_sparse(self.given[which]):
                raise DerivativeError(
                    f"the pattern of {FIELDS[which]} misses entries of row {where}: give the "
                    "pattern of all entries that the derivative can have (sparsity='detect' looks "
                    "for them)"
                )
        self._detect(which, of, [nearby(i)[which] for i in range(PLACES)])
        known = self.coloured[which]
        return of if known is None else Matrix(of.backend, known.matrix_of(of))

    def _detect(self, which: int, of: Operator, others: list[Operator]) -> None:
        before = self.coloured[which]
        with contextlib.suppress(ArgumentError):
            found = detect_pattern(of, *others)
            if before is not None:
                found = host_pattern(found + before.pattern)
            if found.nnz <= 0.25 * found.shape[0] * found.shape[1] or min(found.shape) < 16:
                self.coloured[which] = Coloured(found)
                return
        self.coloured[which], self.dense[which] = None, True


def typical_sizes(x: Array) -> Array:
    """Of the entries of x: their own, or the root mean square of all where that is larger."""
    backend = Backend.of(x)
    typical = backend.norm(x) / x.shape[0] ** 0.5 or 1.0
    return backend.xp.maximum(backend.xp.abs(x), backend.xp.asarray(typical, dtype=x.dtype))


def place_near(
    f: Callable[[Array, Array], Array], h: Array, theta: Array, sizes: tuple[Array, Array], i: int
) -> tuple[Array, Array]:
    """A place near (h, theta) where f exists, another one for each i."""
    backend = Backend.of(h, theta)
    for distance in (1e-2, 1e-4, 1e-6):
        near_h, near_theta = (
            x + distance * size * backend.random(x.shape[0], seed=20 + i)
            for x, size in zip((h, theta), sizes, strict=True)
        )
        with backend.ignore_overflow():
            if bool(backend.xp.all(backend.xp.isfinite(f(near_h, near_theta)))):
                return near_h, near_theta
    return h, theta


def _differs(matrix: Operator, of: Operator, rtol: float) -> int | None:
    """The row in which a product with the matrix is not that of the operator, or None."""
    backend: Backend = of.backend
    v: Array = backend.random(of.shape[1], seed=13)
    off = backend.xp.abs(matrix._apply(v) - of._apply(v))
    worst = int(backend.xp.argmax(off))
    allowed = rtol * backend.norm(matrix.abs_apply(v)) + backend.xp.finfo(backend.dtype).tiny
    return worst if float(off[worst]) > allowed else None


def _unexpected(given: Any, shapes: Any) -> ArgumentError:
    return ArgumentError(
        f"sparsity is {given!r}; 'detect', None, or a pair of patterns of shapes {shapes[0]} and "
        f"{shapes[1]} (sparse matrices, 'detect' or None) was expected"
    )
