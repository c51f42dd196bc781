"""What a forward method is: an iteration from a start to h*."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..arrays.backend import Array
from ..linear import Solver
from ..models.linearization import Problem
from .convergence import ConvergenceMonitor


class ForwardMethod(ABC):
    """Base class of the iterations for R(h) = 0 that `mfdeq.solve` can use.

    To add one, derive from this class, and `mfdeq.forward.register` an instance under a name,
    which is then a ``method`` of `mfdeq.solve`.

    Attributes
    ----------
    max_iterations : int
        The limit where the caller sets none.

    Notes
    -----
    A method keeps no state between calls: whatever an iteration needs is local to `iterate`. It
    asks the model through `problem` only, which checks every answer and applies the sign
    conventions, and leaves it to `monitor` to decide when the iteration is done or has failed.
    """

    max_iterations: int = 100

    @abstractmethod
    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> Array:
        """Iterate from a start until the monitor is done.

        Parameters
        ----------
        problem : Problem
            The model with its parameters: ``problem.residual(h)`` is R(h) and raises `ModelError`
            where it is not finite; ``problem.trial_residual(h)`` is (R, ||R||), or (None, inf)
            where the model is not defined; ``problem.linearize(h)`` has the operators A and B;
            ``problem.backend`` has the norm and the array namespace.
        h : (N,) array
            The start; it is not to be written into.
        solver : Solver
            ``solver.setup(A, monitor.report.forward)`` makes a factor that solves with A.
        monitor : ConvergenceMonitor
            ``monitor.record(h, norm)`` is called with the start and with every accepted iterate
            and the norm of its true residual. It sets ``monitor.done``, and raises
            `ConvergenceError` on divergence, on a stall and after the most iterations allowed.
            ``monitor.failure(reason)`` makes the error for any other failure.

        Returns
        -------
        (N,) array
            h*, the iterate that was recorded last.
        """
