"""Implicit steps for dh/dt = g(h, theta, t): implicit Euler and the trapezoidal rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..arguments import count, real
from ..arrays.backend import Array, Backend, is_dense
from ..errors import ArgumentError, ModelError
from ..models.curvature import Curvature
from ..models.linearization import Linearization
from .step_model import StepCurvature, StepLinearization, StepModel

Rate = Callable[[Array, Array, float], Array]


def _is_sequence(dt: Any) -> bool:
    return getattr(dt, "ndim", 0) > 0 or (isinstance(dt, Sequence) and not isinstance(dt, str))


def _checked_lengths(dt: Any) -> list[float]:
    """Return the length of each step, or that of all in a list of one."""
    given = dt.tolist() if hasattr(dt, "tolist") else dt  # an array, on any device
    lengths = [real(x, "dt") for x in (given if _is_sequence(dt) else [given])]
    if not lengths or not all(0.0 < x < math.inf for x in lengths):
        raise ArgumentError("dt: expected positive lengths of steps")
    return lengths


class TimeScheme(StepModel):
    """Base class of steps for M dh/dt = g(h, theta, t).

    Parameters
    ----------
    rate : callable
        ``rate(h, theta, t)`` returns g, (n,).
    linearize : callable
        ``linearize(h, theta, t)`` returns the derivatives of g as an `mfdeq.Linearization`, with
        arrays or sparse matrices.
    state_size, param_size : int
        n and P.
    dt : float or sequence of float
        The length of every step, or of each.
    mass : (n, n) array or sparse matrix, optional
        M; by default the identity.
    t0 : float, optional
        The time of the start.
    """

    def __init__(
        self,
        rate: Rate,
        linearize: Callable[[Array, Array, float], Linearization],
        *,
        state_size: int,
        param_size: int,
        dt: float | Sequence[float],
        mass: Any = None,
        t0: float = 0.0,
    ) -> None:
        for name, function in (("rate", rate), ("linearize", linearize)):
            if not callable(function):
                raise ArgumentError(
                    f"{name}: expected a function of (h, theta, t), got {type(function).__name__}"
                )
        self.rate, self.linearize_rate = rate, linearize
        self.rate_size = count(state_size, "state_size")
        self.state_size, self.param_size = self.rate_size, count(param_size, "param_size")
        self.lengths = _checked_lengths(dt)
        self.dt = None if _is_sequence(dt) else self.lengths[0]
        n = self.rate_size
        if mass is not None and getattr(mass, "shape", None) != (n, n):
            got = f"shape {mass.shape}" if hasattr(mass, "shape") else type(mass).__name__
            raise ArgumentError(
                f"mass: expected an array or a sparse matrix of shape {(n, n)}, got {got}"
            )
        self.mass, self.t0 = mass, real(t0, "t0")

    def length(self, k: int) -> float:
        """Return the length of step k."""
        if self.dt is not None:
            return self.dt
        if k >= len(self.lengths):
            raise ArgumentError(
                f"dt: expected a length for each step, got {len(self.lengths)} lengths and a step "
                f"{k}: pass mfdeq.trajectory(step, {len(self.lengths)}, start)"
            )
        return self.lengths[k]

    def time(self, k: int) -> float:
        """Return the time before step k."""
        if self.dt is not None:
            return self.t0 + k * self.dt
        return self.t0 + sum(self.lengths[:k])

    def _rate(self, h: Array, theta: Array, t: float) -> Array:
        return Backend.of(h).vector(self.rate(h, theta, t), self.rate_size, "rate(h, theta, t)")

    def _linearized(self, h: Array, theta: Array, t: float) -> Linearization:
        found = self.linearize_rate(h, theta, t)
        if not isinstance(found, Linearization):
            raise ModelError(
                "linearize(h, theta, t): expected it to return an mfdeq.Linearization, got "
                f"{type(found).__name__}"
            )
        return found

    def _mass(self, like: Any, backend: Backend) -> Any:
        """Return M in the form of another matrix."""
        n = self.rate_size
        if self.mass is not None:
            return self.mass
        if is_dense(like):
            return backend.eye(n, n)
        return backend.sparse.identity(n, dtype=backend.dtype, format="csr")


class OneStepScheme(TimeScheme):
    """M (h − previous) = dt ((1 − w) g(previous) + w g(h)).

    Parameters
    ----------
    *arguments, **options
        As in `TimeScheme`.
    weight : float
        w: 1 is implicit Euler, 1/2 the trapezoidal rule.
    """

    def __init__(self, *arguments: Any, weight: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.weight = weight

    def residual(self, h: Array, previous: Array, theta: Array, k: int) -> Array:
        """Return M (h − previous) − dt ((1 − w) g(previous) + w g(h))."""
        dt, t, w, change = self.length(k), self.time(k), self.weight, h - previous
        change = change if self.mass is None else self.mass @ change
        change = change - (dt * w) * self._rate(h, theta, t + dt)
        if w < 1.0:
            change = change - (dt * (1.0 - w)) * self._rate(previous, theta, t)
        return change

    def linearize(self, h: Array, previous: Array, theta: Array, k: int) -> StepLinearization:
        """Return the derivatives of ``residual``, from those of g."""
        dt, t, w = self.length(k), self.time(k), self.weight
        # The factors, states and derivatives of g that the residual has.
        terms = [(-dt * w, self._linearized(h, theta, t + dt))]
        if w < 1.0:
            terms.append((-dt * (1.0 - w), self._linearized(previous, theta, t)))
        M = self._mass(terms[0][1].d_state, Backend.of(h))
        d_params = sum(factor * term.d_params for factor, term in terms)
        d_previous = -M + terms[1][0] * terms[1][1].d_state if w < 1.0 else -M
        known = [all(getattr(x, name) for _, x in terms) for name in ("curvature", "second")]
        return StepLinearization(
            d_state=M + terms[0][0] * terms[0][1].d_state,
            d_previous=d_previous,
            d_params=d_params,
            curvature=(lambda lam: _curvature(terms, lam)) if known[0] else None,
            second=(lambda a, b: _second(terms, a, b)) if known[1] else None,
        )


def _curvature(terms: list[tuple[float, Linearization]], lam: Array) -> StepCurvature:
    """Return the Hessian of lam'R, from those of g at h and, if it counts, at previous."""
    parts = []
    for factor, term in terms:
        assert term.curvature is not None
        K = term.curvature(factor * lam)
        parts.append(K if isinstance(K, Curvature) else Curvature(apply=K))
    of_state, of_previous = parts[0], parts[1] if len(parts) > 1 else Curvature()
    if any(K.apply is not None for K in parts):
        return StepCurvature(apply=lambda u, q, z: _product(of_state, of_previous, u, q, z))
    return StepCurvature(
        params_params=_sum(of_state.params_params, of_previous.params_params),
        previous_params=of_previous.state_params,
        state_params=of_state.state_params,
        previous_previous=of_previous.state_state,
        state_state=of_state.state_state,
    )


