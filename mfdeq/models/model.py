"""A model: what the user writes. The derivatives are of what was written; signs are ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..arrays.backend import Array
from ..errors import ModelError


@dataclass(frozen=True)
class Linearization:
    """Derivatives of a model's ``map`` or ``residual`` at one (h, theta).

    Parameters
    ----------
    d_state : array, sparse matrix or LinearOperator, (N, N)
        Derivative with respect to the state.
    d_params : array, sparse matrix or LinearOperator, (N, P)
        Derivative with respect to the parameters.
    curvature : callable, optional
        ``curvature(lam)`` is the Hessian over (theta, h) of the scalar lam' map (or
        lam' residual), as a `Curvature` or a callable ``(dtheta, dh) -> (a_theta, a_h)``.
        Needed by everything of second order.
    second : callable, optional
        ``second(a, b)``, the second derivative map''[a, b] of shape (N,) along
        a = (dtheta, dh) and b. Needed by second-order state sensitivities only.

    Attributes
    ----------
    accuracy : tuple of two floats
        Relative accuracy of the first and of the second derivatives; 0 is to rounding.
    sources : mapping of str to str
        Where each field is from, if not from the user.
    """

    d_state: Any
    d_params: Any
    curvature: Callable[[Array], Any] | None = None
    second: Callable[[tuple[Array, Array], tuple[Array, Array]], Array] | None = None
    accuracy: ClassVar[tuple[float, float]] = (0.0, 0.0)
    sources: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for name, arguments in (("curvature", "lam"), ("second", "a, b")):
            given = getattr(self, name)
            if given is not None and not callable(given):
                raise ModelError(
                    f"{name} of the Linearization is a {type(given).__name__}; a function was "
                    f"expected: {name}=lambda {arguments}: ..."
                )


@dataclass(frozen=True)
class Derived(Linearization):
    """A linearization that was not written by hand: how accurate it is, and where it is from."""

    accuracy: tuple[float, float] = (0.0, 0.0)  # type: ignore[misc]
    sources: Mapping[str, str] = field(default_factory=dict)  # type: ignore[misc]


class Model:
    """What maps and residuals have in common. Derive from one of those two.

    Attributes
    ----------
    state_size, param_size : int
        N and P.
    """

    state_size: int
    param_size: int

    written: str = ""  # the name of the function that the user writes: "map" or "residual"

    @property
    def described(self) -> str:
        """What messages call the model."""
        return type(self).__name__

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Derivatives of the map or residual at (h, theta); called once per equilibrium."""
        raise ModelError(
            f"{type(self).__name__} has no linearize(h, theta): write one that returns an "
            "mfdeq.Linearization of its derivatives"
        )

    def linearize_again(self, h: Array, theta: Array) -> Linearization:
        """Derivatives as accurate, but with other errors: what error estimates compare with.

        By default `linearize`, which fits where derivatives are exact to rounding.
        """
        return self.linearize(h, theta)

    def check_loss(self, loss: Any) -> None:
        """Raise an `ArgumentError` where a loss is none for equilibria of this model."""

    def initial_state(self, theta: Array) -> Array | None:
        """The default start; None, the default, is zeros."""
        return None

    def residual_scale(self, h: Array, theta: Array) -> float | None:
        """The size of residual that counts as one; None, the default, is ||R|| at the start."""
        return None


class FixedPointModel(Model):
    """An equilibrium h = f(h, theta). Write ``map`` and ``linearize``.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> class Cosine(mfdeq.FixedPointModel):
    ...     state_size = 1
    ...     param_size = 1
    ...     def map(self, h, theta):
    ...         return np.cos(h) + theta
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(
    ...             d_state=-np.sin(h)[:, None],
    ...             d_params=np.ones((1, 1)),
    ...             curvature=lambda lam: mfdeq.Curvature(state_state=(-lam * np.cos(h))[:, None]),
    ...             second=lambda a, b: -np.cos(h) * a[1] * b[1],
    ...         )
    >>> eq = mfdeq.solve(Cosine(), np.zeros(1))
    >>> print(f"{eq.state[0]:.10f}")
    0.7390851332
    """

    written = "map"

    def map(self, h: Array, theta: Array) -> Array:
        """f(h, theta), shape (N,)."""
        raise ModelError(f"{type(self).__name__} has no map(h, theta): write one")


class ResidualModel(Model):
    """An equilibrium R(h, theta) = 0. Write ``residual`` and ``linearize``."""

    written = "residual"

    def residual(self, h: Array, theta: Array) -> Array:
        """R(h, theta), shape (N,)."""
        raise ModelError(f"{type(self).__name__} has no residual(h, theta): write one")
