"""What a model's ``linearize`` returns: the derivatives of its function at one (h, theta).

They are those of the user's function. The sign conventions are applied later, in
`mfdeq.models.problem`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..arrays.backend import Array
from ..errors import ModelError
from ..locks import cached_property


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

    def check_unchanged(self, compare: bool = False) -> None:
        """Raise `ModelError` if the function has changed since, as far as the source can tell.

        With `compare` it may evaluate the function.
        """


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
    unchanged : callable, optional
        ``unchanged(compare)`` raises an error if the function has changed since. The first
        derivative at an equilibrium calls it without `compare`; with it the function may be
        evaluated.
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
        unchanged: Callable[[bool], None] | None = None,
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
            _unchanged=unchanged,
        )
        if sources is None:
            vars(self)["d_params"] = d_params
        self.__post_init__()

    @cached_property
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

    def check_unchanged(self, compare: bool = False) -> None:
        """Raise `ModelError` if the function has changed since, as far as the source can tell."""
        if unchanged := vars(self)["_unchanged"]:
            unchanged(compare)
