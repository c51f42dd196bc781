"""From A to a factor: `solver.setup(A)`, then `factor.solve(b)` and `factor.solve_adjoint(b)`."""

from .amg import AMG
from .approximate import Approximate
from .auto import Auto
from .direct import Direct
from .factor import Factor, Solver
from .krylov import Krylov
from .neumann import Neumann
from .preconditioners import ILU, Jacobi
from .reuse import Reused

__all__ = [
    "AMG",
    "ILU",
    "Approximate",
    "Auto",
    "Direct",
    "Factor",
    "Jacobi",
    "Krylov",
    "Neumann",
    "Reused",
    "Solver",
]
