"""The waist: a model at one place, with the signs put right and every answer checked.

Left of here is where derivatives come from; right of here there is only A = I - J, B,
the curvature of w'f and f''[a, b], whether the user wrote a map or a residual.
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
    """A model with its parameters: R = h - f and its linearizations, checked.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
    h0 : (N,) array, optional
        Takes part in choosing the dtype.
    called : str, optional
        What an error calls h0.
    """

    def __init__(
        self, model: Model, theta: Array, h0: Array | None = None, called: str = "h0"
    ) -> None:
        if not isinstance(model, (FixedPointModel, ResidualModel)):
            raise ModelError(
                f"the model is a {type(model).__name__}; an mfdeq.FixedPointModel or "
                "mfdeq.ResidualModel was expected"
            )
        self.model = model
        self.name = model.described
        given = {"params": theta, called: h0}
        given = {name: x for name, x in given.items() if x is not None}
        self.backend = Backend.of(*given.values(), name=" and ".join(given))
        self.state_size = self._size("state_size")
        self.param_size = self._size("param_size")
        # Copies: a caller (or an optimizer) that changes its array in place changes nothing here.
        self.theta = self.backend.vector(theta, self.param_size, "params")
        self.evaluations = 0
        self._latest: tuple[Array, Linearized] | None = None

    def _size(self, name: str) -> int:
        size: Any = self.backend.global_size(getattr(self.model, name, None))
        if isinstance(size, tuple):
            raise ModelError(
                f"{self.name}.{name} is {size}, as models for PETSc have it: give theta as a Vec"
            )
        if isinstance(size, bool) or not hasattr(size, "__index__") or operator.index(size) < 1:
            raise ModelError(
                f"{self.name}.{name} is {size!r}; a positive integer was expected: set it on the "
                "class or in __init__"
            )
        return size if isinstance(size, int) else operator.index(size)

    def start(self, h0: Array | None = None) -> Array:
        """`h0` checked, or the model's default start."""
        if h0 is not None:
            return self.backend.vector(h0, self.state_size, "h0")
        name = f"{self.name}.initial_state"
        with self.backend.user_call(f"{name}(theta)"):
            default = self.model.initial_state(self.backend.to_user(self.theta))
            default = self.backend.from_user(default, self.state_size)
        if default is None:
            return self.backend.zeros(self.state_size)
        return self.backend.vector(default, self.state_size, name)

    def scale(self, h: Array) -> float | None:
        """The model's `residual_scale`, checked; None where it leaves that to the start."""
        name = f"{self.name}.residual_scale"
        with self.backend.user_call(f"{name}(h, theta)"):
            given = self.model.residual_scale(*map(self.backend.to_user, (h, self.theta)))
        if given is None:
            return None
        scale = self.backend.checked(given, (), name)
        if scale < 0:
            raise ModelError(f"{name} is {scale}; a number >= 0 was expected")
        return float(scale)

    def residual(self, h: Array) -> Array:
        """R = h - f(h, theta), with NaN and infinity refused by a `ModelError`."""
        return self._residual(h)

    def trial_residual(self, h: Array) -> tuple[Array | None, float]:
        """R and its norm; (None, inf) where the model does not exist, as a step may find."""
        xp = self.backend.xp
        with self.backend.ignore_overflow():
            residual = self._residual(h, finite=False)
            if not bool(xp.all(xp.isfinite(residual))):
                return None, float("inf")
            return residual, self.backend.norm(residual)

    @property
    def is_map(self) -> bool:
        """Whether the model is a fixed-point map."""
        return isinstance(self.model, FixedPointModel)

    def _residual(self, h: Array, finite: bool = True) -> Array:
        self.evaluations += 1
        written = getattr(self.model, self.model.written)
        name = f"{self.name}.{self.model.written}"
        with self.backend.user_call(f"{name}(h, theta), of shapes {h.shape}, {self.theta.shape}"):
            out = written(*map(self.backend.to_user, (h, self.theta)))
            out = self.backend.from_user(out, self.state_size)
        out = self.backend.checked(out, (self.state_size,), name, finite=finite)
        return h - out if self.is_map else out

    def linearize(self, h: Array) -> Linearized:
        """The linearization at h; the latest one is kept."""
        if self._latest is None or not bool(self.backend.xp.all(self._latest[0] == h)):
            kept = self.backend.xp.asarray(h, copy=True)
            self._latest = (kept, self._linearized(self.model.linearize, h))
        return self._latest[1]

    def linearize_again(self, h: Array) -> Linearized:
        """The linearization at h with other errors, where it is not exact to rounding."""
        return self._linearized(self.model.linearize_again, h)

    def _linearized(
        self, linearize: Callable[[Array, Array], Linearization], h: Array
    ) -> Linearized:
        with self.backend.user_call(f"{self.name}.linearize(h, theta)"):
            given = linearize(*map(self.backend.to_user, (h, self.theta)))
        return Linearized(self, h, given)


