"""Base classes of the user's models, and the linearizations that they return.

Derivatives are those of the user's function; the sign conventions are applied later, in
`mfdeq.models.linearization`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..arrays.backend import Array
from ..errors import ModelError


@dataclass(frozen=True)
class Linearization:
    """First and second derivatives of a model's ``map`` or ``residual`` at one (h, theta).

    Here f denotes the model's function, ``map`` or ``residual``, of the state h of size N and the
    parameters theta of size P.

    Parameters
    ----------
    d_state : (N, N) array, sparse matrix or LinearOperator
        The derivative of f with respect to the state. A LinearOperator must have an adjoint.
    d_params : (N, P) array, sparse matrix or LinearOperator
        The derivative of f with respect to the parameters.
    curvature : callable, optional
        ``curvature(lam)`` returns the Hessian of the scalar lamᵀf with respect to (theta, h) for
        an (N,) array lam, as a `Curvature` or a callable ``(dtheta, dh) -> (a_theta, a_h)``. It is
        required for second-order derivatives.
    second : callable, optional
        ``second(a, b)`` returns the (N,) second derivative f''[a, b] along a = (dtheta, dh) and
        b. It is required only for second-order sensitivities of the state.

    Attributes
    ----------
    accuracy : tuple of two floats
        Relative accuracy of the first and of the second derivatives, by default 0.0: exact to
        rounding.
    sources : mapping of str to str
        The sources of computed fields, as strings for reports.

    Raises
    ------
    ModelError
        If ``curvature`` or ``second`` is not callable.

    Notes
    -----
    From these derivatives mfdeq forms the operators A = I − ∂f/∂h and B = ∂f/∂θ for a map f, or
    A = ∂R/∂h and B = −∂R/∂θ for a residual R.

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

    @property
    def state_accuracy(self) -> float:
        """Relative accuracy of ``d_state`` alone, by default that of both first derivatives."""
        return self.accuracy[0]


@dataclass(frozen=True)
class ComputedLinearization(Linearization):
    """A linearization computed by a source of derivatives.

    Parameters
    ----------
    d_state, d_params, curvature, second
        As in `Linearization`.
    accuracy : tuple of two floats, optional
        Relative accuracy of the first and of the second derivatives, which checks and error
        estimates take into account.
    sources : mapping of str to str, optional
        The source of each field, as a string for reports.
    """

    accuracy: tuple[float, float] = (0.0, 0.0)  # type: ignore[misc]
    sources: Mapping[str, str] = field(default_factory=dict)  # type: ignore[misc]


class DeferredLinearization(Linearization):
    """A linearization computed by a source, whose ``d_params`` is computed when it is first used.

    A solve uses only ``d_state``, and may linearize many times before anything uses ``d_params``.

    Parameters
    ----------
    d_state, curvature, second
        As in `Linearization`.
    d_params : callable
        ``d_params()`` returns the derivative with respect to the parameters, at the (h, theta) of
        this linearization. It is called once, or again if it raised an exception.
    sources : callable, optional
        ``sources()`` returns the source of each field, as a string for reports. It must not
        compute ``d_params``. Without it `d_params` is the derivative itself, as in
        `dataclasses.replace`.
    accuracy : callable, optional
        ``accuracy()`` returns the relative accuracy of the first and of the second derivatives, and
        may compute ``d_params``. By default they are exact to rounding.
    state_accuracy : float, optional
        Relative accuracy of ``d_state`` alone.
    """

    def __init__(
        self,
        d_state: Any,
        d_params: Callable[[], Any],
        curvature: Callable[[Array], Any] | None = None,
        second: Callable[[tuple[Array, Array], tuple[Array, Array]], Array] | None = None,
        *,
        sources: Callable[[], Mapping[str, str]] | None = None,
        accuracy: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
        state_accuracy: float = 0.0,
    ) -> None:
        # The attributes of a frozen dataclass cannot be assigned.
        vars(self).update(
            d_state=d_state,
            curvature=curvature,
            second=second,
            _d_params=d_params,
            _sources=dict if sources is None else sources,
            _accuracy=accuracy,
            _state_accuracy=state_accuracy,
        )
        if sources is None:
            vars(self)["d_params"] = d_params
        self.__post_init__()

    @functools.cached_property
    def d_params(self) -> Any:
        """The derivative with respect to the parameters."""
        return vars(self)["_d_params"]()

    @property
    def accuracy(self) -> tuple[float, float]:  # type: ignore[override]
        """Relative accuracy of the first and of the second derivatives."""
        return vars(self)["_accuracy"]()

    @property
    def state_accuracy(self) -> float:
        """Relative accuracy of ``d_state`` alone."""
        return vars(self)["_state_accuracy"]

    @property
    def sources(self) -> Mapping[str, str]:  # type: ignore[override]
        """The source of each field."""
        return vars(self)["_sources"]()


