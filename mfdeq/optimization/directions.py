"""Directions to search along: Newton's, by products or by a factorization, and L-BFGS."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from ..arrays.backend import Array
from ..equilibrium.lagrangian_system import ShiftedInverse, solver_for
from ..equilibrium.reduced_hessian import ReducedCurvature
from ..errors import SingularStateError
from .method import Setting
from .truncated_cg import steihaug

LBFGS_PAIRS = 10  # steps that L-BFGS keeps
# s'y of a pair must be at least this share of |s| |y| for the pair to be kept.
MIN_PAIR_CURVATURE = 1e-10
MAX_SHIFTS = 30  # factorizations for one direction
SHIFT_FACTOR = 10.0  # from one shift to the next, and down for the next direction
FIRST_SHIFT_FACTOR = 1e-3  # of the curvature along the gradient
MIN_SHIFT_FACTOR = 1e-3  # of the largest shift, below which the next direction starts from none
CURVATURE_ACCURACY = 0.1  # of the product along the gradient that the first shift is taken from


class Direction:
    """A direction downhill at each point."""

    needs_wolfe = False  # whether the line search must also flatten the slope (Wolfe's conditions)

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill, the products with the Hessian it took, and how it was found.

        Parameters
        ----------
        theta, g : (P,) arrays
            The point and the gradient there.
        forcing : float
            The relative accuracy that the step needs.
        """
        raise NotImplementedError

    def learn(self, step: Array, change: Array) -> None:
        """Take note of a step and of what it changed in the gradient; by default nothing."""

    @property
    def checkpoint_state(self) -> Any:
        """What the direction has learned, as plain values and arrays."""
        return None

    def restore(self, state: Any) -> None:
        """Take over what a checkpoint holds."""


class NewtonCG(Direction):
    """-H^-1 g by conjugate gradients, up to a direction of negative curvature.

    References
    ----------
    J. Nocedal and S. J. Wright, "Numerical Optimization", 2006, algorithm 7.1.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill."""
        objective = self.setting.objective
        H = objective.hessian(theta)
        found = steihaug(
            self.setting.backend,
            lambda v: objective.product(H, v, forcing),
            self.setting.precondition,
            g,
            math.inf,
            forcing,
            self.setting.max_products,
        )
        return found.step, found.products, found.how


class ShiftedNewton(Direction):
    """-(H + shift I)^-1 g by the Lagrangian system, whose inertia shows a definite H + shift I.

    References
    ----------
    J. Nocedal and S. J. Wright, "Numerical Optimization", 2006, algorithm 3.3 (a multiple of the
    identity that is added until the factorization shows a definite matrix).
    """

    def __init__(self, setting: Setting) -> None:
        self.objective, self.backend = setting.objective, setting.backend
        self.shift = self.largest_shift = 0.0

    @property
    def checkpoint_state(self) -> Any:
        """The last shift and the largest."""
        return [self.shift, self.largest_shift]

    def restore(self, state: Any) -> None:
        """Take over the shifts."""
        self.shift, self.largest_shift = state

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill."""
        H, xp = self.objective.hessian(theta), self.backend.xp
        small = self.shift <= MIN_SHIFT_FACTOR * self.largest_shift
        shift = 0.0 if small else self.shift / SHIFT_FACTOR
        for _ in range(MAX_SHIFTS):
            inverse = self._definite_inverse(H, shift)
            if inverse is not None:
                self.shift, self.largest_shift = shift, max(self.largest_shift, shift)
                how = "Newton" if shift == 0.0 else f"Newton, shifted by {shift:.1e}"
                return -inverse._apply(g), 0, how
            if shift == 0.0:
                Hg = self.objective.product(H, g, CURVATURE_ACCURACY)
                curvature = abs(float(xp.vecdot(g, Hg)))
                shift = FIRST_SHIFT_FACTOR * curvature / float(xp.vecdot(g, g)) or 1.0
            else:
                shift *= SHIFT_FACTOR
        return -g, 0, "steepest descent: no shift made the Hessian definite"

    def _definite_inverse(self, H: ReducedCurvature, shift: float) -> ShiftedInverse | None:
        """(H + shift I)^-1, or None where that is singular or indefinite."""
        self.objective.report.factorizations += 1
        try:
            inverse = solver_for(H.backend).shifted_inverse(H, -shift)
        except SingularStateError:
            return None
        return inverse if inverse.below == 0 else None


class LBFGS(Direction):
    """Limited-memory BFGS: an inverse Hessian from the last steps, and the preconditioner.

    References
    ----------
    J. Nocedal, "Updating quasi-Newton matrices with limited storage", 1980. D. C. Liu and
    J. Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.
    """

    needs_wolfe = True

    def __init__(self, setting: Setting) -> None:
        self.backend, self.precondition = setting.backend, setting.precondition
        self.pairs: deque[tuple[Array, Array, float]] = deque(maxlen=LBFGS_PAIRS)

    @property
    def checkpoint_state(self) -> Any:
        """The pairs."""
        return list(self.pairs)

    def restore(self, state: Any) -> None:
        """Take over the pairs."""
        to_device = self.backend.from_host
        self.pairs.extend((to_device(s), to_device(y), sy) for s, y, sy in state)

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill, by the two-loop recursion."""
        dot = self.backend.xp.vecdot
        q, weights = g, []
        for s, y, sy in reversed(self.pairs):
            weights.append(float(dot(s, q)) / sy)
            q = q - weights[-1] * y
        if self.pairs:
            _, y, sy = self.pairs[-1]
            q = (sy / float(dot(y, self.precondition(y)))) * self.precondition(q)
        else:
            q = self.precondition(q) / max(self.backend.norm(g), 1.0)
        for (s, y, sy), a in zip(self.pairs, reversed(weights), strict=True):
            q = q + (a - float(dot(y, q)) / sy) * s
        return -q, 0, f"{len(self.pairs)} pairs"

    def learn(self, step: Array, change: Array) -> None:
        """Keep a pair along which the gradient grows."""
        sy = float(self.backend.xp.vecdot(step, change))
        if sy > MIN_PAIR_CURVATURE * self.backend.norm(step) * self.backend.norm(change):
            self.pairs.append((step, change, sy))
