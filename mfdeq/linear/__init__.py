"""From A to a factor: `solver.setup(A)`, then `factor.solve(b)` and `factor.solve_adjoint(b)`.

The package holds the solvers with A and its adjoint, the preconditioners, and what lets one factor
serve many matrices. `protocols` says what a solver and a preconditioner must do, `factor` what a
set-up gives; `direct`, `multifrontal`, `krylov` and `preconditioners` hold the methods, `auto`
chooses among them, and `reuse` keeps a factor along a path. What A is, and what is solved for, does
not belong here: the package knows operators and arrays, not models. To add a method, derive from
`Solver` or `Preconditioner` in a new file, and export the class below.
"""

from .auto import Auto
from .direct.direct import Direct
from .factor import Factor
from .krylov.krylov import Krylov
from .krylov.neumann import Neumann
from .operands import matrix_of, operator_of
from .preconditioners.amg import AMG
from .preconditioners.approximate import Approximate
from .preconditioners.ilu import ILU
from .preconditioners.jacobi import Jacobi
from .protocols import Preconditioner, PreconditionerOperator, Solver
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
    "Preconditioner",
    "PreconditionerOperator",
    "Reused",
    "Solver",
    "matrix_of",
    "operator_of",
]
