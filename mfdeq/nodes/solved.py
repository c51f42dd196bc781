"""The host's side of a node: equilibria of one model, and the products that derivatives ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..arguments import one_of
from ..arrays.backend import Array, Backend, host
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.solve import equilibrium_at, solve
from ..errors import ArgumentError, short_repr
from ..models.library_function import LibraryFunction
from ..models.model import Model
from ..models.problem import Problem
from ..optimization.reduced_functional import SOLVE_OPTIONS
from ..report import SolveReport
from .known_equilibria import KnownEquilibria
from .last_error import record_error
from .quick_newton import MAX_DENSE_SIZE, QuickEquilibrium, quick_newton

# Options with which only the general method can be used.
GENERAL_OPTIONS = {"method", "solver", "max_iterations", "lower", "upper", "progress"}


class Linearize(Protocol):
    """R and the dense A of a model at (h, theta), as arrays of numpy."""

    def __call__(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return R, (N,), and A, (N, N)."""


class Solved:
    """An equilibrium at one theta, as `mfdeq.solve` or Newton's method for small problems found it.

    Parameters
    ----------
    model : Model
    theta : (P,) array
    options : dict
        Options of `mfdeq.solve`.
    quick : QuickEquilibrium or None
    general : Equilibrium or None
        One of the two is given; the other one is made from the state if it is needed.
    """

    def __init__(
        self,
        model: Model,
        theta: Array,
        options: dict[str, Any],
        quick: QuickEquilibrium | None = None,
        general: Equilibrium | None = None,
    ) -> None:
        self.model, self.theta, self.options = model, theta, options
        self.quick, self._general = quick, general
        self._latest_hessian: tuple[Array, Any] | None = None  # y, and the Hessian of y'h*
        found: Any = general if quick is None else quick
        self.state: Array = found.state
        self.report: SolveReport = found.report

    @property
    def equilibrium(self) -> Equilibrium:
        """The equilibrium with all derivatives."""
        if self._general is None:
            solver = self.options.get("solver", "auto")
            eq = equilibrium_at(self.model, self.theta, self.state, solver=solver)
            eq.error_estimates = False
            self._general = eq
        return self._general

    def solve(self, b: Array) -> Array:
        """Solve A x = b, for (N,) or (N, k) arrays."""
        return self._solve(b, False)

    def solve_adjoint(self, b: Array) -> Array:
        """Solve A' x = b, for (N,) or (N, k) arrays."""
        return self._solve(b, True)

    def _solve(self, b: Array, adjoint: bool) -> Array:
        x = None if self.quick is None else self.quick.solve(b, adjoint)
        if x is None:
            factor = self.equilibrium.factor
            x = factor.solve_adjoint(b) if adjoint else factor.solve(b)
        return x

    def sensitivity(self, u: Array) -> Array:
        """Return Z u, for (P,) or (P, k) arrays."""
        return self.equilibrium.sensitivity @ u

    def sensitivity_adjoint(self, y: Array) -> Array:
        """Return Z' y, for (N,) or (N, k) arrays."""
        return self.equilibrium.sensitivity.H @ y  # type: ignore[attr-defined]

    def second_order(self, u: Array, v: Array) -> Array:
        """Return h''[u, v], (N,)."""
        return self.equilibrium.second_order(u, v)

    def component_hessian(self, y: Array, v: Array) -> Array:
        """Return the product of the Hessian of y'h* with v, (P,)."""
        latest = self._latest_hessian  # which another thread may replace
        if latest is None or not Backend.of(y).all(latest[0] == y):
            hessian = self.equilibrium.component_hessian(y)
            latest = self._latest_hessian = (Backend.of(y).copied(y), hessian)
        return latest[1] @ v


