"""From A to a factor: `solver.setup(A)`, then `factor.solve(b)` and `factor.solve_adjoint(b)`."""

from .auto import Auto
from .direct.direct import Direct
from .factor import Factor, Solver
from .krylov.krylov import Krylov
from .krylov.neumann import Neumann
from .preconditioners.amg import AMG
from .preconditioners.approximate import Approximate
from .preconditioners.ilu import ILU, Jacobi
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
