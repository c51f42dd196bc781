"""Curvatures over (theta, h), reduced to the parameters: T' K T with T = [I; Z].

Here are the formula, which all Hessians share, and the estimates of the errors of products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..arrays.backend import Array, Backend, check_block
from ..arrays.collective import collective
from ..arrays.memory import columns_that_fit, translate_memory_errors
from ..linear import Factor
from ..locks import Once, cached_property
from ..models.curvature import CurvatureOperator
from ..models.losses import LossBase
from ..models.problem import Problem
from ..models.quadratic_losses import QuadraticPrior
from ..operators.operator import Congruence, Operator
from ..report import SolveReport
from .error_estimates import (
    WARNING_ERROR,
    estimate_error,
    relative_error,
    warn_of_error,
)
from .inverse import Inverse, RecordingInverse, RefinedInverse
from .linearized_equilibrium import tangent
from .reduced_operator import ReducedOperator

# Arrays of size P + N in memory during a product with one column: (v, z), K (v, z), w, and those of
# a solve.
ARRAYS_PER_COLUMN = 6


class Differentiable(Protocol):
    """What a `ReducedCurvature` needs of an equilibrium, or of several that share a factor."""

    problem: Problem
    backend: Backend
    params: Array

    @property
    def report(self) -> SolveReport:
        """The report of the solve."""
        ...

    @property
    def forcing(self) -> Operator:
        """B of the equations that are solved."""
        ...

    @property
    def factor(self) -> Factor:
        """The factor of A."""
        ...

    @property
    def tangent(self) -> Operator:
        """T = [I; A^-1 B]."""
        ...

    @property
    def corrections(self) -> Any:
        """The corrected derivatives, for error estimates."""
        ...

    def is_first(self, result: str) -> bool:
        """Return whether the error of a result is due to be estimated."""
        ...

    def polish(self) -> Any:
        """Return a more accurate equilibrium, or `self`."""
        ...

    def forget(self) -> None:
        """Drop what the factor has stored in earlier solves."""
        ...


def reduce(K: Operator, T: Operator) -> Operator:
    """Return T' K T, the curvature K over (theta, h) reduced to the parameters.

    All Hessians are computed by this formula. With T = [I; A^-1 B], a product with v is

        z = A^-1 (B v),   (a_theta, a_h) = K (v, z),   w = A^-T a_h,   H v = a_theta + B' w.

    Inexact products and error estimates use it with other inverses and curvatures.
    """
    return Congruence(K, T)


class ReducedCurvature(ReducedOperator):
    """The operator T' K T, (P, P): a curvature K over (theta, h), reduced to the parameters.

    A product with a vector or a block takes one state solve and one adjoint solve.

    Parameters
    ----------
    eq : LinearizedEquilibrium or SharedEquilibria
        The equilibrium, with A, B and the factor.
    make_K : callable
        ``make_K()`` returns K, (P+N, P+N).
    corrected_K : callable
        ``corrected_K()`` returns K at the corrected state, with corrected weights.
    remake_at : callable
        ``remake_at(other)`` returns the same operator at another equilibrium.
    loss : Loss, optional
        The loss whose second derivatives in theta are part of K.

    Notes
    -----
    The functions are called once, the first at the first product. The others are called only if an
    error is estimated or the state is polished: most Hessians never need them.
    """

    def __init__(
        self,
        eq: Differentiable,
        make_K: Callable[[], CurvatureOperator],
        corrected_K: Callable[[], CurvatureOperator],
        remake_at: Callable[[Any], ReducedCurvature],
        loss: LossBase | None = None,
    ) -> None:
        super().__init__(eq, (eq.problem.param_size, eq.problem.param_size))
        self.eq: Any = eq
        self._loss = loss
        self._make_K = make_K
        self._corrected_K, self._correct_K = Once[CurvatureOperator](), corrected_K
        self._remake_at, self._polished = remake_at, Once[ReducedCurvature]()

    @cached_property
    @collective
    def K(self) -> CurvatureOperator:
        """The curvature over (theta, h), (P+N, P+N)."""
        return self._make_K()

    def evaluate_curvature(self) -> None:
        """Evaluate K now rather than at the first product, where it may fail."""
        self.K  # noqa: B018

    @property
    def params(self) -> Array:
        """The parameters theta, (P,)."""
        return self.eq.params

    @property
    def report(self) -> SolveReport:
        """The report of the equilibrium."""
        return self.eq.report

    @property
    def iterative(self) -> bool:
        """Whether the factor is iterative."""
        return self.eq.factor.iterative

    @property
    def solver_rtol(self) -> float:
        """The tolerance of the factor."""
        return self.eq.factor.rtol

    @property
    def parts(self) -> Sequence[tuple[float, ReducedCurvature]]:
        """The operator itself."""
        return ((1.0, self),)

    @property
    def prior_terms(self) -> list[tuple[float, Operator]]:
        """The factors and precisions of the Gaussian priors in the loss."""
        return [
            (factor, term.operator(self.backend, self.shape[0]))
            for factor, term in (() if self._loss is None else self._loss.weighted_terms)
            if isinstance(term, QuadraticPrior)
        ]

    def corrected_curvature(self) -> CurvatureOperator:
        """Return K at the corrected state, with corrected weights."""
        return self._corrected_K(self._correct_K)

    @cached_property
    def _product(self) -> Operator:
        return reduce(self.K, self.eq.tangent)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"cannot pickle or deep-copy a {self._unjoined.__name__}: pickle the equilibrium, and "
            "take the operator from it"
        )

    def __copy__(self) -> ReducedCurvature:
        return self

    def _apply(self, x: Array) -> Array:
        room = 1
        if x.ndim == 2:
            room = columns_that_fit(self.backend, ARRAYS_PER_COLUMN * self.K.shape[0])
        if x.ndim == 1 or x.shape[1] <= room:
            return (
                self._first_product(x) if self.eq.is_first("product") else self._product._apply(x)
            )
        parts = [self._apply(x[:, j : j + room]) for j in range(0, x.shape[1], room)]
        return self.backend.xp.concat(parts, axis=1)

    def _first_product(self, x: Array) -> Array:
        """Compute a product, and warn if its estimated error is large.

        Of a block, the error is that of the sum of the columns with random signs.
        """
        eq, backend = self.eq, self.backend
        inverse = RecordingInverse(eq.factor)
        product = reduce(self.K, tangent(inverse, eq.forcing))._apply(x)
        column = product
        if x.ndim == 2:
            if x.shape[1] == 0:
                return product
            signs = backend.xp.sign(backend.random(x.shape[1], seed=29))
            x, column = x @ signs, product @ signs
            inverse = inverse.combine(signs)
        error = estimate_error(column, self._corrected_product(x, inverse))
        relative = eq.report.product_error = relative_error(backend, error, column)
        if relative > WARNING_ERROR:
            # In a direction that the loss does not depend on, the terms cancel.
            through_state = backend.norm(eq.forcing._apply_adjoint(inverse.adjoint_solution))
            size = through_state + backend.norm(column)
            relative = backend.norm(error) / size if size > 0 else 0.0
            warn_of_error("the product with a Hessian", relative, 2, eq.corrections)
        return product

    def _corrected_product(self, v: Array, inverse: RecordingInverse) -> Array:
        """Return the product with v with everything that is inexact corrected once."""
        corrections = self.eq.corrections
        there = corrections.linearization(1)
        solutions = inverse.solution, inverse.adjoint_solution
        refined = RefinedInverse(there.A, self.eq.factor, *solutions)
        return reduce(self.corrected_curvature(), tangent(refined, there.B))._apply(v)

    def forget(self) -> None:
        """Drop what the factor has stored in earlier solves, and all corrected quantities."""
        self.eq.forget()
        self._corrected_K.forget()
        self._polished.forget()

    def polish(self) -> ReducedCurvature:
        """Return the same operator at the polished equilibrium, or `self` if that is unchanged."""
        polished = self.eq.polish()
        if polished is self.eq:
            return self
        return self._polished(lambda: self._remake_at(polished))

    @translate_memory_errors
    def with_error(self, v: Array, *, rtol: float | None = None) -> tuple[Array, Array]:
        """Compute the product with v and estimate its error.

        Parameters
        ----------
        v : (P,) or (P, k) array
        rtol : float, optional
            Relative true residual of the two inner solves; by default the tolerance of the factor.

        Returns
        -------
        product, error : arrays of the shape of v

        Raises
        ------
        ConvergenceError
            If an inner solve does not reach its tolerance.

        Notes
        -----
        The state, the adjoint and the two inner solves are inexact, as are derivatives by
        differences. The product is computed a second time with each of them corrected once: the
        model is linearized again at h* - M R(h*), and every solution is refined once, where one
        application M of the factor replaces A^-1. The model is not linearized again where its
        derivatives are exact and the state is accurate to rounding. The estimate is twice the
        difference. The factor of two is a safety factor; no other is needed.

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
        eq = self.eq
        v = check_block(v, self.backend, self.shape[1], "the operand")
        inverse = RecordingInverse(eq.factor, rtol)
        product = reduce(self.K, tangent(inverse, eq.forcing))._apply(v)
        error = estimate_error(product, self._corrected_product(v, inverse))
        eq.report.product_error = relative_error(self.backend, error, product)
        return product, error

    def apply_inexact(self, v: Array, rtol: float) -> Array:
        """Compute the product with v by inner solves to another tolerance.

        The error is not estimated.

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
        T = tangent(Inverse(self.eq.factor, rtol), self.eq.forcing)
        return reduce(self.K, T)._apply(v)
