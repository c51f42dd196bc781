"""The choice among candidates, which is revised as solves are done.

The number of solves to come is not known unless the user states it. By default as many are expected
as there have been, so that the set-up of a better solver pays when the solves so far have cost as
much (the ski-rental argument [1]_).

References
----------
.. [1] A. R. Karlin, M. S. Manasse, L. Rudolph and D. D. Sleator, Competitive snoopy caching,
   Algorithmica 3 (1988).
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..errors import SingularStateError
from ..operators.operator import Operator
from .candidates import Candidate
from .direct.direct import Direct
from .direct.registry import PACKAGES
from .factor import Factor

# Iterations estimated by a trial, over those measured, up to which the solver in use is kept.
ESTIMATE_MARGIN = 2.0


class Choice:
    """The solver in use for matrices of one kind, and the others that may become cheaper.

    Parameters
    ----------
    candidates : list of Candidate
    solves : int or None
        The number of solves that the user expects.
    why : str
        The reason of a choice that is not revised, or "".

    Attributes
    ----------
    current : Candidate
        The candidate in use.
    reason : str
        Why it was chosen.
    """

    def __init__(self, candidates: list[Candidate], solves: int | None, why: str = "") -> None:
        self.candidates = list(candidates)
        self.solves, self.why = solves, why
        self.current: Candidate = self.candidates[0]
        self.reason = why
        self.notes: list[str] = []
        self.done = 0  # solves so far
        self.spent, self.counted = 0.0, 0  # cost and number of those with the current candidate

    @property
    def settled(self) -> bool:
        """Whether the current candidate is kept unless it fails."""
        return bool(self.why) or isinstance(self.current.solver, Direct)

    @property
    def final(self) -> bool:
        """Whether there is but one candidate, with nothing to revise or to fall back on."""
        return bool(self.why) and len(self.candidates) == 1

    def expected(self, columns: int = 1) -> int:
        """Return the number of solves to come, at least those of the next right-hand sides."""
        planned = 0 if self.solves is None else self.solves - self.done
        return max(planned, self.done, columns)

    def decide(self, A: Operator, columns: int = 1, *, in_use: bool = True) -> Factor | None:
        """Choose the candidate that is the cheapest for the solves to come.

        Parameters
        ----------
        A : Operator, (N, N)
            The matrix for which candidates are examined.
        columns : int
            The number of right-hand sides that are known.
        in_use : bool
            Whether the current candidate has been set up for A.

        Returns
        -------
        Factor or None
            That of the chosen candidate, if it was set up in a trial.
        """
        if self.why:  # The order of the candidates is that of their costs.
            self._use(self.candidates[0], self.why)
            return None
        solves = self.expected(columns)
        factors: dict[int, Factor] = {}

        def cost(candidate: Candidate) -> tuple[float, bool]:
            current = in_use and candidate is self.current
            total = candidate.total(solves, current or id(candidate) in factors)
            direct = isinstance(candidate.solver, Direct)
            if self.counted and not current and not direct:
                total *= ESTIMATE_MARGIN
            return total, not direct

        while not (best := min(self.candidates, key=cost)).known:
            known = [cost(candidate)[0] for candidate in self.candidates if candidate.known]
            examined = best.examine(A, solves, min(known, default=math.inf))
            self.candidates.remove(best)
            self.candidates += examined.candidates
            self.notes += examined.notes
            if examined.factor is not None:
                factors[id(examined.candidates[0])] = examined.factor
        if best is not self.current or not in_use:
            count = f"{solves} solve{'s' if solves > 1 else ''}"
            self._use(best, f"it is the cheapest for {count}: {'; '.join(self.notes)}")
        return factors.get(id(best))

    def _use(self, candidate: Candidate, reason: str) -> None:
        self.current, self.spent, self.counted = candidate, 0.0, 0
        self.reason = reason

    def charge(self, cost: float, columns: int) -> None:
        """Count solves with the current candidate, whose cost per solve is then their mean."""
        self.done += columns
        self.spent += cost
        self.counted += columns
        measured = replace(self.current, solve=self.spent / self.counted)
        self.candidates[self.candidates.index(self.current)] = measured
        self.current = measured

    def drop(self, error: Exception) -> None:
        """Remove the current candidate, which has failed with `error`.

        Raises
        ------
        Exception
            `error` itself, if there is no other candidate, or if A is singular.
        """
        solver = self.current.solver
        pivots = isinstance(solver, Direct) and solver.package and PACKAGES[solver.package].pivots
        if len(self.candidates) == 1 or (pivots and isinstance(error, SingularStateError)):
            raise error
        self.candidates.remove(self.current)

    def state(self) -> dict:
        """Return what `restore` needs."""
        return {**vars(self), "candidates": list(self.candidates), "notes": list(self.notes)}

    def restore(self, state: dict) -> None:
        """Return to an earlier state."""
        lists = {name: list(state[name]) for name in ("candidates", "notes")}
        vars(self).update({**state, **lists})
