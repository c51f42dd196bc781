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
from .second_differences import SecondDifferences

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
    differences : SecondDifferences
    unchanged : callable
        ``unchanged(compare)`` raises an error if f has changed since f' was computed. It evaluates
        f if `compare` is true, and otherwise only if something that f refers to has changed.
    """

    def __init__(
        self,
        differences: SecondDifferences,
        unchanged: Callable[[bool], None],
    ) -> None:
        self.differences, self.unchanged = differences, unchanged
        # None if f' is large and dense.
        self.coloured = coloured = differences.coloured
        self.derivatives = derivatives = differences.derivatives
        self.backend = derivatives.backend
        self.rows_of_f, self.P = derivatives.size, derivatives.x[0].shape[0]
        self.variables = self.P + derivatives.x[1].shape[0]
        self.sizes = self.backend.xp.concat(list(derivatives.sizes))
        self.can_tabulate = (
            coloured is not None
            and coloured.count <= MAX_TABULATED_COLOURS
            and coloured.rows.shape[0] * coloured.count <= MAX_TABULATED_ENTRIES
        )
        self.tabulated = False
        self._spent = 0.0  # evaluations of f'' for products
        unchanged(True)
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

    def curvature(self, lam: Array) -> NumericalCurvature:
        """Return the Hessian of lamᵀf with respect to (theta, h)."""
        if self.tabulated:
            P, K = self.P, self._matrix(lam)
            return NumericalCurvature(K[:P, :P], K[P:, :P], K[P:, P:])

        def entries(K: Operator) -> Any:
            return self._matrix(lam) if self.has_table(math.inf) else None

        return NumericalCurvature(
            apply=lambda dtheta, dh: self._product(lam, dtheta, dh), compute_entries=entries
        )

    def along(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        """Return f''[a, b] along a = (dtheta, dh) and b."""
        backend, xp = self.backend, self.backend.xp
        if not self.has_table(1):
            self.unchanged(False)
            return self.differences.along(*(xp.concat(list(x)) / self.sizes for x in (a, b)))
        (i, j), a, b = self.columns, xp.concat(list(a)), xp.concat(list(b))
        take = xp.take
        terms = 0.5 * self.values * (take(a, i) * take(b, j) + take(a, j) * take(b, i))
        where = (self.rows, xp.arange(terms.shape[0], device=backend.device))
        shape = (self.rows_of_f, terms.shape[0])
        return backend.sparse.csr_matrix((xp.ones_like(terms), where), shape=shape) @ terms

    def _matrix(self, lam: Array) -> Any:
        """Return the Hessian of lamᵀf from the table, a sparse matrix."""
        backend, n = self.backend, self.variables
        i, j = self.columns
        values = 0.5 * self.values * backend.xp.take(lam, self.rows)
        half = backend.sparse.coo_matrix((values, (i, j)), shape=(n, n)).tocsr()
        return (half + half.T).tocsr()

    def _tabulate(self, coloured: ColouredPattern) -> None:
        """Store the value, the row and the two columns of every nonzero second derivative."""
        backend = self.backend
        # For each row and colour, the only column of that colour with an entry in the row.
        partner = host.full((self.rows_of_f, coloured.count), -1)
        partner[coloured.rows, coloured.colour[coloured.columns]] = coloured.columns
        seeds = [
            backend.from_host((coloured.colour == c).astype(float)) for c in range(coloured.count)
        ]
        # f'' is symmetric: of every pair of colours one half is computed.
        of_column = coloured.colour[coloured.columns]
        kept = [
            host.nonzero((partner[coloured.rows, c] >= 0) & (of_column >= c))[0]
            for c in range(coloured.count)
        ]
        partners = [partner[coloured.rows[at], c] for c, at in enumerate(kept)]
        of_b = [self.differences.sizes[j] for j in partners]
        values = self.differences.entries_along(seeds, kept, of_b).values
        rows, i = (
            host.concatenate([index[at] for at in kept])
            for index in (coloured.rows, coloured.columns)
        )
        j = host.concatenate(partners)
        values = host.where(i == j, values, 2.0 * values)
        nonzero = host.nonzero(values != 0.0)[0]
        values, rows, i, j = (part[nonzero] for part in (values, rows, i, j))
        sizes = array_on_host(self.sizes)
        self.values = backend.from_host(values / (sizes[i] * sizes[j]))
        self.rows, *columns = (
            backend.xp.asarray(index, device=backend.device) for index in (rows, i, j)
        )
        self.columns = tuple(columns)

    def _product(self, lam: Array, dtheta: Array, dh: Array) -> tuple[Array, Array]:
        """Return f''[·, b]ᵀ lam for b = (dtheta, dh)."""
        backend, n = self.backend, self.variables
        b = backend.xp.concat([dtheta, dh])
        if self.has_table(0 if self.coloured is None else self.coloured.count):
            product = self._matrix(lam) @ b
            return product[: self.P], product[self.P :]
        self.unchanged(False)
        pattern = self.differences.pattern
        values = self.differences.entries_along([b / self.sizes]).values
        terms = values * array_on_host(lam)[pattern.rows]
        product = backend.from_host(host.bincount(pattern.columns, terms, n))
        product = product / self.sizes
        return product[: self.P], product[self.P :]


@dataclass(frozen=True)
class NumericalCurvature(Curvature):
    """A curvature by differences, which is symmetric whatever the function."""

    known_symmetric: ClassVar[bool] = True
    compute_entries: Callable[[Operator], Any] = lambda K: None

    def _entries(self, K: Operator) -> Any:
        return self.compute_entries(K)
