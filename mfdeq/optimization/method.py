"""The interface of the methods of `minimize`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from .bounds import Bounds
from .metrics import GradientNorm
from .minimize_report import Step
from .objective import Objective

LOSS_ROUNDING_FACTOR = 100.0  # smaller changes of the loss, in units of its eps, are rounding


@dataclass
class Iterate:
    """A point of a minimization, with all that the next step depends on besides the method.

    Attributes
    ----------
    theta, gradient : (P,) arrays
    value : float
    gradient_norm, previous_norm : float
        The norms of the projected gradient, in the metric, at this point and at the previous one.
    forcing : float
        The relative accuracy of the last step.
    radius : float or None
        The radius of the trust region; None before the first step.
    gauss_newton : bool
        Whether the next quadratic model uses the Gauss-Newton part of the Hessian.
    """

    theta: Array
    value: float
    gradient: Array
    gradient_norm: float
    previous_norm: float
    forcing: float
    radius: float | None = None
    gauss_newton: bool = True


@dataclass(frozen=True)
class Setting:
    """The arguments of a method.

    Attributes
    ----------
    objective : Objective
    bounds : Bounds
    norm : GradientNorm
        The norm of gradients, in the metric.
    precondition : callable
        ``precondition(g)`` is the product with an approximate inverse of the Hessian.
    max_products : int
        The largest number of products in one step.
    target, scale : float
        The target of the norm of the gradient, and the norm to which it is relative.
    at_rounding : callable
        ``at_rounding(iterate)`` measures whether the gradient at an iterate is no larger than its
        error.
    """

    objective: Objective
    bounds: Bounds
    norm: GradientNorm
    precondition: Callable[[Array], Array]
    max_products: int
    target: float
    scale: float
    at_rounding: Callable[[Iterate], bool]

    @property
    def backend(self) -> Backend:
        """The array library of the parameters."""
        return self.bounds.backend

    def gradient_norm(self, theta: Array, g: Array) -> float:
        """Return the norm of the projected gradient."""
        return self.norm(self.bounds.projected_gradient(theta, g))


class Method:
    """Base class of the methods of `minimize`.

    By default a method keeps no state from one step to the next besides the iterate.
    """

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """Return the next iterate and its step, or None if no step decreases the loss.

        If a step is rejected, the iterate has the same point and a smaller radius.
        """
        raise NotImplementedError

    @property
    def checkpoint_state(self) -> Any:
        """The state of the method as plain values and arrays, for a checkpoint."""
        return None

    def restore(self, state: Any) -> None:
        """Restore the state from a checkpoint."""

    def forget(self) -> None:
        """Drop what is not in `checkpoint_state`."""
