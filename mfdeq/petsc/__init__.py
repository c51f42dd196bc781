"""Equilibria on PETSc's distributed vectors and matrices, under MPI.

This package makes PETSc an array library of mfdeq: Vecs become distributed arrays, Mats operators,
KSP a factor, and SNES, TAO and SLEPc's EPS solve what mfdeq's own methods solve elsewhere. No
formula of equilibria or their derivatives belongs here: they are those of the other packages, which
compute on these arrays as on any other. PETSc and SLEPc are imported when they are first needed, so
that a program may call ``petsc4py.init(sys.argv)`` before or after it imports this package.

Threads cannot share these objects, and they cannot be pickled: all ranks call their functions in
the same order.
"""

# Registered when they are imported: PETSc as an array library, and the functions of its arrays.
from . import library, namespace  # noqa: F401
from .cleanup import clean_up_at_exit
from .errors import abort_on_uncaught_errors
from .files import load, save
from .groups import Groups
from .ksp import KSP
from .numpy_models import distributed
from .options import OptionsWarning
from .shell_mats import as_mat
from .slepc import eigsh
from .solve import Equilibrium, equilibrium_at, solve
from .tao import tao

abort_on_uncaught_errors()
clean_up_at_exit()

__all__ = [
    "KSP",
    "Equilibrium",
    "Groups",
    "OptionsWarning",
    "as_mat",
    "distributed",
    "eigsh",
    "equilibrium_at",
    "load",
    "save",
    "solve",
    "tao",
]
