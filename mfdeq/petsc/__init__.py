"""Equilibria of PETSc's vectors and matrices, on as many processes as they are spread over.

The formulas are those of `mfdeq`: its arrays are distributed ones here, whose sums are over all
ranks, and its operators hold the user's Mats.
"""

from . import library  # noqa: F401  (registers PETSc as an array library)
from .bridge import distributed
from .cleanup import clean_up_at_the_end, end_all_on_an_error
from .files import load, save
from .ksp import KSP
from .objects import Equilibrium, as_mat
from .optimization import tao
from .solving import equilibrium_at, solve
from .spectrum import eigsh

end_all_on_an_error()
clean_up_at_the_end()

__all__ = [
    "KSP",
    "Equilibrium",
    "as_mat",
    "distributed",
    "eigsh",
    "equilibrium_at",
    "load",
    "save",
    "solve",
    "tao",
]
