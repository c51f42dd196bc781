"""An equilibrium with its linearization and its factor: the operators A, B, Z and T.

All derivatives of first order are compositions of the linearization A, B at h* and one factor of A:
A Z = B, T = [I; Z]. `gradients` adds those of losses, and `reduced_hessian` and `equilibrium` add
the second order.
"""

from __future__ import annotations

from typing import Any, Self

from ..arrays.backend import Array
from ..arrays.memory import translate_memory_errors
from ..forward.newton_loop import Iterate, chord_steps
from ..linear import Factor, Reused
from ..locks import cached_property, lock_of, state_to_pickle
from ..models.checked_linearization import CheckedLinearization
from ..models.linearization import Linearization
from ..models.problem import Problem
from ..operators.operator import Operator, Product, Stacked
from ..report import SolveReport
from .corrections import Corrections
from .gauges import check_balance, check_null_space
from .inverse import Inverse
from .smallest_singular import SmallestSingular, smallest_singular
from .uniqueness import Examined, examine, judge_uniqueness

MAX_POLISHING_STEPS = 5


def tangent(inverse: Operator, B: Operator) -> Operator:
    """Return T = [I; A^-1 B], (P+N, P), which maps dtheta to (dtheta, dh)."""
    return Stacked(Product(inverse, B))