class HostNode:
    """The equilibria of a model at one theta after another, as arrays of numpy or cupy.

    One forward solve and one factor serve all products at the same theta.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    caller : str
        The public function that error messages name.
    solve_options : dict
        Options of `mfdeq.solve`.

    Attributes
    ----------
    split : callable
        Returns the model and theta that an operand theta stands for: it may hold the data beside
        the parameters too, behind them.
    solves : int
        The number of forward solves so far.
    report : SolveReport or None
        The report of the last one.
    """

    output_shape: tuple[int, ...]

    def __init__(
        self,
        model: Model,
        caller: str,
        solve_options: dict[str, Any],
    ) -> None:
        if not isinstance(model, Model):
            raise ArgumentError(
                f"model of {caller}: expected an mfdeq.FixedPointModel or an mfdeq.ResidualModel, "
                f"got {short_repr(model)}"
            )
        for name in solve_options:
            one_of(name, SOLVE_OPTIONS, f"options of {caller}")
        self.output_shape = (model.state_size,)
        self._start(model, {"error_estimates": False, **solve_options})

    def _start(self, model: Any, options: dict[str, Any]) -> None:
        self.model, self.options = model, options
        self._linearize: Linearize | None = None
        self._known: KnownEquilibria[Solved] = KnownEquilibria(model.state_size)
        self.split: Callable[[Array], tuple[Model, Array]] = lambda theta: (model, theta)
        self.solves = 0
        self.report: SolveReport | None = None

    def use_quick_newton(self, linearize: Linearize) -> None:
        """Solve small problems without options of the general method by `quick_newton`."""
        model = self.model
        if (
            model.state_size <= MAX_DENSE_SIZE
            and not GENERAL_OPTIONS & set(self.options)
            and not model._defines("residual_scale")
            and not model._defines("state_scale")
        ):
            self._linearize = linearize

    def solved(self, theta: Array, h0: Array | None) -> Solved:
        """Return the equilibrium at theta from a start, by a solve or from the store."""
        start = theta[:0] if h0 is None else h0
        return self._known.get((theta, start), lambda: self._solve(theta, h0))

    def _solve(self, theta: Array, h0: Array | None) -> Solved:
        self.solves += 1
        theta = Backend.of(theta).copied(theta)
        try:
            solved = self._solve_quickly(theta, h0)
            if solved is None:
                model, params = self.split(theta)
                general = solve(model, params, h0, **self.options)
                solved = Solved(model, params, self.options, general=general)
        except Exception as error:
            record_error(error)
            self.report = getattr(error, "report", None)
            raise
        self.report = solved.report
        self._known.put((theta, solved.state), solved)
        return solved

    def _solve_quickly(self, theta: Array, h0: Array | None) -> Solved | None:
        if self._linearize is None or type(theta) is not host.ndarray:
            return None
        linearize = self._linearize
        model, params = self.split(theta)
        start = Problem(model, params, h0).initial_state(h0)
        quick = quick_newton(lambda h: linearize(h, theta), start, self.options.get("rtol"))
        return None if quick is None else Solved(model, params, self.options, quick)

    def at(self, theta: Array, state: Array) -> Solved:
        """Return the equilibrium at theta whose state is known, with its factor."""

        def make() -> Solved:
            model, params = self.split(Backend.of(theta).copied(theta))
            eq = equilibrium_at(
                model,
                params,
                Backend.of(state).copied(state),
                solver=self.options.get("solver", "auto"),
            )
            eq.error_estimates = False
            return Solved(model, eq.params, self.options, general=eq)

        return self._known.get((theta, state), make)

    def params_in(self, library: str) -> LibraryFunction | None:
        """Return the function in a library that knows the structure of the parameters, if any."""
        return self.model.function_in(library)

    def states(self, theta: Array, h0: Array) -> Array:
        """Return the equilibria of vectors theta along the last axis.

        Parameters
        ----------
        theta : (..., P) array
        h0 : (..., N) or (..., 0) array
            The starts; those of the model if there are none.

        Returns
        -------
        (..., N) array
        """

        def state(theta: Array, h0: Array) -> Array:
            return self.solved(theta, h0 if h0.shape[0] else None).state

        return each(state, (theta, h0))

    def products(self, name: str, theta: Array, state: Array, *vectors: Array) -> Array:
        """Apply a method of `Solved` to vectors along the last axis.

        Parameters
        ----------
        name : str
            The name of the method.
        theta, state : (..., P) and (..., N) arrays
        *vectors : (..., n) arrays
            Leading axes of all arrays are broadcast. Where those of theta and state have size one
            and there is one vector, all of its columns are one block.
        """
        try:
            if (
                len(vectors) == 1
                and theta.size == theta.shape[-1]
                and state.size == state.shape[-1]
            ):
                method = getattr(self.at(theta.reshape(-1), state.reshape(-1)), name)
                (b,) = vectors
                if b.size == b.shape[-1]:
                    x = method(b.reshape(-1))
                else:
                    x = method(b.reshape(-1, b.shape[-1]).T).T
                return x.reshape(*b.shape[:-1], x.shape[-1])
            return each(
                lambda theta, state, *vectors: getattr(self.at(theta, state), name)(*vectors),
                (theta, state, *vectors),
            )
        except Exception as error:
            record_error(error)
            raise


def each(function: Callable[..., Array], arrays: Sequence[Array]) -> Array:
    """Apply a function of vectors to arrays of vectors along the last axis, broadcast together."""
    batch = host.broadcast_shapes(*(x.shape[:-1] for x in arrays))
    if not batch:
        return function(*arrays)
    xp = Backend.of(arrays[0]).xp
    count = math.prod(batch)
    if not count:
        raise ArgumentError("expected at least one vector, got a batch of none")
    rows = [xp.broadcast_to(x, (*batch, x.shape[-1])).reshape(count, x.shape[-1]) for x in arrays]
    results = [function(*(x[i] for x in rows)) for i in range(count)]
    return xp.stack(results).reshape(*batch, -1)
