"""Which solver: a documented decision from size and structure, with a way back."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from ..arrays import Array, is_sparse, sparse_on_host
from ..dottest import is_symmetric
from ..errors import ConvergenceError, SingularStateError
from ..operators import Operator
from ..report import LinearCounts
from .amg import AMG
from .direct import Direct
from .factor import Factor, Solver, operator_of
from .krylov import Krylov
from .preconditioners import ILU

ALWAYS_DIRECT = 20_000  # unknowns below which one LU is cheap whatever the pattern
PLANAR_DIRECT = 400_000  # ... below which it is for a pattern with the separators of a plane


@dataclass
class Auto:
    """Pick a solver from A, and fall back before giving up.

    Notes
    -----
    Dense A: LU. Sparse A: LU up to 20,000 unknowns, and up to 400,000 where the bandwidth
    after reverse Cuthill-McKee is at most 3 sqrt(N), as for meshes of a surface; else CG
    with AMG where A is symmetric, GMRES with AMG, then with ILU, then LU. Products only:
    GMRES without a preconditioner.

    Attributes
    ----------
    choices : list of str
        What was picked and why, in words.
    """

    choices: list[str] = field(default_factory=list)
    _failed: int = 0

    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """The factor of the first candidate that can be set up."""
        return _AutoFactor(operator_of(A), self, counts)

    def candidates(self, A: Operator) -> list[tuple[Solver, str]]:
        """Solvers in the order in which they are tried, each with the reason."""
        array = getattr(A, "array", None)
        if array is None:
            return [(Krylov("gmres"), "A is known by its products only")]
        if not is_sparse(array):
            return [(Direct(), "A is dense")]
        n = A.shape[0]
        if n <= ALWAYS_DIRECT:
            return [(Direct(), f"N = {n} is at most {ALWAYS_DIRECT}")]
        if n <= PLANAR_DIRECT and (width := _bandwidth(array)) <= 3 * n**0.5:
            return [(Direct(), f"N = {n} with a planar-like pattern (bandwidth {width})")]
        why = f"N = {n}: too large or too dense for LU"
        found: list[tuple[Solver, str]] = [
            (Krylov("gmres", preconditioner=AMG()), why),
            (Krylov("gmres", preconditioner=ILU()), "AMG did not do"),
            (Direct(), "no preconditioner did"),
        ]
        if is_symmetric(A):
            found.insert(0, (Krylov("cg", preconditioner=AMG()), f"{why}, and A is symmetric"))
        return found

    def say(self, text: str) -> None:
        """Put a choice on record, once."""
        if text not in self.choices:
            self.choices.append(text)


class _AutoFactor(Factor):
    """The factor of the current candidate; a failing one is replaced for good."""

    def __init__(self, A: Operator, auto: Auto, counts: LinearCounts | None) -> None:
        super().__init__(A, None, counts)
        self.counts.setups -= 1  # the candidate counts its own
        self.auto = auto
        self.remaining = auto.candidates(A)[auto._failed :]
        self._next()

    def _next(self) -> None:
        solver, why = self.remaining.pop(0)
        try:
            self.current = solver.setup(self.A, self.counts)
        except (ConvergenceError, SingularStateError, ValueError) as error:
            self._give_up_on(solver, error)
            return
        self.name = self.current.name
        self.rtol = self.current.rtol
        self.auto.say(f"solver: {self.name}, because {why}")

    def _give_up_on(self, solver: Any, error: Exception) -> None:
        if not self.remaining:
            raise error
        self.auto._failed += 1
        self.auto.say(f"solver: {solver} failed: {error}")
        self._next()

    def _solve(self, b: Array, rtol: float | None, adjoint: bool) -> Array:
        while True:
            try:
                return self.current._solve(b, rtol, adjoint)
            except ConvergenceError as error:
                self._give_up_on(self.current.name, error)

    def _approximate(self, r: Array, adjoint: bool) -> Array:
        return self.current._approximate(r, adjoint)


def _bandwidth(array: Any) -> int:
    """Bandwidth after reverse Cuthill-McKee."""
    csgraph = importlib.import_module("scipy.sparse.csgraph")
    host = sparse_on_host(array)
    order = csgraph.reverse_cuthill_mckee(host, symmetric_mode=False)
    position = order.argsort()
    coo = host.tocoo()
    return int(abs(position[coo.row] - position[coo.col]).max())
