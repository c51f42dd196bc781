"""Equilibria with the same A, which share one factor and solve their right-hand sides as one block.

That matrices are the same is found by their entries. Of the equilibria of a group, the factor of
the first one serves all; what is known about its singularity holds for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..arrays.backend import Array
from ..linear.operands import fingerprint, have_equal_entries
from ..linear.repeated import RepeatedFactor
from ..locks import cached_property
from ..models.losses import LossBase
from ..models.stacking import StackedCurvature, StackedParamOperator, StackedStateOperator
from ..operators.operator import Operator
from .equilibrium import Equilibrium
from .inverse import Inverse
from .linearized_equilibrium import tangent
from .reduced_curvature import ReducedCurvature


def group_equal(operators: Sequence[Operator], solvers: Sequence[str]) -> list[list[int]]:
    """Return the indices of the operators that are the same matrix, for the same solver.

    Parameters
    ----------
    operators : sequence of Operator
    solvers : sequence of str
        The descriptions of their solvers.

    Returns
    -------
    list of list of int
        In order of the first member.
    """
    groups: list[list[int]] = []
    candidates: dict[Any, list[list[int]]] = {}
    for i, (A, solver) in enumerate(zip(operators, solvers, strict=True)):
        similar = candidates.setdefault((solver, *fingerprint(A)), [])
        for group in similar:
            if have_equal_entries(operators[group[0]], A):
                group.append(i)
                break
        else:
            group = [i]
            similar.append(group)
            groups.append(group)
    return groups


def share_factor(equilibria: Sequence[Equilibrium]) -> None:
    """Make the factor of the first equilibrium serve all of them, which have the same A.

    Only the errors of results at the first one are estimated by default.
    """
    first, *others = equilibria
    A, examined = first.linearized.A, first.examined
    for eq in others:
        if "examined" in vars(eq) or examined.factor is None:
            continue
        eq.linearized.A = A  # so that its entries are in memory once
        factor = examined.factor.counted_in(eq.report.linear)
        vars(eq)["examined"] = replace(examined, factor=factor)
        eq.error_estimates = False
        eq.report.smallest_singular = first.report.smallest_singular
        eq.report.digits_left = first.report.digits_left
        eq.report.uniqueness = first.report.uniqueness


def solve_adjoints(equilibria: Sequence[Equilibrium], losses: Sequence[LossBase]) -> None:
    """Solve for the adjoints of losses, one for each of the equilibria with the same A.

    The equilibria keep them.
    """
    missing = [
        (eq, loss)
        for eq, loss in zip(equilibria, losses, strict=True)
        if not eq.knows_adjoint(loss)
    ]
    if len(missing) < 2:
        return
    sides = [eq.loss_gradients(loss)[1] for eq, loss in missing]
    adjoints = equilibria[0].factor.solve_adjoint(equilibria[0].backend.columns(*sides))
    for j, (eq, loss) in enumerate(missing):
        eq.keep_adjoint(loss, eq.backend.copied(adjoints[:, j]))


@dataclass(frozen=True)
class _Stacked:
    """A and B of several equilibria as those of one."""

    A: Operator
    B: Operator


class SharedEquilibria:
    """Equilibria with the same A as one equilibrium, whose solves are those of blocks with A.

    Parameters
    ----------
    equilibria : sequence of Equilibrium
    """

    def __init__(self, equilibria: Sequence[Equilibrium]) -> None:
        self.equilibria, first = equilibria, equilibria[0]
        self.problem, self.backend, self.params = first.problem, first.backend, first.params
        self.report = first.report

    @cached_property
    def forcing(self) -> Operator:
        """The stacked B, (N_1 + ... + N_m, P)."""
        return StackedParamOperator(self.backend, [eq.forcing for eq in self.equilibria])

    @cached_property
    def factor(self) -> RepeatedFactor:
        """The factor of the first equilibrium, for all of them."""
        A = self.equilibria[0].linearized.A
        m = len(self.equilibria)
        stacked = StackedStateOperator(self.backend, [A] * m)
        return RepeatedFactor(stacked, self.equilibria[0].factor, m)

    @cached_property
    def tangent(self) -> Operator:
        """T = [I; A^-1 B]."""
        return tangent(Inverse(self.factor), self.forcing)

    @property
    def corrections(self) -> SharedEquilibria:
        """What has the corrected linearization."""
        return self

    def linearization(self, order: int) -> _Stacked:
        """Return the corrected A and B of all equilibria, for derivatives of an order."""
        each = [eq.corrections.linearization(order) for eq in self.equilibria]
        return _Stacked(
            StackedStateOperator(self.backend, [one.A for one in each]),
            StackedParamOperator(self.backend, [one.B for one in each]),
        )

    def is_first(self, result: str) -> bool:
        """Return False: the error of the first result is estimated at one of the equilibria."""
        return False

    def polish(self) -> SharedEquilibria:
        """Return the same equilibria: `ReducedSum` polishes each of them."""
        return self

    def forget(self) -> None:
        """Drop what the factor and the equilibria have stored in earlier solves."""
        for eq in self.equilibria:
            eq.forget()


class SharedCurvature(ReducedCurvature):
    """The weighted sum of reduced curvatures at equilibria with the same A.

    A product takes one block solve with A and one with its adjoint.

    Parameters
    ----------
    eq : SharedEquilibria
    members : sequence of pairs of a float and a ReducedCurvature
    """

    def __init__(
        self, eq: SharedEquilibria, members: Sequence[tuple[float, ReducedCurvature]]
    ) -> None:
        weights = [weight for weight, _ in members]

        def stacked(curvatures: list[Any]) -> StackedCurvature:
            return StackedCurvature(eq.backend, curvatures, weights)

        super().__init__(
            eq,
            lambda: stacked([H.K for _, H in members]),
            lambda: stacked([H.corrected_curvature() for _, H in members]),
            lambda other: self,
        )
        self.members = members

    def _apply(self, x: Array) -> Array:
        first = self.members[0][1]
        if first.eq.is_due("product"):  # whose error is estimated
            first._apply(x if x.ndim == 1 else x[:, :1])
        return super()._apply(x)

    def forget(self) -> None:
        """Drop what the factor has stored in earlier solves, and all corrected quantities."""
        super().forget()
        for _, member in self.members:
            member.forget()
