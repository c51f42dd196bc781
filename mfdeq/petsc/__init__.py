"""Equilibria of PETSc's vectors and matrices, on as many processes as they are spread over.

The formulas are those of `mfdeq`: its arrays are distributed ones here, whose sums are over all
ranks, and its operators hold the user's Mats.
"""

from .bridge import distributed
from .ksp import KSP
from .objects import Equilibrium, as_mat
from .solving import equilibrium_at, solve

__all__ = ["KSP", "Equilibrium", "as_mat", "distributed", "equilibrium_at", "solve"]
