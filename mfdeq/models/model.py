"""Base classes of the user's models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arrays.backend import Array
from ..errors import ArgumentError, ModelError
from .library_function import LibraryFunction
from .linearization import Linearization


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
    forward_method : mfdeq.forward.ModelMethod, optional
        A method of the model's own, which ``method="auto"`` uses for it alone.
    has_constraints : bool
        Whether `mfdeq.constrain` has added constraints to the equations.
    equilibrium_class : type, optional
        The class, derived from `mfdeq.Equilibrium`, of which solvers return an instance.
    advice_for_curvature : str
        How a user can make second derivatives known, for errors.
    """

    state_size: int
    param_size: int
    function_name: str
    state_names: Sequence[str] | None = None
    equation_names: Sequence[str] | None = None
    time_sign: int | None = None
    forward_method: Any = None
    equilibrium_class: Any = None
    has_constraints = False
    advice_for_curvature: str = (
        "pass Linearization(curvature=lambda lam: mfdeq.Curvature(...)), or use "
        "mfdeq.mixed(model), which computes it by differences. For a model that is linear in "
        "(h, theta), return mfdeq.Curvature(), whose blocks are all zero"
    )

    @property
    def stable_sign(self) -> int:
        """The sign of the real part of an eigenvalue of A that is stable: 1 for a map."""
        return 1 if self.time_sign is None else -self.time_sign

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

    def _defines(self, method: str) -> bool:
        """Return whether an optional method is more than the default, and has to be called."""
        return getattr(getattr(self, method), "__func__", None) is not getattr(Model, method)

    def tolerating_failures(self) -> Model:
        """Return the model that leaves out parts without an equilibrium; batches define it.

        Raises
        ------
        ArgumentError
            If the model has no such parts, which is the default.
        """
        raise ArgumentError(
            "on_failure: expected 'raise', since only a batch of samples can leave some out "
            f"('mask'), and {self.display_name} is none"
        )

    def function_in(self, library: str) -> LibraryFunction | None:
        """Return the function of the model in a library that can differentiate it.

        Parameters
        ----------
        library : str
            The name of a source of derivatives, such as "JAX".

        Returns
        -------
        LibraryFunction or None
            None, the default, means that the library cannot differentiate the model.
        """
        return None

    def check_loss(self, loss: Any) -> None:
        """Raise `ArgumentError` if the loss cannot be used with equilibria of this model."""

    def prior_of_params(self, prior: Any) -> Any:
        """Return a `QuadraticPrior` for parameters as the model takes them, or raise an error."""
        size: Any = self.param_size
        if isinstance(size, tuple) and prior.has_host_arrays:
            raise ArgumentError(
                f"prior: expected a precision and a mean of PETSc's for {self.display_name}, a Mat "
                "or Vec and a Vec or numbers, got arrays of numpy or scipy"
            )
        return prior

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
    stable_sign = 1  # of dh/dt = f - h

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
