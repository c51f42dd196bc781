"""Whether a model's derivatives are the derivatives of what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array
from ..errors import DerivativeError
from ..models.linearization import Problem
from ..models.losses import LossBase, check_loss
from ..models.model import Model
from .equilibrium_checks import Checks
from .judge import Check
from .taylor import FAIL, INCONCLUSIVE, PASS


@dataclass
class Verification:
    """What `mfdeq.verify` found. True only where every check passed.

    Attributes
    ----------
    checks : list of Check
    verdict : str
        "FAIL" if a check failed, else "INCONCLUSIVE" if one could not decide, else "PASS".
    notes : list of str
        What was not given and so not checked, and where to look first.
    """

    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """PASS, FAIL or INCONCLUSIVE."""
        found = {check.verdict for check in self.checks}
        if FAIL in found:
            return FAIL
        return PASS if found == {PASS} else INCONCLUSIVE

    def __bool__(self) -> bool:
        return self.verdict == PASS

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        rows = [
            f"{check.name:<{width}}  {check.verdict:<12}  {check.figure:>9.2e}  "
            f"{check.threshold:>9.2e}  {check.detail}"
            for check in self.checks
        ]
        head = f"{'check':<{width}}  {'verdict':<12}  {'figure':>9}  {'threshold':>9}"
        return "\n".join([head, *rows, *self.notes, f"verdict: {self.verdict}"])

    def raise_if_failed(self) -> None:
        """Raise `DerivativeError` naming the checks that failed."""
        failed = [
            f"{check.name} ({check.detail})" for check in self.checks if check.verdict == FAIL
        ]
        if failed:
            raise DerivativeError("verification failed: " + "; ".join(failed))


def verify(
    model: Model,
    theta: Array,
    loss: LossBase | None = None,
    h0: Array | None = None,
    seed: int = 0,
    **solve_options: Any,
) -> Verification:
    """Check every derivative of a model, and of a loss, at the equilibrium of theta.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
    loss : Loss, optional
        By default a random linear function of the state.
    h0 : (N,) array, optional
        Start of the solve.
    seed : int, optional
        Of the random directions.
    **solve_options
        For `mfdeq.solve`: method, solver, rtol, max_iterations.

    Returns
    -------
    Verification
        Print it for a table; it is true only for PASS.

    Notes
    -----
    Adjoints and symmetry, block by block, by dot tests. First derivatives, Z, the gradient, K,
    f'', H and h'' by Taylor remainders, along random and structured directions, each of which
    must fall as the square of the step until it reaches the noise of what it is computed from,
    and of the user's own derivatives in every row. A remainder hidden by noise altogether is
    INCONCLUSIVE, not PASS. The number of evaluations does not depend on N and P.
    """
    problem = Problem(model, theta, h0)
    if loss is not None:
        check_loss(loss, model)
    run = Checks(problem, loss, h0, seed, solve_options)
    run.everything()
    return Verification(run.checks, run.notes())