class Linearized:
    """A model's derivatives at one (h, theta), as derivatives of the map f.

    Attributes
    ----------
    A : Operator, (N, N)
        The state operator I - J = dR/dh.
    B : Operator, (N, P)
        The parameter operator df/dtheta = -dR/dtheta.
    given : Linearization
        What the user's ``linearize`` returned.
    """

    def __init__(self, problem: Problem, h: Array, given: Any) -> None:
        self.name = f"{problem.name}.linearize"
        if not isinstance(given, Linearization):
            raise ModelError(
                f"{self.name} returned {type(given).__name__}; an mfdeq.Linearization was expected"
            )
        self.given = given
        self.backend = problem.backend
        self.state_size, self.param_size = N, P = problem.state_size, problem.param_size
        self._sign = 1.0 if problem.is_map else -1.0  # f = h - R: derivatives of R enter as -R
        d_state = self._operator(given.d_state, (N, N), "d_state")
        d_params = self._operator(given.d_params, (N, P), "d_params")
        self.A = d_state.identity_minus() if problem.is_map else d_state
        self.B = d_params if problem.is_map else -d_params

    def _operator(self, given: Any, shape: tuple[int, int], field: str) -> Operator:
        return as_operator(self.backend, given, shape, f"{field} of {self.name}")

    def curvature(self, w: Array, symmetric: bool = False) -> CurvatureOperator:
        """∇²_(θ,h) (w'f), (P+N, P+N), checked for symmetry unless that is looked into elsewhere."""
        if self.given.curvature is None:
            raise ModelError(
                f"{self.name} gave no curvature, which everything of second order needs: give "
                "Linearization(curvature=lambda lam: mfdeq.Curvature(...)); for a model linear "
                "in (h, theta) that is mfdeq.Curvature(), all blocks zero"
            )
        name = f"curvature of {self.name}"
        with self.backend.user_call(f"{name}, of lam of shape {w.shape}"):
            given = self.given.curvature(self.backend.to_user(self._sign * w))
        sizes, accuracy = (self.param_size, self.state_size), self.given.accuracy[1]
        return as_curvature(self.backend, given, *sizes, name, accuracy, symmetric)

    def second(self, a: Array, b: Array) -> Array:
        """f''[a, b] of stacked directions a and b, (N,)."""
        if self.given.second is None:
            raise ModelError(
                f"{self.name} gave no second, which second-order state sensitivities need: give "
                "Linearization(second=lambda a, b: ...), the second derivative along "
                "a = (dtheta, dh) and b, of shape (N,). (Component Hessians and the adjoint of a "
                "slice need only curvature.)"
            )
        P, to_user = self.param_size, self.backend.to_user
        a, b = ((to_user(x[:P, ...]), to_user(x[P:, ...])) for x in (a, b))
        name = f"second of {self.name}"
        with self.backend.user_call(
            f"{name}, of a = (dtheta, dh) and b of sizes ({P}, {self.state_size})"
        ):
            value = self.backend.from_user(self.given.second(a, b), self.state_size)
        return self._sign * self.backend.vector(value, self.state_size, name)
