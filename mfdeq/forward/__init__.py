"""Forward methods: iterations for R(h*) = 0, and the criteria by which they have converged.

A method evaluates the model through a `Problem`, solves linear systems through a `Solver`, and lets
a `ConvergenceMonitor` decide when to stop. `mfdeq.equilibrium` chooses the method and makes the
equilibrium from its result; no derivative of an equilibrium is computed here.
"""

from .anderson import Anderson
from .convergence import ConvergenceMonitor
from .newton import Newton
from .picard import Picard
from .protocol import ForwardMethod, ModelMethod
from .registry import METHODS, register
from .transient import Transient

__all__ = [
    "METHODS",
    "Anderson",
    "ConvergenceMonitor",
    "ForwardMethod",
    "ModelMethod",
    "Newton",
    "Picard",
    "Transient",
    "register",
]