class LinearizedEquilibrium:
    """An equilibrium h* = f(h*, theta) with its operators of first order.

    Parameters
    ----------
    problem : Problem
        The model and its parameters.
    state : (N,) array
        h*.
    linearized : CheckedLinearization
        A and B at h*.
    solver : Reused
        The solver that sets up the factor of A, at its first use.
    report : SolveReport
        The report of the solve for h*.
    error_estimates : bool, optional
        Whether the error of the first gradient and of the first product is estimated.
    """

    def __init__(
        self,
        problem: Problem,
        state: Array,
        linearized: CheckedLinearization,
        solver: Reused,
        report: SolveReport,
        *,
        error_estimates: bool = True,
    ) -> None:
        self.problem = problem
        self.model = problem.model
        self.backend = backend = problem.backend
        self.state, self.params = backend.read_only(state), backend.read_only(problem.theta)
        self.__dict__["linearized"] = linearized
        self.solver = solver
        self._report = report
        self.error_estimates = error_estimates
        self._estimated: set[str] = set()

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the linearization, the factor and all that depends on them."""
        return state_to_pickle(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        read_only = self.backend.read_only
        self.state, self.params = read_only(self.state), read_only(self.params)

    @property
    def report(self) -> SolveReport:
        """The report of the solve, with the solver that "auto" uses by now and its choices."""
        examined = self.__dict__.get("examined")
        if examined is not None and examined.factor is not None:
            self._report.record_solver(examined.factor.name, self.solver.choices)
        return self._report

    def __repr__(self) -> str:
        report = self.report
        return (
            f"<{type(self).__name__} of {self.problem.name}: N = {self.problem.state_size}, "
            f"P = {self.problem.param_size}, {report.method}, {report.reason}>"
        )

    @cached_property
    def linearized(self) -> CheckedLinearization:
        """The checked linearization, which an equilibrium that was unpickled computes again."""
        return self.problem.linearize(self.state)

    @property
    def linearization(self) -> Linearization:
        """The result of the model's ``linearize`` at the equilibrium."""
        return self.linearized.linearization

    @cached_property
    @translate_memory_errors
    def examined(self) -> Examined:
        """The factor of A with what is known about the singularity of A."""
        return examine(self.problem, self.state, self.linearized, self.solver, self.report)

    @classmethod
    def prepare(cls, problem: Problem, start: Array, project: bool) -> Array:
        """Prepare a model for a solve, and return its start.

        Parameters
        ----------
        problem : Problem
        start : (N,) array
        project : bool
            Whether the start may be changed.
        """
        if problem.backend.library.declares_null_spaces:
            check_balance(problem, start, problem.linearize(start))
        return start

    def check_state(self) -> None:
        """Raise an error if the state is no equilibrium for a reason that R does not show.

        Raises
        ------
        ConvergenceError, ModelError
            If equations are not consistent, or a null space is declared that is none.
        """
        check_null_space(self.linearized)
        check_balance(self.problem, self.state, self.linearized)

    def judge_uniqueness(self) -> None:
        """Judge at the end of a solve whether the equilibrium is unique, for the report.

        Warns
        -----
        NearSingularWarning
            At a fold, or close to one.

        Raises
        ------
        SingularStateError
            If A is singular by its structure.
        """
        judge_uniqueness(self)

    @property
    def factor(self) -> Factor:
        """The factor of A. A near-singular A is detected at set-up.

        Returns
        -------
        Factor
            Use ``factor.solve(b)`` and ``factor.solve_adjoint(b)``.

        Warns
        -----
        NearSingularWarning
            If A is so close to singular that a solve loses most of its digits.

        Raises
        ------
        SingularStateError
            If A is singular to working precision, at every use.
        """
        if "examined" not in self.__dict__:
            self.linearization.check_unchanged()
        examined = self.examined
        if examined.singularity is not None:
            raise examined.singularity.error(self.state, self.report)
        assert examined.factor is not None
        return examined.factor

    @cached_property
    def smallest_singular(self) -> SmallestSingular:
        """The smallest singular value of A and its vectors.

        They are computed at the first use, unless A is small or nearly singular: then they are
        known from the judgement of A. At a fold, where derivatives do not exist, the value is zero
        to rounding.

        Returns
        -------
        SmallestSingular

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h**2 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([1e-6, 1.0]), np.ones(2))  # A = diag(0.002, 2)
        >>> print(f"{eq.smallest_singular.value:.4f}")
        0.0020
        """
        examined = self.examined
        if not examined.provisional:
            return examined.smallest
        found = smallest_singular(self.factor)
        self.report.smallest_singular = found.value
        return found

    # Operators of first order.

    @property
    def state_operator(self) -> Operator:
        """A = I - J = dR/dh, (N, N)."""
        gauge = self.linearized.gauge
        return self.linearized.A if gauge is None else gauge.given

    @property
    def param_operator(self) -> Operator:
        """B = df/dtheta = -dR/dtheta, (N, P)."""
        return self.forcing

    @property
    def inverse(self) -> Operator:
        """A^-1, (N, N), by solves with the factor."""
        gauge = self.linearized.gauge
        solve = self.solution_operator
        return solve if gauge is None else gauge.state_block(solve)

    # Those of the equations that are solved, which all other derivatives use. For a constrained
    # model they are not those of the model.

    @cached_property
    def forcing(self) -> Operator:
        """B of the equations that are solved, (N, P)."""
        B = self.linearized.B
        # The digits of numerical derivatives are known once all of them are computed.
        self.report.derivatives = dict(self.linearization.sources)
        return B

    @cached_property
    def solution_operator(self) -> Operator:
        """A^-1 of the equations that are solved, (N, N)."""
        return Inverse(self.factor)

    @cached_property
    def sensitivity(self) -> Operator:
        """The sensitivity Z = dh*/dtheta = A^-1 B, (N, P). Each product takes one solve.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]))
        >>> print((eq.sensitivity @ np.ones(2)).round(3))  # 1 / (1 + 3 h²)
        [0.25  0.077]
        """
        return self.solution_operator @ self.forcing

    @cached_property
    def tangent(self) -> Operator:
        """The tangent T = [I; Z], (P+N, P), which maps dtheta to (dtheta, dh)."""
        return tangent(self.solution_operator, self.forcing)

    # Error estimates, and the more accurate states that they use.

    @cached_property
    def corrections(self) -> Corrections:
        """The state, adjoints and derivatives, each corrected once, for error estimates."""
        return Corrections(self.problem, self.state, self.linearized, self.factor)

    def polish(self) -> Self:
        """Improve the state by up to five chord steps, down to rounding.

        Returns
        -------
        Equilibrium
            The more accurate equilibrium, with the same report; `self` if no step halves R.

        Examples
        --------
        >>> import mfdeq, numpy as np
        >>> model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
        >>> eq = mfdeq.solve(model, np.array([2.0, 10.0]), rtol=1e-3)
        >>> bool(np.max(abs(eq.polish().state - [1.0, 2.0])) < 1e-12)
        True
        """
        return self._polished

    @cached_property
    def _polished(self) -> Self:
        residual = self.problem.residual(self.state)
        start = Iterate(self.state, residual)
        end, accepted = chord_steps(
            self.problem, start, self.factor, max_steps=MAX_POLISHING_STEPS, max_contraction=0.5
        )
        if not accepted:
            return self
        linearized = self.problem.linearize(end.h)
        polished = type(self)(
            self.problem, end.h, linearized, self.solver, self.report, error_estimates=False
        )
        polished.__dict__["_polished"] = polished
        return polished

    def is_due(self, result: str) -> bool:
        """Return whether `is_first` would return True."""
        return self.error_estimates and result not in self._estimated

    def is_first(self, result: str) -> bool:
        """Return whether the error of a result, "gradient" or "product", is due to be estimated.

        That of the first one is, unless `error_estimates` is False.
        """
        if result in self._estimated:
            return False
        with lock_of(self):
            due = self.error_estimates and result not in self._estimated
            self._estimated.add(result)
        return due

    def forget(self) -> None:
        """Drop what the factor has stored in earlier solves, and all corrected quantities."""
        with lock_of(self):
            for name in ("corrections", "_polished"):
                self.__dict__.pop(name, None)
        if "examined" in self.__dict__ and self.examined.factor is not None:
            self.examined.factor.forget()