def _sum(x: Any, y: Any) -> Any:
    if x is None or y is None:
        return y if x is None else x
    return x + y


def _product(
    of_state: Curvature, of_previous: Curvature, u: Array, q: Array, z: Array
) -> tuple[Array, Array, Array]:
    first, second = apply_curvature(of_state, u, z), apply_curvature(of_previous, u, q)
    return first[0] + second[0], second[1], first[1]


def apply_curvature(K: Curvature, u: Array, z: Array) -> tuple[Array, Array]:
    """Multiply a curvature of (theta, h)."""
    if K.apply is not None:
        return K.apply(u, z)
    a, b = 0.0 * u, 0.0 * z
    if K.params_params is not None:
        a = a + K.params_params @ u
    if K.state_params is not None:
        a, b = a + K.state_params.T @ z, b + K.state_params @ u
    if K.state_state is not None:
        b = b + K.state_state @ z
    return a, b


def _second(terms: list[tuple[float, Linearization]], a: Any, b: Any) -> Array:
    """Return R''[a, b], from the second derivatives of g at h and at previous."""
    (u, q, z), (v, r, y) = a, b
    sides = ((u, z), (v, y)), ((u, q), (v, r))
    values = [
        factor * term.second(*side)  # type: ignore[misc]
        for (factor, term), side in zip(terms, sides, strict=False)
    ]
    return values[0] if len(values) == 1 else values[0] + values[1]


def implicit_euler(rate: Rate, linearize: Any, **options: Any) -> OneStepScheme:
    """Make steps of implicit Euler, M (h − previous) = dt g(h, theta, t + dt).

    Parameters
    ----------
    rate : callable
        ``rate(h, theta, t)`` returns g, (n,).
    linearize : callable
        ``linearize(h, theta, t)`` returns the derivatives of g as an `mfdeq.Linearization`, with
        arrays or sparse matrices.
    state_size, param_size : int
        n and P.
    dt : float or sequence of float
        The length of every step, or of each.
    mass : (n, n) array or sparse matrix, optional
        M; by default the identity.
    t0 : float, optional
        The time of the start, by default 0.

    Returns
    -------
    StepModel

    Raises
    ------
    ArgumentError
        If an argument is of a wrong type, or a length is not positive.

    See Also
    --------
    trapezoidal, bdf2 : Steps of order two.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> def rate(h, theta, t):
    ...     return -theta * h
    >>> def linearize(h, theta, t):
    ...     return mfdeq.Linearization(d_state=-np.diag(theta), d_params=-np.diag(h))
    >>> step = mfdeq.implicit_euler(rate, linearize, state_size=1, param_size=1, dt=0.1)
    >>> eq = mfdeq.solve(mfdeq.trajectory(step, 10, np.ones(1)), np.ones(1))
    >>> print(f"{eq.steps[-1, 0]:.4f}")  # 1.1 ** -10
    0.3855
    """
    return OneStepScheme(rate, linearize, weight=1.0, **options)


def trapezoidal(rate: Rate, linearize: Any, **options: Any) -> OneStepScheme:
    """Make steps of the trapezoidal rule, M (h − previous) = dt (g(previous) + g(h)) / 2.

    Parameters
    ----------
    rate, linearize, **options
        As in `implicit_euler`.

    Returns
    -------
    StepModel
        Of order two.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> def rate(h, theta, t):
    ...     return -theta * h
    >>> def linearize(h, theta, t):
    ...     return mfdeq.Linearization(d_state=-np.diag(theta), d_params=-np.diag(h))
    >>> step = mfdeq.trapezoidal(rate, linearize, state_size=1, param_size=1, dt=0.1)
    >>> eq = mfdeq.solve(mfdeq.trajectory(step, 10, np.ones(1)), np.ones(1))
    >>> print(f"{eq.steps[-1, 0]:.4f} {np.exp(-1):.4f}")
    0.3676 0.3679
    """
    return OneStepScheme(rate, linearize, weight=0.5, **options)
