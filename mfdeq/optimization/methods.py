"""The registry of the methods of `minimize`, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .directions import LBFGS, NewtonCG, ShiftedNewton
from .line_search import LineSearch
from .method import Method, Setting
from .trust_region import TrustRegion


@dataclass(frozen=True)
class MethodEntry:
    """A method of `minimize`.

    Attributes
    ----------
    make : callable
        ``make(setting)`` returns the method.
    takes_bounds : bool
        Whether the method supports bounds.
    needs_matrices : bool
        Whether the method factorizes the Lagrangian system, for which A, B and the curvature must
        be sparse matrices.
    """

    make: Callable[[Setting], Method]
    takes_bounds: bool = False
    needs_matrices: bool = False


METHODS = {
    "newton-cg": MethodEntry(lambda s: TrustRegion(s, gauss_newton=False), takes_bounds=True),
    "gauss-newton": MethodEntry(lambda s: TrustRegion(s, gauss_newton=True), takes_bounds=True),
    "line-search": MethodEntry(lambda s: LineSearch(s, NewtonCG(s))),
    "newton": MethodEntry(lambda s: LineSearch(s, ShiftedNewton(s)), needs_matrices=True),
    "l-bfgs": MethodEntry(lambda s: LineSearch(s, LBFGS(s))),
}
