"""Gradients of losses along an equilibrium, by one adjoint solve.

A' lam = dL/dh,  g = dL/dtheta + B' lam. No second derivatives are evaluated.
"""

from __future__ import annotations

from ..arguments import fraction
from ..arrays.backend import Array
from ..arrays.collective import collective
from ..arrays.memory import translate_memory_errors
from ..locks import Once, cached_property
from ..models.losses import LossBase, check_loss
from ..operators.operator import Operator
from .error_estimates import (
    WARNING_ERROR,
    InnerTolerance,
    estimate_error,
    relative_error,
    warn_of_error,
)
from .linearized_equilibrium import LinearizedEquilibrium

ACCURATE_STATE_ERROR = 1e-8  # relative; an inaccurate gradient of the loss is then due to the loss


def reduced_gradient(d_params: Array, B: Operator, adjoint: Array) -> Array:
    """Compute g = dL/dtheta + B' lam, (P,), where A' lam = dL/dh."""
    return d_params + B._apply_adjoint(adjoint)


class EquilibriumWithGradients(LinearizedEquilibrium):
    """An equilibrium h* = f(h*, theta) with its derivatives of first order.

    Parameters
    ----------
    problem, state, linearized, solver, report, error_estimates
        As of `LinearizedEquilibrium`.
    """

    @cached_property
    def _adjoints(self) -> dict[LossBase, Once[Array]]:
        return {}

    def value(self, loss: LossBase) -> float:
        """Evaluate a loss at the equilibrium.

        Parameters
        ----------
        loss : Loss

        Returns
        -------
        float

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))  # h = (1, 2)
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> print(round(eq.value(loss), 6))
        2.5
        """
        check_loss(loss, self.problem.model)
        return loss.value(self.state, self.params)

    def loss_gradients(self, loss: LossBase) -> tuple[Array, Array]:
        """Evaluate the partial derivatives of a loss at the equilibrium.

        Parameters
        ----------
        loss : Loss

        Returns
        -------
        d_params : (P,) array
            dL/dtheta with h held fixed.
        d_state : (N,) array
            dL/dh.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))  # h = (1, 2)
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> d_params, d_state = eq.loss_gradients(loss)
        >>> print(d_params.round(3), d_state.round(3))
        [0. 0.] [1. 2.]
        """
        check_loss(loss, self.problem.model)
        return loss.gradients(self.state, self.params)

    @collective
    def adjoint(self, loss: LossBase) -> Array:
        """Solve A' lam = dL/dh for the adjoint of a loss.

        The adjoint of each loss is computed once.

        Parameters
        ----------
        loss : Loss

        Returns
        -------
        (N,) array
            lam.

        Raises
        ------
        ConvergenceError
            If the solve does not reach the solver's tolerance.
        SingularStateError
            If A is singular to working precision.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))  # h = (1, 2)
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> print(eq.adjoint(loss).round(3))
        [0.25  0.154]
        """
        check_loss(loss, self.problem.model)
        return self.backend.copied(self._adjoint(loss, None))

    def _adjoint(self, loss: LossBase, d_state: Array | None) -> Array:
        """Return the adjoint of a loss, whose derivative dL/dh may be known."""

        def solve() -> Array:
            side = self.loss_gradients(loss)[1] if d_state is None else d_state
            return self.factor.solve_adjoint(side)

        return self._adjoints.setdefault(loss, Once())(solve)

    @collective
    @translate_memory_errors
    def gradient(self, loss: LossBase, *, rtol: float | None = None) -> Array:
        """Compute the gradient of a loss along the equilibrium, by one adjoint solve.

        Parameters
        ----------
        loss : Loss
        rtol : float, optional
            The allowed relative error of the gradient, as estimated. The tolerance of the adjoint
            solve follows from it, and the state is polished if its error is too large. By default
            the adjoint is solved to the solver's tolerance.

        Returns
        -------
        (P,) array
            g = dL/dtheta + B' lam. The estimated relative error is ``report.gradient_error``: that
            of the first gradient at the equilibrium, or of the last one with `rtol`.

        Warns
        -----
        AccuracyWarning
            If the estimated relative error of the first gradient is above 1e-3.

        Raises
        ------
        ConvergenceError
            If this accuracy cannot be reached, with the best gradient as `best`.
        SingularStateError
            If A is singular to working precision.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))  # |h|² / 2
        >>> print(eq.gradient(loss).round(3))
        [0.25  0.154]
        """
        if rtol is None:
            if self.is_first("gradient"):
                return self._first_gradient(loss)
            d_params, _ = self.loss_gradients(loss)
            return reduced_gradient(d_params, self.forcing, self.adjoint(loss))

        def gradient(at: EquilibriumWithGradients, inner: float) -> tuple[Array, Array]:
            return at.gradient_with_error(loss, rtol=inner)

        tolerance = InnerTolerance(fraction(rtol, "rtol of gradient"), self.backend)
        value, self.report.gradient_error = tolerance.compute(
            gradient, self, EquilibriumWithGradients.polish, "the gradient", self.report
        )
        return value

    @collective
    def gradient_with_error(
        self, loss: LossBase, *, rtol: float | None = None
    ) -> tuple[Array, Array]:
        """Compute the gradient of a loss and estimate the error in it.

        Parameters
        ----------
        loss : Loss
        rtol : float, optional
            Relative true residual of the adjoint solve; by default the solver's tolerance.

        Returns
        -------
        gradient, error : (P,) arrays
            The relative size of the error is also ``report.gradient_error``.

        Notes
        -----
        The gradient is computed a second time, with the state and the adjoint each corrected by
        one application of the factor. The estimate is twice the difference; see
        `ReducedHessian.with_error`.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]), rtol=1e-3)
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> gradient, error = eq.gradient_with_error(loss)
        >>> exact = np.array([1 / 4, 2 / 13])
        >>> bool(np.linalg.norm(gradient - exact) <= np.linalg.norm(error) + 1e-9)
        True
        """
        d_params, d_state = self.loss_gradients(loss)
        if rtol is None:
            adjoint = self._adjoint(loss, d_state)
        else:
            adjoint = self.factor.solve_adjoint(d_state, rtol=rtol)
        gradient = reduced_gradient(d_params, self.forcing, adjoint)
        corrected = self._corrected_gradient(loss, adjoint, self.corrections.state)
        error = estimate_error(gradient, corrected)
        self.report.gradient_error = relative_error(self.backend, error, gradient)
        return gradient, error

    def _corrected_gradient(self, loss: LossBase, adjoint: Array, state: Array) -> Array:
        """Return the gradient with the adjoint and the derivatives corrected once.

        The derivatives of the loss are those at `state`.
        """
        corrections = self.corrections
        d_params, d_state = loss.for_comparison().gradients(state, self.params)
        adjoint = corrections.adjoint(adjoint, d_state)
        return reduced_gradient(d_params, corrections.linearization(1).B, adjoint)

    def knows_adjoint(self, loss: LossBase) -> bool:
        """Return whether the adjoint of a loss has been computed."""
        known = self._adjoints.get(loss)
        return known is not None and known.value is not None

    def keep_adjoint(self, loss: LossBase, adjoint: Array) -> None:
        """Keep the adjoint of a loss, which was solved for together with others."""
        self._adjoints.setdefault(loss, Once())(lambda: adjoint)

    def _first_gradient(self, loss: LossBase) -> Array:
        """Compute a gradient, and warn if its estimated error is large."""
        gradient, error = self.gradient_with_error(loss)
        norm = self.backend.norm
        if self.report.gradient_error > WARNING_ERROR:
            if self.corrections.state_error < ACCURATE_STATE_ERROR:
                # Where data are fitted to rounding, the derivative of the loss is nothing else.
                corrected = self._corrected_gradient(loss, self.adjoint(loss), self.state)
                error = estimate_error(gradient, corrected)
            # At a minimum the two terms cancel; neither is inaccurate.
            d_params, _ = self.loss_gradients(loss)
            size = norm(d_params) + norm(gradient - d_params)
            relative = norm(error) / size if size > 0 else 0.0
            warn_of_error("the gradient", relative, 1, self.corrections)
        return gradient
