"""The interface of a forward method."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..arrays.backend import Array
from ..linear import Solver
from ..models.problem import Problem
from .convergence import ConvergenceMonitor


class ForwardMethod(ABC):
    """Base class of the iterations for R(h) = 0 that `mfdeq.solve` can use.

    To add a method, derive from this class and pass an instance to `mfdeq.forward.register`, with
    the name by which ``method=`` of `mfdeq.solve` selects it.

    Attributes
    ----------
    max_iterations : int
        The default limit on iterations.

    Notes
    -----
    A method keeps no state between calls. It evaluates the model only through `problem`, which
    validates every result and applies the sign conventions, and `monitor` decides when the
    iteration has converged or failed.

    Examples
    --------
    The chord method, Newton's method with the Jacobian at the start:

    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq.forward import METHODS, ForwardMethod, register
    >>> class Chord(ForwardMethod):
    ...     def iterate(self, problem, h, solver, monitor):
    ...         factor = solver.setup(problem.linearize(h).A, monitor.report.forward)
    ...         R = problem.residual(h)
    ...         monitor.record(h, R)
    ...         while not monitor.done:
    ...             h = h - factor.approximate(R)
    ...             R = problem.residual(h)
    ...             monitor.record(h, R)
    >>> register("chord", Chord())
    >>> model = mfdeq.from_function(lambda h, p: h + 0.1 * h**3 - p, 1, 1, "residual")
    >>> mfdeq.solve(model, np.array([1.1]), method="chord").state.round(6).tolist()
    [1.0]
    >>> del METHODS["chord"]
    """

    max_iterations: int = 100

    @abstractmethod
    def iterate(
        self, problem: Problem, h: Array, solver: Solver, monitor: ConvergenceMonitor
    ) -> None:
        """Iterate from a start until the monitor is done.

        Parameters
        ----------
        problem : Problem
            The model with its parameters: ``problem.residual(h)`` is R(h) and raises `ModelError`
            if that is not finite; ``problem.trial_residual(h)`` is (R, ||R||), or (None, inf)
            where the model has no value; ``problem.limited(h, trial)`` keeps a trial state within
            the bounds of `mfdeq.solve`; ``problem.linearize(h)`` has the operators A and B;
            ``problem.backend`` has the norm and the array namespace.
        h : (N,) array
            The start, which must not be modified.
        solver : Solver
            ``solver.setup(A, monitor.report.forward)`` makes a factor of A.
        monitor : ConvergenceMonitor
            Call ``monitor.record(h, R)`` with the start and with every accepted iterate, and its
            residual, until ``monitor.done``. The converged state is then ``monitor.state``. It
            raises `ConvergenceError` on stagnation and at the limit on iterations.
            ``monitor.level(h, R)`` is a norm for residuals near h that does not depend on the units
            of the equations. ``monitor.failure(reason)`` makes the error for any other failure.
        """


class ModelMethod(ForwardMethod):
    """Base class of forward methods that belong to a model, as its `forward_method`.

    ``method="auto"`` uses the method for that model alone, and ``method=`` its name. A method that
    judges convergence itself, part by part, ends with ``monitor.finish(...)``; one that does not
    calls ``monitor.accepts(h, R)`` with the state that it found, or records its iterates.

    Attributes
    ----------
    name : str
        The name in reports, and for ``method=``.
    reason : str
        Why it is the method of choice, as a clause for reports.
    """

    name: str
    reason: str
