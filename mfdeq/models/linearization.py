"""The model interface: sign conventions and validation.

Sources of derivatives end here, and everything after sees only R = h − f, its derivatives
A = I − ∂f/∂h and B = ∂f/∂θ, the curvature of wᵀf and f''[a, b], whether the user wrote a map or a
residual. Whatever a user's model returns is checked here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ModelError
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .curvature import CurvatureOperator, as_curvature
from .model import FixedPointModel, Linearization, Model, ResidualModel


class Problem:
    """A model at fixed parameters: its residual R = h − f and its linearizations, checked.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
        Copied, so that a caller that changes its array later changes nothing here.
    h0 : (N,) array, optional
        A state that takes part in the choice of the dtype.
    state_name : str, optional
        The name of `h0` in error messages.

    Attributes
    ----------
    evaluations : int
        How often the model's map or residual was evaluated.
    """

    def __init__(
        self, model: Model, theta: Array, h0: Array | None = None, state_name: str = "h0"
    ) -> None:
        if not isinstance(model, (FixedPointModel, ResidualModel)):
            raise ModelError(
                "the model: expected an mfdeq.FixedPointModel or an mfdeq.ResidualModel, got "
                f"{_kind_of(model)}"
            )
        self.model = model
        self.name = model.display_name
        arrays = {"params": theta} if h0 is None else {"params": theta, state_name: h0}
        self.backend = Backend.of(*arrays.values(), name=" and ".join(arrays))
        self.state_size = self._size("state_size")
        self.param_size = self._size("param_size")
        self.theta = self.backend.vector(theta, self.param_size, "params")
        self.evaluations = 0
        self._latest: tuple[Array, CheckedLinearization] | None = None

    def _size(self, name: str) -> int:
        # The user may have forgotten the attribute, so that it does not exist.
        size: Any = self.backend.global_size(getattr(self.model, name, None))
        if isinstance(size, tuple):
            raise ModelError(
                f"{self.name}.{name} is {size}, a pair of local and global sizes, which models "
                "for PETSc have: give theta as a Vec"
            )
        if isinstance(size, bool) or not hasattr(size, "__index__") or operator.index(size) < 1:
            raise ModelError(
                f"{self.name}.{name}: expected a positive integer, got {size!r}; set it on the "
                "class or in __init__"
            )
        return size if isinstance(size, int) else operator.index(size)

    def initial_state(self, h0: Array | None = None) -> Array:
        """Return `h0`, checked, or the model's default start where it is None."""
        if h0 is not None:
            return self.backend.vector(h0, self.state_size, "h0")
        name = f"{self.name}.initial_state"
        with self.backend.user_call(f"{name}(theta)"):
            default = self.model.initial_state(self.backend.to_user(self.theta))
            default = self.backend.from_user(default, self.state_size)
        if default is None:
            return self.backend.zeros(self.state_size)
        return self.backend.vector(default, self.state_size, name)

    def residual_scale(self, h: Array) -> float | None:
        """Return the model's `residual_scale`, checked; None leaves it to the default start."""
        name = f"{self.name}.residual_scale"
        with self.backend.user_call(f"{name}(h, theta)"):
            value = self.model.residual_scale(*map(self.backend.to_user, (h, self.theta)))
        if value is None:
            return None
        scale = self.backend.check_array(value, (), name)
        if scale < 0:
            raise ModelError(f"{name}: expected a number >= 0, got {float(scale)}")
        return float(scale)

    def residual(self, h: Array) -> Array:
        """Return R = h − f(h, theta); a NaN or infinite entry is a `ModelError`."""
        return self._residual(h)

    def trial_residual(self, h: Array) -> tuple[Array | None, float]:
        """Return R and its norm, or (None, inf) where R is not finite.

        A trial step of a solver may leave the set of states for which the model is defined.
        """
        xp = self.backend.xp
        with self.backend.ignore_overflow():
            residual = self._residual(h, finite=False)
            if not bool(xp.all(xp.isfinite(residual))):
                return None, float("inf")
            return residual, self.backend.norm(residual)

    @property
    def is_map(self) -> bool:
        """Whether the model is a `FixedPointModel`."""
        return isinstance(self.model, FixedPointModel)

    def _residual(self, h: Array, finite: bool = True) -> Array:
        self.evaluations += 1
        name = f"{self.name}.{self.model.function_name}"
        with self.backend.user_call(f"{name}(h, theta), of shapes {h.shape}, {self.theta.shape}"):
            value = self.model.map_or_residual(*map(self.backend.to_user, (h, self.theta)))
            value = self.backend.from_user(value, self.state_size)
        value = self.backend.check_array(value, (self.state_size,), name, finite=finite)
        return h - value if self.is_map else value

    def linearize(self, h: Array) -> CheckedLinearization:
        """Linearize at h. The latest linearization is stored and returned again at the same h."""
        if self._latest is None or not bool(self.backend.xp.all(self._latest[0] == h)):
            state = self.backend.xp.asarray(h, copy=True)
            self._latest = (state, self._linearize_with(self.model.linearize, h))
        return self._latest[1]

    def linearize_for_comparison(self, h: Array) -> CheckedLinearization:
        """Linearize at h with other errors, where derivatives are not exact to rounding."""
        return self._linearize_with(self.model.linearize_for_comparison, h)

    def _linearize_with(
        self, linearize: Callable[[Array, Array], Linearization], h: Array
    ) -> CheckedLinearization:
        with self.backend.user_call(f"{self.name}.linearize(h, theta)"):
            linearization = linearize(*map(self.backend.to_user, (h, self.theta)))
        return CheckedLinearization(self, linearization)


