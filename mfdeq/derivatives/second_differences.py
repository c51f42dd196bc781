"""All second derivatives of a function with sparse first ones, from a difference a pair of colours.

Columns of f' of one colour have no row in common: of f''[d_c, d_e], d_c the sum of the unit vectors
of colour c, row r is the second derivative of f_r by its only variables of colours c and e.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..models.curvature import Curvature
from ..operators.probing import Coloured
from .differences import Differentiated, Slopes

MAX_ROW_ENTRIES = 64  # pairs of them are evaluated
MOST_ENTRIES = 2**26  # before those that are zero are dropped


class SecondDerivatives:
    """The second derivatives of f at one place.

    Parameters
    ----------
    slopes : Slopes
    coloured : Coloured or None
        The pattern of f' over (theta, h); None where it is dense.
    """

    def __init__(self, slopes: Slopes, coloured: Coloured | None) -> None:
        self.slopes, self.coloured, self.backend = slopes, coloured, slopes.backend
        self.N, self.P = slopes.size, slopes.x[0].shape[0]
        self.sizes = self.backend.xp.concat(list(slopes.sizes))
        self.tabulated = (
            coloured is not None
            and coloured.count <= MAX_ROW_ENTRIES
            and coloured.rows.shape[0] * coloured.count <= MOST_ENTRIES
        )
        if coloured is not None and self.tabulated:
            self._tabulate(coloured)

    def curvature(self, lam: Array) -> Curvature:
        """The Hessian of lam'f over (theta, h)."""
        if not self.tabulated:
            return Curvature(apply=lambda dtheta, dh: self._product(lam, dtheta, dh))
        backend, P = self.backend, self.P
        i, j = self.at
        values = 0.5 * self.values * backend.xp.take(lam, self.row)
        n = self.P + self.N
        half = backend.sparse.coo_matrix((values, (i, j)), shape=(n, n)).tocsr()
        K = (half + half.T).tocsr()
        return Curvature(K[:P, :P], K[P:, :P], K[P:, P:])

    def along(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        """f''[a, b]."""
        backend, xp = self.backend, self.backend.xp
        if not self.tabulated:
            a, b = (
                tuple(part / size for part, size in zip(each, self.slopes.sizes, strict=True))
                for each in (a, b)
            )
            return self.slopes.second(a, b)
        (i, j), a, b = self.at, xp.concat(list(a)), xp.concat(list(b))
        take = xp.take
        terms = 0.5 * self.values * (take(a, i) * take(b, j) + take(a, j) * take(b, i))
        where = (self.row, xp.arange(terms.shape[0], device=backend.device))
        shape = (self.N, terms.shape[0])
        return backend.sparse.csr_matrix((xp.ones_like(terms), where), shape=shape) @ terms

    def _tabulate(self, coloured: Coloured) -> None:
        backend = self.backend
        partner = host.full((self.N, coloured.count), -1)
        partner[coloured.rows, coloured.colour[coloured.columns]] = coloured.columns
        found: list[tuple[Any, ...]] = []
        for c in range(coloured.count):
            seed = backend.from_host((coloured.colour == c).astype(float))
            values = coloured.entries_of(Differentiated(self.slopes, seed))
            other = partner[coloured.rows, c]
            here = host.nonzero((other >= 0) & (values != 0.0))[0]
            found.append((values[here], coloured.rows[here], coloured.columns[here], other[here]))
        values, row, i, j = (host.concatenate(part) for part in zip(*found, strict=True))
        sizes = array_on_host(self.sizes)
        self.values = backend.from_host(values / (sizes[i] * sizes[j]))
        index = self.backend.xp.asarray
        self.row = index(row, device=backend.device)
        self.at = index(i, device=backend.device), index(j, device=backend.device)

    def _product(self, lam: Array, dtheta: Array, dh: Array) -> tuple[Array, Array]:
        """(f''[., b])' lam for b = (dtheta, dh)."""
        backend, n = self.backend, self.P + self.N
        b = backend.xp.concat([dtheta, dh]) / self.sizes
        along = Differentiated(self.slopes, b)
        if self.coloured is not None:
            matrix = self.coloured.matrix_of(along)
        else:
            matrix = along._apply(backend.eye(n, n))
        product = (matrix.T @ lam) / self.sizes
        return product[: self.P], product[self.P :]
