"""Search directions: Newton's method, by products or by a factorization, and L-BFGS."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from ..arrays.backend import Array, is_sparse
from ..equilibrium.lagrangian_system import ShiftedInverse, solver_for
from ..equilibrium.reduced_operator import ReducedOperator
from ..errors import SingularStateError
from .method import Setting
from .truncated_cg import steihaug

LBFGS_PAIRS = 10  # number of steps that L-BFGS stores
# A pair (s, y) is stored if s'y is larger than this multiple of |s| |y|, in the metric.
MIN_PAIR_CURVATURE = 1e-10
MAX_SHIFTS = 30  # factorizations for one direction
SHIFT_FACTOR = 10.0  # between successive shifts of one direction; the next starts lower by it
FIRST_SHIFT_FACTOR = 1e-3  # the first shift relative to the curvature along the gradient
MIN_SHIFT_FACTOR = 1e-3  # shifts below this multiple of the largest are replaced by zero
CURVATURE_ACCURACY = 0.1  # of the product with the gradient, for the first shift


class Direction:
    """Base class of search directions, which are descent directions at each point."""

    needs_wolfe = False  # whether the line search must satisfy the Wolfe conditions

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """Compute a descent direction.

        Parameters
        ----------
        theta, g : (P,) arrays
            The point and its gradient.
        forcing : float
            The relative accuracy of the direction.

        Returns
        -------
        direction : (P,) array
        products : int
            The number of products with the Hessian.
        how : str
            How the direction was computed, for the report.
        """
        raise NotImplementedError

    def update(self, step: Array, change: Array) -> None:
        """Update the direction after a step with a change of the gradient; by default nothing."""

    @property
    def checkpoint_state(self) -> Any:
        """The state of the direction as plain values and arrays, for a checkpoint."""
        return None

    def restore(self, state: Any) -> None:
        """Restore the state from a checkpoint."""


class NewtonCG(Direction):
    """The direction -H^-1 g by conjugate gradients, truncated at negative curvature.

    References
    ----------
    J. Nocedal and S. J. Wright, "Numerical Optimization", 2006, algorithm 7.1.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """Compute a descent direction."""
        objective = self.setting.objective
        H = objective.hessian(theta)
        path = None
        if H is not None:
            path = objective.attempt(
                steihaug,
                self.setting.backend,
                lambda v: objective.product(H, v, forcing),
                self.setting.precondition,
                g,
                math.inf,
                forcing,
                self.setting.max_products,
            )
        if path is None:
            how = f"steepest descent: no product with the Hessian, {objective.failure}"
            return -self.setting.precondition(g), 0, how
        return path.step, path.products, path.how


class ShiftedNewton(Direction):
    """The direction -(H + shift M)^-1 g by the Lagrangian system, with the metric M.

    The shift is increased until the inertia of the system shows that H + shift M is definite.

    References
    ----------
    J. Nocedal and S. J. Wright, "Numerical Optimization", 2006, algorithm 3.3 (Cholesky with an
    added multiple of the identity).
    """

    def __init__(self, setting: Setting) -> None:
        self.objective, self.backend = setting.objective, setting.backend
        # The identity takes the place of a metric whose entries are unknown.
        given: Any = None if setting.norm.metric.is_identity else setting.norm.metric
        self.metric = given if given is not None and is_sparse(given.array) else None
        self.shift = self.largest_shift = 0.0

    @property
    def checkpoint_state(self) -> Any:
        """The last shift and the largest."""
        return [self.shift, self.largest_shift]

    def restore(self, state: Any) -> None:
        """Restore the shifts."""
        self.shift, self.largest_shift = state

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """Compute a descent direction."""
        H, dot = self.objective.hessian(theta), self.backend.dot
        steepest = -g if self.metric is None else -self.metric.solve(g)
        if H is None:
            return steepest, 0, f"steepest descent: no Hessian, {self.objective.failure}"
        small = self.shift <= MIN_SHIFT_FACTOR * self.largest_shift
        shift = 0.0 if small else self.shift / SHIFT_FACTOR
        for _ in range(MAX_SHIFTS):
            inverse = self._definite_inverse(H, shift)
            if inverse is not None:
                self.shift, self.largest_shift = shift, max(self.largest_shift, shift)
                how = "Newton" if shift == 0.0 else f"Newton, shifted by {shift:.1e}"
                return -inverse._apply(g), 0, how
            if shift == 0.0:
                Hp = self.objective.product(H, steepest, CURVATURE_ACCURACY)
                curvature = abs(dot(steepest, Hp))
                shift = FIRST_SHIFT_FACTOR * curvature / -dot(steepest, g) or 1.0
            else:
                shift *= SHIFT_FACTOR
        return steepest, 0, "steepest descent: no shift made the Hessian definite"

    def _definite_inverse(self, H: ReducedOperator, shift: float) -> ShiftedInverse | None:
        """Return (H + shift M)^-1, or None if that is singular or indefinite."""
        self.objective.report.factorizations += 1
        try:
            M = None if self.metric is None else self.metric.array
            inverse = solver_for(H.backend).shifted_inverse(H, -shift, M)
        except SingularStateError:
            return None
        return inverse if inverse.below == 0 else None


class LBFGS(Direction):
    """The L-BFGS direction, from the last steps and the preconditioner.

    References
    ----------
    J. Nocedal, "Updating quasi-Newton matrices with limited storage", 1980. D. C. Liu and
    J. Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.
    """

    needs_wolfe = True

    def __init__(self, setting: Setting) -> None:
        self.backend, self.precondition = setting.backend, setting.precondition
        self.norm = setting.norm
        self.pairs: deque[tuple[Array, Array, float]] = deque(maxlen=LBFGS_PAIRS)

    @property
    def checkpoint_state(self) -> Any:
        """The stored pairs."""
        return list(self.pairs)

    def restore(self, state: Any) -> None:
        """Restore the pairs."""
        to_device = self.backend.from_host
        self.pairs.extend((to_device(s), to_device(y), sy) for s, y, sy in state)

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """Compute a descent direction by the two-loop recursion."""
        dot = self.backend.xp.vecdot
        q, weights = g, []
        for s, y, sy in reversed(self.pairs):
            weights.append(float(dot(s, q)) / sy)
            q = q - weights[-1] * y
        if self.pairs:
            _, y, sy = self.pairs[-1]
            q = (sy / float(dot(y, self.precondition(y)))) * self.precondition(q)
        else:
            q = self.precondition(q) / max(self.norm(g), 1.0)
        for (s, y, sy), a in zip(self.pairs, reversed(weights), strict=True):
            q = q + (a - float(dot(y, q)) / sy) * s
        return -q, 0, f"{len(self.pairs)} pairs"

    def update(self, step: Array, change: Array) -> None:
        """Store a step and its change of the gradient, if its curvature is positive."""
        sy = self.backend.dot(step, change)
        if sy > MIN_PAIR_CURVATURE * self.norm.length(step) * self.norm(change):
            self.pairs.append((step, change, sy))
