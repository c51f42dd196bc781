"""An equilibrium with its linearization: the operators A, B, Z and T, and gradients.

With the linearization A, B at h* and one factor of A, everything of first order is a composition:
A Z = B, A' lam = dL/dh, g = dL/dtheta + B' lam, T = [I; Z]. Nothing here evaluates a second
derivative, other than for error estimates of second-order quantities; `reduced_hessian` and
`equilibrium` add the second order.
"""

from __future__ import annotations

import functools
from typing import Self

from ..arguments import fraction
from ..arrays.backend import Array
from ..arrays.memory import translate_memory_errors
from ..errors import SingularStateError
from ..forward.newton_loop import Iterate, chord_steps
from ..linear import Factor, Reused
from ..models.curvature import CurvatureOperator
from ..models.linearization import CheckedLinearization, Problem
from ..models.losses import LossBase, check_loss
from ..models.model import Linearization
from ..operators.operator import Operator, Stacked
from ..report import SolveReport
from .conditioning import SmallestSingular, digits_left, smallest_singular
from .error_estimates import InnerTolerance, estimate_error, relative_error
from .inverse import Inverse, RefinedInverse

MAX_POLISHING_STEPS = 5


def tangent(inverse: Operator, B: Operator) -> Operator:
    """Compose T = [I; A^-1 B], (P+N, P), from a parameter direction to (dtheta, dh)."""
    return Stacked(inverse @ B)


def reduced_gradient(d_params: Array, B: Operator, adjoint: Array) -> Array:
    """Compute g = dL/dtheta + B' lam, (P,), where A' lam = dL/dh."""
    return d_params + B._apply_adjoint(adjoint)


