"""An equilibrium and its derivatives of first and second order, as operators."""

from __future__ import annotations

import operator
from typing import Any

from ..arrays.backend import Array, native
from ..arrays.collective import collective
from ..errors import ArgumentError, short_repr
from ..models.checked_linearization import CheckedLinearization
from ..models.curvature import CurvatureOperator
from ..models.losses import LossBase, check_loss
from .gradients import EquilibriumWithGradients
from .reduced_curvature import ReducedCurvature
from .reduced_hessian import ReducedHessian, SecondOrderSlice


class Equilibrium(EquilibriumWithGradients):
    """An equilibrium h* = f(h*, theta), with its derivatives as LinearOperators.

    `mfdeq.solve` and `mfdeq.equilibrium_at` return equilibria. All derivatives use one
    linearization of the model and one factor of A, which is set up at its first use.

    Parameters
    ----------
    problem : Problem
        The model and its parameters.
    state : (N,) array
        h*.
    linearized : CheckedLinearization
        A and B at h*.
    solver : Reused
        The solver that sets up the factor of A.
    report : SolveReport
        The report of the solve for h*.
    error_estimates : bool, optional
        Whether the error of the first gradient and of the first product is estimated.

    Attributes
    ----------
    state, params : (N,) and (P,) arrays
        h* and theta; they are read-only.
    model : Model
    linearization : Linearization
        The result of the model's ``linearize`` at (h*, theta).
    report : SolveReport
        The report of the solve for h*, with the counts of all linear solves since.

    Notes
    -----
    With A = I - J and B the derivatives of h - f(h, theta) and f with respect to h and theta,

        A Z = B,   T = [I; Z],   A' lam = dL/dh,   g = dL/dtheta + B' lam,   H = T' K T,

    where K is the Hessian over (theta, h) of L + lam'f. First derivatives do not evaluate second
    derivatives.

    Examples
    --------
    For h + h³ = theta, in two components, dh/dtheta is 1 / (1 + 3 h²).

    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))
    >>> print(eq.state.round(3))
    [1. 2.]
    >>> print(eq.sensitivity.toarray().round(3))
    [[0.25  0.   ]
     [0.    0.077]]
    >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))  # |h|² / 2
    >>> print(eq.gradient(loss).round(3))
    [0.25  0.154]
    >>> H = eq.hessian(loss)
    >>> print((H @ np.ones(2)).round(3))
    [-0.031 -0.005]
    """

    @collective
    def hessian(self, loss: LossBase) -> ReducedHessian:
        """Return the exact Hessian of a loss along the equilibrium, as an operator.

        Each product takes two linear solves.

        Parameters
        ----------
        loss : Loss
            A loss with second derivatives.

        Returns
        -------
        ReducedHessian, (P, P)
            H = d²L/dtheta² = T' K T.

        Raises
        ------
        ModelError
            If the loss has no ``curvature``. At the first product, if the model's linearization has
            none, which ``gauss_newton`` does not need.
        DerivativeError
            If a curvature is not symmetric.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))  # h = (1, 2)
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> H = eq.hessian(loss)
        >>> print((H @ np.ones(2)).round(3))
        [-0.031 -0.005]
        >>> print((H.gauss_newton @ np.ones(2)).round(2))
        [0.06 0.01]
        """
        H = self.unevaluated_hessian(loss)
        if self.linearized.has_curvature:
            H.evaluate_curvature()  # what is wrong with it is reported here
        return H

    def unevaluated_hessian(self, loss: LossBase) -> ReducedHessian:
        """Return the Hessian without its curvatures, which `gauss_newton` does not need."""
        check_loss(loss, self.problem.model)
        return ReducedHessian(self, loss)

    @collective
    def curvature(self, w: Array) -> CurvatureOperator:
        """Return the curvature of w'f over (theta, h), with w fixed.

        Parameters
        ----------
        w : (N,) array

        Returns
        -------
        CurvatureOperator, (P+N, P+N)
            ∇²_(θ,h) (w'f), with the blocks ``params_params``, ``state_params`` and
            ``state_state``.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))  # h = (1, 2)
        >>> print((eq.curvature(np.ones(2)).state_state @ np.ones(2)).round(3))  # of f = h - R
        [ -6. -12.]
        """
        return self.linearized.curvature(self._state_vector(w, "w"))

    @collective
    def total_curvature(self, u: Array, v: Array) -> Array:
        """Evaluate the curvature of f along the equilibrium manifold.

        Parameters
        ----------
        u, v : (P,) arrays
            Parameter directions.

        Returns
        -------
        (N,) array
            f''[(u, Zu), (v, Zv)].

        Raises
        ------
        ModelError
            If the model's ``linearize`` gives no ``second``.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))  # h = (1, 2)
        >>> print(eq.total_curvature(np.ones(2), np.ones(2)).round(3))  # -6 h / (1 + 3 h²)²
        [-0.375 -0.071]
        """
        return self._second_along(self.linearized, u, v)

    def _second_along(self, linearized: CheckedLinearization, u: Array, v: Array) -> Array:
        """Evaluate f''[(u, Zu), (v, Zv)] of some equations along the equilibria, (N,)."""
        T = self.tangent
        u, v = self._param_vector(u, "u"), self._param_vector(v, "v")
        return linearized.second(T._apply(u), T._apply(v))

    @collective
    def second_order(self, u: Array, v: Array) -> Array:
        """Compute the second derivative of h* along two parameter directions.

        Parameters
        ----------
        u, v : (P,) arrays

        Returns
        -------
        (N,) array
            h''[u, v], the solution of A h'' = f''[(u, Zu), (v, Zv)].

        Raises
        ------
        ModelError
            If the model's ``linearize`` gives no ``second``.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))
        >>> one = np.ones(2)
        >>> print(eq.second_order(one, one).round(3))  # -6 h / (1 + 3 h²)³
        [-0.094 -0.005]
        """
        return self.solution_operator._apply(self._second_along(self.linearized, u, v))

    @collective
    def second_order_slice(self, v: Array) -> SecondOrderSlice:
        """Return the operator u -> h''[u, v] for a fixed v.

        Parameters
        ----------
        v : (P,) array

        Returns
        -------
        SecondOrderSlice, (N, P)
            Its adjoint takes y to ``component_hessian(y) @ v``.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))  # h = (1, 2)
        >>> u, v = np.array([1.0, 0.0]), np.ones(2)
        >>> print((eq.second_order_slice(v) @ u).round(3))
        [-0.094  0.   ]
        """
        return SecondOrderSlice(self, self._param_vector(v, "v"))

    @collective
    def component_hessian(self, w: Any) -> ReducedCurvature:
        """Return the Hessian of a weighted sum of the state's components, or of one component.

        Parameters
        ----------
        w : (N,) array or int
            The weights, or the index of a component.

        Returns
        -------
        ReducedCurvature, (P, P)
            The Hessian of w'h* over theta, T' ∇²(mu'f) T with A' mu = w.

        Raises
        ------
        ArgumentError
            If w is neither an array of weights nor the index of a component.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))
        >>> print((eq.component_hessian(0) @ np.ones(2)).round(3))
        [-0.094  0.   ]
        """
        w = self._weights(w)
        mu = self.solution_operator._apply_adjoint(w)
        K = self.linearized.curvature(mu)

        def corrected_K() -> CurvatureOperator:
            return self.corrections.curvature(K, mu, w)

        return ReducedCurvature(
            self, lambda: K, corrected_K, lambda other: other.component_hessian(w)
        )

    def _weights(self, w: Any) -> Array:
        """Return the weights w of the state's components: w itself, or a unit vector."""
        N = self.problem.state_size
        w = native(w)
        if getattr(w, "shape", ()) != () or isinstance(w, (list, tuple)):
            return self._state_vector(w, "w")
        try:
            is_bool = isinstance(w, bool) or str(getattr(w, "dtype", "")) == "bool"
            index = None if is_bool else operator.index(w)
        except TypeError:
            index = None
        if index is None:
            raise ArgumentError(
                f"w: expected the index of a component (an integer) or an ({N},) array, got "
                f"{short_repr(w)}"
            )
        if not -N <= index < N:
            raise ArgumentError(
                f"w: expected the index of one of the {N} components of the state, got {index}"
            )
        e = self.backend.zeros(N)
        e[index] = 1.0
        return e

    def _state_vector(self, x: Any, name: str) -> Array:
        return self.backend.check_array(x, (self.problem.state_size,), name, ArgumentError)

    def _param_vector(self, x: Any, name: str) -> Array:
        return self.backend.check_array(x, (self.problem.param_size,), name, ArgumentError)
