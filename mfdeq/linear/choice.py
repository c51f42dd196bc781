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
from collections.abc import Callable
from dataclasses import replace

from ..errors import SingularStateError
from ..operators.operator import Operator
from .candidates import Candidate
from .direct.direct import Direct
from .direct.registry import PACKAGES
from .factor import Factor
from .protocols import Solver

# Iterations estimated by a trial, over those measured, up to which the solver in use is kept.
ESTIMATE_MARGIN = 2.0
WIDE_BLOCK = 8  # right-hand sides from which the costs of a column are those in a block


class Choice:
    """The solver in use for matrices of one kind, and the others that may become cheaper.

    Parameters
    ----------
    candidates : list of Candidate
    solves : int or None
        The number of solves that the user expects.
    columns : int
        The number of right-hand sides in each of them.
    why : str
        The reason of a choice that is not revised, or "".

    Attributes
    ----------
    current : Candidate
        The candidate in use.
    reason : str
        Why it was chosen.
    """

    def __init__(
        self, candidates: list[Candidate], solves: int | None, columns: int, why: str = ""
    ) -> None:
        self.candidates = list(candidates)
        self.solves, self.columns, self.why = solves, columns, why
        self.current: Candidate = self.candidates[0]
        self.reason = why
        self.notes: list[str] = []
        self.done = 0  # solves so far
        self.spent, self.counted = 0.0, 0  # cost and number of those with the current candidate
        self.failure: Exception | None = None  # of the last candidate that was dropped

    def keeps(self, solver: Solver | None, columns: int) -> bool:
        """Return whether a solver in use is kept for so many right-hand sides unless it fails.

        A factorization is, unless another one may be cheaper for wide blocks.
        """
        if self.why or not isinstance(solver, Direct):
            return bool(self.why)
        current = self.current
        return columns < WIDE_BLOCK or not any(
            candidate.known
            and candidate.solve_cost(in_blocks=True) < current.solve_cost(in_blocks=True)
            for candidate in self.candidates
        )

    @property
    def final(self) -> bool:
        """Whether there is but one candidate, with nothing to revise or to fall back on."""
        return bool(self.why) and len(self.candidates) == 1

    def expected(self, columns: int = 1) -> int:
        """Return the number of solves to come, at least those of the next right-hand sides."""
        planned = 0 if self.solves is None else self.solves * self.columns - self.done
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
        solves, in_blocks = self.expected(columns), max(self.columns, columns) >= WIDE_BLOCK
        factors: dict[int, Factor] = {}

        def cost(candidate: Candidate) -> tuple[float, bool]:
            current = in_use and candidate is self.current
            set_up = current or id(candidate) in factors
            total = candidate.total(solves, set_up, in_blocks)
            direct = isinstance(candidate.solver, Direct)
            if self.counted and not current and not direct:
                total *= ESTIMATE_MARGIN
            return total, not direct

        while not (best := self._cheapest(cost)).known:
            known = [cost(candidate)[0] for candidate in self.candidates if candidate.known]
            examined = best.examine(A, solves, min(known, default=math.inf))
            self.candidates.remove(best)
            self.candidates += examined.candidates
            self.notes += examined.notes
            if examined.factor is not None:
                factors[id(examined.candidates[0])] = examined.factor
        if best is not self.current or not in_use:
            count = f"{solves} solve{'s' if solves > 1 else ''}{' in blocks' if in_blocks else ''}"
            self._use(best, f"it is the cheapest for {count}: {'; '.join(self.notes)}")
        return factors.get(id(best))

    def _cheapest(self, cost: Callable[[Candidate], tuple[float, bool]]) -> Candidate:
        if not self.candidates:  # those left after a failure have failed as well
            assert self.failure is not None
            raise self.failure
        return min(self.candidates, key=cost)

    def _use(self, candidate: Candidate, reason: str) -> None:
        self.current, self.spent, self.counted = candidate, 0.0, 0
        self.reason = reason

    def charge(self, cost: float | None, columns: int) -> None:
        """Count solves with the current candidate, whose cost per solve is then their mean.

        The cost of a factorization, None, remains the estimate.
        """
        self.done += columns
        if cost is None:
            return
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
        self.failure = error

    def state(self) -> dict:
        """Return what `restore` needs."""
        return {**vars(self), "candidates": list(self.candidates), "notes": list(self.notes)}

    def restore(self, state: dict) -> None:
        """Return to an earlier state."""
        lists = {name: list(state[name]) for name in ("candidates", "notes")}
        vars(self).update({**state, **lists})
