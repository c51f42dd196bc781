"""The reduced Hessian H = T' K T, its terms, and slices of the second-order response.

K is the Hessian over (theta, h) of the Lagrangian L + lam'(f - h) with lam frozen, and T = [I; Z].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array, check_block
from ..arrays.memory import columns_that_fit, translate_memory_errors
from ..models.curvature import CurvatureOperator, add_curvatures
from ..models.losses import LossBase
from ..operators.operator import Operator, SelfAdjoint, columnwise
from .error_estimates import InnerTolerance, estimate_error
from .inverse import Inverse, RecordingInverse, RefinedInverse
from .linearized_equilibrium import LinearizedEquilibrium, tangent

# A product holds (v, z), K times it, w, and what a solve holds: arrays of P + N for each column.
ARRAYS_PER_COLUMN = 6


def reduce(K: Operator, T: Operator) -> Operator:
    """Compose T' K T, the curvature K over (theta, h) reduced to the parameters.

    This is the one formula of every Hessian: with T = [I; A^-1 B] a product with v is

        z = A^-1 (B v),   (a_theta, a_h) = K (v, z),   w = A^-T a_h,   H v = a_theta + B' w.

    Inexact products and error estimates are the same composition of other pieces.
    """
    return T.H @ K @ T  # type: ignore[attr-defined]


class ReducedCurvature(SelfAdjoint):
    """T' K T, a curvature over (theta, h) reduced to the parameters, (P, P).

    A product takes one state solve and one adjoint solve, for a vector or a block.

    Parameters
    ----------
    eq : LinearizedEquilibrium
        Gives A, B and the factor.
    K : CurvatureOperator, (P+N, P+N)
    correct : callable
        Makes K at the corrected state, with its corrected weights, for error estimates.
    at : callable
        Makes the same operator at another equilibrium.
    """

    def __init__(
        self,
        eq: LinearizedEquilibrium,
        K: CurvatureOperator,
        correct: Callable[[], CurvatureOperator],
        at: Callable[[Any], ReducedCurvature],
    ) -> None:
        super().__init__(eq, (eq.problem.param_size, eq.problem.param_size))
        self.eq, self.K = eq, K
        self._corrected_K = functools.cache(correct)
        self._at = functools.cache(at)
        self._product = reduce(K, eq.tangent)

    def _apply(self, x: Array) -> Array:
        if x.ndim == 1:
            return self._product._apply(x)
        columns = x.shape[1]
        room = columns_that_fit(self.backend, ARRAYS_PER_COLUMN * self.K.shape[0])
        if columns <= room:
            return self._product._apply(x)
        parts = [self._product._apply(x[:, j : j + room]) for j in range(0, columns, room)]
        return self.backend.xp.concat(parts, axis=1)

    def forget(self) -> None:
        """Drop what earlier solves left in the factor, and all corrected quantities."""
        self.eq.forget()
        self._corrected_K.cache_clear()
        self._at.cache_clear()

    def polish(self) -> ReducedCurvature:
        """Make the same operator at the polished equilibrium; itself if that is the same one."""
        polished = self.eq.polish()
        return self if polished is self.eq else self._at(polished)

    def to_accuracy(self, rtol: float) -> InexactReducedCurvature:
        """Make the same operator with products that are only as accurate as asked for.

        Parameters
        ----------
        rtol : float
            Estimated relative error that each column of a product may have. The inner solves
            are as loose as it allows.

        Returns
        -------
        InexactReducedCurvature, (P, P)

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> H = mfdeq.solve(model, np.array([2.0, 10.0])).hessian(loss)
        >>> v = np.ones(2)
        >>> bool(np.linalg.norm(H.to_accuracy(1e-3) @ v - H @ v) <= 1e-3 * np.linalg.norm(H @ v))
        True
        """
        return InexactReducedCurvature(self, rtol)

    @translate_memory_errors
    def with_error(self, v: Array, *, rtol: float | None = None) -> tuple[Array, Array]:
        """Multiply by v, and estimate the error of the product.

        Parameters
        ----------
        v : (P,) or (P, k) array
        rtol : float, optional
            Relative true residual of the two inner solves; by default the factor's.

        Returns
        -------
        product, error : arrays of the shape of v

        Raises
        ------
        ConvergenceError
            If an inner solve does not reach its tolerance.

        Notes
        -----
        The state, the adjoint and the two inner solves are inexact. The product is repeated
        with each of them corrected once: the model is linearized again at h* - M R(h*), and every
        residual there is put through one application M of the factor in place of A^-1. Twice the
        difference is the estimate. It includes a safety factor: no other is needed.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
        >>> H = mfdeq.solve(model, np.array([2.0, 10.0])).hessian(loss)
        >>> product, error = H.with_error(np.ones(2))
        >>> bool(np.linalg.norm(error) < 1e-6 * np.linalg.norm(product))
        True
        """
        eq, factor = self.eq, self.eq.factor
        v = check_block(v, self.backend, self.shape[1], "the operand")
        inverse = RecordingInverse(factor, rtol)
        product = reduce(self.K, tangent(inverse, eq.param_operator))._apply(v)
        there = eq.corrected_linearization
        refined = RefinedInverse(there.A, factor, inverse.solution, inverse.adjoint_solution)
        corrected = reduce(self._corrected_K(), tangent(refined, there.B))._apply(v)
        return product, estimate_error(product, corrected)

    def apply_inexact(self, v: Array, rtol: float) -> Array:
        """Multiply by v with inner solves to another tolerance; no error is estimated.

        Parameters
        ----------
        v : (P,) or (P, k) array
        rtol : float
            Relative true residual of the two inner solves.

        Returns
        -------
        array of the shape of v
        """
        v = check_block(v, self.backend, self.shape[1], "the operand")
        T = tangent(Inverse(self.eq.factor, rtol), self.eq.param_operator)
        return reduce(self.K, T)._apply(v)


class InexactReducedCurvature(SelfAdjoint):
    """T' K T with products to a given relative accuracy, by inner solves as loose as it allows.

    The error of every product is estimated (`ReducedCurvature.with_error`), by one more
    application of the factor; the tolerance of the inner solves follows from it. The operator is
    symmetric to that accuracy only.

    Parameters
    ----------
    exact : ReducedCurvature
    rtol : float
        Estimated relative error that a column of a product may have.
    """

    def __init__(self, exact: ReducedCurvature, rtol: float) -> None:
        super().__init__(exact, exact.shape)
        self.exact, self.rtol = exact, fraction(rtol, "rtol of to_accuracy")
        self.tolerance = InnerTolerance(self.rtol, exact.backend)

    def forget(self) -> None:
        """Drop what earlier products left behind, the adapted inner tolerance included."""
        self.exact.forget()
        self.tolerance = InnerTolerance(self.rtol, self.backend)

    def _apply(self, x: Array) -> Array:
        def product(operator: ReducedCurvature, inner: float) -> tuple[Array, Array]:
            return operator.with_error(x, rtol=inner)

        report = self.exact.eq.report
        return self.tolerance.compute(
            product, self.exact, ReducedCurvature.polish, "a product", report
        )[0]


class ReducedHessian(ReducedCurvature):
    """The Hessian H = d²L/dtheta² of a loss along the equilibrium, (P, P), symmetric.

    Made by `Equilibrium.hessian`. A product takes one state solve and one adjoint solve, for a
    vector or for a block; H is never formed.

    Parameters
    ----------
    eq : Equilibrium
    loss : Loss
        With second derivatives.

    Attributes
    ----------
    lagrangian : CurvatureOperator
        K, the Hessian over (theta, h) of L + lam'(f - h) with lam frozen, (P+N, P+N).
    gauss_newton, dynamics : ReducedCurvature
        T' ∇²L T, with the loss's own theta terms, and T' ∇²(lam'f) T. They sum to H.
    terms : mapping of str to Operator
        The blocks of the two curvatures between the blocks of T. They sum to H.
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

    def __init__(self, eq: LinearizedEquilibrium, loss: LossBase) -> None:
        self.loss, self.adjoint_state = loss, eq.adjoint(loss)
        self._loss_curvature = loss.curvature_operator(eq.state, eq.params)
        self._dynamics_curvature = eq.linearized.curvature(self.adjoint_state)
        super().__init__(
            eq,
            add_curvatures(self._loss_curvature, self._dynamics_curvature),
            lambda: add_curvatures(
                self._correct_loss_curvature(), self._correct_dynamics_curvature()
            ),
            lambda other: other.hessian(loss),
        )

    @property
    def lagrangian(self) -> CurvatureOperator:
        """The Hessian K over (theta, h) of the Lagrangian, (P+N, P+N)."""
        return self.K

    def _correct_loss_curvature(self) -> CurvatureOperator:
        return self.loss.curvature_operator(self.eq.corrected_state, self.eq.params)

    def _correct_dynamics_curvature(self) -> CurvatureOperator:
        _, d_state = self.loss.gradients(self.eq.corrected_state, self.eq.params)
        return self.eq.corrected_curvature(self.adjoint_state, d_state)

    @functools.cached_property
    def gauss_newton(self) -> ReducedCurvature:
        """The Gauss-Newton part T' ∇²L T, with the loss's own theta terms, (P, P)."""
        return ReducedCurvature(
            self.eq,
            self._loss_curvature,
            self._correct_loss_curvature,
            lambda other: other.hessian(self.loss).gauss_newton,
        )

    @functools.cached_property
    def dynamics(self) -> ReducedCurvature:
        """The curvature of the equilibrium condition, T' ∇²(lam'f) T, (P, P)."""
        return ReducedCurvature(
            self.eq,
            self._dynamics_curvature,
            self._correct_dynamics_curvature,
            lambda other: other.hessian(self.loss).dynamics,
        )

    @functools.cached_property
    def terms(self) -> Mapping[str, Operator]:
        """The eight terms of H by name, (P, P) each; they sum to H.

        loss_state = Z' L_hh Z, loss_mixed = L_thetah Z and its adjoint, loss_params =
        L_thetatheta, and the same of lam'f as dynamics_state, dynamics_mixed (M),
        dynamics_mixed_adjoint (M') and dynamics_params.

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
                f"{name}_state": Z.H @ K.state_state @ Z,  # type: ignore[attr-defined]
                f"{name}_mixed": mixed,
                f"{name}_mixed_adjoint": mixed.H,
                f"{name}_params": K.params_params,
            }
        return MappingProxyType(terms)


class SecondOrderSlice(Operator):
    """The operator u -> h''[u, v] for a fixed v, (N, P).

    Made by `Equilibrium.second_order_slice`. A product needs the model's `second`; the adjoint,
    y -> component_hessian(y) @ v, needs its `curvature`.

    Parameters
    ----------
    eq : Equilibrium
    v : (P,) array
    """

    def __init__(self, eq: LinearizedEquilibrium, v: Array) -> None:
        super().__init__(eq, (eq.problem.state_size, eq.problem.param_size))
        self.eq, self.v = eq, v

    @functools.cached_property
    def _tangent_of_v(self) -> Array:
        return self.eq.tangent._apply(self.v)

    def _apply(self, x: Array) -> Array:
        eq = self.eq
        second = functools.partial(eq.linearized.second, self._tangent_of_v)
        curved = columnwise(second, eq.tangent._apply(x), self.backend, self.shape[0])
        return eq.inverse._apply(curved)

    def _apply_adjoint(self, y: Array) -> Array:
        eq = self.eq
        Tv = self._tangent_of_v

        def curved(mu: Array) -> Array:
            return eq.linearized.curvature(mu)._apply(Tv)

        rows = Tv.shape[0]
        mu = eq.inverse._apply_adjoint(y)
        return eq.tangent._apply_adjoint(columnwise(curved, mu, self.backend, rows))
