"""BDF2: implicit steps of order two for dh/dt = g(h, theta, t), from two earlier states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, is_dense
from ..models.curvature import Curvature
from .step_model import Start, StepCurvature, StepLinearization
from .time_schemes import Rate, TimeScheme, apply_curvature


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
                    a_u, a_z = apply_curvature(K, u, z[:n])
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
