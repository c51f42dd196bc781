"""Methods that choose a direction and search along it: Newton's and limited-memory BFGS."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ..arrays.backend import Array, Backend
from ..equilibrium.lagrangian_system import ShiftedInverse, solver_for
from ..equilibrium.reduced_hessian import ReducedCurvature
from ..errors import SingularStateError
from .objective import Iterate, Objective, Step
from .trust_region import ROUNDING, eisenstat_walker, steihaug

ARMIJO, WOLFE = 1e-4, 0.9  # of the decrease and of the slope
HALVINGS = 40
FAR = 0.1  # of a step to where there is no loss, that is tried next
TRIALS = 30  # of a search by Wolfe's conditions
SHIFTS = 30  # factorizations for one step
FORGOTTEN = 1e-3  # of the largest shift, from where on none is tried again
LEAST_SHIFT = 1e-3  # of the curvature along the gradient
CURVED = 1e-10  # s'y of a pair that is kept, of |s||y|


class Direction(Protocol):
    """Where to search from a point."""

    wolfe: bool  # whether the search asks for the slope, too
    memory: Any  # what it has learned, as a checkpoint keeps it

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill, the products it took, and how it was found."""
        ...

    def learn(self, step: Array, change: Array) -> None:
        """Take note of a step and of what it changed in the gradient."""
        ...


class NewtonCG:
    """-H^-1 g by conjugate gradients, up to a direction of negative curvature."""

    wolfe = False
    memory: Any = None

    def __init__(
        self, objective: Objective, backend: Backend, precondition: Callable, inner: int
    ) -> None:
        self.objective, self.backend = objective, backend
        self.precondition, self.inner = precondition, inner

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill."""
        H = self.objective.hessian(theta)
        found = steihaug(
            self.backend,
            lambda v: self.objective.product(H, v, forcing),
            self.precondition,
            g,
            math.inf,
            forcing,
            self.inner,
        )
        return found.step, found.products, found.how

    def learn(self, step: Array, change: Array) -> None:
        """Nothing: every point has its own Hessian."""


class ExactNewton:
    """-(H + shift I)^-1 g by the Lagrangian system; the shift makes it definite, by its inertia."""

    wolfe = False

    def __init__(self, objective: Objective, backend: Backend) -> None:
        self.objective, self.backend = objective, backend
        self.shift = self.first = 0.0

    @property
    def memory(self) -> Any:
        """The last shift and the largest."""
        return [self.shift, self.first]

    @memory.setter
    def memory(self, memory: Any) -> None:
        self.shift, self.first = memory

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill."""
        H, xp = self.objective.hessian(theta), self.backend.xp
        shift = 0.1 * self.shift if self.shift > FORGOTTEN * self.first else 0.0
        for _ in range(SHIFTS):
            inverse = self._definite(H, shift)
            if inverse is not None:
                self.shift, self.first = shift, max(self.first, shift)
                how = "Newton" if shift == 0.0 else f"Newton, shifted by {shift:.1e}"
                return -inverse._apply(g), 0, how
            if shift == 0.0:
                along = abs(float(xp.vecdot(g, self.objective.product(H, g, 0.1))))
                shift = LEAST_SHIFT * along / float(xp.vecdot(g, g)) or 1.0
            else:
                shift *= 10.0
        return -g, 0, "steepest descent: no shift made the Hessian definite"

    def _definite(self, H: ReducedCurvature, shift: float) -> ShiftedInverse | None:
        self.objective.report.factorizations += 1
        try:
            inverse = solver_for(H.backend).shifted_inverse(H, -shift)
        except SingularStateError:
            return None
        return inverse if inverse.below == 0 else None

    def learn(self, step: Array, change: Array) -> None:
        """Nothing: every point has its own Hessian."""


class LBFGS:
    """The inverse Hessian of the last steps (Nocedal 1980), from the preconditioner on.

    Parameters
    ----------
    memory : int
        Steps that are kept.
    """

    wolfe = True

    def __init__(self, backend: Backend, precondition: Callable, memory: int) -> None:
        self.backend, self.precondition = backend, precondition
        self.pairs: deque[tuple[Array, Array, float]] = deque(maxlen=memory)

    @property
    def memory(self) -> Any:
        """The pairs."""
        return list(self.pairs)

    @memory.setter
    def memory(self, memory: Any) -> None:
        put = self.backend.from_host
        self.pairs.extend((put(step), put(change), sy) for step, change, sy in memory)

    def __call__(self, theta: Array, g: Array, forcing: float) -> tuple[Array, int, str]:
        """A direction downhill."""
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
        if sy > CURVED * self.backend.norm(step) * self.backend.norm(change):
            self.pairs.append((step, change, sy))


