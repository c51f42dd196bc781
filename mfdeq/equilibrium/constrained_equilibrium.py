"""The equilibrium of a model with constraints, whose equations depend on each other."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..arrays.collective import collective
from ..errors import ArgumentError, ConvergenceError
from ..linear import Reused
from ..locks import cached_property
from ..models.checked_linearization import CheckedLinearization
from ..models.combined_equations import StateBlock
from ..models.constrained import ConstrainedModel
from ..models.curvature import CurvatureOperator
from ..models.elimination import Projection
from ..models.problem import Problem
from ..operators.operator import Operator
from ..report import SolveReport
from .constrained_starts import perturbed
from .equilibrium import Equilibrium
from .gauges import IMBALANCE_ROUNDINGS
from .naming import listed
from .null_spaces import null_defects
from .null_vectors import MAX_CANCELLATION_ROUNDINGS
from .redundancy import describe_redundant, prepare

MAX_GIVEN_DEFECT = 1e-6  # |A'w| beside |A|'|w| of a combination of equations that a user passes


class ConstrainedEquilibrium(Equilibrium):
    """An equilibrium that constraints make unique, with its derivatives.

    `mfdeq.solve` returns it for a model of `mfdeq.constrain`. It is used like any `Equilibrium`:
    gradients, Hessians and sensitivities are those of the state that satisfies the constraints, to
    second order. What differs is described here.

    Parameters
    ----------
    problem : Problem
        The constrained model and its parameters.
    state : (N,) array
        h*.
    linearized : CheckedLinearization
    solver : Reused
    report : SolveReport
        As in `Equilibrium`.
    error_estimates : bool, optional
        As in `Equilibrium`.

    Attributes
    ----------
    state, params : (N,) and (P,) arrays
        h* and theta; they are read-only.
    model : ConstrainedModel
    report : SolveReport
        Its `choices` begin with the redundant equations, where they were detected.

    Notes
    -----
    With A = dR/dh and B = -dR/dtheta of the model without constraints, C = dc/dh, the redundant
    equations W, W'A = 0, and

        A^ = [[A, W], [C, 0]],

    `inverse` is the state block of the inverse of A^, so that A times it is not the identity, and
    `sensitivity` has the state rows of the solution of A^ X = [B; -dc/dtheta].

    Examples
    --------
    Two species that turn into each other, with a total that is the last parameter:

    >>> import mfdeq, numpy as np
    >>> model = mfdeq.constrain(
    ...     mfdeq.from_function(
    ...         lambda h, p: (p[0] * h[0] - p[1] * h[1]) * np.array([1.0, -1.0]), 2, 3, "residual"
    ...     ),
    ...     mfdeq.LinearConstraint(np.ones(2), lambda p: p[2], lambda p: np.array([0.0, 0.0, 1.0])),
    ... )
    >>> eq = mfdeq.solve(model, np.array([1.0, 3.0, 8.0]))
    >>> print(eq.sensitivity.toarray().round(3))
    [[-1.5    0.5    0.75]
     [ 1.5   -0.5    0.25]]
    >>> print(eq.imbalance, eq.multipliers)
    [0.] [0.]
    """

    @property
    def base(self) -> CheckedLinearization:
        """The derivatives of the model without constraints."""
        return self.linearized.linearization.base  # type: ignore[attr-defined]

    @property
    def projection(self) -> Projection:
        """The redundant equations and what takes their place."""
        return self.constrained.projection(self.backend)

    @property
    def constrained(self) -> ConstrainedModel:
        """The model with its constraints, which is also `model`."""
        assert isinstance(self.model, ConstrainedModel)
        return self.model

    @property
    def state_operator(self) -> Operator:
        """A = I - J = dR/dh of the model without constraints, (N, N), which is singular."""
        return self.base.A

    @property
    def param_operator(self) -> Operator:
        """B = df/dtheta = -dR/dtheta of the model without constraints, (N, P)."""
        return self.base.B

    @cached_property
    def redundant_equations(self) -> Array:
        """The combinations of equations that vanish at the state, W with W'A = 0, (N, m).

        They differ from those of the model where these depend on the state, as the prices of
        Walras's law do.
        """
        W, A = self.projection.basis, self.base.A
        allowed = max(
            MAX_CANCELLATION_ROUNDINGS * self.backend.eps,
            10.0 * self.linearization.state_accuracy,
        )
        if max(self._defects) <= allowed:
            return W
        # A'W = A^'z leaves A'(W - Pi'z) = C'S'U'z, which vanishes since A has null vectors.
        z = self.factor.solve_adjoint(A._apply_adjoint(W))
        corrected = W - self.projection.project_adjoint(z)
        better = max(null_defects(A, corrected)) < max(self._defects)
        return corrected if better else W

    @cached_property
    def _defects(self) -> list[float]:
        """|A'w| / |A|'|w| of each column w of the model's basis."""
        return null_defects(self.base.A, self.projection.basis)

    @cached_property
    def imbalance(self) -> Array:
        """W'R at the state: by how much the redundant equations disagree, (m,).

        The largest weight of an equation in a detected combination is one.
        """
        return self.redundant_equations.T @ self._base_residual

    @property
    def _base_residual(self) -> Array:
        return self.constrained.base(self.problem.theta).residual(self.state)

    @cached_property
    def multipliers(self) -> Array:
        """The multipliers mu of the redundant equations in R + W mu = 0, (m,).

        They vanish where the equations are consistent.
        """
        inner = array_on_host(self.redundant_equations.T @ self.projection.basis)
        return 0.0 - self._small_solve(inner, self.imbalance)

    def _small_solve(self, matrix: Any, b: Array) -> Array:
        """Solve a system of size m with an (m,) or (m, k) right-hand side."""
        x = host.linalg.solve(matrix.astype("float64"), array_on_host(b).astype("float64"))
        return self.backend.coefficients(x.astype(array_on_host(b).dtype))

    @cached_property
    def inverse(self) -> Operator:
        """The state block of the inverse of [[A, W], [C, 0]], (N, N)."""
        W, left = self.projection.basis, self.redundant_equations
        inner = host.linalg.inv(array_on_host(left.T @ W).astype("float64"))
        weights = left @ self.backend.coefficients(inner.T)  # left (left'W)^-T
        return StateBlock(self.solution_operator, self.projection, W, weights)

    @collective
    def curvature(self, w: Array) -> CurvatureOperator:
        """Return the curvature of w'f over (theta, h), with w fixed, without the constraints.

        Parameters
        ----------
        w : (N,) array

        Returns
        -------
        CurvatureOperator, (P+N, P+N)
        """
        return self.base.curvature(self._state_vector(w, "w"))

    @collective
    def total_curvature(self, u: Array, v: Array) -> Array:
        """Evaluate the curvature of f along the equilibrium manifold, without the constraints.

        Parameters
        ----------
        u, v : (P,) arrays
            Parameter directions.

        Returns
        -------
        (N,) array
            f''[(u, Zu), (v, Zv)].
        """
        return self._second_along(self.base, u, v)

    @classmethod
    def prepare(cls, problem: Problem, start: Array, project: bool) -> Array:
        """Find the redundant equations, and return the start projected onto linear constraints."""
        model = problem.model
        assert isinstance(model, ConstrainedModel)
        return prepare(problem, model, start, project)

    # Whether the equations are consistent.

    def check_state(self) -> None:
        """Raise an error if the redundant equations disagree, or are not redundant.

        Raises
        ------
        ArgumentError
            If a basis was given that is none.
        ConvergenceError
            If the equations are not consistent, with the `imbalance`.
        """
        report, backend = self.report, self.backend
        given = self.constrained.redundant is not None
        if given:
            self._check_basis()
        texts = describe_redundant(self.problem, array_on_host(self.projection.basis))
        if not given:
            report.choices.insert(0, f"redundant: {listed(texts)}")
        xp, W = backend.xp, self.redundant_equations
        residual = self._base_residual
        terms = xp.abs(W).T @ xp.maximum(self.base.A.abs_apply(self.state), xp.abs(residual))
        rtol = self.constrained.imbalance_rtol
        rtol = IMBALANCE_ROUNDINGS * backend.eps if rtol is None else rtol
        sizes, terms = array_on_host(xp.abs(self.imbalance)), array_on_host(terms)
        worst = int(host.argmax(sizes - rtol * terms))
        if sizes[worst] <= rtol * terms[worst]:
            return
        report.converged = False
        report.reason = "the equations are not consistent"
        text = texts[worst].removesuffix(" zero").removesuffix(" is")
        members = text.removesuffix(" sum to")
        combination = text if members == text else f"the sum of {members}"
        value, relative = float(self.imbalance[worst]), sizes[worst] / terms[worst]
        raise ConvergenceError(
            f"{self.problem.name}: the equations are not consistent: expected {combination} to "
            f"vanish, got {value:.6g}, {relative:.1e} of its terms (allowed {rtol:.1e}). "
            "Balance what does not depend on the state, such as loads and sources, or allow the "
            "difference by imbalance_rtol= of mfdeq.constrain",
            best=self.state,
            report=report,
            imbalance=self.imbalance,
        )

    @property
    def _combines_zero_rows(self) -> bool:
        """Whether the basis has parts in equations whose derivatives vanish at the state."""
        A = self.base.A
        ones = self.backend.zeros(A.shape[1]) + 1.0
        sizes = array_on_host(A.abs_apply(ones))
        rounding = max(self.backend.eps, self.linearization.state_accuracy)
        zero = sizes <= rounding * sizes.max()
        return bool(array_on_host(self.projection.basis)[zero].any())

    def _allowed_defect(self, accuracy: float) -> float:
        """Return the largest defect of a basis for an A of this relative accuracy."""
        return max(MAX_GIVEN_DEFECT, 10.0 * accuracy, 100.0 * self.backend.eps)

    def _check_basis(self) -> None:
        """Raise an error if a basis was given that is none."""
        defects, where = self._defects, ""
        allowed = self._allowed_defect(self.linearization.state_accuracy)
        if max(defects) <= allowed and self._combines_zero_rows:
            # W'A vanishes for any W in rows that are zero at this state: ask a generic one.
            base = self.constrained.base(self.problem.theta)
            there = base.evaluate_nearby(
                perturbed(self.problem, self.state),
                lambda at: (
                    null_defects(at.A, self.projection.basis),
                    at.linearization.state_accuracy,
                ),
            )
            if there is not None:
                defects, where = there[0], " at a state nearby"
                allowed = self._allowed_defect(there[1])
        k = int(host.argmax(defects))
        if defects[k] <= allowed:
            return
        raise ArgumentError(
            "redundant: expected combinations of equations that vanish, with W'A = 0, got a "
            f"column {k} with W'A of {defects[k]:.1e} of its terms{where}: pass the left null "
            'vectors of A, or redundant="detect" to find them'
        )


ConstrainedModel.equilibrium_class = ConstrainedEquilibrium  # models lie below this room


def equilibrium_of(
    problem: Problem,
    state: Array,
    linearized: CheckedLinearization,
    solver: Reused,
    report: SolveReport,
) -> Equilibrium:
    """Return the equilibrium of a model at a state, of the class that belongs to the model."""
    return _class_of(problem)(problem, state, linearized, solver, report)


def bind(problem: Problem, start: Array, project: bool = True) -> Array:
    """Prepare a model for a solve, and return the start, projected onto linear constraints.

    Parameters
    ----------
    problem : Problem
    start : (N,) array
    project : bool, optional
        Whether to return a start that satisfies linear constraints.

    Raises
    ------
    ArgumentError, ConvergenceError, SingularStateError
        If the equations are not consistent, or constraints do not fit those that are redundant.
    """
    return _class_of(problem).prepare(problem, start, project)


def _class_of(problem: Problem) -> type[Equilibrium]:
    return problem.model.equilibrium_class or Equilibrium
