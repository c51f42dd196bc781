"""Pictures by matplotlib (the extra ``plot``): spectra, fields, branches and minimizations."""

from .branches import branch
from .fields import field, vectors
from .minimizations import convergence
from .spectra import density, gauss_newton_against_full, spectrum

__all__ = [
    "branch",
    "convergence",
    "density",
    "field",
    "gauss_newton_against_full",
    "spectrum",
    "vectors",
]
