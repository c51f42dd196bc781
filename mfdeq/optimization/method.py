"""What every method of `minimize` provides, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from .bounds import Bounds
from .minimize_report import Step
from .objective import Objective


@dataclass
class Iterate:
    """A point of a minimization, and all that the next step depends on other than the method.

    Attributes
    ----------
    theta, gradient : (P,) arrays
    value : float
    gradient_norm, previous_norm : float
        Norms of the projected gradient here and at the point before.
    forcing : float
        The relative accuracy of the last step.
    radius : float or None
        Radius of the trust region; None before the first step.
    gauss_newton : bool
        Whether the next model is the Gauss-Newton part of the Hessian.
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
    """What a method is made from.

    Attributes
    ----------
    objective : Objective
    bounds : Bounds
    precondition : callable
        The product with an approximate inverse of the Hessian.
    max_products : int
        Products of one step.
    target : float
        The norm of the gradient that is asked for.
    """

    objective: Objective
    bounds: Bounds
    precondition: Callable[[Array], Array]
    max_products: int
    target: float

    @property
    def backend(self) -> Backend:
        """The array library of the parameters."""
        return self.bounds.backend


class Method:
    """A way from one iterate to the next.

    By default it learns nothing from one step to the next beyond what is in the iterate.
    """

    def advance(self, at: Iterate) -> tuple[Iterate, Step] | None:
        """The next iterate and how it was found; None where no step lowers the loss.

        A rejected step returns the same point, with what makes the next one shorter.
        """
        raise NotImplementedError

    @property
    def checkpoint_state(self) -> Any:
        """What the method has learned, as plain values and arrays that a checkpoint holds."""
        return None

    def restore(self, state: Any) -> None:
        """Take over what a checkpoint holds."""

    def forget(self) -> None:
        """Drop what is not in `checkpoint_state`."""
