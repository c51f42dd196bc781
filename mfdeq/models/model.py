"""What the user writes: an equilibrium condition and its derivatives.

The derivatives are those of the function as it is written. mfdeq applies the sign conventions
afterwards, in `mfdeq.models.linearization`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..arrays.backend import Array
from ..errors import ModelError


@dataclass(frozen=True)
class Linearization:
    """First and second derivatives of a model's ``map`` or ``residual`` at one (h, theta).

    Write f for whichever of the two the model has, with state h of size N and parameters theta
    of size P.

    Parameters
    ----------
    d_state : (N, N) array, sparse matrix or LinearOperator
        The derivative of f with respect to the state. A LinearOperator needs its adjoint.
    d_params : (N, P) array, sparse matrix or LinearOperator
        The derivative of f with respect to the parameters.
    curvature : callable, optional
        ``curvature(lam)``, for an (N,) array, returns the Hessian of the scalar lamᵀf with
        respect to (theta, h): a `Curvature`, or a callable ``(dtheta, dh) -> (a_theta, a_h)``.
        Everything of second order needs it.
    second : callable, optional
        ``second(a, b)`` returns the (N,) second derivative f''[a, b] along a = (dtheta, dh) and
        b. Only second-order sensitivities of the state need it.

    Attributes
    ----------
    accuracy : tuple of two floats
        Relative accuracy of the first and of the second derivatives; 0.0 means that they are
        exact to rounding, as they are where a `ComputedLinearization` does not say otherwise.
    sources : mapping of str to str
        For fields that were not written by hand, where each comes from, in words.

    Raises
    ------
    ModelError
        If ``curvature`` or ``second`` is not callable.

    Notes
    -----
    The derivatives are those of the function that the model has, ``map`` or ``residual``; mfdeq
    derives from them the operators A = I − ∂f/∂h and B = ∂f/∂θ of a map, or A = ∂R/∂h and
    B = −∂R/∂θ of a residual R.

    Examples
    --------
    The derivatives of f(h, theta) = cos(h) + theta, with N = P = 1:

    >>> import numpy as np
    >>> import mfdeq
    >>> h = np.array([0.5])
    >>> linearization = mfdeq.Linearization(
    ...     d_state=-np.diag(np.sin(h)),
    ...     d_params=np.eye(1),
    ...     curvature=lambda lam: mfdeq.Curvature(state_state=np.diag(-lam * np.cos(h))),
    ...     second=lambda a, b: -np.cos(h) * a[1] * b[1],
    ... )
    >>> print(linearization.d_state.round(4))
    [[-0.4794]]
    >>> linearization.accuracy
    (0.0, 0.0)
    """

    d_state: Any
    d_params: Any
    curvature: Callable[[Array], Any] | None = None
    second: Callable[[tuple[Array, Array], tuple[Array, Array]], Array] | None = None
    accuracy: ClassVar[tuple[float, float]] = (0.0, 0.0)
    sources: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for name, arguments in (("curvature", "lam"), ("second", "a, b")):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise ModelError(
                    f"{name} of the Linearization: expected a function, got "
                    f"{type(function).__name__}; write {name}=lambda {arguments}: ..."
                )


@dataclass(frozen=True)
class ComputedLinearization(Linearization):
    """A linearization that a source of derivatives computed.

    Parameters
    ----------
    d_state, d_params, curvature, second
        As in `Linearization`.
    accuracy : tuple of two floats, optional
        Relative accuracy of the first and of the second derivatives, for which checks and error
        estimates allow.
    sources : mapping of str to str, optional
        Where each field comes from, in words that reports print.
    """

    accuracy: tuple[float, float] = (0.0, 0.0)  # type: ignore[misc]
    sources: Mapping[str, str] = field(default_factory=dict)  # type: ignore[misc]


class Model:
    """What maps and residuals share. Derive from `FixedPointModel` or `ResidualModel` instead.

    Attributes
    ----------
    state_size, param_size : int
        The number of unknowns N and of parameters P.
    function_name : str
        The name of the function that the user writes: "map" or "residual".
    """

    state_size: int
    param_size: int
    function_name: str

    @property
    def display_name(self) -> str:
        """The name that error messages and reports use for the model."""
        return type(self).__name__

    def map_or_residual(self, h: Array, theta: Array) -> Array:
        """Evaluate the function that the user writes, whichever of the two it is."""
        raise NotImplementedError

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the derivatives of ``map`` or ``residual`` at (h, theta).

        It is called once for each equilibrium. Whatever it computes (a factorized matrix, stored
        intermediate values) may be kept in the functions of the `Linearization` that it returns.

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        Linearization
        """
        raise ModelError(
            f"{type(self).__name__} has no linearize(h, theta): write one that returns an "
            "mfdeq.Linearization of its derivatives"
        )

    def linearize_for_comparison(self, h: Array, theta: Array) -> Linearization:
        """Return derivatives as accurate as those of ``linearize``, but with different errors.

        Error estimates take the difference of the two for the error of inexact derivatives. A
        source of derivatives that differentiates numerically computes them again with other
        steps; the default, ``linearize`` itself, fits derivatives that are exact to rounding.
        """
        return self.linearize(h, theta)

    def check_loss(self, loss: Any) -> None:
        """Raise an `ArgumentError` if the loss cannot be used with equilibria of this model."""

    def initial_state(self, theta: Array) -> Array | None:
        """Return the state at which solvers start by default.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        (N,) array or None
            None, the default, means zeros.
        """
        return None

    def residual_scale(self, h: Array, theta: Array) -> float | None:
        """Return the norm of a residual that counts as one, to which tolerances are relative.

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        float or None
            None, the default, means the norm of the residual at the default start.
        """
        return None


