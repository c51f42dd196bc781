"""A null space that a model declares with its matrix, as PETSc's Mats can.

The equations leave the state open along the null space N of A, and the combinations W of equations
vanish. Of all equilibria the one with the N'h of the start is meant. Its derivatives are those of
the regular matrix Pi A + U S N' (see `mfdeq.models.elimination`), which takes the place of A: what
comes after the linearization need not know of the null space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, array_on_host, host
from ..errors import ConvergenceError, ModelError
from ..models.checked_linearization import CheckedLinearization
from ..models.combined_equations import StateBlock, combine
from ..models.elimination import Projection
from ..models.problem import Problem
from ..operators.operator import Operator
from .eliminations import eliminate
from .naming import describe_combinations
from .null_spaces import NullSpaces, null_defects

IMBALANCE_ROUNDINGS = 1e3  # by which redundant equations may disagree by default
MAX_DEFECT = 1e-6  # |A v| beside |A| |v| of a null vector that is declared


@dataclass(frozen=True)
class Gauge:
    """A matrix with a declared null space, and the regular one that takes its place.

    Attributes
    ----------
    given : Operator, (N, N)
        A.
    A : Operator, (N, N)
        Pi A + U S N'.
    spaces : NullSpaces
    projection : Projection
    null : (N, m) array
        N.
    """

    given: Operator
    A: Operator
    spaces: NullSpaces
    projection: Projection
    null: Array

    @classmethod
    def of(cls, A: Operator, spaces: NullSpaces) -> Gauge:
        """Return the gauge of a matrix and its null spaces."""
        backend, right = A.backend, spaces.right
        projection = eliminate(A, spaces.left, right.T, spaces, replaces=False).on(backend)
        null = backend.from_host(right, A.shape[0])
        return cls(A, combine(projection, A, null.T), spaces, projection, null)

    def check_params(self, B: Operator, name: str, accuracy: float) -> None:
        """Raise a `ModelError` if equations that depend on each other do not in the parameters."""
        backend, W = B.backend, self.projection.basis
        rtol = max(IMBALANCE_ROUNDINGS * backend.eps, 10.0 * accuracy)
        for k in range(W.shape[1]):
            w = W[:, k]
            product = backend.norm(B._apply_adjoint(w))
            terms = backend.norm(B.H.abs_apply(w))  # type: ignore[attr-defined]
            if product > rtol * terms:
                raise ModelError(
                    f"{name}: expected a d_params that keeps the equations consistent, since "
                    f"d_state has a null space, got one along which the combination {k} of "
                    f"equations changes by {product / terms:.1e} of its terms: there is no "
                    "equilibrium for other parameters. Balance the equations for all parameters "
                    "(subtract the mean of loads), or constrain the model and pass imbalance_rtol= "
                    "to mfdeq.constrain"
                )

    def with_constant_of(self, h: Array, start: Array) -> Array:
        """Return a state whose N'h is that of the start, moved along N."""
        inner = host.linalg.inv(array_on_host(self.null.T @ self.null))
        coefficients = array_on_host(self.null.T @ (start - h))
        return h + self.null @ self.A.backend.coefficients(inner @ coefficients)

    def state_block(self, solve: Operator) -> Operator:
        """Return the state block of the inverse of [[A, W], [N', 0]]."""
        W = self.projection.basis
        inner = host.linalg.inv(array_on_host(W.T @ W))
        return StateBlock(solve, self.projection, W, W @ self.A.backend.coefficients(inner))


def check_balance(problem: Problem, h: Array, linearized: CheckedLinearization) -> None:
    """Raise an error if the equations of a model with a declared null space are not consistent.

    Raises
    ------
    ConvergenceError
        With the `imbalance`.
    """
    gauge: Gauge | None = linearized.gauge
    if gauge is None:
        return
    backend, A, W = problem.backend, gauge.given, gauge.projection.basis
    xp, accuracy = backend.xp, linearized.linearization.state_accuracy
    rtol = max(IMBALANCE_ROUNDINGS * backend.eps, 10.0 * accuracy)
    if max(null_defects(A, W)) > rtol:
        return  # a combination that depends on the state vanishes at equilibria only
    residual = problem.residual(h)
    imbalance = array_on_host(W.T @ residual)
    terms = array_on_host(xp.abs(W).T @ xp.maximum(A.abs_apply(h), xp.abs(residual)))
    worst = int(host.argmax(abs(imbalance) - rtol * terms))
    if abs(imbalance[worst]) <= rtol * terms[worst]:
        return
    text = describe_combinations(problem.equation_name, gauge.spaces.left)[worst]
    raise ConvergenceError(
        f"{problem.name}: the equations are not consistent: {text} in their derivatives "
        f"(setTransposeNullSpace of d_state), but {imbalance[worst]:.6g} in their values, "
        f"{abs(imbalance[worst]) / terms[worst]:.1e} of the terms (allowed {rtol:.1e}). Balance "
        "what does not depend on the state, such as loads and sources",
        best=h,
        imbalance=imbalance,
    )


def check_null_space(linearized: CheckedLinearization) -> None:
    """Raise a `ModelError` if what is declared at an equilibrium is no null space there."""
    gauge: Gauge | None = linearized.gauge
    if gauge is None:
        return
    limit = max(MAX_DEFECT, 10.0 * linearized.linearization.state_accuracy)
    A: Any = gauge.given
    for side, operator, basis in (
        ("setNullSpace", A.H, gauge.null),
        ("setTransposeNullSpace", A, gauge.projection.basis),
    ):
        defect = max(null_defects(operator, basis))
        if defect > limit:
            raise ModelError(
                f"{linearized.name}: expected vectors in {side} of d_state that its products "
                f"cancel, got products of {defect:.1e} of their terms: set its null space, or none"
            )
