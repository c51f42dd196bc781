"""Detection of a sparsity pattern by decoding the columns of single entries from two products.

The columns are dealt into p buckets by their number modulo p, for several p without a common
factor. Each bucket takes two products, with weights w_j and w_j u_j for its columns j. If a row has
one entry in a bucket, the ratio of its two products is u_j, which names the column. For inexact
products there are two ratios, for two digits of j. The entry is then subtracted from the products
of the other p, where it may leave single entries, and so on, as in an invertible Bloom lookup table
[1]_. Rows with d entries are decoded from about two d buckets, however many columns there are.

References
----------
.. [1] M. T. Goodrich and M. Mitzenmacher, "Invertible Bloom lookup tables", Proceedings of the 49th
   Annual Allerton Conference (2011), 792-799.
"""

from __future__ import annotations

import math
from typing import Any

from scipy import sparse

from ..arrays.backend import array_on_host, host
from .operator import Operator

MODULI = (1, 4, 7, 11, 15, 23, 31, 43)  # pairwise without a common factor
MAX_TABLE_ENTRIES = 100_000_000  # numbers in the products of all buckets
CHECK_RTOL = 1e-6  # of products with the decoded matrix, row by row
MAX_PASSES = 30  # of decoding and subtracting
CANCELLED_RTOL = 1e-9  # of a bucket, below which nothing is left in it
MAX_POSITION_ERROR = 0.05  # of a decoded digit
MAX_ONE_DIGIT_RTOL = 1e-11  # accuracy of products from which one ratio names a column


def decode_pattern(A: Operator, rtol: float = 1e-12) -> Any:
    """Return the pattern of A as a sparse matrix on the host, or None if it cannot be decoded.

    It is not decoded if rows have more than some thirty entries, or if the products are too
    inexact.

    Parameters
    ----------
    A : Operator, (m, n)
    rtol : float, optional
        The relative accuracy of products.
    """
    table = _Table(A, rtol)
    for modulus in MODULI:
        rows, n = A.shape
        if 2 * modulus > n or rows * table.width(modulus) > MAX_TABLE_ENTRIES:
            return None
        if not table.add(modulus):
            return None
        table.decode()
        if table.is_empty():
            found = table.matrix()
            if not table.explains(found):
                return None
            found.data[:] = 1.0
            return found
    return None