class LinearizedEquilibrium:
    """A state h* = f(h*, theta), its linearization and one factor of A, set up at the first use.

    Parameters
    ----------
    problem : Problem
        The model and its parameters.
    state : (N,) array
        h*.
    linearized : CheckedLinearization
        A and B at h*.
    solver : Reused
        What sets up the factor of A.
    report : SolveReport
        How the solve for h* went.
    """

    _smallest: SmallestSingular  # is set together with the factor

    def __init__(
        self,
        problem: Problem,
        state: Array,
        linearized: CheckedLinearization,
        solver: Reused,
        report: SolveReport,
    ) -> None:
        self.problem = problem
        self.model = problem.model
        self.backend = backend = problem.backend
        self.state, self.params = backend.read_only(state), backend.read_only(problem.theta)
        self.linearized = linearized
        self.solver = solver
        self.report = report
        self._adjoints: dict[LossBase, Array] = {}
        self._polished_equilibrium: Self | None = None

    def __repr__(self) -> str:
        report = self.report
        return (
            f"<{type(self).__name__} of {self.problem.name}: N = {self.problem.state_size}, "
            f"P = {self.problem.param_size}, {report.method}, {report.reason}>"
        )

    @property
    def linearization(self) -> Linearization:
        """What the model's ``linearize`` returned at the equilibrium."""
        return self.linearized.linearization

    @functools.cached_property
    @translate_memory_errors
    def factor(self) -> Factor:
        """The one factor of A, whose remaining digits are checked when it is set up.

        Returns
        -------
        Factor
            With ``factor.solve(b)`` and ``factor.solve_adjoint(b)``.

        Warns
        -----
        NearSingularWarning
            If A is so near to singular that a solve loses most of its digits.

        Raises
        ------
        SingularStateError
            If A is singular to working precision.
        """
        factor = self.solver.settle(self.state_operator, self.report.linear)
        self.report.solver = factor.name
        self.report.choices += [c for c in self.solver.choices if c not in self.report.choices]
        try:
            smallest = smallest_singular(factor, self.solver.weakest)
            self.solver.weakest, self._smallest = smallest.left, smallest
            self.report.smallest_singular = smallest.value
            self.report.digits_left = digits_left(
                factor, smallest, self.linearized, self.state, self.problem.residual
            )
        except SingularStateError as error:
            error.best, error.report = self.state, self.report
            self.report.digits_left = error.digits
            raise
        return factor

    @property
    def smallest_singular(self) -> SmallestSingular:
        """The smallest singular value of A with its vectors, computed when the factor is set up.

        Returns
        -------
        SmallestSingular

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h**2 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([1e-6, 1.0]), np.ones(2))  # A = diag(0.002, 2)
        >>> print(f"{eq.smallest_singular.value:.4f}")
        0.0020
        """
        _ = self.factor
        return self._smallest

    # Operators of first order.

    @property
    def state_operator(self) -> Operator:
        """A = I - J = dR/dh, (N, N)."""
        return self.linearized.A

    @property
    def param_operator(self) -> Operator:
        """B = df/dtheta = -dR/dtheta, (N, P)."""
        return self.linearized.B

    @functools.cached_property
    def inverse(self) -> Operator:
        """A^-1, (N, N), by solves with the factor."""
        return Inverse(self.factor)

    @functools.cached_property
    def sensitivity(self) -> Operator:
        """The sensitivity Z = dh*/dtheta = A^-1 B, (N, P): one solve a product.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))
        >>> print((eq.sensitivity @ np.ones(2)).round(3))  # 1 / (1 + 3 h²)
        [0.25  0.077]
        """
        return self.inverse @ self.param_operator

    @functools.cached_property
    def tangent(self) -> Operator:
        """The tangent T = [I; Z], (P+N, P), from a parameter direction to (dtheta, dh)."""
        return tangent(self.inverse, self.param_operator)

    # Gradients.

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

    def adjoint(self, loss: LossBase) -> Array:
        """Solve for the adjoint of a loss, A' lam = dL/dh; once for each loss.

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
        if loss not in self._adjoints:
            _, d_state = self.loss_gradients(loss)
            self._adjoints[loss] = self.factor.solve_adjoint(d_state)
        return self.backend.xp.asarray(self._adjoints[loss], copy=True)

    @translate_memory_errors
    def gradient(self, loss: LossBase, *, rtol: float | None = None) -> Array:
        """Compute the gradient of a loss along the equilibrium, by one adjoint solve.

        Parameters
        ----------
        loss : Loss
        rtol : float, optional
            The relative error that the gradient may have, as estimated. The adjoint is solved no
            more tightly than that needs, and the state is made more accurate where it limits. The
            estimate is ``report.gradient_error``. By default the adjoint is solved to the solver's
            own tolerance.

        Returns
        -------
        (P,) array
            g = dL/dtheta + B' lam.

        Raises
        ------
        ConvergenceError
            If that accuracy is not reached, with the best gradient as `best`.
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
            d_params, _ = self.loss_gradients(loss)
            return reduced_gradient(d_params, self.param_operator, self.adjoint(loss))

        def gradient(at: LinearizedEquilibrium, inner: float) -> tuple[Array, Array]:
            return at.gradient_with_error(loss, rtol=inner)

        tolerance = InnerTolerance(fraction(rtol, "rtol of gradient"), self.backend)
        found, self.report.gradient_error = tolerance.compute(
            gradient, self, LinearizedEquilibrium.polish, "the gradient", self.report
        )
        return found

    def gradient_with_error(
        self, loss: LossBase, *, rtol: float | None = None
    ) -> tuple[Array, Array]:
        """Compute the gradient of a loss and estimate the error in it.

        Parameters
        ----------
        loss : Loss
        rtol : float, optional
            Relative true residual of the adjoint solve; by default the solver's.

        Returns
        -------
        gradient, error : (P,) arrays
            The size of the error relative to the gradient is also ``report.gradient_error``.

        Notes
        -----
        The gradient is computed a second time, with the state and the adjoint corrected by one
        application of the factor each; the estimate is twice the difference. See
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
        adjoint = (
            self.adjoint(loss) if rtol is None else self.factor.solve_adjoint(d_state, rtol=rtol)
        )
        gradient = reduced_gradient(d_params, self.param_operator, adjoint)
        d_params, d_state = loss.gradients(self.corrected_state, self.params)
        adjoint = self._correct_adjoint(adjoint, d_state)
        corrected = reduced_gradient(d_params, self.corrected_linearization.B, adjoint)
        error = estimate_error(gradient, corrected)
        self.report.gradient_error = relative_error(self.backend, error, gradient)
        return gradient, error

    # More accurate states, with which errors are estimated.

    @functools.cached_property
    def corrected_state(self) -> Array:
        """The state h* - M R(h*), (N,), with one application M of the factor: more accurate."""
        return self.state - self.factor.approximate(self.problem.residual(self.state))

    @functools.cached_property
    def corrected_linearization(self) -> CheckedLinearization:
        """The linearization at the corrected state, with which error estimates compare."""
        return self.problem.linearize_for_comparison(self.corrected_state)

    def corrected_curvature(self, weights: Array, rhs: Array) -> CurvatureOperator:
        """Compute ∇²(w'f) at the corrected state, for the corrected w of A' w = rhs."""
        return self.corrected_linearization.curvature(self._correct_adjoint(weights, rhs))

    def _correct_adjoint(self, adjoint: Array, rhs: Array) -> Array:
        """Refine a solution of A' w = rhs once, for A at the corrected state."""
        A = self.corrected_linearization.A
        return RefinedInverse(A, self.factor, adjoint_solution=adjoint)._apply_adjoint(rhs)

    def polish(self) -> Self:
        """Reduce the residual to its rounding floor, by at most five steps with the same factor.

        Returns
        -------
        Equilibrium
            The more accurate equilibrium, which shares the report; the same object if no step
            halves ||R||.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]), rtol=1e-3)
        >>> bool(np.max(abs(eq.polish().state - [1.0, 2.0])) < 1e-12)
        True
        """
        if self._polished_equilibrium is None:
            self._polished_equilibrium = self._polish()
        return self._polished_equilibrium

    def _polish(self) -> Self:
        residual = self.problem.residual(self.state)
        start = Iterate(self.state, residual, self.backend.norm(residual))
        end, accepted = chord_steps(
            self.problem, start, self.factor, max_steps=MAX_POLISHING_STEPS, max_contraction=0.5
        )
        if not accepted:
            return self
        linearized = self.problem.linearize(end.h)
        found = type(self)(self.problem, end.h, linearized, self.solver, self.report)
        found._polished_equilibrium = found
        return found

    def forget(self) -> None:
        """Drop what earlier solves left in the factor, and all corrected quantities."""
        for name in ("corrected_state", "corrected_linearization"):
            self.__dict__.pop(name, None)
        self._polished_equilibrium = None
        if "factor" in self.__dict__:
            self.factor.forget()
