"""The rounding error of a residual, measured from its values at neighbouring states.

Where a model adds the state to something much larger, or where its terms cancel, R has a larger
rounding error than its linearization suggests. What a cubic leaves of R along a short line has no
smooth part, neither that of a wrong derivative nor that of curvature, so that it is rounding.
"""

from __future__ import annotations

from ..arrays.backend import Array
from ..arrays.noise import noise_deviation, values_on_line
from ..models.problem import Problem
from ..operators.operator import Operator

POINTS = 7  # on the line, including the state itself
DEGREE = 3  # of the smooth part of R
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
    """
    xp, backend = problem.backend.xp, problem.backend
    step = xp.sign(backend.random(h.shape[0], seed=SEED)) * size
    points = range(POINTS)
    values = [
        residual,
        *values_on_line(lambda t: problem.trial_residual(h + t * step)[0], points[1:]),
    ]
    if len(values) < POINTS:
        return None
    constant = values[1] == residual
    for value in values[2:]:
        constant = constant & (value == residual)
    noise = noise_deviation(backend, values, points, [DEGREE])
    if A is None:
        return noise
    hidden = (POINTS - 1) * A.abs_apply(size)
    return xp.where(constant, hidden, noise)
