"""From A to a factor: `solver.setup(A)`, then `factor.solve(b)` and `factor.solve_adjoint(b)`.

This package has the solvers for A and its adjoint, the preconditioners, and the reuse of one factor
for many matrices. `protocols` has the base classes of solvers and preconditioners, `factor` that of
the factors which a set-up returns. `direct`, `multifrontal`, `krylov`, `preconditioners` and
`field_split` have the methods, `auto` chooses among them, and `reuse` keeps a factor along a path
of matrices. The meaning of A and of the right-hand sides does not belong here: the package knows
operators and arrays, not models. To add a method, derive from `Solver` or `Preconditioner` in a new
file; import the class below and add it to ``__all__``.
"""

from .auto import Auto
from .block_diagonal import BlockDiagonal
from .composed_factor import ComposedFactor
from .direct.direct import Direct
from .factor import Factor
from .field_split.field_split import FieldSplit
from .krylov.krylov import Krylov
from .krylov.neumann import Neumann
from .operands import matrix_of, operator_of
from .part_counts import PartCounts
from .pinned import set_up
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
    "BlockDiagonal",
    "ComposedFactor",
    "Direct",
    "Factor",
    "FieldSplit",
    "Jacobi",
    "Krylov",
    "Neumann",
    "PartCounts",
    "Preconditioner",
    "PreconditionerOperator",
    "Reused",
    "Solver",
    "matrix_of",
    "operator_of",
    "set_up",
]
