"""The equilibrium of a trajectory, with the states of its steps."""

from __future__ import annotations

import contextlib
from typing import Any

from ..arrays.backend import Array
from ..arrays.memory import translate_memory_errors
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.gradients import reduced_gradient
from ..equilibrium.null_vectors import NullVectors, find_null_vectors
from ..equilibrium.singularity import describe
from ..equilibrium.smallest_singular import (
    SmallestSingular,
    singular_state_error,
    smallest_singular,
)
from ..equilibrium.uniqueness import Examined
from ..errors import ConvergenceError, SingularStateError
from ..linear.rounding import MIN_DIGITS, rounding_digits
from ..linear.scaling import Scaling
from ..locks import cached_property
from ..models.losses import LossBase
from .substitution import SubstitutionFactor

MAX_ESTIMATED_ERROR = 1e-6  # relative, of a result whose error is not estimated by corrections
EXAMINED_STEPS = 3  # whose smallest singular values are computed: first, last and between


class TrajectoryEquilibrium(Equilibrium):
    """The states of all steps of a trajectory, with their derivatives.

    `mfdeq.solve` returns it for a model of `mfdeq.trajectory`. It is used like any `Equilibrium`:
    the state is that of all steps, (N,) with N = count * n.

    Attributes
    ----------
    steps : (count, n) array
        The states of the steps, the start excluded. It is read-only.
    start : (n,) array
        The state before the first step.

    Notes
    -----
    A is singular where the matrix D_k of a step is. ``report.smallest_singular`` and
    ``report.digits_left`` are those of the first, of the last and of a step between; the smallest
    singular value of A is no larger. `smallest_singular` is that of A.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> step = mfdeq.implicit_euler(
    ...     lambda h, theta, t: -theta * h,
    ...     lambda h, theta, t: mfdeq.Linearization(
    ...         d_state=-np.diag(theta), d_params=-h[:, None]
    ...     ),
    ...     state_size=1,
    ...     param_size=1,
    ...     dt=0.1,
    ... )
    >>> eq = mfdeq.solve(mfdeq.trajectory(step, 3, np.ones(1)), np.ones(1))
    >>> print(eq.steps.round(3).ravel(), eq.start)
    [0.909 0.826 0.751] [1.]
    """

    _growth: float | None = None

    @property
    def steps(self) -> Array:
        """The states of the steps, (count, n)."""
        model: Any = self.model
        shape = model.count, model.step.state_size
        return self.backend.read_only(self.backend.xp.reshape(self.state, shape))

    # The errors of the first gradient and of the first product.

    def is_first(self, result: str) -> bool:
        """Return whether the error of a result is due to be estimated by corrections.

        That is more work than the result itself. It is not done where the steps are solved directly
        and the adjoint shows that errors do not grow along the steps: the error is then that of a
        step times this growth, once for each solve.
        """
        due = super().is_first(result)
        if not due or result != "product" or self._growth is None or not self._is_direct:
            return due
        error = self._step_error * max(self._growth, 1.0) ** 2
        if error <= MAX_ESTIMATED_ERROR:
            self.report.product_error = error
            return False
        return True

    def _first_gradient(self, loss: LossBase) -> Array:
        """Compute a gradient, and warn if its estimated error is large; see `is_first`."""
        if not self._is_direct:
            return super()._first_gradient(loss)
        adjoint = self.adjoint(loss)
        assert self._growth is not None
        error = self._step_error * max(self._growth, 1.0)
        if not error <= MAX_ESTIMATED_ERROR:
            return super()._first_gradient(loss)
        self.report.gradient_error = error
        return reduced_gradient(self.loss_gradients(loss)[0], self.forcing, adjoint)

    def _adjoint(self, loss: LossBase, d_state: Array | None) -> Array:
        adjoint = super()._adjoint(loss, d_state)
        if self._growth is None:
            side = self.loss_gradients(loss)[1] if d_state is None else d_state
            self._growth = self._growth_of(adjoint, side)
        return adjoint

    @property
    def _is_direct(self) -> bool:
        """Whether derivatives are exact, and the steps are solved by factorizations."""
        working = self.factor.working
        direct = isinstance(working, SubstitutionFactor) and not working.iterative
        return direct and self.linearization.accuracy == (0.0, 0.0)

    def _growth_of(self, adjoint: Array, d_state: Array) -> float:
        """Return by how much the adjoints of the steps are larger than what drives them.

        It is at most one where no step enlarges a vector, |D_k^-1| |L_k| <= 1.
        """
        backend, count = self.backend, self.steps.shape[0]
        shape = count, -1
        sizes = [
            [backend.norm(row) for row in backend.xp.reshape(x, shape)] for x in (adjoint, d_state)
        ]
        driven, largest = 0.0, 0.0
        for response, side in zip(*(reversed(x) for x in sizes), strict=True):
            driven += side
            if driven > 0.0:
                largest = max(largest, response / driven)
        return largest * self.report.smallest_singular

    @property
    def _step_error(self) -> float:
        """The relative error that all steps add to a result, if it does not grow."""
        digits = 10.0**-self.report.digits_left
        return self.steps.shape[0] * max(digits, self.report.correction)

    @property
    def start(self) -> Array:
        """The state before the first step, (n,)."""
        model: Any = self.model
        return model.at(self.params).start

    def judge_uniqueness(self) -> None:
        """Judge whether the trajectory is unique: each step was solved with a factor of its own."""
        held = self.solver.held
        if isinstance(held, SubstitutionFactor) and not held.iterative and held.factors.names:
            self.report.uniqueness = "judged"
            if borrowed := held.factors.borrowed:  # their matrices are not evaluated
                self.report.uniqueness = (
                    f"not judged: {borrowed} of the {held.linearized.count} steps were solved with "
                    "the factor of another one; derivatives factorize their matrices"
                )
            return
        super().judge_uniqueness()

    @cached_property
    @translate_memory_errors
    def examined(self) -> Examined:
        """The factor of A, with how singular the matrices of some steps are."""
        report, A = self._report, self.linearized.A
        factor = self.solver.setup_for_equilibrium(A, report.linear)
        working = factor.working
        if not isinstance(working, SubstitutionFactor):  # of a solver of the user's
            return super().examined
        found: list[tuple[float, SmallestSingular]] = []
        count = working.linearized.count
        matrices = {
            id(working.linearized.at(k).D): k for k in (0, count // 2, count - 1)[:EXAMINED_STEPS]
        }
        every = working.factors.limit is None  # all are held for the derivatives
        for k in range(count) if every else matrices.values():
            try:
                own = working.at(k)
                if k not in matrices.values():
                    continue
                smallest = smallest_singular(own, None, own.working.scaling)
                x, w = smallest.right, smallest.left / smallest.value
                digits = rounding_digits(own.A, x, w)
                if digits < MIN_DIGITS:
                    raise singular_state_error(digits, f"to working precision in step {k}")
            except (ConvergenceError, SingularStateError) as error:
                return self._singular(working, k, error)
            found.append((digits, smallest))
        report.record_solver(factor.name, self.solver.choices)
        report.digits_left = min(digits for digits, _ in found)
        report.smallest_singular = min(smallest.value for _, smallest in found)
        if every or report.uniqueness == "judged":
            report.uniqueness = "judged"
        else:
            working.describe = self._error_of_step
            report.uniqueness = (
                f"judged in {len(matrices)} of the {count} steps; derivatives factorize the "
                "matrices of the others"
            )
        return Examined(factor, found[0][1], True, None)

    def _error_of_step(
        self, working: SubstitutionFactor, k: int, error: ConvergenceError | SingularStateError
    ) -> SingularStateError:
        """Return the error for a step that a derivative has found to be singular."""
        working.describe = None
        examined = self._singular(working, k, error)
        assert examined.singularity is not None
        self.__dict__["examined"] = examined  # as if it had been found at first
        return examined.singularity.error(self.state, self._report)

    def _singular(
        self, working: SubstitutionFactor, k: int, error: ConvergenceError | SingularStateError
    ) -> Examined:
        """Describe how A is singular where the matrix of step k is; else raise the error."""
        report, A = self._report, self.linearized.A
        null = find_null_vectors(working.linearized.at(k).D)
        if null is None:
            error.best, error.report = self.state, report
            raise error
        right, left = self._through_steps(working, k, *null.unscaled)
        digits = error.digits if isinstance(error, SingularStateError) else 0.0
        null = NullVectors(A, Scaling(), right, left)
        singularity = describe(self.problem, self.state, self.linearized, null, digits=digits)
        report.digits_left, report.uniqueness = digits, f"no: {singularity.kind}"
        report.smallest_singular = 0.0
        return Examined(None, SmallestSingular(0.0, left, right), False, singularity)

    def _through_steps(
        self, working: SubstitutionFactor, k: int, right: Array, left: Array
    ) -> tuple[Array, Array]:
        """Continue null vectors of D_k to those of A: D_j x_j = -L_j x_{j-1}, and the adjoint.

        They end at another step whose matrix is singular.
        """
        backend, steps = self.backend, working.linearized
        x, y = (backend.zeros(*self.steps.shape) for _ in range(2))
        x[k, :], y[k, :] = right, left
        with contextlib.suppress(ConvergenceError, SingularStateError):
            for j in range(k + 1, steps.count):
                x[j, :] = -working.at(j).solve(steps.at(j).L._apply(x[j - 1, :]))
        with contextlib.suppress(ConvergenceError, SingularStateError):
            for j in range(k - 1, -1, -1):
                y[j, :] = -working.at(j).solve_adjoint(
                    steps.at(j + 1).L._apply_adjoint(y[j + 1, :])
                )
        x, y = steps.join(x), steps.join(y)
        return x / backend.norm(x), y / backend.norm(y)
