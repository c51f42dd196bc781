"""Counts of the solves with a part of a composed factor."""

from __future__ import annotations

from ..report import LinearCounts

SHARED_COUNTS = ("setups", "refreshes", "iterations", "refinements")


class PartCounts(LinearCounts):
    """Counts of the solves with a part, whose set-ups and iterations count for the whole as well.

    Parameters
    ----------
    outer : LinearCounts
        The counts of the composed factor.
    """

    def __init__(self, outer: LinearCounts) -> None:
        super().__init__()
        self.outer = outer

    def add(self, **amounts: float) -> None:
        """Add amounts to these counts, and the shared ones to those of the composed factor."""
        super().add(**amounts)
        self.outer.add(**{name: amounts[name] for name in SHARED_COUNTS if name in amounts})
