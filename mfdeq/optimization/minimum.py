"""`mfdeq.Minimum`: the result of a minimization, and whether it is a minimum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..equilibrium.lagrangian_system import MAX_DENSE_PARAMS, solver_for
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import ConvergenceError
from ..locks import cached_property
from ..spectrum.eigenpairs import Eigenpairs
from ..spectrum.eigsh import eigsh
from ..tables import ShownAsTable, Table
from .functional import Functional
from .minimize_report import MinimizeReport


@dataclass
class Minimum(ShownAsTable):
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
    equilibrium : Equilibrium or SumEquilibrium
        The equilibrium at `params`; of a sum, those of all experiments.
    report : MinimizeReport
        The steps and the counts of solves.
    functional : ReducedFunctional or SumFunctional
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
    equilibrium: Any
    report: MinimizeReport
    functional: Functional

    def __repr__(self) -> str:
        return f"<Minimum {self.value:.8g}: {self.reason}>"

    def _table(self) -> Table:
        table = self.report._table()
        return replace(table, before=[f"{self.value:.8g}: {self.reason}", *table.before])

    @cached_property
    def smallest(self) -> Eigenpairs:
        """The smallest eigenvalue of the Hessian at `params`, with its vector and error bound.

        `mfdeq.eigsh` computes it at the first access. If it does not converge, all eigenvalues of
        up to 300 parameters are computed from a dense matrix.
        """
        H = self._hessian
        if (P := H.shape[0]) > MAX_DENSE_PARAMS:
            return eigsh(H, 1, "SA")
        try:
            return eigsh(H, 1, "SA", max_products=P)  # the dense matrix takes as many
        except ConvergenceError:
            pairs = self._all_pairs
        first = slice(0, 1)
        report = replace(
            pairs.report,
            residuals=pairs.report.residuals[first],
            product_errors=pairs.report.product_errors[first],
        )
        return Eigenpairs(
            pairs.values[first], pairs.vectors[:, first], pairs.error_bounds[first], report
        )

    @cached_property
    def definite(self) -> bool | None:
        """Whether the Hessian at `params` is positive definite; None if that is unknown.

        It is False if an eigenvalue is negative beyond its error bound, and True only if an inertia
        count of the Lagrangian system shows that no eigenvalue is negative, or if all eigenvalues
        have been computed, of up to 300 parameters. It is None, too, if the Hessian cannot be
        computed: there is no error.
        """
        for answer in (self._definite_by_inertia, self._definite_by_values):
            try:
                found = answer()
            except Exception:  # of the library or of the user's functions: nothing is shown
                found = None
            if found is not None:
                return found
        return None

    @property
    def _hessian(self) -> ReducedOperator:
        return self.functional.hessian_at(self.equilibrium)

    @cached_property
    def _all_pairs(self) -> Eigenpairs:
        H = self._hessian
        return eigsh(H, H.shape[0])

    def _definite_by_inertia(self) -> bool | None:
        H = self._hessian
        below = solver_for(H.backend).shifted_inverse(H).below
        return None if below is None else below == 0

    def _definite_by_values(self) -> bool | None:
        few = self._hessian.shape[0] <= MAX_DENSE_PARAMS
        pairs = self._all_pairs if few else self._first_pairs()
        values = array_on_host(pairs.values)
        # A Rayleigh quotient is not less than the smallest eigenvalue.
        if bool((values + array_on_host(pairs.report.product_errors) < 0.0).any()):
            return False
        # The residuals of all eigenvectors together bound the errors of the values (Weyl).
        error = float(host.linalg.norm(array_on_host(pairs.error_bounds)))
        return True if few and float(values.min()) > error else None

    def _first_pairs(self) -> Eigenpairs:
        """Return the smallest pair, or what a search that failed has found."""
        try:
            return self.smallest
        except ConvergenceError as error:
            if error.best is None:
                raise
            return error.best
