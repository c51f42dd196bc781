"""Tangents and correctors of a curve of equilibria.

With theta = theta0 + t d, an equilibrium is a zero of R(h, t), and a branch of equilibria is a
curve x(s) = (h, t). Pseudo-arclength continuation (Keller 1977) steps along the tangent and
corrects in the plane orthogonal to it, where folds are regular points:

    [    A      -B d ] [dh]     [ R ]
    [ (w th)'    tt  ] [dt] = - [ 0 ],      tangent (th, tt) ~ (A^-1 B d, 1),

with the weights w of `inner_product`, in which neither unknowns nor equations have units. A solve
with this bordered matrix M takes one block solve with the factor of A, for R and B d.

References
----------
H. B. Keller, Numerical solution of bifurcation and nonlinear eigenvalue problems, in: Applications
of Bifurcation Theory, Academic Press (1977).

E. L. Allgower and K. Georg, Numerical Continuation Methods, Springer (1990).

W. C. Rheinboldt, Numerical Analysis of Parametrized Nonlinear Equations, Wiley (1986).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ..arrays.backend import Array, Backend
from ..equilibrium.constrained_equilibrium import bind
from ..equilibrium.solve import solve
from ..errors import ArgumentError, ConvergenceError, is_evaluation_failure
from ..forward import ConvergenceMonitor
from ..forward.newton_loop import Iterate, newton_loop
from ..forward.sizes import Level
from ..linear import Reused
from ..models.checked_linearization import CheckedLinearization
from ..models.model import Model
from ..models.problem import Problem
from ..models.vectors import flatten_params
from ..report import LinearCounts, SolveReport
from .inner_product import InnerProduct
from .point import Point
from .stability import Spectrum, Stability

MAX_CORRECTOR_STEPS = 10
MAX_CORRECTION = 0.5  # distance from the predicted to the corrected point, relative to the step
MAX_LAST_CORRECTION = 1e-6  # relative to (h, t); what it leaves is quadratically smaller
STALLED_RATIO = 0.5  # of a residual to the one before, above which it is rounding
MAX_RESUMED_RESIDUAL = 1e-6  # the worst residual above which a saved point is of another model


Result = TypeVar("Result")


@dataclass(frozen=True)
class _Trial(Iterate):
    """An iterate of a corrector, with its t and the problem at t."""

    t: float
    problem: Problem
    moved: float = math.inf  # the length of the step to here


class Curve:
    """A curve x(s) = (h, t) of equilibria, with its tangents and correctors.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta0 : (P,) array
    direction : (P,) array, int or None
        d, as in `mfdeq.follow`.
    solver : Reused
    eigenvalues : int
        The number of eigenvalues to compute at each point.
    unit : float
        The change of t that counts as one.

    Attributes
    ----------
    failures : int
        The number of trials at which there was no equilibrium, or a function of the model failed.
    last_failure : str
        The message of the last of them.
    """

    def __init__(
        self,
        model: Model,
        theta0: Array,
        direction: Any,
        solver: Reused,
        eigenvalues: int,
        unit: float,
    ) -> None:
        self.model, self.solver = model, solver
        problem = Problem(model, theta0)
        self.backend: Backend = problem.backend
        self.theta, self.is_map = problem.theta, problem.is_map
        direction = flatten_params(model, direction, "direction")
        self.d = _direction(self.backend, direction, problem.param_size)
        self.counts = LinearCounts()
        self.inner = InnerProduct(self.backend, problem.state_size, unit)
        self.dot, self.length = self.inner.dot, self.inner.length
        self.failures, self.last_failure = 0, ""
        self.stability = Stability(solver, eigenvalues, self.is_map, model.stable_sign, self.inner)
        self._recent: list[tuple[Array, CheckedLinearization]] = []  # of the last two states
        self._spectra: list[tuple[Array, Spectrum]] = []
        self.size = problem.state_size

    def bind(self, start: Any) -> None:
        """Prepare a constrained model at the start, from which a run that is resumed began, too."""
        if not self.model.has_constraints:
            return
        h0 = self.start_state(start)
        t = start.t if isinstance(start, Point) else 0.0
        problem = self.problem(t)
        bind(problem, problem.initial_state(h0))

    def resume(self, point: Point) -> None:
        """Continue from a saved point, which must be an equilibrium of this model."""
        problem = self.problem(point.t)
        residual, _ = problem.trial_residual(point.state)
        if residual is None:
            raise ConvergenceError(f"no value at the last point: {problem.last_failure}")
        worst = self._monitor(problem).worst_residual(
            point.state, residual, self.linearized(point).A
        )
        if not worst <= MAX_RESUMED_RESIDUAL:
            raise ConvergenceError(f"the worst residual at the last point is {worst:.2e}")
        self.forget()

    def forget(self) -> None:
        """Drop the factor and all linearizations."""
        self.solver.forget()
        self._recent, self._spectra = [], []

    def attempt(self, function: Callable[..., Result], *args: Any) -> Result | None:
        """Call a function at a trial, or return None and count the failure."""
        try:
            return function(*args)
        except Exception as error:
            if not is_evaluation_failure(error):
                raise
            self.count_failure(error)
            return None

    def count_failure(self, error: Exception) -> None:
        """Count a failure, and keep its message."""
        self.failures += 1
        self.last_failure = f"{type(error).__name__}: {error}"

    # Tangents, linearizations and linear systems.

    def cosine(self, x: Point, y: Point) -> float:
        """Compute the cosine of the angle between the tangents at two points."""
        return self.dot(x.tangent, x.slope, y.tangent, y.slope)

    def problem(self, t: float) -> Problem:
        """Return the problem at theta0 + t d."""
        return Problem(self.model, self.theta + t * self.d)

    def linearized(self, point: Point) -> CheckedLinearization:
        """Linearize the model at a point. The last two linearizations are cached."""
        for state, linearized in self._recent:
            if state is point.state:
                return linearized
        linearized = self.problem(point.t).linearize(point.state)
        self._remember(point.state, linearized)
        return linearized

    def _remember(self, state: Array, linearized: CheckedLinearization) -> None:
        self._recent = [(state, linearized), *self._recent[:1]]

    def solve_linear(
        self,
        linearized: CheckedLinearization,
        *sides: Array,
        adjoint: bool = False,
        rtol: float | None = None,
    ) -> list[Array]:
        """Solve with A, or with A' if `adjoint`, for several right-hand sides, as one block."""
        factor = self.solver.setup(linearized.A, self.counts)
        try:
            block = self.backend.xp.stack(sides, axis=1)
            solve = factor.solve_adjoint if adjoint else factor.solve
            X = solve(block, rtol=rtol)
        except ArgumentError as error:  # a right-hand side that overflows
            raise ConvergenceError(f"a linear system was not solved: {error}") from error
        return [X[:, j] for j in range(len(sides))]

    def _tangent(self, linearized: CheckedLinearization, like: Point) -> tuple[Array, float]:
        """Compute the unit tangent dx/ds, oriented like another point's tangent."""
        (a,) = self.solve_linear(linearized, linearized.B._apply(self.d))
        return self.orient(a, 1.0, like)

    def orient(
        self, h: Array, t: float, like: Point | None, sign: float = 1.0
    ) -> tuple[Array, float]:
        """Scale (h, t) to unit length, oriented like another point's tangent, or by a sign."""
        length = self.length(h, t)
        if not 0.0 < length < math.inf:
            raise ConvergenceError("the length of a tangent overflows: dh/dt is too large")
        if like is not None:
            sign = math.copysign(1.0, self.dot(h, t, like.tangent, like.slope))
        return sign / length * h, sign / length * t

    def with_amplitude(self, here: Point, there: Point) -> Point:
        """Set the amplitude at a point after one whose state was zero, and scale the tangent.

        A state that differs from its prediction by more than half of it may be rounding.
        """
        predicted = here.state + (there.t - here.t) / here.slope * here.tangent
        norm, units = self.backend.norm, self.inner.columns
        size = norm(there.state / units)
        if not norm((there.state - predicted) / units) < MAX_CORRECTION * size:
            return there
        self.inner.set_amplitude(there.tangent / there.slope, there.state)
        tangent, slope = self.orient(there.tangent, there.slope, None)
        return replace(there, tangent=tangent, slope=slope)

    # Points.

    def first_point(self, start: Array | None, sign: float) -> Point:
        """Solve for the first point, at t = 0."""
        eq = solve(self.model, self.theta, start, solver=self.solver)
        (a,) = self.solve_linear(eq.linearized, eq.forcing._apply(self.d))
        self.inner.set_units(eq.problem, eq.linearized)
        self.inner.set_amplitude(a, eq.state)
        self._recent = [(eq.state, eq.linearized)]
        tangent, slope = self.orient(a, 1.0, None, sign)
        return self.add_eigenvalues(Point(0.0, eq.state, tangent, slope))

    def start_state(self, start: Any) -> Array | None:
        """Return the state of a given start; None if there is none."""
        if start is None:
            return None
        return self.backend.asarray(start.state if isinstance(start, Point) else start)

    def correct(
        self, here: Point, ds: float, natural: bool = False, step: float | None = None
    ) -> tuple[Point, int]:
        """Compute the point of the curve at a distance along the tangent, by Newton's method.

        Parameters
        ----------
        here : Point
        ds : float
            The distance from `here` along its tangent, which may be negative.
        natural : bool, optional
            Whether to correct at a fixed t, and not in the plane orthogonal to the tangent.
        step : float, optional
            The length of the step that limits the correction, by default `ds`.

        Returns
        -------
        point : Point
        iterations : int

        Raises
        ------
        ConvergenceError
            If the corrector does not converge near the prediction.
        """
        if natural:
            ds = ds / abs(here.slope)
        h, t = here.state + ds * here.tangent, here.t + ds * here.slope
        across = (0.0 * here.tangent, 1.0) if natural else (here.tangent, here.slope)
        return self._correct_across(h, t, across, here, MAX_CORRECTION * abs(step or ds))

    def correct_near(self, h: Array, t: float, here: Point, ds: float) -> Point:
        """Compute the point near (h, t) in the plane orthogonal to the tangent of a step."""
        across, reach = (here.tangent, here.slope), MAX_CORRECTION * abs(ds)
        return self._correct_across(h, t, across, here, reach)[0]

    def _correct_across(
        self, h: Array, t: float, across: tuple[Array, float], like: Point, reach: float
    ) -> tuple[Point, int]:
        """Compute the point of the curve near (h, t) in the plane orthogonal to `across`.

        Its distance from (h, t) is at most `reach`: farther away it may be on another part of the
        curve, or on another curve.
        """
        start = self._trial(h, t)
        monitor = self._monitor(start.problem)
        # An unknown may be zero along the curve, such as one that an equation sets to zero.
        monitor.assume_sizes(self.backend.eps * self.inner.sizes)
        levels: list[float] = []
        level: Level | None = None

        def stop(trial: _Trial, steps: int) -> bool:
            linearized = trial.problem.linearize(trial.h)
            # theta0 + t d is rounded.
            terms = linearized.B.abs_apply(abs(self.theta) + abs(trial.t * self.d))
            monitor.parameter_terms = terms
            size = max(self.length(trial.h, trial.t), reach)
            if not trial.moved <= MAX_LAST_CORRECTION * size:
                return False
            if monitor.equations_are_satisfied(trial.h, trial.residual, linearized.A):
                return True
            # Where terms cancel, or an unknown is zero, R has a larger rounding error than its
            # terms suggest: Newton's method then ends where it does not reduce R any more.
            nonlocal level
            level = level or monitor.level(trial.h, trial.residual)
            levels.append(level(trial.residual))
            stalled = len(levels) > 1 and levels[-1] > STALLED_RATIO * levels[-2]
            return stalled and trial.moved <= monitor.rtol * size

        def solve(trial: _Trial) -> tuple[Array, Array, float]:
            linearized = trial.problem.linearize(trial.h)
            u, a = self.solve_linear(linearized, -trial.residual, linearized.B._apply(self.d))
            k, tau = across
            dt = -self.dot(k, tau, u, 0.0) / self.dot(k, tau, a, 1.0)
            return u, a, dt

        def advance(trial: _Trial, step: tuple[Array, Array, float]) -> _Trial:
            u, a, dt = step
            h, t = trial.h + u + dt * a, trial.t + dt
            if not self.length(h - start.h, t - start.t) <= reach:
                raise ConvergenceError("a corrector moved too far from the predicted point")
            return replace(self._trial(h, t), moved=self.length(u + dt * a, dt))

        end, iterations = newton_loop(start, solve, advance, stop, MAX_CORRECTOR_STEPS)
        if iterations == MAX_CORRECTOR_STEPS:
            raise ConvergenceError(f"a corrector did not converge in {MAX_CORRECTOR_STEPS} steps")
        linearized = end.problem.linearize(end.h)
        self._remember(end.h, linearized)
        tangent, slope = self._tangent(linearized, like)
        return Point(end.t, end.h, tangent, slope), iterations

    def _monitor(self, problem: Problem) -> ConvergenceMonitor:
        report = SolveReport(method="newton")
        return ConvergenceMonitor(problem, self.solver, None, MAX_CORRECTOR_STEPS, report)

    def _trial(self, h: Array, t: float) -> _Trial:
        problem = self.problem(t)
        residual, _ = problem.trial_residual(h)
        if residual is None:
            raise ConvergenceError(
                f"a corrector reached a state where the model has no value: {problem.last_failure}"
            )
        return _Trial(h, residual, t, problem)

    def point_at(self, here: Point, there: Point, t: float) -> Point:
        """Compute the point at a given t between two points."""
        share = (t - here.t) / (there.t - here.t)
        guess = here.state + share * (there.state - here.state)
        chord = there.state - here.state, there.t - here.t
        reach = MAX_CORRECTION * self.length(*chord)
        point, _ = self._correct_across(guess, t, (0.0 * here.tangent, 1.0), there, reach)
        return self.add_eigenvalues(point)

    # Stability.

    def spectrum(self, point: Point) -> Spectrum:
        """Compute the eigenvalues at a point. Those at the last two points are cached."""
        for state, spectrum in self._spectra:
            if state is point.state:
                return spectrum
        spectrum = self.stability.spectrum(self.linearized(point), self.counts)
        self._spectra = [(point.state, spectrum), *self._spectra[:1]]
        return spectrum

    def add_eigenvalues(self, point: Point) -> Point:
        """Return the point with its eigenvalues, if `eigenvalues` is not zero."""
        if not self.stability.k:
            return point
        found = self.spectrum(point)
        return replace(point, eigenvalues=found.values[: self.stability.k], unstable=found.unstable)


def _direction(backend: Backend, given: Any, size: int) -> Array:
    """Return a direction of the parameters, checked, or that of one parameter."""
    if given is None:
        if size != 1:
            raise ArgumentError(
                f"direction: expected an array or the number of one of {size} parameters, got None"
            )
        given = 0
    if getattr(given, "ndim", 0) == 0 and hasattr(given, "__index__"):
        if not -size <= given < size:
            raise ArgumentError(
                f"direction: expected the number of one of {size} parameters, got {given}"
            )
        d = backend.zeros(size)
        d[int(given)] = 1.0
        return d
    d = backend.check_array(given, (size,), "direction", ArgumentError, convert=True)
    if backend.norm(d) == 0.0:
        raise ArgumentError("direction: expected a nonzero vector, got zero")
    return d