class CheckedLinearization:
    """A model's derivatives at one (h, theta), checked and written as derivatives of the map f.

    Parameters
    ----------
    problem : Problem
        The model at theta.
    linearization : Linearization
        What the model's ``linearize`` returned.

    Attributes
    ----------
    A : Operator, (N, N)
        The state operator I − ∂f/∂h = ∂R/∂h.
    B : Operator, (N, P)
        The parameter operator ∂f/∂θ = −∂R/∂θ.
    """

    def __init__(self, problem: Problem, linearization: Any) -> None:
        self.name = f"{problem.name}.linearize"
        if not isinstance(linearization, Linearization):
            raise ModelError(
                f"{self.name}: expected it to return an mfdeq.Linearization, got "
                f"{type(linearization).__name__}"
            )
        self.linearization = linearization
        self.backend = problem.backend
        self.state_size, self.param_size = N, P = problem.state_size, problem.param_size
        # Of f = h - R: the second derivatives of R enter with the opposite sign.
        self._sign = 1.0 if problem.is_map else -1.0
        d_state = self._operator(linearization.d_state, (N, N), "d_state")
        d_params = self._operator(linearization.d_params, (N, P), "d_params")
        self.A = d_state.identity_minus() if problem.is_map else d_state
        self.B = d_params if problem.is_map else -d_params

    def _operator(self, derivative: Any, shape: tuple[int, int], field: str) -> Operator:
        return as_operator(self.backend, derivative, shape, f"{field} of {self.name}")

    def curvature(self, w: Array, check_symmetry: bool = True) -> CurvatureOperator:
        """Return ∇²_(θ,h) (wᵀf), of shape (P+N, P+N)."""
        if self.linearization.curvature is None:
            raise ModelError(
                f"{self.name} gave no curvature, which second derivatives need: pass "
                "Linearization(curvature=lambda lam: mfdeq.Curvature(...)). For a model that is "
                "linear in (h, theta) that is mfdeq.Curvature(), all of whose blocks are zero"
            )
        name = f"curvature of {self.name}"
        with self.backend.user_call(f"{name}, of lam of shape {w.shape}"):
            curvature = self.linearization.curvature(self.backend.to_user(self._sign * w))
        return as_curvature(
            self.backend,
            curvature,
            self.param_size,
            self.state_size,
            name,
            accuracy=self.linearization.accuracy[1],
            check_symmetry=check_symmetry,
        )

    def second(self, a: Array, b: Array) -> Array:
        """Return f''[a, b], an (N,) array, along stacked (P+N,) directions a and b."""
        if self.linearization.second is None:
            raise ModelError(
                f"{self.name} gave no second, which second-order sensitivities of the state need: "
                "pass Linearization(second=lambda a, b: ...), the second derivative along "
                "a = (dtheta, dh) and b, of shape (N,). Component Hessians and the adjoint of a "
                "slice need curvature only"
            )
        P, to_user = self.param_size, self.backend.to_user
        a, b = ((to_user(x[:P, ...]), to_user(x[P:, ...])) for x in (a, b))
        name = f"second of {self.name}"
        with self.backend.user_call(
            f"{name}, of a = (dtheta, dh) and b of sizes ({P}, {self.state_size})"
        ):
            value = self.backend.from_user(self.linearization.second(a, b), self.state_size)
        return self._sign * self.backend.vector(value, self.state_size, name)


def _kind_of(model: Any) -> str:
    if isinstance(model, type) and issubclass(model, Model):
        return f"the class {model.__name__} itself: pass an instance, {model.__name__}(...)"
    return type(model).__name__
