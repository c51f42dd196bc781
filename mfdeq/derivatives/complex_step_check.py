"""Whether the complex step differentiates a function, by comparison with real differences.

It does not if the function drops imaginary parts somewhere (a real buffer, a comparison of
magnitudes, ``abs``). Every entry is compared with a difference along a random direction, within the
noise and the truncation error of that difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..errors import ModelError
from ..locks import ignore_warnings
from .differences import Differences
from .shifted_function import Direction

RTOL_ROUNDINGS = 10.0  # relative tolerance of most entries, in square roots of the rounding unit
FEW_ENTRIES = 0.01  # share of entries that may differ more, if by less than the next constant
RTOL_OF_FEW = 1e-3
STEP_FACTORS = (1.0, 1e-2, 1e-4, 30.0, 1e3)  # of differences in a second comparison
LONG_STEP_FACTORS = (3e4, 1e6, 1e8, 1e10)  # the same where shorter steps may be lost in rounding
STEADY_FACTOR, STEADY_RTOL = 1 / 64, 1e-3  # of a shorter step that shows the same difference
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
    best: _Difference | None = None
    for factor in STEP_FACTORS:
        found = _difference_with_error(d, direction, factor * d.step)
        best = found if best is None else best if found is None else best.or_better(xp, found)
    if best is None:
        return ComplexStepVerdict(
            False, "there is no value nearby to compare the complex step with"
        )
    differs = abs(derivative - best.value) > best.error + RTOL_ROUNDINGS * backend.eps**0.5 * abs(
        best.value
    )
    wrong = best.is_informative(xp, derivative) & differs
    if bool(xp.any(wrong)):
        excess = xp.where(wrong, abs(derivative - best.value), 0.0 * best.value)
        if _is_steady(d, direction, backend.argmax(excess)):
            return NOT_ANALYTIC
    for factor in LONG_STEP_FACTORS:
        if not bool(xp.any(wrong)):
            break
        found = _difference_with_error(d, direction, factor * d.step)
        if found is not None:
            wrong = wrong & ~_is_lost_in_rounding(xp, derivative, best, found)
    return NOT_ANALYTIC if bool(xp.any(wrong)) else ComplexStepVerdict(True)


@dataclass(frozen=True)
class _Difference:
    """The difference along a direction, and the estimated errors of its entries."""

    value: Array
    error: Array

    def or_better(self, xp: Any, other: _Difference) -> _Difference:
        """Return the entries with the smaller errors."""
        better = other.error < self.error
        value, error = (
            xp.where(better, of_other, own)
            for of_other, own in ((other.value, self.value), (other.error, self.error))
        )
        return _Difference(value, error)

    def is_informative(self, xp: Any, derivative: Array) -> Array:
        """Return whether an error is small beside the entry, of the difference or derivative."""
        return self.error < MAX_INFORMATIVE_ERROR * xp.maximum(abs(derivative), abs(self.value))


def _difference_with_error(d: Differences, direction: Direction, step: float) -> _Difference | None:
    """Return the difference with a step, or None if f has no value there."""
    short, long = (d.by_difference(direction, scale * step) for scale in (1.0, 2.0))
    if short is None or long is None:
        return None
    # A direction of length one is scaled to the step.
    longest = max(float(d.backend.xp.max(abs(part))) for part in direction)
    return _Difference(short, ERROR_FACTOR * (d.noise * longest / step + abs(long - short)))


def _is_steady(d: Differences, direction: Direction, row: int) -> bool:
    """Return whether the variable by which a complex step and a difference differ is seen in f.

    It is found by bisection. If its step is lost in rounding, an entry of f does not change or
    jumps, and differences with other steps are others.
    """

    def gap(part: Direction) -> float:
        difference = d.by_difference(part, d.step)
        if difference is None:
            return 0.0
        with ignore_warnings():  # of discarded imaginary parts
            return abs(float(d.by_complex_step(part)[row] - difference[row]))

    while len(halves := _halves(d.backend, direction)) == 2:
        direction = max(halves, key=gap)
    once, again = (d.by_difference(direction, c * d.step) for c in (1.0, STEADY_FACTOR))
    if once is None or again is None:
        return False
    seen, difference = abs(float(once[row])), abs(float(once[row] - again[row]))
    return seen > 0.0 and difference <= STEADY_RTOL * seen


def _halves(backend: Backend, direction: Direction) -> list[Direction]:
    """Return directions with one half of the variables each, or the direction of a single one."""
    whole = backend.xp.concat(direction)
    variables = host.flatnonzero(array_on_host(whole))
    if variables.shape[0] < 2:
        return [direction]
    found = []
    for kept in host.array_split(variables, 2):
        part = 0.0 * whole
        part[kept] = whole[kept]
        found.append((part[: direction[0].shape[0]], part[direction[0].shape[0] :]))
    return found


def _is_lost_in_rounding(
    xp: Any, derivative: Array, short: _Difference, long: _Difference
) -> Array:
    """Return whether a change of f by the short step was lost in the rounding of a sum.

    In X + h, a step in h that is below the rounding of X changes nothing, and no noise shows. The
    difference with a longer step then contradicts the short one and agrees with the complex step.
    """
    agrees = abs(derivative - long.value) <= long.error
    return (
        long.is_informative(xp, derivative) & agrees & (abs(short.value - long.value) > long.error)
    )