class LineSearch:
    """Steps along a direction downhill, until none is.

    Parameters
    ----------
    objective : Objective
    backend : Backend
    direction : Direction
    wanted : float
        The norm of the gradient that is asked for.
    """

    def __init__(
        self, objective: Objective, backend: Backend, direction: Direction, wanted: float
    ) -> None:
        self.objective, self.backend = objective, backend
        self.direction, self.wanted = direction, wanted

    @property
    def memory(self) -> Any:
        """What the direction has learned."""
        return self.direction.memory

    @memory.setter
    def memory(self, memory: Any) -> None:
        self.direction.memory = memory

    def forget(self) -> None:
        """Nothing: every step takes its Hessian from the functional."""

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """One step; None where none lowers the loss."""
        norm, direction = self.backend.norm, self.direction
        forcing = eisenstat_walker(at.forcing, at.size, at.previous, self.wanted)
        p, inner, how = direction(at.theta, at.gradient, forcing)
        search = _wolfe if direction.wolfe else _armijo
        found = search(self.objective, self.backend, at.theta, at.value, at.gradient, p)
        if found is None:
            return None
        theta, value, g, rejected = found
        self.objective.report.rejected += rejected
        direction.learn(theta - at.theta, g - at.gradient)
        there = Iterate(theta, value, g, norm(g), at.size, forcing)
        return there, Step(value, there.size, norm(theta - at.theta), inner, how)


Found = tuple[Array, float, Array, int] | None


def _armijo(
    objective: Objective, backend: Backend, theta: Array, value: float, g: Array, p: Array
) -> Found:
    """Halve the step until the loss has fallen; where it is flat to rounding, the gradient."""
    slope, t = float(backend.xp.vecdot(g, p)), 1.0
    if not slope < 0.0:
        return None
    noise, size = ROUNDING * backend.eps * abs(value), backend.norm(g)
    for rejected in range(HALVINGS):
        trial = theta + t * p
        new = objective.value(trial)
        if new <= value + ARMIJO * t * slope:
            return trial, new, objective.gradient(trial), rejected
        if abs(new - value) <= noise:
            trial_g = objective.gradient(trial)
            if backend.norm(trial_g) < size:
                return trial, new, trial_g, rejected
        t *= 0.5 if new < math.inf else FAR  # a direction of no curvature has no length
    return None


def _wolfe(
    objective: Objective, backend: Backend, theta: Array, value: float, g: Array, p: Array
) -> Found:
    """A step that lowers the loss and flattens its slope, between one too short and one too long.

    (Lewis and Overton 2013, section 2.6, with parabolas in place of bisection.) Where there is no
    equilibrium, the step is too long.
    """
    start = float(backend.xp.vecdot(g, p))
    if not start < 0.0:
        return None
    low, at_low, slope = 0.0, value, start
    high, t, rejected = math.inf, 1.0, 0
    best: Found = None
    noise = ROUNDING * backend.eps * abs(value)
    for _ in range(TRIALS):
        trial = theta + t * p
        new = objective.value(trial)
        if new > value + ARMIJO * t * start + (noise if best is None else 0.0):
            high, rejected = t, rejected + 1
            t = low + (high - low) * _parabola(new - at_low, slope * (high - low))
            continue
        trial_g = objective.gradient(trial)
        best, there = (trial, new, trial_g, rejected), float(backend.xp.vecdot(trial_g, p))
        if there >= WOLFE * start:
            return best
        low, at_low, slope = t, new, there
        t = 0.5 * (low + high) if high < math.inf else 3.0 * low
    return best


def _parabola(rise: float, slope: float) -> float:
    """Where, between 0 and 1, a parabola from 0 with that slope to that rise at 1 is lowest."""
    if not rise < math.inf:
        return 0.1
    return min(0.9, max(0.1, -0.5 * slope / (rise - slope)))
