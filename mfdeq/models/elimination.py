"""Constraints in place of equations that depend on each other, by operators of size N.

With left null vectors W of A (redundant equations) and constraints c(h, theta) = 0, m of each, the
system

    R(h, theta) + U mu = 0,    c(h, theta) = 0

of N + m unknowns (h, mu) is regular. The multipliers are eliminated exactly: with L in the span of
W and L'U = I, mu = -L'R, which leaves N equations for h alone,

    Pi R + U S c = 0,    Pi = I - U L',

since L' takes their left-hand side to S c, and S is regular. Their derivatives are combinations of
those of R and c in the same way: A becomes Pi A + U S C.

The columns U are W in the units of the equations; then Pi is an orthogonal projection in these
units. For a sparse A they are unit vectors of m pivotal equations, which c replaces, so that A
stays sparse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, host

MAX_SPREAD_ROUNDINGS = 1e4  # W'X beside |W|'|X|, in rounding units, that counts as zero


@dataclass(frozen=True)
class Elimination:
    """What takes the place of redundant equations, on the host in float64.

    Attributes
    ----------
    basis : (N, m) array
        W, the redundant combinations of equations.
    columns, dual : (N, m) arrays
        U and L.
    gains : (m, m) array
        S.
    rows : list of int or None
        The equations that the constraints replace, if U consists of unit vectors.
    pins : list of int or None
        As many unknowns, in which the null vectors of A are independent.
    right : (N, m) array or None
        The null vectors of A, if they are known.
    spread : bool
        Whether an imbalance that is allowed is spread along W before equations are replaced. The
        other columns do so by themselves.
    replaces : bool
        Whether the equations of `rows` are dropped, so that L is U, too.
    """

    basis: Any
    columns: Any
    dual: Any
    gains: Any
    rows: list[int] | None = None
    pins: list[int] | None = None
    right: Any = None
    spread: bool = False
    replaces: bool = False

    def on(self, backend: Backend) -> Projection:
        """Return the operators for arrays of a library and dtype."""
        W, size = self.basis, self.basis.shape[0]
        columns = {
            **{name: getattr(self, name) for name in ("basis", "columns", "dual", "right")},
            "spread": W @ host.linalg.inv(W.T @ W) if self.spread else None,
        }
        converted = {
            name: None if x is None else backend.from_host(x, size) for name, x in columns.items()
        }
        gains = backend.coefficients(self.gains)
        return Projection(
            backend,
            **converted,
            gains=gains,
            rows=self.rows,
            pins=self.pins,
            replaces=self.replaces,
        )


@dataclass(frozen=True)
class Projection:
    """The operators Pi and U S for arrays of one library and dtype.

    Attributes
    ----------
    backend : Backend
    basis, columns, dual, gains, rows, pins, right, replaces
        As in `Elimination`.
    spread : (N, m) array or None
        W (W'W)^-1, if an imbalance is spread along W.
    """

    backend: Backend
    basis: Array
    columns: Array
    dual: Array
    gains: Array
    rows: list[int] | None
    pins: list[int] | None = None
    right: Array | None = None
    spread: Array | None = None
    replaces: bool = False

    def project(self, x: Array) -> Array:
        """Return Pi x, for an (N,) or (N, k) array."""
        backend = self.backend
        if not self.replaces:
            return self._less(x, self.columns, backend.inner_products(self.dual, x))
        if self.spread is None:
            return self.clear(x)
        return self.cleared(self._less(x, self.spread, backend.inner_products(self.basis, x)))

    def project_adjoint(self, y: Array) -> Array:
        """Return Pi' y."""
        backend = self.backend
        if not self.replaces:
            return self._less(y, self.dual, backend.inner_products(self.columns, y))
        y = self.clear(y)
        if self.spread is None:
            return y
        return backend.subtract_columns(y, self.basis, backend.inner_products(self.spread, y))

    def _less(self, x: Array, columns: Array, values: Array) -> Array:
        """Return x less a combination of columns."""
        return self.backend.subtract_columns(self.backend.copied(x), columns, values)

    def combined_values(self, x: Array) -> Array:
        """Return L' x, (m,) or (m, k)."""
        return self.at_rows(x) if self.replaces else self.backend.inner_products(self.dual, x)

    def at_rows(self, x: Array) -> Array:
        """Return x in the equations that constraints replace, (m,) or (m, k)."""
        return self.backend.xp.stack([x[i, ...] for i in self.rows or ()])

    def add_combinations(self, y: Array, values: Array) -> Array:
        """Return y + L values, in place if L consists of unit vectors, where y is zero."""
        if not self.replaces:
            return y + self.dual @ values
        for k, i in enumerate(self.rows or ()):
            y[i, ...] = values[k, ...]
        return y

    def clear(self, x: Array) -> Array:
        """Return x with zeros in the equations that constraints replace."""
        return self.cleared(self.backend.copied(x))

    def cleared(self, x: Array) -> Array:
        """Return x after its entries in the equations that constraints replace are set to zero."""
        for i in self.rows or ():
            x[i, ...] = 0.0
        return x

    def keeps(self, array: Any) -> bool:
        """Return whether W'X is zero to rounding for a sparse X, so that nothing is spread."""
        if self.spread is None:
            return True
        xp, x = self.backend.xp, self.backend.random(array.shape[1], seed=47)
        terms = abs(self.basis).T @ (abs(array) @ abs(x))
        limit = MAX_SPREAD_ROUNDINGS * self.backend.eps
        return bool(xp.all(xp.abs(self.basis.T @ (array @ x)) <= limit * terms))

    def insert(self, c: Array) -> Array:
        """Return U S c, for an (m,) or (m, k) array."""
        values = self.gains @ c
        if self.rows is None:
            return self.columns @ values
        x = self.backend.zeros(self.columns.shape[0], *c.shape[1:])
        for k, i in enumerate(self.rows):
            x[i, ...] = values[k, ...]
        return x

    def insert_adjoint(self, y: Array) -> Array:
        """Return S' U' y, (m,) or (m, k)."""
        return self.gains.T @ (self.columns.T @ y)
