"""Matplotlib plots of spectra, fields, branches of equilibria and minimizations.

Each function draws a result of this library and returns the matplotlib axes, which can be changed
further. Only what a plot needs is computed here. Requires ``pip install mfdeq[plot]``.
"""

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
