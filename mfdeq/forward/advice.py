"""What the error of an iteration that failed says about bounds and domains, and advises."""

from __future__ import annotations

from collections.abc import Callable

from ..arrays.backend import Array
from ..errors import SingularStateError
from ..models.problem import Problem

MAX_FREE_SHARE = 0.1  # of a step, up to a bound; an unknown with less lies at the bound
DEFAULT_ADVICE = (
    "Use a better start h0, try another method, or check the derivatives with mfdeq.verify"
)


def advise_where_undefined(problem: Problem) -> str:
    """Return the advice for a model that has no value at any of the trial states."""
    advice = []
    if problem.lower is None and problem.upper is None:
        advice.append(
            "pass lower= and upper= to mfdeq.solve if the model has values within bounds only"
        )
    if problem.state_scale() is None:
        advice.append("give the model a state_scale, the size of each unknown")
    sign = "" if problem.is_map or problem.model.time_sign else "give the model its time_sign and "
    advice.append(f'{sign}follow the dynamics with method="transient"')
    *others, last = advice
    return f"Use another start h0; {''.join(f'{other}, ' for other in others)}or {last}"


def describe_stop_at_bounds(
    problem: Problem, h: Array, correct: Callable[[Array], Array] | None
) -> str:
    """Say which unknowns lie at a bound that a full step from h would cross, if any do.

    Parameters
    ----------
    problem : Problem
    h : (N,) array
    correct : callable or None
        ``correct(R)`` returns Newton's correction; None takes R for the step.

    Returns
    -------
    str
        Sentences after a space, or "".
    """
    if problem.lower is None and problem.upper is None:
        return ""
    residual, _ = problem.trial_residual(h)
    if residual is None:
        return ""
    try:
        step = residual if correct is None else correct(residual)
    except SingularStateError:
        return ""
    sentences = describe_bounds_in_the_way(problem, h, step)
    return f" {sentences}" if sentences else ""


def describe_bounds_in_the_way(problem: Problem, h: Array, step: Array) -> str:
    """Say which unknowns lie at a bound that a step would cross, and what to do.

    Parameters
    ----------
    problem : Problem
    h : (N,) array
    step : (N,) array
        The full step leads to h - step.

    Returns
    -------
    str
        A sentence for each of the bounds that is in the way, or "".
    """
    xp = problem.backend.xp
    sentences = []
    for name, bound, sign in (("lower", problem.lower, 1.0), ("upper", problem.upper, -1.0)):
        if bound is None:
            continue
        distance, outwards = sign * (h - bound), sign * step
        stopped = (outwards > 0.0) & (distance <= MAX_FREE_SHARE * outwards)
        where = xp.astype(stopped, xp.int64)
        count = int(xp.sum(where))
        if count:
            i = int(xp.argmax(where))
            others = f" (and {count - 1} more at theirs)" if count > 1 else ""
            sentences.append(
                f"{problem.unknown_name(i)} lies at its {name} bound {float(bound[i]):.6g}, which "
                f"the next step would cross{others}: loosen {name} if the equilibrium may lie "
                "beyond it."
            )
    return " ".join(sentences)
