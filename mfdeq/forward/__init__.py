"""Forward methods: iterations from a start to h*, R(h*) = 0, and when they have converged.

A method asks the model for residuals and linearizations through a `Problem`, solves through a
`Solver`, and lets a `ConvergenceMonitor` decide when it is done. Which method is tried, and the
equilibrium that comes of it, belong to `mfdeq.equilibrium`; no derivative of an equilibrium is
computed here.
"""

from .anderson import Anderson
from .convergence import ConvergenceMonitor
from .newton import Newton
from .picard import Picard
from .protocol import ForwardMethod
from .registry import METHODS, register

__all__ = [
    "METHODS",
    "Anderson",
    "ConvergenceMonitor",
    "ForwardMethod",
    "Newton",
    "Picard",
    "register",
]
