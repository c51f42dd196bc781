"""The reduced Hessian H = T' K T, its terms, and slices of the second-order response.

K is the Hessian over (theta, h) of the Lagrangian L + lam'(f - h) with lam frozen; T = [I; Z].
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..arguments import fraction
from ..arrays.backend import Array, check_block
from ..arrays.memory import columns_that_fit, translate_memory_errors
from ..models.curvature import CurvatureOperator, add_curvatures
from ..models.losses import LossBase
from ..operators.operator import Operator, SelfAdjoint, columnwise
from .error_estimates import SAFETY, Tolerance

if TYPE_CHECKING:
    from .equilibrium import Equilibrium


HELD = 6  # times P + N numbers, for each column of a product


class Reduced(SelfAdjoint):
    """T' K T, a curvature over (theta, h) reduced to the parameters, (P, P).

    One product is one state solve and one adjoint solve, for a vector or a block:
    z = A^-1 (B v), (a_theta, a_h) = K (v, z), and a_theta + B' A^-T a_h.

    Parameters
    ----------
    eq : Equilibrium
    K : CurvatureOperator, (P+N, P+N)
    corrected : callable
        Makes K at the corrected state and with its corrected weights, for error estimates.
    at : callable
        Makes the same operator at another equilibrium.
    """

    def __init__(
        self,
        eq: Equilibrium,
        K: CurvatureOperator,
        corrected: Callable[[], CurvatureOperator],
        at: Callable[[Equilibrium], Reduced],
    ) -> None:
        super().__init__(eq, (eq.problem.param_size, eq.problem.param_size))
        self.eq, self.K = eq, K
        self._corrected = functools.cache(corrected)
        self._at = functools.cache(at)
        T = eq.tangent
        self._product = T.H @ K @ T  # type: ignore[attr-defined]

    def _apply(self, x: Array) -> Array:
        if x.ndim == 1:
            return self._product._apply(x)
        # (v, z), what K makes of them, w, and what a solve holds beside.
        columns, room = x.shape[1], columns_that_fit(self.backend, HELD * self.K.shape[0])
        if columns <= room:
            return self._product._apply(x)
        parts = [self._product._apply(x[:, j : j + room]) for j in range(0, columns, room)]
        return self.backend.xp.concat(parts, axis=1)

    def forget(self) -> None:
        """Drop what solves have left in the factor, and what was corrected with it."""
        self.eq.forget()
        self._corrected.cache_clear()
        self._at.cache_clear()

    def to_accuracy(self, rtol: float) -> InexactReduced:
        """The same operator with products only as accurate as asked for, and no dearer.

        Parameters
        ----------
        rtol : float
            Estimated relative error of each column of a product.
        """
        return InexactReduced(self, rtol)

    @translate_memory_errors
    def with_error(self, v: Array, *, rtol: float | None = None) -> tuple[Array, Array]:
        """The product with v, and an estimate of the error in it, both of the shape of v.

        Parameters
        ----------
        v : (P,) or (P, k) array
        rtol : float, optional
            Relative true residual of the two inner solves; by default the factor's.

        Notes
        -----
        The state, the adjoint and the two inner solves are inexact. The product is repeated
        with each of them corrected once: the model linearized again at h* - M R(h*), and every
        residual there put through one application M of the factor in place of A^-1. Twice the
        difference is the estimate; norms are not used, they overestimate by orders.
        """
        eq = self.eq
        M = eq.factor.approximate
        v = check_block(v, self.backend, self.shape[1], "the operand")
        product, z, w = self._by_solves(v, rtol)
        A, B = eq.corrected.A, eq.corrected.B
        z = z + M(B._apply(v) - A._apply(z))
        a_theta, a_h = self._split(self._corrected(), v, z)
        w = w + M(a_h - A._apply_adjoint(w), adjoint=True)
        return product, SAFETY * (a_theta + B._apply_adjoint(w) - product)

    def apply_inexact(self, v: Array, rtol: float) -> Array:
        """The product with v by inner solves to that relative residual; no error is estimated."""
        return self._by_solves(check_block(v, self.backend, self.shape[1], "the operand"), rtol)[0]

    def _by_solves(self, v: Array, rtol: float | None) -> tuple[Array, Array, Array]:
        """H v, z and w."""
        B, factor = self.eq.param_operator, self.eq.factor
        z = factor.solve(B._apply(v), rtol=rtol)
        a_theta, a_h = self._split(self.K, v, z)
        w = factor.solve_adjoint(a_h, rtol=rtol)
        return a_theta + B._apply_adjoint(w), z, w

    def _split(self, K: CurvatureOperator, v: Array, z: Array) -> tuple[Array, Array]:
        return K.split(K._apply(self.backend.xp.concat([v, z], axis=0)))


class InexactReduced(SelfAdjoint):
    """T' K T with products to a given relative accuracy, by inner solves as loose as that allows.

    The error of every product is estimated (`Reduced.with_error`), by one more application of the
    factor; the tolerance of the inner solves follows it. Symmetric to that accuracy only.

    Parameters
    ----------
    exact : Reduced
    rtol : float
    """

    def __init__(self, exact: Reduced, rtol: float) -> None:
        super().__init__(exact, exact.shape)
        self.exact, self.rtol = exact, fraction(rtol, "rtol of to_accuracy")
        self.tolerance = Tolerance(self.rtol, exact.backend.eps)

    def forget(self) -> None:
        """Start from the first tolerance of inner solves again."""
        self.exact.forget()
        self.tolerance = Tolerance(self.rtol, self.backend.eps)

    def _apply(self, x: Array) -> Array:
        def product(eq: Equilibrium, inner: float) -> tuple[Array, Array]:
            exact = self.exact if eq is self.exact.eq else self.exact._at(eq)
            return exact.with_error(x, rtol=inner)

        return self.tolerance.reached(self.exact.eq, product, "a product")[0]


class ReducedHessian(Reduced):
    """H = d²L/dtheta² = T' K T, (P, P), symmetric.

    Attributes
    ----------
    lagrangian : CurvatureOperator
        K, the Hessian over (theta, h) of L + lam'(f - h) with lam frozen, (P+N, P+N).
    gauss_newton, dynamics : Reduced
        T' ∇²L T, with the loss's own theta terms, and T' ∇²(lam'f) T. They sum to H.
    terms : mapping of str to Operator
        The blocks of the two curvatures between the blocks of T. They sum to H.
    adjoint_state : (N,) array
        lam.
    """

    def __init__(self, eq: Equilibrium, loss: LossBase) -> None:
        self.loss, self.adjoint_state = loss, eq.adjoint(loss)
        self._of_loss = loss.curvature_operator(eq.state, eq.params)
        self._of_dynamics = eq.linearized.curvature(self.adjoint_state)
        super().__init__(
            eq,
            add_curvatures(self._of_loss, self._of_dynamics),
            lambda: add_curvatures(self._corrected_loss(), self._corrected_dynamics()),
            lambda other: other.hessian(loss),
        )

    @property
    def lagrangian(self) -> CurvatureOperator:
        """K, (P+N, P+N)."""
        return self.K

    def _corrected_loss(self) -> CurvatureOperator:
        return self.loss.curvature_operator(self.eq.corrected_state, self.eq.params)

    def _corrected_dynamics(self) -> CurvatureOperator:
        _, d_state = self.loss.gradients(self.eq.corrected_state, self.eq.params)
        return self.eq.corrected_curvature(self.adjoint_state, d_state)

    @functools.cached_property
    def gauss_newton(self) -> Reduced:
        """T' ∇²L T, with the loss's own theta terms."""
        return Reduced(
            self.eq,
            self._of_loss,
            self._corrected_loss,
            lambda other: other.hessian(self.loss).gauss_newton,
        )

    @functools.cached_property
    def dynamics(self) -> Reduced:
        """T' ∇²(lam'f) T."""
        return Reduced(
            self.eq,
            self._of_dynamics,
            self._corrected_dynamics,
            lambda other: other.hessian(self.loss).dynamics,
        )

    @functools.cached_property
    def terms(self) -> Mapping[str, Operator]:
        """The eight terms of H by name; they sum to H.

        loss_state = Z' L_hh Z, loss_mixed = L_thetah Z and its adjoint, loss_params =
        L_thetatheta, and the same of lam'f as dynamics_state, dynamics_mixed (M),
        dynamics_mixed_adjoint (M') and dynamics_params.
        """
        Z = self.eq.sensitivity
        found: dict[str, Operator] = {}
        for name, K in (("loss", self._of_loss), ("dynamics", self._of_dynamics)):
            mixed = K.state_params.H @ Z  # type: ignore[attr-defined]
            found |= {
                f"{name}_state": Z.H @ K.state_state @ Z,  # type: ignore[attr-defined]
                f"{name}_mixed": mixed,
                f"{name}_mixed_adjoint": mixed.H,
                f"{name}_params": K.params_params,
            }
        return MappingProxyType(found)


class SecondOrderSlice(Operator):
    """u -> h''[u, v] for a fixed v, (N, P).

    The product needs the model's `second`; the adjoint, y -> component_hessian(y) @ v, its
    `curvature`.
    """

    def __init__(self, eq: Equilibrium, v: Array) -> None:
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
