"""What every method of `minimize` asks of the functional, counted and written down."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..arrays.backend import Array
from ..equilibrium.reduced_hessian import ReducedCurvature, ReducedHessian
from ..errors import ConvergenceError, ModelError, SingularStateError
from ..operators.operator import Operator
from .bounds import Bounds
from .functional import ReducedFunctional

LOOSEST = 0.2  # of Eisenstat and Walker's forcing (1996, choice 2)
ROUGHEST, FINEST = 1e-2, 1e-10  # relative residuals of the inner solves of a product


@dataclass
class Step:
    """One iteration.

    Attributes
    ----------
    value, gradient_norm : float
        At its end; the norm of the projected gradient where there are bounds.
    length : float
        Of the step in the parameters; 0 where it was rejected.
    inner : int
        Products with the Hessian.
    how : str
        What became of it, in words.
    solves, seconds
        Spent by its end, as in the report.
    """

    value: float
    gradient_norm: float
    length: float
    inner: int
    how: str
    solves: int = 0
    seconds: float = 0.0


@dataclass
class Iterate:
    """Where an iteration is: what the next step follows from.

    Attributes
    ----------
    theta, gradient : (P,) arrays
    value : float
    size, previous : float
        The norms of the projected gradient here and a point before.
    forcing : float
        How accurate the last step was.
    radius : float or None
        Of the trust region.
    gauss_newton : bool
        Whether its next model is the Gauss-Newton part.
    """

    theta: Array
    value: float
    gradient: Array
    size: float
    previous: float
    forcing: float
    radius: float | None = None
    gauss_newton: bool = True


class Method(Protocol):
    """From one iterate to the next."""

    memory: Any  # what it has learned, as a checkpoint keeps it

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """The next iterate, and how it was found; None where there is none."""
        ...

    def forget(self) -> None:
        """Drop what is not in its memory."""
        ...


@dataclass
class MinimizeReport:
    """What a minimization did and cost.

    Attributes
    ----------
    method : str
    steps : list of Step
        The start first.
    equilibria : int
        Forward solves, those that failed included.
    rejected : int
        Steps at which the equilibrium does not exist, or the loss did not fall enough.
    gradients, products : int
        Adjoint gradients, and products with the Hessian; two linear solves each.
    factorizations : int
        Of the Lagrangian system.
    solves : int
        Linear solves of equilibria, gradients and products: right-hand sides.
    seconds : float
    """

    method: str = ""
    steps: list[Step] = field(default_factory=list)
    equilibria: int = 0
    rejected: int = 0
    gradients: int = 0
    products: int = 0
    factorizations: int = 0
    solves: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rows = [
            f"{self.method}: {len(self.steps) - 1} iterations, {self.equilibria} equilibria, "
            f"{self.gradients} gradients, {self.products} products, {self.rejected} rejected "
            f"steps, {self.seconds:.1f} s",
            "     loss            |gradient|  |step|    inner",
        ]
        rows += [
            f"{i:4} {s.value:<15.8g} {s.gradient_norm:<11.2e} {s.length:<9.1e} {s.inner:<5} {s.how}"
            for i, s in enumerate(self.steps)
        ]
        return "\n".join(rows)


class Objective:
    """The loss, its gradient and its Hessian at points of an iteration.

    Parameters
    ----------
    functional : ReducedFunctional
    method : str
    """

    def __init__(self, functional: ReducedFunctional, method: str) -> None:
        self.functional = functional
        self.report = MinimizeReport(method)
        self._before = functional.solves, functional.linear_solves
        self._started = time.perf_counter()

    def start(self, theta: Array, bounds: Bounds, radius: float | None) -> tuple[Iterate, Step]:
        """The first iterate, where there is an equilibrium."""
        value = self.value(theta)
        if value == math.inf:
            found = self.functional.value(theta)
            raise ModelError(f"the loss is {found} at theta0; a finite number was expected")
        g = self.gradient(theta)
        size = bounds.backend.norm(bounds.projected_gradient(theta, g))
        at = Iterate(theta, value, g, size, size, LOOSEST, radius)
        return at, Step(value, size, 0.0, 0, "start")

    def go_on(self, report: MinimizeReport) -> None:
        """Count on from a report."""
        self.report = report
        self.functional.count_on(report.equilibria, report.solves)
        self._started -= report.seconds

    def value(self, theta: Array) -> float:
        """The loss; infinite where it is not finite, or there is no equilibrium or residual."""
        try:
            found = self.functional.value(theta)
        except (ConvergenceError, SingularStateError, ModelError):
            found = math.inf
        self.count()
        return found if math.isfinite(found) else math.inf

    def gradient(self, theta: Array) -> Array:
        """The gradient, where there is an equilibrium."""
        self.report.gradients += 1
        found = self.functional.gradient(theta)
        self.count()
        return found

    def hessian(self, theta: Array) -> ReducedHessian:
        """The Hessian; it stays where it is when the point moves on."""
        return self.functional.hessian(theta)

    def product(self, H: ReducedCurvature, v: Array, accuracy: float) -> Array:
        """H v, by solves that are as loose as a step of relative accuracy so much allows."""
        self.report.products += 1
        return H.apply_inexact(v, min(ROUGHEST, max(FINEST, 0.1 * accuracy)))

    def count(self) -> None:
        """Bring the report up to date."""
        equilibria, solves = self._before
        self.report.equilibria = self.functional.solves - equilibria
        self.report.solves = self.functional.linear_solves - solves
        self.report.seconds = time.perf_counter() - self._started


def inverse_of(preconditioner: Any) -> Any:
    """The product with a preconditioner near H^-1: a precision is solved with."""
    if hasattr(preconditioner, "covariance"):
        return preconditioner.solve
    applied: Operator = preconditioner
    return applied._apply
