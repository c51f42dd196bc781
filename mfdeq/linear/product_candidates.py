"""The solvers that "auto" considers for an A known by its products only.

Costs are in products with A.
"""

from __future__ import annotations

from ..errors import ConvergenceError, SingularStateError
from ..operators.dot_tests import is_symmetric
from ..operators.operator import Operator
from .candidates import TRIAL_SEED, Candidate
from .costs import ASSEMBLED_COLUMNS_PER_PRODUCT
from .direct.direct import Direct
from .krylov.krylov import Krylov
from .krylov.neumann import Neumann
from .operands import MAX_ASSEMBLED_SIZE
from .protocols import Solver

DEFAULT_SOLVES = 10  # for which a matrix is assembled by products if the user does not say
TRIAL_RTOL = 1e-8
TRIAL_ITERATIONS = 120
MIN_TRIAL_ITERATIONS = 5  # iterations that no trial solve undercuts
NEUMANN_RATIO = 1.25  # iterations of Neumann per iteration of GMRES up to which it is cheaper
CG_RATIO = 1.1  # iterations of Neumann per iteration of CG
UNKNOWN_COST = 1e300


def product_candidates(A: Operator, solves: int | None) -> tuple[list[Candidate], str]:
    """Return the candidates, the cheapest first, and the reason of the choice.

    Iterative methods are compared on a trial solve with each other, and with assembling A. CG is
    tried first if A is symmetric; whether A is definite shows in its trial.
    """
    n, why = A.shape[0], "A is known by its products only"
    solves = DEFAULT_SOLVES if solves is None else solves
    dense: list[Candidate] = []
    if n <= MAX_ASSEMBLED_SIZE:
        dense = [Candidate(Direct(), n / ASSEMBLED_COLUMNS_PER_PRODUCT, 1.0)]
        if dense[0].total(solves) <= MIN_TRIAL_ITERATIONS * solves:
            return dense, f"{why}, and N = {n} is small enough to assemble it"
    symmetric = is_symmetric(A)
    tried = [
        ("Neumann", 1.0, Neumann(max_iterations=TRIAL_ITERATIONS), Neumann()),
        ("CG", CG_RATIO, Krylov("cg", max_iterations=TRIAL_ITERATIONS), Krylov("cg")),
        ("GMRES", NEUMANN_RATIO, Krylov("gmres"), Krylov("gmres", recycle=20)),
    ]
    candidates: list[Candidate] = []
    notes: list[str] = []
    for name, ratio, trial, solver in tried:
        if name == "CG" and not symmetric:
            continue
        if name == "GMRES" and notes and "CG" in notes[-1]:
            continue  # GMRES takes as many iterations for a definite matrix
        iterations = _trial_iterations(A, trial)
        if iterations is None:
            continue
        notes.append(f"{iterations} iterations by {name}")
        candidates.append(Candidate(solver, 0.0, ratio * iterations))
    if not candidates:
        return [*dense, Candidate(Krylov("gmres", recycle=20), 0.0, UNKNOWN_COST)], why
    why = f"{why}; on a trial {', '.join(notes)}"
    if dense:
        cost = dense[0].total(solves) / solves
        why = f"{why}; assembled by products it costs as much as {cost:.0f} per solve"
    return sorted([*candidates, *dense], key=lambda candidate: candidate.total(solves)), why


def _trial_iterations(A: Operator, solver: Solver) -> int | None:
    """Return the number of iterations of a trial solve; None if it does not converge."""
    b = A.backend.random(A.shape[0], seed=TRIAL_SEED)
    try:
        factor = solver.setup(A)
        factor.solve(b, rtol=max(TRIAL_RTOL, factor.rtol))
    except (ConvergenceError, SingularStateError):
        return None
    return factor.counts.iterations
