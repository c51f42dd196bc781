"""Second derivatives of a function with a sparse Jacobian, by a difference per pair of colours.

The columns of the Jacobian f' are coloured so that columns of the same colour have no common row
[1]_. Let d_c be the sum of the unit vectors of the columns of colour c. Then row r of f''[d_c, d_e]
is the second derivative of f_r with respect to the only variables of colours c and e on which f_r
depends.

References
----------
.. [1] T. F. Coleman and J. J. Moré, "Estimation of sparse Jacobian matrices and graph coloring
   problems", SIAM Journal on Numerical Analysis 20 (1983), 187-209.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..models.curvature import Curvature
from ..operators.operator import Operator, columnwise
from ..operators.probing import ColouredPattern
from .directional_derivatives import Direction, DirectionalDerivatives

MAX_TABULATED_COLOURS = 64  # a table takes one evaluation of f'' for each pair of colours
MAX_TABULATED_ENTRIES = 2**26  # entries of the table, including zeros


class SecondDerivatives:
    """The second derivatives of f at one point, as a table or by products.

    They are tabulated if the pattern of f' has few colours. Otherwise each product evaluates f''
    along one direction.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
    coloured : ColouredPattern or None
        The coloured pattern of f' with respect to (theta, h), or None if f' is dense.
    """

    def __init__(
        self, derivatives: DirectionalDerivatives, coloured: ColouredPattern | None
    ) -> None:
        self.derivatives, self.coloured = derivatives, coloured
        self.backend = derivatives.backend
        self.N, self.P = derivatives.size, derivatives.x[0].shape[0]
        self.sizes = self.backend.xp.concat(list(derivatives.sizes))
        self.tabulated = (
            coloured is not None
            and coloured.count <= MAX_TABULATED_COLOURS
            and coloured.rows.shape[0] * coloured.count <= MAX_TABULATED_ENTRIES
        )
        if coloured is not None and self.tabulated:
            self._tabulate(coloured)

    def curvature(self, lam: Array) -> Curvature:
        """Return the Hessian of lamᵀf with respect to (theta, h)."""
        if not self.tabulated:
            return Curvature(apply=lambda dtheta, dh: self._product(lam, dtheta, dh))
        backend, P = self.backend, self.P
        i, j = self.columns
        values = 0.5 * self.values * backend.xp.take(lam, self.rows)
        n = self.P + self.N
        half = backend.sparse.coo_matrix((values, (i, j)), shape=(n, n)).tocsr()
        K = (half + half.T).tocsr()
        return Curvature(K[:P, :P], K[P:, :P], K[P:, P:])

    def along(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        """Return f''[a, b] along a = (dtheta, dh) and b."""
        backend, xp = self.backend, self.backend.xp
        if not self.tabulated:
            a, b = (
                tuple(part / size for part, size in zip(each, self.derivatives.sizes, strict=True))
                for each in (a, b)
            )
            return self.derivatives.second(a, b)
        (i, j), a, b = self.columns, xp.concat(list(a)), xp.concat(list(b))
        take = xp.take
        terms = 0.5 * self.values * (take(a, i) * take(b, j) + take(a, j) * take(b, i))
        where = (self.rows, xp.arange(terms.shape[0], device=backend.device))
        shape = (self.N, terms.shape[0])
        return backend.sparse.csr_matrix((xp.ones_like(terms), where), shape=shape) @ terms

    def _tabulate(self, coloured: ColouredPattern) -> None:
        """Store the value, the row and the two columns of every nonzero second derivative."""
        backend = self.backend
        # For each row and colour, the only column of that colour with an entry in the row.
        partner = host.full((self.N, coloured.count), -1)
        partner[coloured.rows, coloured.colour[coloured.columns]] = coloured.columns
        parts: list[tuple[Any, ...]] = []
        for c in range(coloured.count):
            seed = backend.from_host((coloured.colour == c).astype(float))
            values = coloured.entries_of(SecondDerivativeAlong(self.derivatives, seed))
            other = partner[coloured.rows, c]
            kept = host.nonzero((other >= 0) & (values != 0.0))[0]
            parts.append((values[kept], coloured.rows[kept], coloured.columns[kept], other[kept]))
        values, rows, i, j = (host.concatenate(part) for part in zip(*parts, strict=True))
        sizes = array_on_host(self.sizes)
        self.values = backend.from_host(values / (sizes[i] * sizes[j]))
        self.rows, *columns = (
            backend.xp.asarray(index, device=backend.device) for index in (rows, i, j)
        )
        self.columns = tuple(columns)

    def _product(self, lam: Array, dtheta: Array, dh: Array) -> tuple[Array, Array]:
        """Return f''[·, b]ᵀ lam for b = (dtheta, dh)."""
        backend, n = self.backend, self.P + self.N
        b = backend.xp.concat([dtheta, dh]) / self.sizes
        along = SecondDerivativeAlong(self.derivatives, b)
        if self.coloured is not None:
            matrix = self.coloured.matrix_of(along)
        else:
            matrix = along._apply(backend.eye(n, n))
        product = (matrix.T @ lam) / self.sizes
        return product[: self.P], product[self.P :]


class SecondDerivativeAlong(Operator):
    """The linear map a -> f''[a, b] of stacked (P+N,) directions for fixed b, (N, P+N)."""

    def __init__(self, derivatives: DirectionalDerivatives, b: Array) -> None:
        self.derivatives, self.P = derivatives, derivatives.x[0].shape[0]
        super().__init__(derivatives, (derivatives.size, self.P + derivatives.size))
        self.b = self._split(b)

    def _split(self, x: Array) -> Direction:
        return x[: self.P], x[self.P :]

    def _apply(self, x: Array) -> Array:
        return columnwise(self._along, x, self.backend, self.shape[0])

    def _along(self, a: Array) -> Array:
        return self.derivatives.second(self._split(a), self.b)