class Model:
    """Common base class of models; derive from `FixedPointModel` or `ResidualModel` instead.

    Attributes
    ----------
    state_size, param_size : int
        The number of unknowns N and of parameters P.
    function_name : str
        The name of the function that the user writes: "map" or "residual".
    state_names, equation_names : sequence of N strings, optional
        Names of the unknowns and of the equations, which errors use: "pressure of cell 7".
    time_sign : {+1, -1}, optional
        The sign of dh/dt = ±R(h, theta) by which the equilibrium is reached in time; for a map the
        time derivative is f(h, theta) - h. Pseudo-transient continuation follows it.
    """

    state_size: int
    param_size: int
    function_name: str
    state_names: Sequence[str] | None = None
    equation_names: Sequence[str] | None = None
    time_sign: int | None = None

    @property
    def display_name(self) -> str:
        """The name that error messages and reports use for the model."""
        return type(self).__name__

    def map_or_residual(self, h: Array, theta: Array) -> Array:
        """Evaluate the model's ``map`` or ``residual``."""
        raise NotImplementedError

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the derivatives of ``map`` or ``residual`` at (h, theta).

        It is called once for each equilibrium. The functions of the returned `Linearization` may
        keep intermediate results, such as a factorized matrix.

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        Linearization
        """
        raise ModelError(
            f"{type(self).__name__} has no linearize(h, theta): define one that returns an "
            "mfdeq.Linearization"
        )

    def linearize_for_comparison(self, h: Array, theta: Array) -> Linearization:
        """Return derivatives as accurate as those of ``linearize``, but with independent errors.

        Error estimates use the difference of the two as the error of inexact derivatives. Sources
        that differentiate numerically use different steps here; the default, ``linearize``, is for
        derivatives that are exact to rounding.
        """
        return self.linearize(h, theta)

    def check_loss(self, loss: Any) -> None:
        """Raise `ArgumentError` if the loss cannot be used with equilibria of this model."""

    def initial_state(self, theta: Array) -> Array | None:
        """Return the default initial state of solvers.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        (N,) array or None
            None, the default, means zeros.
        """
        return None

    def residual_scale(self, h: Array, theta: Array) -> float | Array | None:
        """Return the size of each equation that counts as one, to which tolerances are relative.

        Parameters
        ----------
        h : (N,) array
        theta : (P,) array

        Returns
        -------
        float or (N,) array or None
            None, the default, means that the size of an equation is that of its own terms,
            |∂R/∂h| |h|.
        """
        return None

    def state_scale(self, theta: Array) -> float | Array | None:
        """Return the size of each unknown that counts as one, to which tolerances are relative.

        Parameters
        ----------
        theta : (P,) array

        Returns
        -------
        float or (N,) array or None
            None, the default, means that the size of an unknown is its current value.
        """
        return None


class FixedPointModel(Model):
    """Base class of models of an equilibrium h = f(h, theta).

    Derived classes define ``map`` and ``linearize``.

    Attributes
    ----------
    state_size, param_size : int
        The number of unknowns N and of parameters P: set them on the class or in ``__init__``.

    See Also
    --------
    ResidualModel : An equilibrium R(h, theta) = 0.
    from_jax, from_torch, from_function : Models from a function without derivatives.

    Notes
    -----
    ``initial_state(theta)``, ``residual_scale(h, theta)`` and ``state_scale(theta)`` may be
    overridden, and ``state_names`` and ``equation_names`` set. Arrays passed to
    the model are copies, which it may change.

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
        raise ModelError(f"{type(self).__name__} has no map(h, theta): define one")

    def map_or_residual(self, h: Array, theta: Array) -> Array:
        """Evaluate ``map``."""
        return self.map(h, theta)


class ResidualModel(Model):
    """Base class of models of an equilibrium R(h, theta) = 0.

    Derived classes define ``residual`` and ``linearize``.

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
        raise ModelError(f"{type(self).__name__} has no residual(h, theta): define one")

    def map_or_residual(self, h: Array, theta: Array) -> Array:
        """Evaluate ``residual``."""
        return self.residual(h, theta)


KINDS = (FixedPointModel.function_name, ResidualModel.function_name)
