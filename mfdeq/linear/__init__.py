"""From A to a factor: `solver.setup(A)`, then `factor.solve(b)` and `factor.solve_adjoint(b)`."""

from .amg import AMG
from .auto import Auto
from .direct import Direct
from .factor import Factor, Solver
from .krylov import Krylov
from .neumann import Neumann
from .preconditioners import ILU, Jacobi

__all__ = ["AMG", "ILU", "Auto", "Direct", "Factor", "Jacobi", "Krylov", "Neumann", "Solver"]
