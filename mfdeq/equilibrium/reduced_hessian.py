"""The reduced Hessian H = T' K T, its terms, and slices of the second-order response.

K is the Hessian over (theta, h) of the Lagrangian L + lam'(f - h) with lam fixed, and T = [I; Z].
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..arrays.backend import Array
from ..locks import cached_property
from ..models.curvature import CurvatureOperator, add_curvatures
from ..models.losses import LossBase
from ..operators.operator import Operator, columnwise
from .gradients import EquilibriumWithGradients
from .reduced_curvature import ReducedCurvature


class ReducedHessian(ReducedCurvature):
    """The Hessian H = d²L/dtheta² of a loss along the equilibrium, (P, P), symmetric.

    `Equilibrium.hessian` returns it. A product with a vector or a block takes one state solve and
    one adjoint solve; H is never formed.

    Parameters
    ----------
    eq : Equilibrium
    loss : Loss
        A loss with second derivatives.

    Attributes
    ----------
    lagrangian : CurvatureOperator
        K, the Hessian over (theta, h) of L + lam'(f - h) with lam fixed, (P+N, P+N).
    gauss_newton, dynamics : ReducedCurvature
        T' ∇²L T, which includes second derivatives of the loss in theta and needs none of the
        model, and T' ∇²(lam'f) T. Their sum is H.
    terms : mapping of str to Operator
        The terms of H that belong to the blocks of the two curvatures. Their sum is H.
    adjoint_state : (N,) array
        lam.

    Notes
    -----
    H = T' K T with T = [I; Z] and K = ∇²(L + lam'f), that is

        H v = a_theta + B' w,   A z = B v,   (a_theta, a_h) = K (v, z),   A' w = a_h.

    References
    ----------
    Haber, Ascher and Oldenburg, On optimization techniques for solving nonlinear inverse
    problems, Inverse Problems 16 (2000).

    Hinze, Pinnau, Ulbrich and Ulbrich, Optimization with PDE Constraints (2009), section 1.6.5.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
    >>> H = mfdeq.solve(model, np.array([2.0, 10.0])).hessian(loss)
    >>> print((H @ np.ones(2)).round(3))
    [-0.031 -0.005]
    >>> print((H.gauss_newton @ np.ones(2) + H.dynamics @ np.ones(2)).round(3))
    [-0.031 -0.005]
    """

    def __init__(self, eq: EquilibriumWithGradients, loss: LossBase) -> None:
        self.loss, self.adjoint_state = loss, eq.adjoint(loss)
        self._loss_curvature = loss.curvature_operator(eq.state, eq.params)
        super().__init__(
            eq,
            lambda: add_curvatures(self._loss_curvature, self._dynamics_curvature),
            self._correct_curvature,
            lambda other: other.hessian(loss),
            loss,
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _hessian_of, (self.eq, self.loss)

    @cached_property
    def _dynamics_curvature(self) -> CurvatureOperator:
        # The model is asked for it only here: the Gauss-Newton part does not depend on it.
        return self.eq.linearized.curvature(self.adjoint_state)

    @property
    def lagrangian(self) -> CurvatureOperator:
        """The Hessian K over (theta, h) of the Lagrangian, (P+N, P+N)."""
        return self.K

    def _correct_curvature(self) -> CurvatureOperator:
        of_loss, dynamics = self._correct_loss_curvature(), self._correct_dynamics_curvature()
        if of_loss is self._loss_curvature and dynamics is self._dynamics_curvature:
            return self.K
        return add_curvatures(of_loss, dynamics)

    def _correct_loss_curvature(self) -> CurvatureOperator:
        corrections = self.eq.corrections
        exact = self.loss.accuracy(self.eq.state, self.eq.params)[1] == 0.0
        if corrections.state_is_exact and exact:
            return self._loss_curvature
        return self.loss.for_comparison().curvature_operator(corrections.state, self.eq.params)

    def _correct_dynamics_curvature(self) -> CurvatureOperator:
        corrections = self.eq.corrections
        _, d_state = self.loss.for_comparison().gradients(corrections.state, self.eq.params)
        return corrections.curvature(self._dynamics_curvature, self.adjoint_state, d_state)

    @cached_property
    def gauss_newton(self) -> ReducedCurvature:
        """The Gauss-Newton part T' ∇²L T, (P, P)."""
        return ReducedCurvature(
            self.eq,
            lambda: self._loss_curvature,
            self._correct_loss_curvature,
            lambda other: other.hessian(self.loss).gauss_newton,
            self.loss,
        )

    @cached_property
    def dynamics(self) -> ReducedCurvature:
        """The part T' ∇²(lam'f) T, (P, P), from the curvature of the equilibrium condition."""
        return ReducedCurvature(
            self.eq,
            lambda: self._dynamics_curvature,
            self._correct_dynamics_curvature,
            lambda other: other.hessian(self.loss).dynamics,
        )

    @cached_property
    def terms(self) -> Mapping[str, Operator]:
        """The eight terms of H by name, (P, P) each. Their sum is H.

        The terms of the loss are loss_state = Z' L_hh Z, loss_mixed = L_thetah Z, its adjoint
        loss_mixed_adjoint, and loss_params = L_thetatheta. Those of lam'f are dynamics_state,
        dynamics_mixed (M), dynamics_mixed_adjoint (M') and dynamics_params.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> H = mfdeq.solve(model, np.array([2.0, 10.0])).hessian(loss)
        >>> v = np.ones(2)
        >>> bool(np.allclose(sum(term @ v for term in H.terms.values()), H @ v))
        True
        """
        Z = self.eq.sensitivity
        terms: dict[str, Operator] = {}
        for name, K in (("loss", self._loss_curvature), ("dynamics", self._dynamics_curvature)):
            mixed = K.state_params.H @ Z  # type: ignore[attr-defined]
            terms |= {
                f"{name}_state": Z.H @ K.state_state @ Z,
                f"{name}_mixed": mixed,
                f"{name}_mixed_adjoint": mixed.H,
                f"{name}_params": K.params_params,
            }
        return MappingProxyType(terms)


def _hessian_of(eq: Any, loss: LossBase) -> ReducedHessian:
    return eq.hessian(loss)


class SecondOrderSlice(Operator):
    """The operator u -> h''[u, v] for a fixed v, (N, P).

    `Equilibrium.second_order_slice` returns it. A product needs ``second`` of the model's
    linearization; the adjoint, y -> component_hessian(y) @ v, needs its ``curvature``.

    Parameters
    ----------
    eq : Equilibrium
    v : (P,) array
    """

    def __init__(self, eq: EquilibriumWithGradients, v: Array) -> None:
        super().__init__(eq, (eq.problem.state_size, eq.problem.param_size))
        self.eq, self.v = eq, v

    @cached_property
    def _tangent_of_v(self) -> Array:
        return self.eq.tangent._apply(self.v)

    def _apply(self, x: Array) -> Array:
        eq = self.eq
        second = functools.partial(eq.linearized.second, self._tangent_of_v)
        curved = columnwise(second, eq.tangent._apply(x), self.backend, self.shape[0])
        return eq.solution_operator._apply(curved)

    def _apply_adjoint(self, y: Array) -> Array:
        eq = self.eq
        Tv = self._tangent_of_v

        def curved(mu: Array) -> Array:
            return eq.linearized.curvature(mu)._apply(Tv)

        rows = Tv.shape[0]
        mu = eq.solution_operator._apply_adjoint(y)
        return eq.tangent._apply_adjoint(columnwise(curved, mu, self.backend, rows))
