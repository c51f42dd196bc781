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

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays.backend import Array, array_on_host, host
from ..locks import lock_of
from ..models.curvature import Curvature
from ..operators.operator import Operator
from ..operators.probing import ColouredPattern
from .directional_derivatives import Direction, DirectionalDerivatives

MAX_TABULATED_COLOURS = 64  # a table takes one evaluation of f'' for each pair of colours
MAX_COLOURS_AT_ONCE = 8  # of a table that is made before the first product
MAX_TABULATED_ENTRIES = 2**26  # entries of the table, including zeros


class SecondDerivatives:
    """The second derivatives of f at one point, by products or from a table.

    A product with a Hessian evaluates f'' along one direction and each colour of the columns. Up to
    64 colours of the pattern of f', all second derivatives are tabulated when the products so far
    have cost as much as that. They are tabulated at once if there are few colours, or if f' is a
    difference: the steps are then those of each variable.

    Parameters
    ----------
    derivatives : DirectionalDerivatives
    coloured : ColouredPattern or None
        The coloured pattern of f' with respect to (theta, h), or None if f' is large and dense.
    """

    def __init__(
        self, derivatives: DirectionalDerivatives, coloured: ColouredPattern | None
    ) -> None:
        self.derivatives, self.coloured = derivatives, coloured
        self.backend = derivatives.backend
        self.N, self.P = derivatives.size, derivatives.x[0].shape[0]
        self.sizes = self.backend.xp.concat(list(derivatives.sizes))
        self.can_tabulate = (
            coloured is not None
            and coloured.count <= MAX_TABULATED_COLOURS
            and coloured.rows.shape[0] * coloured.count <= MAX_TABULATED_ENTRIES
        )
        self.tabulated = False
        self._spent = 0.0  # evaluations of f'' for products
        few = coloured is not None and coloured.count <= MAX_COLOURS_AT_ONCE
        if few or not derivatives.complex_step:
            self.has_table(math.inf)

    def has_table(self, evaluations: float) -> bool:
        """Return whether there is a table, for a result that takes evaluations of f'' without it.

        It is made if those so far have cost as much.
        """
        if self.coloured is None or not self.can_tabulate:
            return False
        with lock_of(self):
            if not self.tabulated:
                self._spent += evaluations
                if self._spent > self.coloured.count**2:
                    self._tabulate(self.coloured)
                    self.tabulated = True
            return self.tabulated

    def curvature(self, lam: Array) -> Curvature:
        """Return the Hessian of lamᵀf with respect to (theta, h)."""
        if self.tabulated:
            P, K = self.P, self._matrix(lam)
            return _NumericalCurvature(K[:P, :P], K[P:, :P], K[P:, P:])

        def entries(K: Operator) -> Any:
            return self._matrix(lam) if self.has_table(math.inf) else None

        return _NumericalCurvature(
            apply=lambda dtheta, dh: self._product(lam, dtheta, dh), compute_entries=entries
        )

    def along(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        """Return f''[a, b] along a = (dtheta, dh) and b."""
        backend, xp = self.backend, self.backend.xp
        if not self.has_table(1):
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

    def _matrix(self, lam: Array) -> Any:
        """Return the Hessian of lamᵀf from the table, a sparse matrix."""
        backend, n = self.backend, self.P + self.N
        i, j = self.columns
        values = 0.5 * self.values * backend.xp.take(lam, self.rows)
        half = backend.sparse.coo_matrix((values, (i, j)), shape=(n, n)).tocsr()
        return (half + half.T).tocsr()

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
        b = backend.xp.concat([dtheta, dh])
        if self.has_table(0 if self.coloured is None else self.coloured.count):
            product = self._matrix(lam) @ b
            return product[: self.P], product[self.P :]
        along = SecondDerivativeAlong(self.derivatives, b / self.sizes)
        if self.coloured is None:
            product = along._apply(backend.eye(n, n)).T @ lam
        else:
            terms = self.coloured.entries_of(along) * array_on_host(lam)[self.coloured.rows]
            product = backend.from_host(host.bincount(self.coloured.columns, terms, n))
        product = product / self.sizes
        return product[: self.P], product[self.P :]


@dataclass(frozen=True)
class _NumericalCurvature(Curvature):
    """A curvature by differences, which is symmetric whatever the function."""

    known_symmetric: ClassVar[bool] = True
    compute_entries: Callable[[Operator], Any] = lambda K: None

    def _entries(self, K: Operator) -> Any:
        return self.compute_entries(K)


class SecondDerivativeAlong(Operator):
    """The linear map a -> f''[a, b] of stacked (P+N,) directions for fixed b, (N, P+N)."""

    def __init__(self, derivatives: DirectionalDerivatives, b: Array) -> None:
        self.derivatives, self.P = derivatives, derivatives.x[0].shape[0]
        super().__init__(derivatives, (derivatives.size, self.P + derivatives.size))
        self.b = self._split(b)

    def _split(self, x: Array) -> Direction:
        return x[: self.P, ...], x[self.P :, ...]

    def _apply(self, x: Array) -> Array:
        second = self.derivatives.second if x.ndim == 1 else self.derivatives.second_of_block
        return second(self._split(x), self.b)
