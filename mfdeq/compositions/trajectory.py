"""`mfdeq.trajectory`: implicit time steps as one equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, Backend
from ..errors import ArgumentError, ModelError
from ..locks import state_to_pickle
from ..models.linearization import Linearization
from ..models.model import ResidualModel
from .block_bidiagonal import BlockBidiagonal, StackedParams
from .checked_steps import ADVICE_FOR_CURVATURE, CheckedSteps
from .linearized_steps import LinearizedSteps
from .marching import Marching
from .step_model import Start, StepModel
from .trajectory_curvature import TrajectoryCurvature
from .trajectory_equilibrium import TrajectoryEquilibrium


def trajectory(
    step: StepModel, steps: int, start: Any, checkpoints: int | None = None
) -> Trajectory:
    """Make implicit time steps one equilibrium, of the states of all of them.

    Parameters
    ----------
    step : StepModel
        One step R_k(h_k, h_{k-1}, theta) = 0, with n unknowns and P parameters.
    steps : int
        The number of steps.
    start : (n,) array or Start
        The state before the first step, which may depend on the parameters as a `Start`.
    checkpoints : int, optional
        The number of steps whose linearizations and factors are held, by default all. The others
        are linearized, and factorized, again when they are needed, from the states, which are all
        at hand; the results have the same bits. About the square root of the number of steps is a
        good choice. Matrices that the steps share are held once.

    Returns
    -------
    Trajectory
        A residual of N = steps * n unknowns, the start excluded, which `mfdeq.solve` and everything
        else accepts. `solve` returns a `TrajectoryEquilibrium` for it.

    Raises
    ------
    ArgumentError
        If an argument is of a wrong type or shape.

    See Also
    --------
    StepModel, StepLinearization, StepCurvature, Start : What a step consists of.
    step_from_jax : A step from a function alone.
    implicit_euler, trapezoidal, bdf2 : Steps for dh/dt = g(h, theta, t).

    Notes
    -----
    With D_k and L_k the derivatives of R_k with respect to h_k and h_{k-1}, the state operator A is
    block lower bidiagonal. The forward solve, the adjoint and the sensitivity are substitutions
    with one factor of D_k a step, or one in all where the steps share their matrix:

        D_k z_k = b_k - L_k z_{k-1},    D_k' lam_k = c_k - L_{k+1}' lam_{k+1}.

    The curvature is block tridiagonal in the states. Nothing of size N² is formed.

    Losses at some steps only: `LeastSquares` with the index array
    ``(k * n + where).ravel()`` of the observed entries of ``eq.steps[k]``.

    References
    ----------
    M. D. Gunzburger, Perspectives in Flow Control and Optimization, SIAM (2003), chapter 2.

    Examples
    --------
    The heat equation on a line by implicit Euler, with the conductivity and the temperature of the
    start as parameters:

    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> n = 20
    >>> K = 40.0 * sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    >>> I, O = sp.eye_array(n, format="csr"), sp.csr_array((n, 1))
    >>> class Heat(mfdeq.StepModel):
    ...     state_size, param_size = n, 2
    ...
    ...     def residual(self, h, previous, theta, k):
    ...         return h - previous + 0.1 * theta[0] * (K @ h)
    ...
    ...     def linearize(self, h, previous, theta, k):
    ...         return mfdeq.StepLinearization(
    ...             d_state=(I + 0.1 * theta[0] * K).tocsr(),
    ...             d_previous=-I,
    ...             d_params=np.stack([0.1 * (K @ h), 0.0 * h], axis=1),
    ...             curvature=lambda lam: mfdeq.StepCurvature(
    ...                 state_params=np.stack([0.1 * (K @ lam), 0.0 * lam], axis=1)
    ...             ),
    ...         )
    >>> start = mfdeq.Start(
    ...     lambda theta: theta[1] * np.ones(n),
    ...     lambda theta: np.stack([np.zeros(n), np.ones(n)], axis=1),
    ... )
    >>> model = mfdeq.trajectory(Heat(), 10, start)
    >>> eq = mfdeq.solve(model, np.array([0.5, 3.0]))
    >>> eq.steps.shape, eq.report.forward.setups
    ((10, 20), 1)
    >>> loss = mfdeq.LeastSquares(observe=9 * n + np.array([5, 10]), data=np.ones(2))
    >>> print(eq.gradient(loss).round(3))
    [-4.28   1.748]
    """
    return Trajectory(step, steps, start, checkpoints)


class Trajectory(ResidualModel):
    """The residual of all steps of a trajectory, of which `mfdeq.trajectory` makes one.

    Parameters
    ----------
    step, steps, start, checkpoints
        As in `mfdeq.trajectory`.
    """

    equilibrium_class = TrajectoryEquilibrium
    forward_method = Marching()
    advice_for_curvature = ADVICE_FOR_CURVATURE

    def __init__(
        self, step: StepModel, steps: int, start: Any, checkpoints: int | None = None
    ) -> None:
        given_step: Any = step
        if not isinstance(given_step, StepModel):
            is_class = isinstance(given_step, type)
            got = given_step.__name__ if is_class else type(given_step).__name__
            hint = f": pass an instance, {got}(...)" if is_class else ""
            raise ArgumentError(
                f"step of mfdeq.trajectory: expected an mfdeq.StepModel, got a {got}{hint}"
            )
        self.step, self.count = step, count(steps, "steps of mfdeq.trajectory")
        self.checkpoints = (
            None if checkpoints is None else count(checkpoints, "checkpoints of mfdeq.trajectory")
        )
        self.models = (step,)  # what else it has, such as `params_tree` of steps from JAX
        n, self.param_size = (_size(step, name) for name in ("state_size", "param_size"))
        self.state_size = self.count * n
        given = _start_of(start, step.start_size, self.param_size, step.display_name)
        self.start = step.extend_start(given)
        self._latest: CheckedSteps | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**state_to_pickle(self), "_latest": None}

    @property
    def display_name(self) -> str:
        """The name of the step, as a trajectory."""
        return f"mfdeq.trajectory({self.step.display_name})"

    @property
    def state_names(self) -> Sequence[str]:  # type: ignore[override]
        """The names of all unknowns, with their step."""
        return _Names(self.step.state_names, "unknown", self.step.state_size, self.count)

    @property
    def equation_names(self) -> Sequence[str]:  # type: ignore[override]
        """The names of all equations, with their step."""
        return _Names(self.step.equation_names, "equation", self.step.state_size, self.count)

    def _defines(self, method: str) -> bool:
        return self.step._defines(method)

    def at(self, theta: Array) -> CheckedSteps:
        """Return the steps at some parameters, which those of the last call may be."""
        backend, latest = Backend.of(theta), self._latest  # which another thread may replace
        if latest is None or latest.backend != backend or not backend.all(latest.theta == theta):
            found = CheckedSteps(
                self.step, self.start, self.count, backend.copied(theta), backend, latest
            )
            self._latest = latest = found
        return latest

    def initial_state(self, theta: Array) -> Array:
        """Return the start for every step."""
        steps = self.at(theta)
        states = steps.backend.zeros(self.count, steps.size)
        states[...] = steps.start
        return steps.backend.xp.reshape(states, (self.state_size,))

    def state_scale(self, theta: Array) -> float | Array | None:
        """Return the scale of the unknowns of a step, for all steps."""
        return self._repeated(self.step.state_scale(theta), theta)

    def residual_scale(self, h: Array, theta: Array) -> float | Array | None:
        """Return the scale of the equations of a step, for all steps."""
        return self._repeated(self.step.residual_scale(theta), theta)

    def _repeated(self, scale: Any, theta: Array) -> Any:
        if getattr(scale, "ndim", 0) == 0:
            return scale
        xp = self.at(theta).backend.xp
        return xp.reshape(xp.stack([scale] * self.count), (-1,))

    def residual(self, h: Array, theta: Array) -> Array:
        """Return R of all steps, (N,)."""
        steps = self.at(theta)
        states = steps.backend.xp.reshape(h, (self.count, steps.size))
        out = steps.backend.zeros(self.count, steps.size)
        for k in range(self.count):
            previous = states[k - 1, :] if k else steps.start
            out[k, :] = steps.residual(k, states[k, :], previous, finite=False)
        return steps.backend.xp.reshape(out, (self.state_size,))

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the derivatives, whose products go through the steps one by one."""
        steps = self.at(theta)
        states = steps.backend.xp.reshape(h, (self.count, steps.size))
        linearized = LinearizedSteps(steps, states, self.checkpoints)
        first = linearized.at(0).linearization

        def second(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
            return _second(linearized, a, b)

        return Linearization(
            d_state=BlockBidiagonal(linearized),
            d_params=StackedParams(linearized),
            curvature=None
            if first.curvature is None
            else lambda lam: TrajectoryCurvature(linearized, lam),
            second=None if first.second is None else second,
        )


def _second(linearized: LinearizedSteps, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
    """Return R''[a, b] of all steps, (N,)."""
    steps = linearized.steps
    (u, z), (v, y) = a, b
    Z, Y = linearized.split(z), linearized.split(y)
    S, own = linearized.start_derivative, steps.start_second(u, v)
    out = steps.backend.zeros(steps.count, steps.size)
    for k in range(steps.count):
        p, q = (Z[k - 1, :], Y[k - 1, :]) if k else (S._apply(u), S._apply(v))
        step = linearized.at(k)
        out[k, :] = step.second((u, p, Z[k, :]), (v, q, Y[k, :]))
        if k == 0 and own is not None:
            out[0, :] += step.L._apply(own)
    return linearized.join(out)


def _size(step: StepModel, name: str) -> int:
    size: Any = getattr(step, name, None)
    try:
        return count(size, f"{step.display_name}.{name}")
    except ArgumentError as error:
        raise ModelError(f"{error}; set it on the class or in __init__") from None


def _start_of(given: Any, n: int, P: int, name: str) -> Start:
    """Return the start as a function of theta."""
    if isinstance(given, Start):
        return given
    if callable(given):
        raise ArgumentError(
            "start of mfdeq.trajectory: expected an array or an mfdeq.Start, got a function "
            "without its derivative: pass mfdeq.Start(value, d_params)"
        )
    shape = tuple(getattr(given, "shape", (len(given),) if isinstance(given, list) else ()))
    if shape != (n,):
        raise ArgumentError(
            f"start of mfdeq.trajectory: expected an array of shape ({n},), that of a state of "
            f"{name}, got shape {shape}"
        )
    return Start(_Constant(given), _NoDerivative(n, P))


class _Constant:
    """A start that does not depend on theta."""

    def __init__(self, value: Any) -> None:
        self.of = value

    def __call__(self, theta: Array) -> Any:
        return self.of


class _NoDerivative:
    """The derivative of a start that does not depend on theta."""

    def __init__(self, n: int, P: int) -> None:
        self.shape = n, P

    def __call__(self, theta: Array) -> Any:
        backend = Backend.of(theta)
        return backend.sparse.csr_matrix(self.shape, dtype=backend.dtype)


class _Names(Sequence[str]):
    """The names of the unknowns or equations of all steps."""

    def __init__(self, names: Sequence[str] | None, kind: str, size: int, count: int) -> None:
        self.names, self.kind, self.size, self.steps = names, kind, size, count

    def __len__(self) -> int:
        return self.size * self.steps

    def __getitem__(self, i: Any) -> Any:
        k, j = divmod(int(i), self.size)
        name = f"{self.kind} {j}" if self.names is None else self.names[j]
        return f"{name} of step {k}"
