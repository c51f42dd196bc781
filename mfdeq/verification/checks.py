"""One check of a verification, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

from .taylor_remainders import FAIL, INCONCLUSIVE, PASS

RANKS = (PASS, INCONCLUSIVE, FAIL)


@dataclass(frozen=True)
class Check:
    """One check of a verification.

    Attributes
    ----------
    name : str
        The derivative, and the property that was checked.
    verdict : {"PASS", "FAIL", "INCONCLUSIVE"}
    figure : float
        The measured slope of Taylor remainders, or relative mismatch.
    threshold : float
        The value that the figure was compared with.
    detail : str
        The explanation.

    Examples
    --------
    >>> from mfdeq.verification import Check
    >>> Check("d_state", "PASS", 2.0, 1.65, "slope 2.00, expected 2").verdict
    'PASS'
    """

    name: str
    verdict: str
    figure: float
    threshold: float
    detail: str


def worst_of(checks: list[Check]) -> Check:
    """Return the first of the worst checks."""
    return max(checks, key=lambda check: RANKS.index(check.verdict))