class FixedPointModel(Model):
    """An equilibrium h = f(h, theta). Derive from it, and write ``map`` and ``linearize``.

    Attributes
    ----------
    state_size, param_size : int
        The number of unknowns N and of parameters P: set them on the class or in ``__init__``.

    See Also
    --------
    ResidualModel : An equilibrium R(h, theta) = 0.
    from_jax, from_torch, from_function : Models from the function alone.

    Notes
    -----
    ``initial_state(theta)`` and ``residual_scale(h, theta)`` may be overridden. Arrays that are
    passed to the model are copies, which it may change.

    Examples
    --------
    The fixed point of the cosine:

    >>> import numpy as np
    >>> import mfdeq
    >>> class Cosine(mfdeq.FixedPointModel):
    ...     state_size = 1
    ...     param_size = 1
    ...
    ...     def map(self, h, theta):
    ...         return np.cos(h) + theta
    ...
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(
    ...             d_state=-np.diag(np.sin(h)),
    ...             d_params=np.eye(1),
    ...             curvature=lambda lam: mfdeq.Curvature(state_state=np.diag(-lam * np.cos(h))),
    ...             second=lambda a, b: -np.cos(h) * a[1] * b[1],
    ...         )
    >>> eq = mfdeq.solve(Cosine(), np.zeros(1))
    >>> print(f"{eq.state[0]:.6f}")
    0.739085
    """

    function_name = "map"

    def map(self, h: Array, theta: Array) -> Array:
        """Return f(h, theta).

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        (N,) array
        """
        raise ModelError(f"{type(self).__name__} has no map(h, theta): write one")

    def map_or_residual(self, h: Array, theta: Array) -> Array:
        """Evaluate ``map``."""
        return self.map(h, theta)


class ResidualModel(Model):
    """An equilibrium R(h, theta) = 0. Derive from it, and write ``residual`` and ``linearize``.

    Attributes
    ----------
    state_size, param_size : int
        The number of unknowns N and of parameters P: set them on the class or in ``__init__``.

    See Also
    --------
    FixedPointModel : An equilibrium h = f(h, theta).

    Notes
    -----
    The sign of R does not matter: −R has the same equilibria and the same sensitivities.

    Examples
    --------
    The positive root of h² = theta, whose derivative is 1 / (2 h):

    >>> import numpy as np
    >>> import mfdeq
    >>> class SquareRoot(mfdeq.ResidualModel):
    ...     state_size = 1
    ...     param_size = 1
    ...
    ...     def residual(self, h, theta):
    ...         return h**2 - theta
    ...
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(
    ...             d_state=np.diag(2 * h),
    ...             d_params=-np.eye(1),
    ...             curvature=lambda lam: mfdeq.Curvature(state_state=np.diag(2 * lam)),
    ...         )
    ...
    ...     def initial_state(self, theta):
    ...         return np.ones(1)
    >>> eq = mfdeq.solve(SquareRoot(), np.array([2.0]))
    >>> print(f"{eq.state[0]:.6f} {eq.sensitivity.toarray()[0, 0]:.6f}")
    1.414214 0.353553
    """

    function_name = "residual"

    def residual(self, h: Array, theta: Array) -> Array:
        """Return R(h, theta).

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        (N,) array
        """
        raise ModelError(f"{type(self).__name__} has no residual(h, theta): write one")

    def map_or_residual(self, h: Array, theta: Array) -> Array:
        """Evaluate ``residual``."""
        return self.residual(h, theta)


KINDS = (FixedPointModel.function_name, ResidualModel.function_name)
