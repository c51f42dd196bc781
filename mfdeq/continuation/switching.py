"""The first point of another branch through a crossing.

At a simple crossing the other branch begins along the null vector of the matrix M of `curve`. Where
several eigenvalues are zero, its direction is a zero of the reduced equation. Of a zero state the
amplitude of the other branch is not known, and several are tried.

References
----------
H. B. Keller, Numerical solution of bifurcation and nonlinear eigenvalue problems, in: Applications
of Bifurcation Theory, Academic Press (1977).
"""

from __future__ import annotations

import functools
from dataclasses import replace

from ..errors import ArgumentError, ConvergenceError
from .bordered import Borders, Vector
from .curve import Curve
from .point import Point
from .reduced_equation import ReducedEquation

DISTANCE_BESIDE = 1e-7  # from a crossing, where A is regular, in units of t
MAX_CORRECTION = 8.0  # relative to the step; the direction is known only roughly
MAX_HALVINGS = 8
PROBE = 0.02  # distance at which an amplitude is tried, in units of t
AMPLITUDES = [10.0**-k for k in range(-12, 13)]  # of a branch from the zero state, in the units


def first_point_of_other_branch(
    borders: Borders, crossing: Point, sign: float, first_step: float, number: int
) -> Point:
    """Compute a point of another branch near a crossing.

    Parameters
    ----------
    borders : Borders
        Those of the curve, which get the vectors at the crossing.
    crossing : Point
    sign : {1.0, -1.0}
        The side of the other branch.
    first_step : float
        The distance from the crossing, if no other is necessary.
    number : int
        Which of the other branches.

    Returns
    -------
    Point

    Raises
    ------
    ConvergenceError
        If no point is found, or the other branches are not isolated.
    """
    curve = borders.curve
    if crossing.kind != "crossing":
        raise ArgumentError(
            "start: expected a state or a crossing, got a point that is no crossing: pass its state"
        )
    if number and crossing.dimension == 1:
        raise ArgumentError(
            f"other: expected 0, since one branch crosses at t = {crossing.t:.8g}, got {number}"
        )
    # The entries of A that vanish at the crossing have no size there, but on the first branch.
    problem = curve.problem(crossing.t + first_step * crossing.slope)
    aside = curve.attempt(problem.linearize, crossing.state + first_step * crossing.tangent)
    curve.inner.set_units(problem, aside or curve.linearized(crossing))
    curve.inner.set_amplitude(crossing.tangent, crossing.state)
    distance = DISTANCE_BESIDE * curve.inner.unit
    beside = replace(
        crossing,
        state=crossing.state + distance * crossing.tangent,
        t=crossing.t + distance * crossing.slope,
    )
    right, left = borders.null_vectors(beside, crossing.dimension)
    if crossing.dimension == 1:
        return _along_null_vector(curve, crossing, right[0], sign, first_step)
    if not curve.inner.has_amplitude:
        for amplitude in AMPLITUDES:
            curve.inner.set_uniform_amplitude(amplitude)
            equation = ReducedEquation(curve, crossing, beside, right, left)
            if equation.is_defined(PROBE * curve.inner.unit):
                break
    else:
        equation = ReducedEquation(curve, crossing, beside, right, left)
    return _by_reduced_equation(equation, sign, first_step, number)


def _along_null_vector(
    curve: Curve, crossing: Point, null: Vector, sign: float, first_step: float
) -> Point:
    trivial = not curve.inner.has_amplitude
    for amplitude in AMPLITUDES if trivial else [None]:
        if amplitude is not None:
            curve.inner.set_uniform_amplitude(amplitude)
        direction = Point(crossing.t, crossing.state, *curve.orient(*null, None, sign))
        for halvings in range(1 if trivial else MAX_HALVINGS):
            ds = first_step * 0.5**halvings
            correct = functools.partial(curve.correct, step=MAX_CORRECTION * ds)
            found = curve.attempt(correct, direction, ds)
            # With a wrong amplitude a point of another branch may be found, farther away.
            if found is not None and (not trivial or abs(found[0].t - crossing.t) <= ds):
                return curve.add_eigenvalues(found[0])
    raise ConvergenceError(
        f"no point of the other branch was found near the crossing at t = {crossing.t:.8g}: pass "
        "another `step`, or start from a state on that branch"
    )


def _by_reduced_equation(
    equation: ReducedEquation, sign: float, first_step: float, number: int
) -> Point:
    curve, crossing = equation.curve, equation.crossing
    radius, found = equation.branches(first_step)
    count = len(found.branches)
    where = f"the crossing of dimension {crossing.dimension} at t = {crossing.t:.8g}"
    if not count and found.blurred:
        raise ConvergenceError(
            f"expected separate branches through {where}, found that they differ by no more than "
            "rounding, as in a model that does not change when its state is shifted or rotated: "
            "fix the position by another equation, restrict the model to symmetric states, or "
            "start from a state on the branch"
        )
    if not count:
        raise ConvergenceError(
            f"no point of another branch was found near {where}: pass another `step`, or start "
            "from a state on the branch"
        )
    if number >= count:
        raise ArgumentError(
            f"other: expected a number below {count}, the number of other branches that were found "
            f"through {where}, got {number}"
        )
    branch = found.branches[number]
    h, t = equation.point(radius * branch[-1 if sign < 0.0 else 0])
    ds, opposite = curve.length(h, t), sign < 0.0 and len(branch) == 1
    direction = Point(
        crossing.t, crossing.state, *curve.orient(h, t, None, -1.0 if opposite else 1.0)
    )
    correct = functools.partial(curve.correct, step=MAX_CORRECTION * ds if opposite else ds)
    point = curve.attempt(correct, direction, ds)
    if point is None:
        raise ConvergenceError(
            f"no point of branch {number} was found near {where} ({curve.last_failure}): pass "
            "another `step`, or start from a state on that branch"
        )
    return curve.add_eigenvalues(point[0])
