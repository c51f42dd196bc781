"""The rounding error of a residual, measured from its values at neighbouring states.

Where a model adds the state to something much larger, or where its terms cancel, R has a larger
rounding error than its linearization suggests. High differences of R along a line have no smooth
part, neither that of a wrong derivative nor that of curvature, so that what remains is rounding.
"""

from __future__ import annotations

import itertools
import math

from ..arrays.backend import Array
from ..models.problem import Problem
from ..operators.operator import Operator

POINTS = 7  # on the line, including the state itself
LEAST_ORDER, GREATEST_ORDER = 4, 6  # of the differences, which have no smooth part
SEED = 23


def measure_noise(
    problem: Problem, h: Array, residual: Array, size: Array, A: Operator | None = None
) -> Array | None:
    """Measure the rounding error in each entry of R at h.

    Parameters
    ----------
    problem : Problem
    h, residual : (N,) arrays
        A state and R there.
    size : (N,) array
        The step in each unknown, larger than what rounding hides and small enough that R is smooth.
    A : Operator, optional
        The derivative of R at h. An entry of R that stays the same where A says that it changes
        has no finer resolution than this change.

    Returns
    -------
    (N,) array or None
        The standard deviation of each entry, or None where R is not defined at a neighbouring
        state.

    Notes
    -----
    The standard deviation of noise in f is estimated from differences of order k by
    sigma² = (k!)² / (2k)! mean(Δᵏf)², here of the orders 4 to 6 together.

    References
    ----------
    J. J. Moré and S. M. Wild, Estimating computational noise, SIAM J. Sci. Comput. 33 (2011).
    """
    xp, backend = problem.backend.xp, problem.backend
    step = xp.sign(backend.random(h.shape[0], seed=SEED)) * size
    values = [residual]
    for j in range(1, POINTS):
        value, _ = problem.trial_residual(h + j * step)
        if value is None:
            return None
        values.append(value)
    constant = values[1] == residual
    for value in values[2:]:
        constant = constant & (value == residual)
    variances = []
    for order in range(1, GREATEST_ORDER + 1):
        values = [right - left for left, right in itertools.pairwise(values)]
        if order >= LEAST_ORDER:
            share = math.factorial(order) ** 2 / math.factorial(2 * order)
            variances += [share * value**2 for value in values]
    total = variances[0]
    for variance in variances[1:]:
        total = total + variance
    noise = xp.sqrt(total / len(variances))
    if A is None:
        return noise
    hidden = (POINTS - 1) * A.abs_apply(size)
    return xp.where(constant, hidden, noise)
