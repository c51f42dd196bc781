"""`mfdeq.step_from_jax`: a time step from a function of JAX alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, host
from ..compositions.step_from_model import StepFromModel
from ..compositions.step_model import StepModel
from ..errors import ArgumentError, short_repr
from ..models.model import Model
from .jax import from_jax


def step_from_jax(
    f: Callable[[Any, Any, Any, Any], Any], state: Any, params: Any, **options: Any
) -> StepModel:
    """Create a time step from a JAX function, with all derivatives.

    Parameters
    ----------
    f : callable
        ``f(h, previous, theta, k)`` returns the residual of step k, in the structure of `state`. It
        is compiled once: k is a traced integer.
    state, params : array or pytree of arrays
        Examples of a state and of the parameters.
    **options
        The keywords of `from_jax`, except `kind`, `args` and `batched`.

    Returns
    -------
    StepModel

    Raises
    ------
    ArgumentError, ModelError
        As `from_jax`.

    See Also
    --------
    trajectory : All steps as one equilibrium.
    from_jax : A model without time.

    Examples
    --------
    >>> import jax
    >>> jax.config.update("jax_enable_x64", True)
    >>> import mfdeq, numpy as np
    >>> def f(h, previous, theta, k):
    ...     return h - previous + 0.1 * theta * h**3
    >>> step = mfdeq.step_from_jax(f, np.ones(2), np.ones(2))
    >>> eq = mfdeq.solve(mfdeq.trajectory(step, 3, np.ones(2)), np.array([1.0, 2.0]))
    >>> print(eq.steps[-1].round(4))
    [0.8061 0.7054]
    """
    for name in ("kind", "args", "batched"):
        if name in options:
            raise ArgumentError(
                f"{name} of mfdeq.step_from_jax: expected none, got {short_repr(options[name])}"
            )
    if not callable(f):
        raise ArgumentError(
            f"f of mfdeq.step_from_jax: expected a function, got {type(f).__name__}"
        )

    def residual(h: Any, given: Any) -> Any:
        previous, theta, k = given
        return f(h, previous, theta, (k + 0.5).astype("int32"))

    residual.__name__ = getattr(f, "__name__", "f")
    zero = host.zeros(())
    dtype = getattr(state, "dtype", None)
    if dtype is not None and str(dtype) == "float32":
        zero = zero.astype("float32")
    model = from_jax(residual, state, (state, params, zero), "residual", **options)
    return StepFromJax(model)


class StepFromJax(StepFromModel):
    """A step from a model of JAX, whose parameters are (previous, theta, k)."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, counted=True)

    @property
    def display_name(self) -> str:
        """The name of the function."""
        return self.model.display_name.replace("from_jax", "step_from_jax")

    def flat_params(self, theta: Any) -> Array:
        """Return a pytree of parameters as a vector."""
        model: Any = self.model
        previous, _, k = model.params_tree(host.zeros(model.param_size))
        return model.flat_params((previous, theta, k))[self.state_size : -1]

    def params_tree(self, theta: Array) -> Any:
        """Return a vector of parameters as a pytree."""
        model: Any = self.model
        return model.params_tree(self._stacked(host.zeros(self.state_size), theta, 0))[1]

    def state_tree(self, h: Array) -> Any:
        """Return a vector of the states of one step as a pytree."""
        model: Any = self.model
        return model.state_tree(h)
