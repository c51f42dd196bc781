"""`mfdeq.step_from_function`: a time step from a plain function alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import scipy.sparse

from ..arguments import count
from ..arrays.backend import Array, host
from ..compositions.step_from_model import StepFromModel
from ..compositions.step_model import StepLinearization, StepModel
from ..errors import ArgumentError, short_repr
from ..models.model import Model
from .function import from_function
from .steps import StepRule


def step_from_function(
    f: Callable[..., Array],
    state_size: int,
    param_size: int,
    *,
    sparsity: Any = None,
    scale: tuple[Any, Any] | None = None,
    **options: Any,
) -> StepModel:
    """Create a time step from a plain function, by numerical differentiation.

    Parameters
    ----------
    f : callable
        ``f(h, previous, theta, k)`` returns the (n,) residual of step k, from the state of the
        step, that of the step before and the parameters. As in `from_function`, derivatives are
        exact to rounding if f is analytic and accepts complex arrays.
    state_size, param_size : int
        The number n of unknowns of one step, and P of parameters.
    sparsity : triple of sparse matrices, or "detect", optional
        The patterns of the derivatives with respect to h and previous, (n, n), and to theta,
        (n, P). By default they are detected.
    scale : pair of floats or arrays, optional
        Sizes of the states and of theta, as in `from_function`.
    **options
        ``step``, ``order`` and other keywords of `from_function`, except `kind`, `args`
        and `batched`.

    Returns
    -------
    StepModel

    Raises
    ------
    ArgumentError
        As `from_function`.

    See Also
    --------
    trajectory : All steps as one equilibrium.
    step_from_jax : A step from a function of JAX.
    from_function : A model without time; its Notes say how accurate the derivatives are.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> def f(h, previous, theta, k):
    ...     return h - previous + 0.1 * theta * h**3
    >>> step = mfdeq.step_from_function(f, 2, 2)
    >>> eq = mfdeq.solve(mfdeq.trajectory(step, 3, np.ones(2)), np.array([1.0, 2.0]))
    >>> print(eq.steps[-1].round(4))
    [0.8061 0.7054]
    """
    n, P = count(state_size, "state_size"), count(param_size, "param_size")
    for name in ("kind", "args", "batched"):
        if name in options:
            raise ArgumentError(
                f"{name} of mfdeq.step_from_function: expected none, got {options[name]!r}"
            )
    if not callable(f):
        raise ArgumentError(
            f"f of mfdeq.step_from_function: expected a function, got {type(f).__name__}"
        )
    if isinstance(sparsity, (list, tuple)):
        sparsity = _joined_patterns(sparsity, n, P)
    if scale is not None:
        scale = _joined_sizes(scale, n, P)

    def residual(h: Array, given: Array, k: Any) -> Array:
        return f(h, given[:n], given[n:], int(k))

    residual.__name__ = getattr(f, "__name__", "f")
    model = from_function(
        residual, n, n + P, "residual", sparsity=sparsity, scale=scale, args=0, **options
    )
    return StepFromFunction(model)


def _joined_patterns(patterns: Any, n: int, P: int) -> tuple[Any, Any]:
    """Return the patterns with respect to h, and to previous and theta as one matrix."""
    shapes = [tuple(getattr(pattern, "shape", ())) for pattern in patterns]
    if shapes != [(n, n), (n, n), (n, P)]:
        raise ArgumentError(
            "sparsity of mfdeq.step_from_function: expected three patterns, of the derivatives "
            f"with respect to h, previous and theta, of shapes {(n, n)}, {(n, n)} and {(n, P)}, "
            f"got {len(shapes)} of shapes {', '.join(map(str, shapes))}"
        )
    of_state, *rest = patterns
    blocks = [scipy.sparse.csr_matrix(pattern) for pattern in rest]
    return of_state, scipy.sparse.hstack(blocks, format="csr")


def _joined_sizes(scale: Any, n: int, P: int) -> tuple[Any, Any]:
    """Return the sizes of h, and those of previous and theta as one array."""
    StepRule(scale=scale)  # raises an error unless it is a pair
    parts = []
    for name, x, size in (("states", scale[0], n), ("parameters", scale[1], P)):
        part = host.asarray(x)
        if part.dtype.kind not in "iuf" or part.shape not in ((), (size,)):
            raise ArgumentError(
                f"scale of the {name} of mfdeq.step_from_function: expected a number or an array "
                f"of shape ({size},), got {short_repr(x)}"
            )
        parts.append(host.broadcast_to(part, (size,)))
    return scale[0], host.concatenate(parts)


class StepFromFunction(StepFromModel):
    """A step from a model of a plain function, whose data are the number of the step."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._of_steps: dict[int, StepFromModel] = {}

    @property
    def display_name(self) -> str:
        """The name of the function."""
        return self.model.display_name.replace("from_function", "step_from_function")

    def _at(self, k: int) -> StepFromModel:
        """Return the step of one number, which shares the function and its patterns."""
        if k not in self._of_steps:
            model: Any = self.model
            self._of_steps[k] = StepFromModel(model.with_args(k))
        return self._of_steps[k]

    def residual(self, h: Array, previous: Array, theta: Array, k: int) -> Array:
        """Return f(h, previous, theta, k)."""
        return self._at(k).residual(h, previous, theta, k)

    def linearize(self, h: Array, previous: Array, theta: Array, k: int) -> StepLinearization:
        """Differentiate f by the complex step or by differences."""
        return self._at(k).linearize(h, previous, theta, k)
