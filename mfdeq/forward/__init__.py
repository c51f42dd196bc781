"""From a start to h*: iterations on R(h) = 0, one signature for all."""

from .anderson import anderson, picard
from .convergence import Monitor
from .newton import newton

METHODS = {"newton": newton, "anderson": anderson, "picard": picard}
MAX_ITERATIONS = {"newton": 100, "anderson": 500, "picard": 5000}

__all__ = ["MAX_ITERATIONS", "METHODS", "Monitor", "anderson", "newton", "picard"]