class _Table:
    """The products of all buckets so far, less the entries that have been decoded."""

    def __init__(self, A: Operator, rtol: float) -> None:
        self.A = A
        self.cancelled_rtol = max(CANCELLED_RTOL, 100 * rtol)
        self.check_rtol = max(CHECK_RTOL, 100 * rtol)
        n = A.shape[1]
        self.base = n if rtol <= MAX_ONE_DIGIT_RTOL else math.isqrt(n - 1) + 1
        digits = [host.arange(n)] if self.base == n else divmod(host.arange(n), self.base)
        self.ratios = [1.0 + digit / self.base for digit in digits]
        # False singles are rare with a small tolerance, and leave single entries in other buckets.
        self.tolerance = min(MAX_POSITION_ERROR, 10 * rtol * self.base)
        self.n = n
        rng = host.random.default_rng(7)
        self.weights = 0.5 + 0.5 * rng.random(n)
        self.moduli: list[int] = []
        self.first: list[Any] = []  # products with the weights, (m, modulus)
        self.others: list[list[Any]] = []  # products with the weights times the ratios
        self.sizes: list[Any] = []  # of the largest contents of each bucket
        nothing = host.zeros(0, dtype=host.int64)
        self.rows, self.columns, self.values = nothing, nothing, host.zeros(0)

    def width(self, modulus: int) -> int:
        """Return the numbers in a row of the table with one more modulus."""
        return (2 + len(self.ratios)) * (sum(self.moduli) + modulus)

    def add(self, modulus: int) -> bool:
        """Multiply by the weights of each bucket; return False if a product is not finite."""
        bucket = host.arange(self.n) % modulus
        seeds = host.zeros((self.n, (1 + len(self.ratios)) * modulus))
        for i, ratio in enumerate([host.ones(self.n), *self.ratios]):
            seeds[host.arange(self.n), i * modulus + bucket] = self.weights * ratio
        block = array_on_host(self.A._apply(self.A.backend.from_host(seeds))).astype("float64")
        if not host.isfinite(block).all():
            return False
        first, *others = (
            block[:, i * modulus : (i + 1) * modulus].copy() for i in range(1 + len(self.ratios))
        )
        self.moduli.append(modulus)
        self.first.append(first)
        self.others.append(others)
        self.sizes.append(abs(first))
        self._subtract(len(self.moduli) - 1, self.rows, self.columns, self.values)
        return True

    def _subtract(self, which: int, rows: Any, columns: Any, values: Any) -> None:
        modulus = self.moduli[which]
        at = rows * modulus + columns % modulus
        tables = [table.reshape(-1) for table in (self.first[which], *self.others[which])]
        sizes, size = self.sizes[which].reshape(-1), values * self.weights[columns]
        for table, ratio in zip(tables, [None, *self.ratios], strict=True):
            host.subtract.at(table, at, size if ratio is None else size * ratio[columns])
        host.maximum.at(sizes, at, abs(size))
        least = 2 * self.cancelled_rtol * sizes[at]
        gone = at[host.all([abs(table[at]) <= least for table in tables], axis=0)]
        for table in tables:
            table[gone] = 0.0

    def decode(self) -> None:
        """Decode single entries and subtract them, until no more are found."""
        for _ in range(MAX_PASSES):
            found = [self._singles(which) for which in range(len(self.moduli))]
            rows, columns, values = (host.concatenate(part) for part in zip(*found, strict=True))
            if rows.shape[0] == 0:
                return
            _, unique = host.unique(rows * self.n + columns, return_index=True)
            rows, columns, values = rows[unique], columns[unique], values[unique]
            for which in range(len(self.moduli)):
                self._subtract(which, rows, columns, values)
            self.rows = host.concatenate([self.rows, rows])
            self.columns = host.concatenate([self.columns, columns])
            self.values = host.concatenate([self.values, values])

    def _singles(self, which: int) -> tuple[Any, Any, Any]:
        """Return the rows, columns and values of entries that are alone in a bucket."""
        first, modulus = self.first[which], self.moduli[which]
        at = host.nonzero(first.reshape(-1))[0]
        size = first.reshape(-1)[at]
        columns, single = 0 * at, at == at
        for table in self.others[which]:
            position = (table.reshape(-1)[at] / size - 1.0) * self.base
            digit = host.clip(host.rint(position), 0, self.base - 1).astype("int64")
            single &= abs(position - digit) <= self.tolerance
            columns = columns * self.base + digit
        single &= columns < self.n
        single &= columns % modulus == at % modulus
        rows, columns, size = at[single] // modulus, columns[single], size[single]
        # An entry is in a bucket of every modulus; a sum of several entries only looks like one.
        missing = host.zeros(rows.shape[0], dtype=host.int64)
        for other, of_other in zip(self.first, self.moduli, strict=True):
            missing += other[rows, columns % of_other] == 0.0
        likely = missing <= 1
        # What was decoded by mistake is taken back.
        known = self.rows * self.n + self.columns
        likely[~likely] = host.isin((rows * self.n + columns)[~likely], known)
        rows, columns, size = rows[likely], columns[likely], size[likely]
        return rows, columns, size / self.weights[columns]

    def is_empty(self) -> bool:
        """Return whether all products are explained by the decoded entries."""
        tables = [table for others in self.others for table in others]
        return not any(table.any() for table in [*self.first, *tables])

    def matrix(self) -> Any:
        """Return the decoded matrix, without entries that were a mistake and taken back."""
        entries = (self.values, (self.rows, self.columns))
        found = sparse.coo_matrix(entries, shape=self.A.shape).tocsr()
        sizes = sparse.coo_matrix((abs(self.values), entries[1]), shape=self.A.shape).tocsr()
        found.data[abs(found.data) <= self.cancelled_rtol * sizes.data] = 0.0
        found.eliminate_zeros()
        return found

    def explains(self, matrix: Any) -> bool:
        """Return whether the decoded matrix and A agree on a random vector."""
        x = 0.5 + host.random.default_rng(8).random(self.n)
        product = array_on_host(self.A._apply(self.A.backend.from_host(x))).astype("float64")
        size = abs(matrix) @ x
        return bool((abs(matrix @ x - product) <= self.check_rtol * size).all())
