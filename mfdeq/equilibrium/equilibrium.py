"""The equilibrium: every derivative there as an operator.

With the linearization A, B at h* and one factor of A, all is composition: A Z = B,
A' lam = dL/dh, g = dL/dtheta + B' lam, T = [I; Z], H = T' K T.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array, native
from ..arrays.memory import translate_memory_errors
from ..errors import ArgumentError, SingularStateError
from ..linear import Factor, Reused
from ..models.curvature import CurvatureOperator
from ..models.linearization import Linearized, Problem
from ..models.losses import LossBase, check_loss
from ..models.model import Linearization
from ..operators.operator import Operator, Stacked
from ..report import SolveReport
from .conditioning import SmallestSingular, digits_left, smallest_singular
from .error_estimates import Tolerance, gradient_with_error, relative_error
from .reduced_hessian import Reduced, ReducedHessian, SecondOrderSlice

CHORD_STEPS = 5  # at most, to polish a state


class Equilibrium:
    """A state h* = f(h*, theta) and its derivatives, as LinearOperators.

    Made by `mfdeq.solve` or `mfdeq.equilibrium_at`. One linearization and one factor of A,
    set up at the first use, serve everything here.

    Attributes
    ----------
    state, params : (N,) and (P,) arrays
        h* and theta; not to be written into.
    model : Model
    linearization : Linearization
        What the model's ``linearize`` returned at (h*, theta).
    report : SolveReport
        How the solve went, and the counts of every kind of solve since.
    """

    _smallest: SmallestSingular  # comes with the factor

    def __init__(
        self,
        problem: Problem,
        state: Array,
        linearized: Linearized,
        solver: Reused,
        report: SolveReport,
    ) -> None:
        self.problem = problem
        self.model = problem.model
        self.backend = backend = problem.backend
        self.state, self.params = backend.read_only(state), backend.read_only(problem.theta)
        self.linearized = linearized
        self.solver = solver
        self.report = report
        self._adjoints: dict[LossBase, Array] = {}

    def __repr__(self) -> str:
        report = self.report
        return (
            f"<Equilibrium of {self.problem.name}: N = {self.problem.state_size}, "
            f"P = {self.problem.param_size}, {report.method}, {report.reason}>"
        )

    @property
    def linearization(self) -> Linearization:
        """What the model's ``linearize`` returned at the equilibrium."""
        return self.linearized.given

    @functools.cached_property
    @translate_memory_errors
    def factor(self) -> Factor:
        """The one factor of A, checked for digits when it is set up.

        Warns
        -----
        NearSingularWarning
            Where A is so near to singular that digits are being lost.

        Raises
        ------
        SingularStateError
            Where A is singular to working precision.
        """
        factor = self.solver.settle(self.state_operator, self.report.linear)
        self.report.solver = factor.name
        self.report.choices += [
            c for c in getattr(self.solver, "choices", []) if c not in self.report.choices
        ]
        try:
            smallest = smallest_singular(factor, self.solver.weakest)
            self.solver.weakest, self._smallest = smallest.left, smallest
            self.report.smallest_singular = smallest.value
            self.report.digits_left = digits_left(
                factor, smallest, self.linearized, self.state, self.problem.residual
            )
        except SingularStateError as error:
            error.best, error.report = self.state, self.report
            self.report.digits_left = error.digits
            raise
        return factor

    def forget(self) -> None:
        """Drop what earlier solves have left in the factor, and what was corrected with it."""
        for name in ("corrected_state", "corrected", "polished"):
            self.__dict__.pop(name, None)
        if "factor" in self.__dict__:
            self.factor.forget()

    @property
    def smallest_singular(self) -> SmallestSingular:
        """The least singular value of A with its vectors, found when the factor is set up."""
        _ = self.factor
        return self._smallest

    @property
    def state_operator(self) -> Operator:
        """A = I - J = dR/dh, (N, N)."""
        return self.linearized.A

    @property
    def param_operator(self) -> Operator:
        """B = df/dtheta = -dR/dtheta, (N, P)."""
        return self.linearized.B

    @functools.cached_property
    def inverse(self) -> Operator:
        """A^-1, (N, N), by the factor."""
        return Inverse(self.factor)

    @functools.cached_property
    def sensitivity(self) -> Operator:
        """Z = dh*/dtheta = A^-1 B, (N, P)."""
        return self.inverse @ self.param_operator

    @functools.cached_property
    def tangent(self) -> Operator:
        """T = [I; Z], (P+N, P), from a parameter direction to (dtheta, dh)."""
        return Stacked(self.sensitivity)

    def loss_gradients(self, loss: LossBase) -> tuple[Array, Array]:
        """(dL/dtheta, dL/dh) at the equilibrium, of shapes (P,) and (N,)."""
        check_loss(loss, self.problem.model)
        return loss.gradients(self.state, self.params)

    def adjoint(self, loss: LossBase) -> Array:
        """The adjoint lam, A' lam = dL/dh, (N,); solved once per loss."""
        check_loss(loss, self.problem.model)
        if loss not in self._adjoints:
            _, d_state = self.loss_gradients(loss)
            self._adjoints[loss] = self.factor.solve_adjoint(d_state)
        return self.backend.xp.asarray(self._adjoints[loss], copy=True)

    @translate_memory_errors
    def gradient(self, loss: LossBase, *, rtol: float | None = None) -> Array:
        """dL/dtheta along the equilibrium, g = dL/dtheta + B' lam, (P,).

        Parameters
        ----------
        loss : Loss
        rtol : float, optional
            Relative error of the gradient that is allowed, as estimated: the adjoint is solved no
            tighter than that needs, and the state polished where it limits. The estimate is
            ``report.gradient_error``. By default solves are to the solver's own tolerance.

        Raises
        ------
        ConvergenceError
            Where that accuracy is not reached, with the best gradient.
        """
        if rtol is not None:
            tolerance = Tolerance(fraction(rtol, "rtol of gradient"), self.backend.eps)
            found, self.report.gradient_error = tolerance.reached(
                self, lambda eq, inner: gradient_with_error(eq, loss, inner), "the gradient"
            )
            return found
        d_params, _ = self.loss_gradients(loss)
        return d_params + self.param_operator._apply_adjoint(self.adjoint(loss))

    def gradient_with_error(self, loss: LossBase) -> tuple[Array, Array]:
        """The gradient, and an estimate of the error in it, both (P,).

        See `ReducedHessian.with_error`: the gradient once more, with the state and the adjoint
        corrected by one application of the factor, and twice the difference.
        """
        gradient, error = gradient_with_error(self, loss)
        self.report.gradient_error = relative_error(self.backend, error, gradient)
        return gradient, error

    def hessian(self, loss: LossBase) -> ReducedHessian:
        """H = d²L/dtheta² = T' K T, (P, P), exact; two solves a product."""
        check_loss(loss, self.problem.model)
        return ReducedHessian(self, loss)

    def curvature(self, w: Array) -> CurvatureOperator:
        """∇²_(θ,h) (w'f) with w frozen, (P+N, P+N)."""
        return self.linearized.curvature(self._state_vector(w, "w"))

    def total_curvature(self, u: Array, v: Array) -> Array:
        """The curvature of f along the equilibrium manifold, f''[(u, Zu), (v, Zv)], (N,)."""
        T = self.tangent
        u, v = self._param_vector(u, "u"), self._param_vector(v, "v")
        return self.linearized.second(T._apply(u), T._apply(v))

    def second_order(self, u: Array, v: Array) -> Array:
        """h''[u, v], the second derivative of h* along u and v, (N,): A h'' = f''."""
        return self.inverse._apply(self.total_curvature(u, v))

    def second_order_slice(self, v: Array) -> SecondOrderSlice:
        """u -> h''[u, v], operator (N, P); its adjoint takes y to component_hessian(y) @ v."""
        return SecondOrderSlice(self, self._param_vector(v, "v"))

    def component_hessian(self, w: Any) -> Reduced:
        """The Hessian of w'h* over theta, (P, P); an integer means that component of h*.

        T' ∇²(mu'f) T with A' mu = w.
        """
        w = self._weights(w)
        mu = self.inverse._apply_adjoint(w)
        K = self.linearized.curvature(mu)
        corrected = functools.partial(self.corrected_curvature, mu, w)
        return Reduced(self, K, corrected, lambda other: other.component_hessian(w))

    @functools.cached_property
    def corrected_state(self) -> Array:
        """h* - M R(h*), with one application M of the factor: nearer to the exact state."""
        return self.state - self.factor.approximate(self.problem.residual(self.state))

    @functools.cached_property
    def corrected(self) -> Linearized:
        """The linearization at the corrected state, which error estimates compare with."""
        return self.problem.linearize_again(self.corrected_state)

    @functools.cached_property
    def polished(self) -> Equilibrium:
        """With the residual at the rounding floor, by chord steps; itself where none helps."""
        problem, norm = self.problem, self.backend.norm
        h, size, best = self.state, norm(problem.residual(self.state)), None
        for _ in range(CHORD_STEPS):
            better = h - self.factor.solve(problem.residual(h), rtol=1e-3)
            better_size = problem.trial_residual(better)[1]
            if not better_size < 0.5 * size:
                break
            h, size, best = better, better_size, better
        if best is None:
            return self
        found = Equilibrium(problem, best, problem.linearize(best), self.solver, self.report)
        found.polished = found
        return found

    def corrected_curvature(self, weights: Array, rhs: Array) -> CurvatureOperator:
        """∇²(w'f) at the corrected state, for the corrected w of A' w = rhs."""
        residual = rhs - self.corrected.A._apply_adjoint(weights)
        w = weights + self.factor.approximate(residual, adjoint=True)
        return self.corrected.curvature(w)

    def _weights(self, w: Any) -> Array:
        N = self.problem.state_size
        w = native(w)
        if getattr(w, "shape", ()) != () or isinstance(w, (list, tuple)):
            return self._state_vector(w, "w")
        try:
            is_bool = isinstance(w, bool) or str(getattr(w, "dtype", "")) == "bool"
            index = None if is_bool else operator.index(w)
        except TypeError:
            index = None
        if index is None:
            raise ArgumentError(
                f"w is {w!r}; a component's number (an integer) or an ({N},) array was expected"
            )
        if not -N <= index < N:
            raise ArgumentError(f"component {index} of a state of {N}: out of range")
        e = self.backend.zeros(N)
        e[index] = 1.0
        return e

    def _state_vector(self, x: Any, name: str) -> Array:
        return self.backend.checked(x, (self.problem.state_size,), name, ArgumentError)

    def _param_vector(self, x: Any, name: str) -> Array:
        return self.backend.checked(x, (self.problem.param_size,), name, ArgumentError)


class Inverse(Operator):
    """A^-1 as an operator, by its factor."""

    def __init__(self, factor: Factor) -> None:
        super().__init__(factor, factor.A.shape)
        self.factor = factor

    def _apply(self, x: Array) -> Array:
        return self.factor.solve(x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.factor.solve_adjoint(y)

    def forget(self) -> None:
        """Drop what earlier solves have left in the factor."""
        self.factor.forget()
