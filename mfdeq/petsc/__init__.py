"""Equilibria of PETSc's vectors and matrices, on as many processes as they are spread over.

The formulas are those of `mfdeq`: its arrays are distributed ones here, whose sums are over all
ranks, and its operators hold the user's Mats.
"""

from .ksp import KSP
from .objects import Equilibrium, as_mat
from .optimization import tao
from .solving import equilibrium_at, solve
from .spectrum import eigsh

__all__ = ["KSP", "Equilibrium", "as_mat", "eigsh", "equilibrium_at", "solve", "tao"]
