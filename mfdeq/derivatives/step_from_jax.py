"""`mfdeq.step_from_jax`: a time step from a function of JAX alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..compositions.step_model import StepCurvature, StepLinearization, StepModel
from ..models.curvature import as_curvature
from ..models.linearization import Linearization
from ..models.model import Model
from ..operators.operator import Operator
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
        ``name`` and other keywords of `from_jax`, except `kind`.

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

    def residual(h: Any, given: Any) -> Any:
        previous, theta, k = given
        return f(h, previous, theta, (k + 0.5).astype("int32"))

    zero = host.zeros(())
    dtype = getattr(state, "dtype", None)
    if dtype is not None and str(dtype) == "float32":
        zero = zero.astype("float32")
    model = from_jax(residual, state, (state, params, zero), "residual", **options)
    return StepFromModel(model)


class StepFromModel(StepModel):
    """A step from a residual whose parameters are (previous, theta, k).

    Parameters
    ----------
    model : ResidualModel
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.state_size = model.state_size
        self.param_size = model.param_size - model.state_size - 1
        self.state_names, self.equation_names = model.state_names, model.equation_names

    @property
    def display_name(self) -> str:
        """The name of the model."""
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

    def _stacked(self, previous: Array, theta: Array, k: float) -> Array:
        xp = Backend.of(theta).xp
        return xp.concat([previous, theta, xp.full_like(theta[:1], float(k))])

    def residual(self, h: Array, previous: Array, theta: Array, k: int) -> Array:
        """Return R_k(h, previous, theta)."""
        return self.model.map_or_residual(h, self._stacked(previous, theta, k))

    def linearize(self, h: Array, previous: Array, theta: Array, k: int) -> StepLinearization:
        """Return the derivatives, those with respect to (previous, theta, k) split."""
        found = self.model.linearize(h, self._stacked(previous, theta, k))
        n, P, d_params = self.state_size, self.param_size, found.d_params
        if isinstance(d_params, Operator) and d_params.array is None:
            d_previous: Any = Columns(d_params, 0, n)
            d_theta: Any = Columns(d_params, n, P)
        else:
            array = d_params.array if isinstance(d_params, Operator) else d_params
            d_previous, d_theta = array[:, :n], array[:, n : n + P]
        return StepLinearization(
            found.d_state,
            d_previous,
            d_theta,
            None if found.curvature is None else lambda lam: self._curvature(found, lam),
            None if found.second is None else lambda a, b: self._second(found, a, b),
        )

    def _curvature(self, found: Linearization, lam: Array) -> StepCurvature:
        n, P, backend = self.state_size, self.param_size, Backend.of(lam)
        assert found.curvature is not None
        K = as_curvature(
            backend, found.curvature(lam), n + P + 1, n, "curvature", check_symmetry=False
        )

        def apply(u: Array, q: Array, z: Array) -> tuple[Array, Array, Array]:
            y = K._apply(backend.xp.concat([self._stacked(q, u, 0), z]))
            return y[n : n + P], y[:n], y[n + P + 1 :]

        return StepCurvature(apply=apply)

    def _second(self, found: Linearization, a: Any, b: Any) -> Array:
        assert found.second is not None
        (u, q, z), (v, r, y) = a, b
        return found.second((self._stacked(q, u, 0), z), (self._stacked(r, v, 0), y))


class Columns(Operator):
    """Some columns of an operator.

    Parameters
    ----------
    of : Operator, (n, m)
    first, count : int
    """

    def __init__(self, of: Operator, first: int, count: int) -> None:
        super().__init__(of, (of.shape[0], count))
        self.of, self.first = of, first

    def _apply(self, x: Array) -> Array:
        padded = self.backend.zeros(self.of.shape[1], *x.shape[1:])
        padded[self.first : self.first + self.shape[1], ...] = x
        return self.of._apply(padded)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.of._apply_adjoint(y)[self.first : self.first + self.shape[1], ...]
