"""`mfdeq.verify`: checks of the derivatives of a model against its function."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array
from ..arrays.collective import collective
from ..errors import ArgumentError, DerivativeError
from ..models.losses import LossBase, check_loss
from ..models.model import Model
from ..models.problem import Problem
from ..optimization.functional import Functional
from ..tables import PrintedAsTable, Table
from .checks import Check
from .equilibrium_checks import EquilibriumChecker
from .taylor_remainders import FAIL, INCONCLUSIVE, PASS


@dataclass
class Verification(PrintedAsTable):
    """The result of `mfdeq.verify`: a list of checks, and a verdict.

    It is true only if every check passed, it iterates over its checks, and printing it shows them
    as a table.

    Attributes
    ----------
    checks : list of Check
    notes : list of str
        Which derivatives were not given and so not checked, where to look first, and what to try
        if a check could not decide for a known reason. It is empty if there is nothing to say.
    verdict : {"PASS", "FAIL", "INCONCLUSIVE"}
        "FAIL" if a check failed, otherwise "INCONCLUSIVE" if one could not decide, otherwise
        "PASS".

    Examples
    --------
    >>> from mfdeq import Verification
    >>> from mfdeq.verification import Check
    >>> passed = Check("d_state", "PASS", 2.0, 1.65, "slope 2.00, expected 2")
    >>> unsure = Check("d_params", "INCONCLUSIVE", 0.1, 1e-3, "the noise hides the term")
    >>> verification = Verification([passed, unsure])
    >>> verification.verdict, bool(verification)
    ('INCONCLUSIVE', False)
    """

    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The overall verdict: "PASS", "FAIL" or "INCONCLUSIVE"."""
        verdicts = {check.verdict for check in self.checks}
        if FAIL in verdicts:
            return FAIL
        return PASS if verdicts == {PASS} else INCONCLUSIVE

    def __bool__(self) -> bool:
        return self.verdict == PASS

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def _table(self) -> Table:
        columns = {
            "check": [check.name for check in self.checks],
            "verdict": [check.verdict for check in self.checks],
            "figure": [_number(check.figure) for check in self.checks],
            "threshold": [_number(check.threshold) for check in self.checks],
            "": [check.detail for check in self.checks],
        }
        after = [*self.notes, f"verdict: {self.verdict}"]
        return Table(columns, left=("check", "verdict", ""), after=after)

    def raise_if_failed(self) -> None:
        """Raise DerivativeError, naming the checks that failed, if the verdict is "FAIL".

        Raises
        ------
        DerivativeError
            If a check failed. An inconclusive verification does not raise.

        Examples
        --------
        >>> from mfdeq import Verification
        >>> from mfdeq.verification import Check
        >>> check = Check("d_state", "FAIL", 1.0, 1.65, "slope 1.00, expected 2")
        >>> Verification([check]).raise_if_failed()
        Traceback (most recent call last):
        mfdeq.errors.DerivativeError: verification failed: d_state (slope 1.00, expected 2)
        """
        failed = [
            f"{check.name} ({check.detail})" for check in self.checks if check.verdict == FAIL
        ]
        if failed:
            raise DerivativeError("verification failed: " + "; ".join(failed))


def _number(x: float) -> str:
    """Format a number of the table; errors and missing values have none."""
    return "-" if math.isnan(x) else f"{x:.2e}"


@collective
def verify(
    model: Model,
    theta: Array,
    loss: LossBase | None = None,
    h0: Array | float | None = None,
    seed: int = 0,
    **solve_options: Any,
) -> Verification:
    """Check every derivative of a model, and of a loss, at the equilibrium of theta.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
        The parameters.
    loss : Loss, optional
        By default a random linear function of the state.
    h0 : float or (N,) array, optional
        The start of the solve.
    seed : int, default: 0
        The seed of the random directions.
    **solve_options
        Options of `mfdeq.solve`, such as ``method``, ``solver``, ``rtol`` and ``max_iterations``.

    Returns
    -------
    Verification
        Print it for a table of the checks. It is true only if every check passed.

    Raises
    ------
    ArgumentError
        If `model` is a functional or a sum of them.
    ModelError
        If a function of the model returns a wrong shape, a wrong dtype or NaN.

    See Also
    --------
    mfdeq.solve : Solve for an equilibrium; also checks adjoints and the symmetry of curvature.

    Notes
    -----
    Adjoints, and the symmetry of curvature block by block, are checked by dot tests. The first
    derivatives, the sensitivity Z, the gradient, the curvature, the second derivative f'', the
    Hessian H and h'' are checked by Taylor remainders

        r(t) = ‖F(x + t d) − F(x) − t F'(x) d‖

    along random and structured directions d and −d. The remainder must fall as t² until it reaches
    the noise of F, which is measured; for the user's own derivatives every row must. A remainder
    that noise hides completely is INCONCLUSIVE, not PASS. A kink in the function, where the
    derivatives to the two sides differ, is INCONCLUSIVE ("not smooth at this point") if the
    derivative is between these. A derivative fails only by an error that is the same to both sides
    and at all smaller steps that noise does not hide: the remainder of a kink nearby is on one
    side, and vanishes closer to the point. Steps at which the model has no value are left out. The
    verdict depends on no units, and the number of evaluations not on N and P.

    If no equilibrium is found, only the model's derivatives are checked, and the verdict is at
    best INCONCLUSIVE.

    References
    ----------
    J. J. Moré and S. M. Wild, "Estimating computational noise", SIAM Journal on Scientific
    Computing 33, 2011.

    P. E. Farrell, D. A. Ham, S. W. Funke and M. E. Rognes, "Automated derivation of the adjoint
    of high-level transient finite element programs", SIAM Journal on Scientific Computing 35,
    2013: the Taylor remainder test.

    Examples
    --------
    The fixed point h = cos h + theta, first with the correct derivative, then with a wrong sign:

    >>> import numpy as np
    >>> import mfdeq
    >>> class Cosine(mfdeq.FixedPointModel):
    ...     state_size = param_size = 1
    ...     sign = -1.0
    ...     def map(self, h, theta):
    ...         return np.cos(h) + theta
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(np.diag(self.sign * np.sin(h)), np.eye(1))
    >>> verification = mfdeq.verify(Cosine(), np.array([0.3]))
    >>> verification.verdict
    'PASS'
    >>> verification.notes
    ['not given, not checked: curvature, second']
    >>> model = Cosine()
    >>> model.sign = 1.0
    >>> verification = mfdeq.verify(model, np.array([0.3]))
    >>> verification.verdict
    'FAIL'
    >>> verification.notes[-1]
    'look first at: d_state (the checks after it build on it)'
    """
    if isinstance(model, Functional):
        raise ArgumentError(
            f"model: expected a model, got a {type(model).__name__}. Check the models of "
            "functionals one by one: mfdeq.verify(F.model, theta, F.loss), for each F in "
            ".functionals of a sum"
        )
    # Derivatives are compared with the residual, that of A with its null space.
    problem = Problem(model, theta, h0, fixes_gauges=False)
    if loss is not None:
        check_loss(loss, model)
    checker = EquilibriumChecker(problem, loss, h0, seed, solve_options)
    checker.check_all()
    return Verification(checker.checks, checker.notes())
