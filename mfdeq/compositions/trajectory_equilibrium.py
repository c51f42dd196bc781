"""The equilibrium of a trajectory, with the states of its steps."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array
from ..arrays.memory import translate_memory_errors
from ..equilibrium.conditioning import SmallestSingular, singular_state_error, smallest_singular
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.uniqueness import Examined
from ..errors import ConvergenceError, SingularStateError
from ..linear.rounding import MIN_DIGITS, rounding_digits
from ..locks import cached_property
from .substitution import SubstitutionFactor

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

    @property
    def steps(self) -> Array:
        """The states of the steps, (count, n)."""
        model: Any = self.model
        shape = model.count, model.step.state_size
        return self.backend.read_only(self.backend.xp.reshape(self.state, shape))

    @property
    def start(self) -> Array:
        """The state before the first step, (n,)."""
        model: Any = self.model
        return model.at(self.params).start

    def judge_uniqueness(self) -> None:
        """Judge whether the trajectory is unique, as each of its steps was solved."""
        held = self.solver.held
        if isinstance(held, SubstitutionFactor) and not held.iterative and held.factors.names:
            self.report.uniqueness = "judged"
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
        for k in matrices.values():
            own = working.at(k)
            try:
                smallest = smallest_singular(own, None, own.working.scaling)
                x, w = smallest.right, smallest.left / smallest.value
                digits = rounding_digits(own.A, x, w)
                if digits < MIN_DIGITS:
                    raise singular_state_error(digits, f"to working precision in step {k}")
            except (ConvergenceError, SingularStateError) as error:
                error.best, error.report = self.state, report
                raise
            found.append((digits, smallest))
        report.record_solver(factor.name, self.solver.choices)
        report.digits_left = min(digits for digits, _ in found)
        report.smallest_singular = min(smallest.value for _, smallest in found)
        report.uniqueness = "judged"
        return Examined(factor, found[0][1], True, None)
