"""Costs of sparse factorizations, from the fill of the factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..costs import threaded


@dataclass(frozen=True)
class Fill:
    """The size of the factors of a sparse matrix, and the work to compute them.

    Attributes
    ----------
    entries : float
        Entries of L and U together.
    operations : float
        Multiplications of the factorization.
    compact : bool
        Whether the graph of the matrix has compact parts, as a mesh has.
    """

    entries: float
    operations: float
    compact: bool = True


UNKNOWN_FILL = Fill(math.inf, math.inf)


class PackageCost(NamedTuple):
    """The time model of one package, in nanoseconds; only the ratios of times matter.

    Attributes
    ----------
    unknown : float
        Set-up time per unknown: ordering and assembly.
    operation : float
        Set-up time per multiplication of the factorization.
    entry : float
        Time of a solve per entry of L and U.
    solved_unknown : float
        Time of a solve per unknown.
    solve : float
        Time of a solve regardless of its size.
    factor_entry : float
        Set-up time per entry of L and U.
    threaded : float
        Share of the set-up that threads divide among them.
    block_share : float
        Time of a column in a wide block of right-hand sides, over that of a single one.
    min_block_entries : float
        Entries of L and U per unknown from which on it is; with fewer, a block takes as long as
        its columns one by one.

    Examples
    --------
    A set-up of some 51 ms, and solves of a millisecond:

    >>> from mfdeq.linear.direct.costs import Fill, PackageCost
    >>> cost = PackageCost(unknown=100.0, operation=0.5, entry=1.0, block_share=0.5)
    >>> fill = Fill(entries=1e6, operations=1e8)
    >>> cost.setup(10_000, fill), cost.one_solve(10_000, fill), cost.block_solve(10_000, fill, 3)
    (51000000.0, 1000000.0, 2000000.0)
    """

    unknown: float
    operation: float
    entry: float
    solved_unknown: float = 0.0
    solve: float = 0.0
    factor_entry: float = 0.0
    threaded: float = 0.0
    block_share: float = 0.65
    min_block_entries: float = 0.0

    def setup(self, n: int, fill: Fill, threads: int = 1) -> float:
        """Return the nanoseconds of a factorization of n unknowns."""
        of_entries = self.factor_entry * fill.entries + self.operation * fill.operations
        return threaded(self.threaded, threads) * (self.unknown * n + of_entries)

    def one_solve(self, n: int, fill: Fill) -> float:
        """Return the nanoseconds of a solve with the factors."""
        return self.entry * fill.entries + self.solved_unknown * n + self.solve

    def block_solve(self, n: int, fill: Fill, columns: int) -> float:
        """Return the nanoseconds of a solve for several right-hand sides at once."""
        return (1.0 + self.share_in_block(n, fill) * (columns - 1)) * self.one_solve(n, fill)

    def share_in_block(self, n: int, fill: Fill) -> float:
        """Return the time of a column in a wide block over that of a single one."""
        return self.block_share if fill.entries >= self.min_block_entries * n else 1.0
