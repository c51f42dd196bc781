"""Models from a plain function of arrays: derivatives by the complex step, or by differences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..arguments import count, one_of
from ..arrays.backend import Array, Backend
from ..errors import ArgumentError
from ..models.model import Derived, FixedPointModel, Linearization, Model, ResidualModel
from .differences import Slopes, Steps
from .second_differences import SecondDerivatives
from .sparsity import DETECT, KINDS, Sparsity

MOST = 5_000  # unknowns and parameters, each an evaluation, without a pattern
AGAIN = 2.0  # times the steps, for error estimates


def from_function(
    f: Callable[[Array, Array], Array],
    state_size: int,
    param_size: int,
    kind: str,
    *,
    sparsity: Any = None,
    step: float | None = None,
    scale: tuple[Any, Any] | None = None,
) -> Model:
    """A model from a function of (state, params) alone.

    Parameters
    ----------
    f : callable
        The map f(h, theta), or the residual, of shape (N,), of arrays of shapes (N,) and (P,).
        Where it takes complex arrays as well, and is analytic, first derivatives are exact to
        rounding; that is tried, and checked against a difference, at every linearization.
    state_size, param_size : int
        N and P.
    kind : {"map", "residual"}
        Whether an equilibrium is h = f(h, theta) or f(h, theta) = 0.
    sparsity : pair of sparse matrices or "detect", optional
        Patterns of the derivatives with respect to the state, (N, N), and to the parameters,
        (N, P). A linearization then takes as many evaluations as colours. "detect" looks for them
        by products of f' near the first place (each of the pair may be "detect" too). None does
        so up to N + P = 5,000, and is refused above.
    step : float, optional
        Relative step of differences; by default eps^(1/3). Second derivatives from values alone
        take four times its power 3/4. With a step given, the complex one is not tried.
    scale : pair of floats or arrays, optional
        Typical sizes of the entries of h and of theta, to which steps are relative; by default
        the entries', where they are larger than the root mean square of all, else that.

    Returns
    -------
    FixedPointModel or ResidualModel

    Notes
    -----
    Of f with few colours, all second derivatives are found once for an equilibrium, by a
    difference for each pair of colours; every product after is one with a sparse matrix. Else a
    product with the curvature takes two evaluations a column of f'.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, "map")
    >>> eq = mfdeq.solve(model, np.zeros(1))
    >>> print(f"{eq.state[0]:.8f} {eq.sensitivity.toarray()[0, 0]:.8f}")
    0.73908513 0.59751005
    """
    one_of(kind, KINDS, "kind of mfdeq.from_function")
    if not callable(f):
        raise ArgumentError(f"f of mfdeq.from_function is a {type(f).__name__}, not a function")
    make = _FunctionMap if kind == "map" else _FunctionResidual
    sizes = (count(state_size, "state_size"), count(param_size, "param_size"))
    return make(f, sizes, sparsity, step, scale)


class _FunctionModel(Model):
    """What maps and residuals from functions have in common."""

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        sizes: tuple[int, int],
        sparsity: Any,
        step: float | None,
        scale: tuple[Any, Any] | None,
    ) -> None:
        self.f = f
        self.state_size, self.param_size = sizes
        self.steps = Steps(step, scale)
        self._sparsity = Sparsity(sparsity, *sizes)
        given = self._sparsity.given
        columns = sum(n for n, pattern in zip(sizes, given, strict=True) if pattern is None)
        if columns > MOST:
            raise ArgumentError(
                f"mfdeq.from_function without the patterns of the derivatives of {columns:,} "
                f"columns: more than the {MOST:,} for which each linearization may take an "
                "evaluation of f a column. Give sparsity=(state pattern, parameter pattern), or "
                'sparsity="detect" to have them looked for; for a dense derivative write '
                "linearize(h, theta), or use mfdeq.from_jax, whose adjoints cost a few evaluations"
            )
        self._sparsity.given = tuple(DETECT if p is None else p for p in given)

    @property
    def described(self) -> str:
        """Where it is from."""
        return f"mfdeq.from_function({getattr(self.f, '__name__', 'f')})"

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Derivatives by the complex step or by differences."""
        return self._linearized(h, theta, 1.0)

    def linearize_again(self, h: Array, theta: Array) -> Linearization:
        """The same with twice the steps."""
        return self._linearized(h, theta, AGAIN)

    def _linearized(self, h: Array, theta: Array, wider: float) -> Linearization:
        backend = Backend.of(h, theta)
        slopes = Slopes(
            self.f, f"{self.written} of mfdeq.from_function", h, theta, self.steps, wider
        )
        rtol = max(backend.eps**0.5, 1e4 * slopes.accuracy[0])
        d_state, d_params = self._sparsity.assembled(
            slopes.derivatives(), lambda i: slopes.nearby(i).derivatives(), rtol
        )

        @functools.cache
        def second_derivatives() -> SecondDerivatives:
            return SecondDerivatives(slopes, self._sparsity.joint())

        how = slopes.how
        return Derived(
            slopes.unscaled(d_state, 1),
            slopes.unscaled(d_params, 0),
            curvature=lambda lam: second_derivatives().curvature(lam),
            second=lambda a, b: second_derivatives().along(a, b),
            accuracy=slopes.accuracy,
            sources={
                "d_state": how,
                "d_params": how,
                "curvature": f"differences of {how}",
                "second": f"differences of {how}",
            },
        )


class _FunctionMap(_FunctionModel, FixedPointModel):
    def map(self, h: Array, theta: Array) -> Array:
        return self.f(h, theta)


class _FunctionResidual(_FunctionModel, ResidualModel):
    def residual(self, h: Array, theta: Array) -> Array:
        return self.f(h, theta)
