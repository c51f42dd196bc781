"""Implicit steps for dh/dt = g(h, theta, t): implicit Euler, the trapezoidal rule and BDF2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, Backend, is_dense
from ..errors import ArgumentError, ModelError
from ..models.curvature import Curvature
from ..models.linearization import Linearization
from .step_model import Start, StepCurvature, StepLinearization, StepModel

Rate = Callable[[Array, Array, float], Array]


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
        given: Any = dt
        self.dt = (
            float(given)
            if getattr(given, "ndim", 0) == 0 and not isinstance(given, Sequence)
            else None
        )
        self.lengths = [self.dt] if self.dt is not None else [float(x) for x in given]
        if not all(x > 0.0 for x in self.lengths):
            raise ArgumentError("dt: expected positive lengths of steps")
        self.mass, self.t0 = mass, float(t0)

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
    first, second = _apply(of_state, u, z), _apply(of_previous, u, q)
    return first[0] + second[0], second[1], first[1]


def _apply(K: Curvature, u: Array, z: Array) -> tuple[Array, Array]:
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


class BDF2(TimeScheme):
    """The backward differentiation formula of order two; its state is (h_k, h_{k-1}).

    Parameters
    ----------
    *arguments, **options
        As in `TimeScheme`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.state_size = 2 * self.rate_size

    def extend_start(self, start: Start) -> Start:
        """Return the start of both states; the second one is not used."""
        return Start(
            _Doubled(start.value),
            _Doubled(start.d_params),
            None if start.curvature is None else _FirstHalf(start.curvature, self.rate_size),
            None if start.second is None else _Doubled(start.second),
        )

    @property
    def start_size(self) -> int:
        """The size n of h."""
        return self.rate_size

    def _coefficients(self, k: int) -> tuple[float, float, float]:
        """Return those of h_k, h_{k-1} and h_{k-2}; the first step is one of implicit Euler."""
        if k == 0:
            return 1.0, -1.0, 0.0
        ratio = self.length(k) / self.length(k - 1)
        last = ratio**2 / (1.0 + ratio)
        return 1.0 + ratio / (1.0 + ratio), -1.0 - ratio, last

    def residual(self, h: Array, previous: Array, theta: Array, k: int) -> Array:
        """Return the residual of the formula, and h_{k-1} minus the first half of `previous`."""
        n, dt, (a, b, c) = self.rate_size, self.length(k), self._coefficients(k)
        change = a * h[:n] + b * previous[:n] + c * previous[n:]
        change = change if self.mass is None else self.mass @ change
        rate = self._rate(h[:n], theta, self.time(k) + dt)
        return Backend.of(h).xp.concat([change - dt * rate, h[n:] - previous[:n]])

    def linearize(self, h: Array, previous: Array, theta: Array, k: int) -> StepLinearization:
        """Return the derivatives of ``residual``, from those of g."""
        n, P, dt, (a, b, c) = (
            self.rate_size,
            self.param_size,
            self.length(k),
            self._coefficients(k),
        )
        backend = Backend.of(h)
        sparse = backend.sparse
        g = self._linearized(h[:n], theta, self.time(k) + dt)
        M = self._mass(g.d_state, backend)
        eye = sparse.identity(n, dtype=backend.dtype, format="csr")
        M, J, B = (sparse.csr_matrix(x) for x in (M, g.d_state, g.d_params))
        no_params = sparse.csr_matrix((n, P), dtype=backend.dtype)

        def curvature(lam: Array) -> StepCurvature:
            assert g.curvature is not None
            K = g.curvature(-dt * lam[:n])
            K = K if isinstance(K, Curvature) else Curvature(apply=K)
            if K.apply is not None or not all(
                x is None or hasattr(x, "T") for x in (K.state_params, K.state_state)
            ):

                def apply(u: Array, q: Array, z: Array) -> tuple[Array, Array, Array]:
                    a_u, a_z = _apply(K, u, z[:n])
                    return a_u, 0.0 * q, backend.xp.concat([a_z, 0.0 * z[n:]])

                return StepCurvature(apply=apply)
            return StepCurvature(
                params_params=K.params_params,
                state_params=None
                if K.state_params is None
                else sparse.vstack([sparse.csr_matrix(K.state_params), no_params], format="csr"),
                state_state=None
                if K.state_state is None
                else sparse.block_diag([sparse.csr_matrix(K.state_state), 0.0 * eye], format="csr"),
            )

        def second(x: Any, y: Any) -> Array:
            assert g.second is not None
            value = g.second((x[0], x[2][:n]), (y[0], y[2][:n]))
            return backend.xp.concat([-dt * value, 0.0 * value])

        return StepLinearization(
            d_state=sparse.bmat([[a * M - dt * J, None], [None, eye]], format="csr"),
            d_previous=sparse.bmat([[b * M, c * M], [-eye, 0.0 * eye]], format="csr"),
            d_params=sparse.vstack([-dt * B, no_params], format="csr"),
            curvature=None if g.curvature is None else curvature,
            second=None if g.second is None else second,
        )


class _Doubled:
    """A function that returns two copies of what another one returns, one above the other."""

    def __init__(self, of: Callable[..., Any]) -> None:
        self.of = of

    def __call__(self, *arguments: Array) -> Any:
        value, backend = self.of(*arguments), Backend.of(arguments[0])
        if is_dense(value):
            return backend.xp.concat([value, value])
        return backend.sparse.vstack([value, value], format="csr")


class _FirstHalf:
    """The curvature of both copies of a start."""

    def __init__(self, of: Callable[..., Any], size: int) -> None:
        self.of, self.size = of, size

    def __call__(self, theta: Array, w: Array) -> Any:
        return self.of(theta, w[: self.size] + w[self.size :])


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


def bdf2(rate: Rate, linearize: Any, **options: Any) -> BDF2:
    """Make steps of the backward differentiation formula of order two, BDF2.

    Parameters
    ----------
    rate, linearize, **options
        As in `implicit_euler`.

    Returns
    -------
    StepModel
        Its state is (h_k, h_{k-1}), of size 2n, and its derivatives are sparse. The start that
        `mfdeq.trajectory` takes is h_0, of size n.

    Notes
    -----
    With r the ratio of the lengths of a step and of the one before,

        (1 + 2r)/(1 + r) h_k − (1 + r) h_{k-1} + r²/(1 + r) h_{k-2} = dt M⁻¹ g(h_k, theta, t_k),

    and the first step is one of implicit Euler.

    References
    ----------
    E. Hairer, S. P. Nørsett and G. Wanner, Solving Ordinary Differential Equations I, Springer
    (1993), section III.5.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> def rate(h, theta, t):
    ...     return -theta * h
    >>> def linearize(h, theta, t):
    ...     return mfdeq.Linearization(d_state=-np.diag(theta), d_params=-np.diag(h))
    >>> step = mfdeq.bdf2(rate, linearize, state_size=1, param_size=1, dt=0.01)
    >>> eq = mfdeq.solve(mfdeq.trajectory(step, 100, np.ones(1)), np.ones(1))
    >>> print(f"{eq.steps[-1, 0]:.4f} {np.exp(-1):.4f}")
    0.3679 0.3679
    """
    return BDF2(rate, linearize, **options)
