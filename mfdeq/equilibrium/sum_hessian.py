"""The Hessian of a sum of losses at several equilibria: the sum of their Hessians."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..arrays.backend import Array, check_block
from ..arrays.memory import translate_memory_errors
from ..locks import Once, cached_property
from ..models.curvature import BlockCurvature, CurvatureOperator, add_curvatures
from ..models.stacking import StackedCurvature
from ..operators.operator import Operator
from .error_estimates import relative_error
from .reduced_curvature import ReducedCurvature
from .reduced_hessian import ReducedHessian
from .reduced_operator import ReducedOperator
from .shared_factor import SharedCurvature, SharedEquilibria, group_equal, share_factor

Parts = Sequence[tuple[float, Any]]


class ReducedSum(ReducedOperator):
    """A weighted sum of reduced curvatures, each at an equilibrium of its own, (P, P).

    Parts whose A is the same matrix share one factor, and a product solves with it for all of them
    as one block.

    Parameters
    ----------
    source : Backend
    parts : sequence of pairs of a float and a ReducedCurvature
    params_term : Operator, optional
        What is added, such as the precision of a prior, (P, P).
    map : callable, optional
        ``map(function, items)`` applies a function to the independent terms, such as that of an
        executor of threads; by default the built-in one.
    """

    def __init__(
        self,
        source: Any,
        parts: Parts,
        params_term: Operator | None = None,
        map: Callable[..., Iterable[Any]] = map,
    ) -> None:
        P = parts[0][1].shape[0]
        super().__init__(source, (P, P))
        self._parts, self.params_term, self._map = parts, params_term, map
        self._polished = Once[ReducedOperator]()

    @property
    def parts(self) -> Parts:
        """The factors and the operators of the sum."""
        return self._parts

    def evaluate_curvature(self) -> None:
        """Evaluate the curvature of each part now rather than at the first product."""
        for _, H in self.parts:
            H.evaluate_curvature()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"cannot pickle or deep-copy a {self._unjoined.__name__}: pickle the functional, and "
            "take the operator from it"
        )

    def __copy__(self) -> ReducedSum:
        return self

    @cached_property
    def _terms(self) -> Parts:
        """The parts, with those that share a factor as one."""
        self.evaluate_curvature()
        equilibria = [H.eq for _, H in self.parts]
        terms: list[tuple[float, ReducedCurvature]] = []
        for group in group_equal(
            [eq.linearized.A for eq in equilibria], [eq.solver.description for eq in equilibria]
        ):
            members = [self.parts[i] for i in group]
            if len(members) == 1:
                terms += members
                continue
            share_factor([H.eq for _, H in members])
            shared = SharedEquilibria([H.eq for _, H in members])
            terms.append((1.0, SharedCurvature(shared, members)))
        return terms

    def _sum(self, evaluate: Callable[[ReducedCurvature], Any], v: Array) -> Any:
        """Return the weighted sum of what a function returns for each term, and for the prior."""
        terms = self._terms
        results = self._map(evaluate, [H for _, H in terms])
        total = self.backend.zeros(*v.shape)
        if self.params_term is not None:
            total += self.params_term._apply(v)
        return terms, results, total

    def _apply(self, x: Array) -> Array:
        terms, results, total = self._sum(lambda H: H._apply(x), x)
        for (weight, _), product in zip(terms, results, strict=True):
            total += weight * product
        return total

    def forget(self) -> None:
        """Drop what the factors have stored in earlier solves, and all corrected quantities."""
        for _, term in self._terms:
            term.forget()
        self._polished.forget()

    def polish(self) -> ReducedOperator:
        """Return the same sum at polished equilibria, or `self` if all of them are unchanged."""

        def polished() -> ReducedOperator:
            parts = [(weight, H.polish()) for weight, H in self.parts]
            if all(new is old for (_, new), (_, old) in zip(parts, self.parts, strict=True)):
                return self
            return ReducedSum(self.backend, parts, self.params_term, self._map)

        return self._polished(polished)

    @translate_memory_errors
    def with_error(self, v: Array, *, rtol: float | None = None) -> tuple[Array, Array]:
        """Compute the product with v and estimate its error, the sum of those of the parts.

        Parameters
        ----------
        v : (P,) or (P, k) array
        rtol : float, optional
            Relative true residual of the inner solves; by default the tolerance of the factors.

        Returns
        -------
        product, error : arrays of the shape of v
        """
        v = check_block(v, self.backend, self.shape[1], "the operand")
        terms, results, total = self._sum(lambda H: H.with_error(v, rtol=rtol), v)
        error = self.backend.zeros(*v.shape)
        for (weight, _), (product, its_error) in zip(terms, results, strict=True):
            total += weight * product
            error += weight * its_error
        self.report.product_error = relative_error(self.backend, error, total)
        return total, error

    def apply_inexact(self, v: Array, rtol: float) -> Array:
        """Compute the product with v by inner solves to another tolerance.

        Parameters
        ----------
        v : (P,) or (P, k) array
        rtol : float
            Relative true residual of the inner solves.

        Returns
        -------
        array of the shape of v
        """
        v = check_block(v, self.backend, self.shape[1], "the operand")
        terms, results, total = self._sum(lambda H: H.apply_inexact(v, rtol), v)
        for (weight, _), product in zip(terms, results, strict=True):
            total += weight * product
        return total


class SumHessian(ReducedSum):
    """The Hessian of a `SumFunctional`, the weighted sum of the Hessians of its parts, (P, P).

    `SumFunctional.hessian` returns it. A product takes one state solve and one adjoint solve for
    each part; those of parts with the same A are solves of one block.

    Parameters
    ----------
    source : Backend
    parts : sequence of pairs of a float and a ReducedHessian
    params_term : Operator, optional
        The precision of the prior, (P, P).
    map : callable, optional
        As in `ReducedSum`.
    evaluate : callable, optional
        ``evaluate()`` evaluates the curvatures of all parts, such as one whose errors name the
        part.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    >>> loss = mfdeq.LeastSquares(observe=np.arange(2), data=np.zeros(2))
    >>> F = mfdeq.ReducedFunctional(model, loss)
    >>> H = (F + 0.5 * F).hessian(np.array([2.0, 10.0]))
    >>> print((H @ np.ones(2)).round(3))
    [-0.047 -0.007]
    >>> bool(np.allclose(H @ np.ones(2), (H.gauss_newton + H.dynamics) @ np.ones(2)))
    True
    """

    def __init__(
        self,
        source: Any,
        parts: Parts,
        params_term: Operator | None = None,
        map: Callable[..., Iterable[Any]] = map,
        evaluate: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(source, parts, params_term, map)
        self._evaluate = super().evaluate_curvature if evaluate is None else evaluate

    def evaluate_curvature(self) -> None:
        """Evaluate the curvature of each part now rather than at the first product."""
        self._evaluate()

    @property
    def lagrangian(self) -> CurvatureOperator:
        """The Hessian K over (theta, h_1, ..., h_m) of the Lagrangian."""
        self.evaluate_curvature()
        weights, Ks = zip(*((weight, H.lagrangian) for weight, H in self.parts), strict=True)
        K: CurvatureOperator = StackedCurvature(self.backend, Ks, weights)
        if self.params_term is not None:
            blocks = [self.params_term, None, None]
            prior = BlockCurvature(self.backend, K.param_size, K.state_size, blocks)
            K = add_curvatures(K, prior)
        return K

    @property
    def adjoint_state(self) -> Array:
        """The stacked adjoints lam_1, ..., lam_m of the parts, without their weights."""
        return self.backend.xp.concat([H.adjoint_state for _, H in self.parts], axis=0)

    @cached_property
    def gauss_newton(self) -> ReducedSum:
        """The sum of the Gauss-Newton parts and the precision of the prior, (P, P)."""
        parts = [(weight, H.gauss_newton) for weight, H in self.parts]
        return ReducedSum(self.backend, parts, self.params_term, self._map)

    @cached_property
    def dynamics(self) -> ReducedSum:
        """The sum of the parts from the curvature of the equilibrium conditions, (P, P)."""
        self.evaluate_curvature()
        parts = [(weight, H.dynamics) for weight, H in self.parts]
        return ReducedSum(self.backend, parts, None, self._map)

    @cached_property
    def terms(self) -> Mapping[str, Operator]:
        """The eight terms of H by name, (P, P) each, as in `ReducedHessian`. Their sum is H."""
        self.evaluate_curvature()
        hessians: Sequence[tuple[float, ReducedHessian]] = self.parts
        terms = {
            name: functools.reduce(
                lambda left, right: left + right,
                [weight * H.terms[name] for weight, H in hessians],
            )
            for name in hessians[0][1].terms
        }
        if self.params_term is not None:
            terms["loss_params"] = terms["loss_params"] + self.params_term
        return MappingProxyType(terms)
