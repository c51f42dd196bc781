"""`mfdeq.Minimum`: the result of a minimization, and whether it is a minimum."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ..arrays.backend import Array, array_on_host
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.lagrangian_system import solver_for
from ..errors import MfdeqError
from ..spectrum.dense import DENSE
from ..spectrum.eigenpairs import Eigenpairs
from ..spectrum.eigsh import eigsh
from .minimize_report import MinimizeReport
from .reduced_functional import ReducedFunctional


@dataclass
class Minimum:
    """The result of a minimization.

    `mfdeq.minimize` returns it, or raises an error with it as `best`.

    Attributes
    ----------
    params : (P,) array
        The parameters theta.
    value : float
        The loss at `params`.
    gradient : (P,) array
        The gradient at `params`.
    converged : bool
        Whether the norm of the (projected) gradient has reached its target.
    reason : str
        The reason why the minimization stopped.
    equilibrium : Equilibrium
        The equilibrium at `params`.
    report : MinimizeReport
        The steps and the counts of solves.
    functional : ReducedFunctional
        The functional that was minimized.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> loss = mfdeq.LeastSquares(np.array([0]), np.array([1.0]))
    >>> found = mfdeq.minimize(mfdeq.ReducedFunctional(model, loss), np.zeros(1))
    >>> found.converged, found.definite
    (True, True)
    >>> bool(abs(found.params[0] - (1.0 - np.cos(1.0))) < 1e-6)
    True
    """

    params: Array
    value: float
    gradient: Array
    converged: bool
    reason: str
    equilibrium: Equilibrium
    report: MinimizeReport
    functional: ReducedFunctional

    def __repr__(self) -> str:
        return f"<Minimum {self.value:.8g}: {self.reason}>"

    @functools.cached_property
    def smallest(self) -> Eigenpairs:
        """The smallest eigenvalue of the Hessian at `params`, with its vector and error bound.

        `mfdeq.eigsh` computes it at the first access.
        """
        return eigsh(self.equilibrium.hessian(self.functional.loss), 1, "SA")

    @functools.cached_property
    def definite(self) -> bool | None:
        """Whether the Hessian at `params` is positive definite; None if that is unknown.

        It is False if an eigenvalue is negative beyond its error bound, and True only if an inertia
        count of the Lagrangian system shows that no eigenvalue is negative, or if all eigenvalues
        have been computed because P is small.
        """
        H = self.equilibrium.hessian(self.functional.loss)
        try:
            below = solver_for(H.backend).shifted_inverse(H).below
        except MfdeqError:
            below = None
        if below is not None:
            return below == 0
        value = float(array_on_host(self.smallest.values)[0])
        bound = float(array_on_host(self.smallest.error_bounds)[0])
        if value + bound < 0.0:
            return False
        all_computed = self.smallest.report.method == DENSE.name
        return True if all_computed and value - bound > 0.0 else None
