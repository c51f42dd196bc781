"""The sign conventions of derivatives, and their validation.

Whether the user wrote a map or a residual, and whatever the source of its derivatives, the rest of
the library sees only A = I − ∂f/∂h and B = ∂f/∂θ, the curvature of wᵀf and f''[a, b]. All that a
user's ``linearize`` returns is checked here.
"""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, is_sparse
from ..errors import ModelError
from ..locks import cached_property
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .checked_model import CheckedModel
from .curvature import CurvatureOperator, as_curvature
from .linearization import DeferredLinearization, Linearization


class CheckedLinearization:
    """The checked derivatives of a model at one (h, theta), as derivatives of the map f.

    Parameters
    ----------
    model : CheckedModel
        The model at theta.
    linearization : Linearization
        The result of the model's ``linearize``.
    like : CheckedLinearization, optional
        That of another model of the same class at the same parameters. If A has the same entries,
        it is that operator, so that it is in memory once; operators and curvatures, which have
        passed their tests there, are not tested again.

    Attributes
    ----------
    A : Operator, (N, N)
        The state operator I − ∂f/∂h = ∂R/∂h; a regular one in its place if it has a `gauge`.
    gauge : Gauge or None
        What is known of the null space of A, if the user's matrix declares one.
    is_map : bool
        Whether the model is a map.
    stable_sign : int
        The sign of the real part of an eigenvalue of A that is stable.

    Notes
    -----
    All derivatives are checked at once, but for `B` of a `DeferredLinearization`, which is computed
    and checked when it is first used.
    """

    A: Operator
    gauge: Any

    def __init__(
        self,
        model: CheckedModel,
        linearization: Any,
        like: CheckedLinearization | None = None,
    ) -> None:
        self.name = f"{model.name}.linearize"
        if not isinstance(linearization, Linearization):
            raise ModelError(
                f"{self.name}: expected it to return an mfdeq.Linearization, got "
                f"{type(linearization).__name__}"
            )
        self.linearization = linearization
        self._advice_for_curvature = model.model.advice_for_curvature
        self.backend = model.backend
        self.state_size, self.param_size = N, _ = model.state_size, model.param_size
        self.is_map, self.stable_sign = model.is_map, model.model.stable_sign
        # Second derivatives are those of f = h - R, so those of R change sign.
        self._sign = 1.0 if model.is_map else -1.0
        self.like = like
        if like is not None and not self.is_map and holds_entries(like.A, linearization.d_state):
            self.A, self.gauge = like.A, like.gauge
        else:
            d_state = self._operator(linearization.d_state, (N, N), "d_state")
            own = d_state is not linearization.d_state  # a copy
            self.A = d_state.identity_minus(own) if model.is_map else d_state
            self.gauge = self.A.gauge() if model.fixes_gauges else None
            if self.gauge is not None:
                self.A = self.gauge.A
        if not isinstance(linearization, DeferredLinearization):
            self.B = self._param_operator(linearization.d_params)

    @cached_property
    def B(self) -> Operator:
        """The parameter operator ∂f/∂θ = −∂R/∂θ, (N, P)."""
        with self.backend.user_call(f"d_params of {self.name}(h, theta)"):
            d_params = self.backend.from_user(self.linearization.d_params)
        return self._param_operator(d_params)

    def _param_operator(self, d_params: Any) -> Operator:
        operator = self._operator(d_params, (self.state_size, self.param_size), "d_params")
        if self.gauge is not None:
            accuracy = self.linearization.accuracy[0]
            self.gauge.check_params(operator, self.name, accuracy)
        return operator if self.is_map else -operator

    def _operator(self, derivative: Any, shape: tuple[int, int], field: str) -> Operator:
        name, tested = f"{field} of {self.name}", self.like is not None
        return as_operator(self.backend, derivative, shape, name, test_adjoint=not tested)

    def _order_hint(self) -> str:
        computed = self.linearization.sources.get("d_state")
        return "create the model with order=2 (the default), or " if computed else ""

    @property
    def has_curvature(self) -> bool:
        """Whether the model gave its second derivatives."""
        return self.linearization.curvature is not None

    def curvature(self, w: Array, check_symmetry: bool = True) -> CurvatureOperator:
        """Return the (P+N, P+N) Hessian ∇²_(θ,h) (wᵀf)."""
        if self.linearization.curvature is None:
            raise ModelError(
                f"{self.name} returned no curvature, which second derivatives require: "
                f"{self._order_hint()}{self._advice_for_curvature}"
            )
        name = f"curvature of {self.name}"
        with self.backend.user_call(f"{name}, of lam of shape {w.shape}"):
            curvature = self.linearization.curvature(self.backend.to_user(self._sign * w))
            curvature = self.backend.from_user(curvature)
        return as_curvature(
            self.backend,
            curvature,
            self.param_size,
            self.state_size,
            name,
            accuracy=lambda: self.linearization.accuracy[1],
            check_symmetry=check_symmetry and self.like is None,
        )

    def second(self, a: Array, b: Array) -> Array:
        """Return the (N,) second derivative f''[a, b] along stacked (P+N,) directions a and b."""
        if self.linearization.second is None:
            raise ModelError(
                f"{self.name} returned no second, which second-order sensitivities of the state "
                f"require: {self._order_hint()}pass Linearization(second=lambda a, b: ...), which "
                "returns the (N,) second derivative along a = (dtheta, dh) and b. Component "
                "Hessians and the adjoint of a slice require only curvature"
            )
        P, to_user = self.param_size, self.backend.to_user
        a, b = ((to_user(x[:P, ...]), to_user(x[P:, ...])) for x in (a, b))
        name = f"second of {self.name}"
        with self.backend.user_call(
            f"{name}, of a = (dtheta, dh) and b of sizes ({P}, {self.state_size})"
        ):
            value = self.backend.from_user(self.linearization.second(a, b), self.state_size)
        return self._sign * self.backend.vector(value, self.state_size, name)


def holds_entries(A: Operator, given: Any) -> bool:
    """Return whether a user's sparse matrix has the entries of A, in the same format."""
    array = A.array
    if type(given) is not type(array) or not is_sparse(given):
        return False
    same = given.format == array.format in ("csr", "csc") and given.shape == array.shape
    if not same or given.dtype != array.dtype or given.nnz != array.nnz:
        return False
    return all(
        A.backend.all(getattr(given, name) == getattr(array, name))
        for name in ("data", "indptr", "indices")
    )
