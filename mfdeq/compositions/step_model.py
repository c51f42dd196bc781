"""What a user writes of a trajectory: one implicit time step, its derivatives, and the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array
from ..errors import ModelError


@dataclass(frozen=True)
class StepCurvature:
    """The Hessian of a scalar function of (theta, previous, h), by its blocks or its product.

    Parameters
    ----------
    params_params, previous_params, state_params : array, sparse matrix or operator, optional
        Blocks of shapes (P, P), (n, P) and (n, P). The default None is a zero block.
    previous_previous, state_previous, state_state : array, sparse matrix or operator, optional
        Blocks of shape (n, n). Those above the diagonal are transposes, and are not passed.
    apply : callable, optional
        ``apply(dtheta, dprevious, dh) -> (a_theta, a_previous, a_h)``, the product of the Hessian
        with a direction of 1-D arrays. Pass either ``apply`` or blocks.

    Raises
    ------
    ModelError
        If both blocks and ``apply`` are given, or if ``apply`` is not callable.

    Examples
    --------
    The Hessian of theta h previous² at theta = 2, previous = 3 and h = 5:

    >>> import mfdeq, numpy as np
    >>> K = mfdeq.StepCurvature(
    ...     previous_params=np.array([[30.0]]),
    ...     state_params=np.array([[9.0]]),
    ...     previous_previous=np.array([[20.0]]),
    ...     state_previous=np.array([[12.0]]),
    ... )
    >>> K.state_state is None
    True
    """

    params_params: Any = None
    previous_params: Any = None
    state_params: Any = None
    previous_previous: Any = None
    state_previous: Any = None
    state_state: Any = None
    apply: Callable[[Array, Array, Array], tuple[Array, Array, Array]] | None = None

    def __post_init__(self) -> None:
        if self.apply is None:
            return
        if any(value is not None for name, value in vars(self).items() if name != "apply"):
            raise ModelError("StepCurvature: expected either blocks or apply=, got both")
        if not callable(self.apply):
            raise ModelError(
                f"apply of the StepCurvature: expected a function, got {type(self.apply).__name__}"
            )


@dataclass(frozen=True)
class StepLinearization:
    """The derivatives of the residual of one step at (h, previous, theta).

    Parameters
    ----------
    d_state, d_previous : (n, n) array, sparse matrix or LinearOperator
        The derivatives with respect to the state of the step and to that of the one before. Where
        they are the same matrices as in other steps, by identity or by value, these share one
        factor.
    d_params : (n, P) array, sparse matrix or LinearOperator
        The derivative with respect to the parameters. A step that depends on few of them, such as
        its own controls, returns a sparse matrix.
    curvature : callable, optional
        ``curvature(lam)`` returns the Hessian of the scalar lamᵀR with respect to
        (theta, previous, h) for an (n,) array lam, as a `StepCurvature`, or a callable
        ``(dtheta, dprevious, dh) -> (a_theta, a_previous, a_h)``. It is required for second-order
        derivatives.
    second : callable, optional
        ``second(a, b)`` returns the (n,) second derivative R''[a, b] along
        a = (dtheta, dprevious, dh) and b. It is required only for second-order sensitivities of
        the state.

    Raises
    ------
    ModelError
        If ``curvature`` or ``second`` is not callable.

    Examples
    --------
    The derivatives of R = h − previous + theta h²:

    >>> import mfdeq, numpy as np
    >>> h, theta = np.array([0.5]), np.array([2.0])
    >>> linearization = mfdeq.StepLinearization(
    ...     d_state=np.diag(1.0 + 2.0 * theta * h),
    ...     d_previous=-np.eye(1),
    ...     d_params=(h**2)[:, None],
    ...     curvature=lambda lam: mfdeq.StepCurvature(
    ...         state_params=np.diag(2.0 * h * lam), state_state=np.diag(2.0 * theta * lam)
    ...     ),
    ... )
    >>> linearization.d_state
    array([[3.]])
    """

    d_state: Any
    d_previous: Any
    d_params: Any
    curvature: Callable[[Array], Any] | None = None
    second: Callable[..., Array] | None = None

    def __post_init__(self) -> None:
        for name, arguments in (("curvature", "lam"), ("second", "a, b")):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise ModelError(
                    f"{name} of the StepLinearization: expected a function, got "
                    f"{type(function).__name__}; write {name}=lambda {arguments}: ..."
                )


class StepModel:
    """Base class of implicit time steps R_k(h_k, h_{k-1}, theta) = 0.

    Derived classes define ``residual`` and ``linearize``. `mfdeq.trajectory` makes a model of the
    states of all steps of them.

    Attributes
    ----------
    state_size, param_size : int
        The number n of unknowns of one step, and P of parameters.
    state_names, equation_names : sequence of n strings, optional
        Names of the unknowns and of the equations of a step, which errors use.

    See Also
    --------
    trajectory : All steps as one equilibrium.
    step_from_jax : A step from a function alone.
    implicit_euler, trapezoidal, bdf2 : Steps for dh/dt = g(h, theta, t).

    Examples
    --------
    Implicit Euler steps of length 0.1 for dh/dt = −theta h:

    >>> import mfdeq, numpy as np
    >>> class Decay(mfdeq.StepModel):
    ...     state_size = param_size = 1
    ...
    ...     def residual(self, h, previous, theta, k):
    ...         return h - previous + 0.1 * theta * h
    ...
    ...     def linearize(self, h, previous, theta, k):
    ...         return mfdeq.StepLinearization(
    ...             d_state=np.diag(1.0 + 0.1 * theta),
    ...             d_previous=-np.eye(1),
    ...             d_params=0.1 * h[:, None],
    ...             curvature=lambda lam: mfdeq.StepCurvature(state_params=0.1 * np.diag(lam)),
    ...         )
    >>> eq = mfdeq.solve(mfdeq.trajectory(Decay(), 5, np.ones(1)), np.ones(1))
    >>> print(eq.steps.ravel().round(4))  # 1.1 ** -(k + 1)
    [0.9091 0.8264 0.7513 0.683  0.6209]
    """

    state_size: int
    param_size: int
    state_names: Sequence[str] | None = None
    equation_names: Sequence[str] | None = None

    @property
    def display_name(self) -> str:
        """The name that error messages and reports use for the step."""
        return type(self).__name__

    def residual(self, h: Array, previous: Array, theta: Array, k: int) -> Array:
        """Return R_k(h, previous, theta).

        Parameters
        ----------
        h, previous : (n,) arrays
            The state of the step, and that of the step before.
        theta : (P,) array
        k : int
            The number of the step, from 0: `previous` is the start for k = 0.

        Returns
        -------
        (n,) array
        """
        raise ModelError(f"{self.display_name} has no residual(h, previous, theta, k): define one")

    def linearize(self, h: Array, previous: Array, theta: Array, k: int) -> StepLinearization:
        """Return the derivatives of ``residual``.

        Parameters
        ----------
        h, previous : (n,) arrays
        theta : (P,) array
        k : int

        Returns
        -------
        StepLinearization
        """
        raise ModelError(
            f"{self.display_name} has no linearize(h, previous, theta, k): define one that returns "
            "an mfdeq.StepLinearization"
        )

    def extend_start(self, start: Start) -> Start:
        """Return the state before the first step, from the start that a user passes.

        They are the same by default. The state of a multistep method holds several times.
        """
        return start

    @property
    def start_size(self) -> int:
        """The size of the start that a user passes; by default n."""
        return self.state_size

    def initial_state(self, previous: Array, theta: Array, k: int) -> Array:
        """Return the state from which a step is solved, by default that of the step before."""
        return previous

    def residual_scale(self, theta: Array) -> float | Array | None:
        """Return the size of each equation of a step that counts as one; by default its terms."""
        return None

    def state_scale(self, theta: Array) -> float | Array | None:
        """Return the size of each unknown of a step that counts as one; by default its value."""
        return None

    def _defines(self, method: str) -> bool:
        """Return whether an optional method is more than the default."""
        return getattr(type(self), method) is not getattr(StepModel, method)


@dataclass(frozen=True)
class Start:
    """The state before the first step, as a function of the parameters.

    Parameters
    ----------
    value : callable
        ``value(theta)`` returns the start, (n,).
    d_params : callable
        ``d_params(theta)`` returns its derivative, (n, P): an array, a sparse matrix or a
        LinearOperator.
    curvature : callable, optional
        ``curvature(theta, w)`` returns the Hessian of the scalar wᵀ value, (P, P). Omit it if the
        start is linear in theta.
    second : callable, optional
        ``second(theta, u, v)`` returns the (n,) second derivative along two directions u and v.
        Omit it if the start is linear in theta.

    Examples
    --------
    A start that is the first of two parameters, squared:

    >>> import mfdeq, numpy as np
    >>> start = mfdeq.Start(
    ...     lambda theta: theta[:1] ** 2,
    ...     lambda theta: np.array([[2.0 * theta[0], 0.0]]),
    ...     curvature=lambda theta, w: np.diag([2.0 * w[0], 0.0]),
    ...     second=lambda theta, u, v: 2.0 * u[:1] * v[:1],
    ... )
    >>> start.value(np.array([3.0, 1.0]))
    array([9.])
    """

    value: Callable[[Array], Array]
    d_params: Callable[[Array], Any]
    curvature: Callable[[Array, Array], Any] | None = None
    second: Callable[[Array, Array, Array], Array] | None = None

    def __post_init__(self) -> None:
        for name, function in vars(self).items():
            missing = function is None and name in ("curvature", "second")
            if not missing and not callable(function):
                raise ModelError(
                    f"{name} of the Start: expected a function of theta, got "
                    f"{type(function).__name__}"
                )
