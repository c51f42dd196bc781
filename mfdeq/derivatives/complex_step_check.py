"""Whether the complex step differentiates a function, by comparison with real differences.

It does not if the function drops imaginary parts somewhere (a real buffer, a comparison of
magnitudes, ``abs``). Every entry is compared with a difference along a random direction, within the
noise and the truncation error of that difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ModelError
from ..locks import ignore_warnings
from .differences import Differences
from .shifted_function import Direction

RTOL_ROUNDINGS = 10.0  # relative tolerance of most entries, in square roots of the rounding unit
FEW_ENTRIES = 0.01  # share of entries that may differ more, if by less than the next constant
RTOL_OF_FEW = 1e-3
STEP_FACTORS = (1.0, 1e-2, 1e-4, 30.0, 1e3)  # of differences in a second comparison
ERROR_FACTOR = 10.0  # safety factor of the errors of these differences
MAX_INFORMATIVE_ERROR = 0.1  # relative error above which a difference tells nothing
NO_COMPLEX_ARRAY = (
    "it returns no complex array (a buffer np.zeros(n, np.result_type(h, theta)) would hold one)"
)


@dataclass(frozen=True)
class ComplexStepVerdict:
    """Whether the complex step is valid, and why not.

    Attributes
    ----------
    valid : bool
    reason : str
        Why it is not valid; empty if it is.
    lasting : bool
        Whether the reason is one that holds at every point.
    """

    valid: bool
    reason: str = ""
    lasting: bool = False


NOT_ANALYTIC = ComplexStepVerdict(
    False, "the function is not analytic: the complex step is not its derivative", lasting=True
)


def judge_complex_step(d: Differences) -> ComplexStepVerdict:
    """Compare the complex step with differences along a random direction.

    The sizes of variables that are zero are changed to what their effect on f suggests.
    """
    try:
        # numpy warns if an imaginary part is discarded.
        with ignore_warnings(), d.backend.ignore_overflow():
            direction, derivative = _along_random_direction(d)
    except Exception as error:
        why = NO_COMPLEX_ARRAY if isinstance(error, ModelError) else f"{error}"
        reason = f"the function does not accept complex arrays: {why or type(error).__name__}"
        return ComplexStepVerdict(False, reason, isinstance(error, (TypeError, ModelError)))
    if not d.backend.all(d.backend.xp.isfinite(derivative)):
        return ComplexStepVerdict(False, "the complex step is not finite")
    difference = d.by_difference(direction, d.step)
    if difference is not None and _agrees(d.backend, derivative, difference):
        return ComplexStepVerdict(True)
    return _compare_within_errors(d, direction, derivative)


def _along_random_direction(d: Differences) -> tuple[Direction, Array]:
    """Return a random direction and the complex step along it.

    Entries of variables of unknown size are scaled so that they change no entry of f by more than
    its own terms.
    """
    backend, xp = d.backend, d.backend.xp
    random: Any = [backend.random(x.shape[0], seed=17) for x in d.x]
    direction = [r * known for r, known in zip(random, d.known, strict=True)]
    derivative = backend.zeros(d.size)
    if any(backend.largest(part) > 0.0 for part in direction):
        derivative = d.by_complex_step(tuple(direction))
    for i, known in enumerate(d.known):
        if backend.all(known):
            continue
        zero: Any = [0.0 * r for r in random]
        zero[i] = abs(random[i]) * ~known
        change = d.by_complex_step(tuple(zero))
        size = xp.abs(d.value) + xp.abs(derivative)
        comparable = (xp.abs(change) > 0) & (size > 0)
        ones = xp.ones_like(size)
        ratio = xp.where(comparable, size / xp.where(comparable, xp.abs(change), ones), xp.inf)
        # Half of it, so that the two changes of an entry do not cancel.
        factor = 0.5 * float(xp.min(ratio))
        factor = factor if 0.0 < factor < backend.eps**-0.75 else 1.0
        sizes = list(d.sizes)
        sizes[i] = xp.where(known, sizes[i], factor * sizes[i])
        d.sizes = tuple(sizes)
        direction[i] = direction[i] + zero[i]
        derivative = derivative + factor * change
    return tuple(direction), derivative


def _agrees(backend: Backend, derivative: Array, difference: Array) -> bool:
    xp = backend.xp
    error, size = xp.abs(derivative - difference), xp.abs(difference)
    if backend.any((size == 0.0) & (error == 0.0)):
        return False  # an entry of which nothing is seen, as if f rounds its values
    differs = error > RTOL_ROUNDINGS * backend.eps**0.5 * size
    if backend.any(differs & (error > max(RTOL_OF_FEW, backend.eps**0.25) * size)):
        return False
    return backend.count(differs) <= FEW_ENTRIES * differs.shape[0]


def _compare_within_errors(
    d: Differences, direction: Direction, derivative: Array
) -> ComplexStepVerdict:
    """Compare every entry with the difference whose error, as estimated, is smallest."""
    backend, xp = d.backend, d.backend.xp
    smallest = error = size = None
    for factor in STEP_FACTORS:
        step = factor * d.step
        short, long = (d.by_difference(direction, scale * step) for scale in (1.0, 2.0))
        if short is None or long is None:
            continue
        # A direction of length one is scaled to the step.
        longest = max(float(xp.max(xp.abs(part))) for part in direction)
        allowed = ERROR_FACTOR * (d.noise * longest / step + xp.abs(long - short))
        if smallest is None:
            smallest, error, size = allowed, xp.abs(derivative - short), xp.abs(short)
        better = allowed < smallest
        smallest = xp.where(better, allowed, smallest)
        error = xp.where(better, xp.abs(derivative - short), error)
        size = xp.where(better, xp.abs(short), size)
    if smallest is None:
        return ComplexStepVerdict(
            False, "there is no value nearby to compare the complex step with"
        )
    largest = xp.maximum(xp.abs(derivative), size)
    informative = smallest < MAX_INFORMATIVE_ERROR * largest
    wrong = error > smallest + RTOL_ROUNDINGS * backend.eps**0.5 * size
    return NOT_ANALYTIC if bool(xp.any(informative & wrong)) else ComplexStepVerdict(True)
