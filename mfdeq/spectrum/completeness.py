"""Whether wanted eigenvalues are missing, by searches in the complement of the pairs found.

Lanczos from one vector finds one copy of a repeated eigenvalue, and none of an eigenvector that is
orthogonal to the vector. A second search starts from a random vector r in the complement of what
was found. After m steps with the Ritz values θ_j and the residual lengths β_j,

    χ(H) r = (Π β_j) q,   χ(λ) = Π (λ - θ_j),   ||q|| = ||r|| = 1,

so that an eigenvector v of an eigenvalue λ beyond all θ_j has |v'r| <= Π β_j / |λ - θ_j|. Since the
direction of r is uniform in n dimensions, this has the chance sqrt(2 n / π) Π β_j / |λ - θ_j| at
most. The search ends when that is small for every λ beyond the last wanted value, or when a Ritz
value is beyond it: then a wanted eigenvalue is missing there, and it is computed.

References
----------
J. Kuczyński and H. Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos
algorithms with a random start", 1992. B. N. Parlett, "The Symmetric Eigenvalue Problem", 1998.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array, Backend, array_on_host, host
from ..errors import ArgumentError, ConvergenceError
from ..priors.metric import Metric
from .counted_operator import CountedOperator
from .eigenpairs import ROUNDING_FACTOR, Eigenpairs, largest_residual, residual_tolerance
from .lanczos import Lanczos, select_wanted
from .problem import EigenProblem

MISS_CHANCE = 1e-6  # allowed chance that a wanted eigenvalue is missing
NEARLY_CONVERGED = 1e-3  # residual of an unwanted pair, relative to its distance from the wanted
MAX_PROBE = 100  # least limit on the products of a search in the complement
MAX_ATTEMPTS_PER_PAIR = 2  # each of which should find a better pair
FIRST_SEED, SEEDS_PER_PROBE = 50, 1000
BISECTIONS = 20  # of the gap for which the chance holds


@dataclass
class Side:
    """One end of the spectrum at which eigenvalues are wanted.

    Attributes
    ----------
    sign : {1, -1}
        1 at the upper end, -1 at the lower.
    last : float
        sign times the wanted value farthest from the end.
    margin : float
        The error bound of that value.
    """

    sign: int
    last: float
    margin: float

    def log_chance(self, runs: list[Run], gap: float, n: int) -> float:
        """Return the logarithm of the chance of a miss beyond ``last + gap``."""
        return sum(run.log_chance(self.sign, self.last + gap, n) for run in runs)


@dataclass
class Run:
    """The Ritz values and residual lengths of one search in the complement."""

    values: Any = field(default_factory=lambda: host.zeros(0))
    lengths: list[float] = field(default_factory=list)

    def log_chance(self, sign: int, end: float, n: int) -> float:
        """Return the logarithm of the chance of a miss beyond an eigenvalue, at most zero."""
        distances = end - sign * self.values
        if not distances.shape[0] or distances.min() <= 0.0:
            return 0.0
        if min(self.lengths) == 0.0:
            return -math.inf
        logs = host.log(host.asarray(self.lengths)).sum() - host.log(distances).sum()
        return min(0.0, float(logs) + 0.5 * math.log(2.0 * n / math.pi))


def wanted_sides(values: Any, margins: Any, which: str) -> list[Side]:
    """Return the ends of the spectrum at which eigenvalues are wanted.

    Parameters
    ----------
    values, margins : (k,) host arrays
        The wanted values, ascending, and their error bounds.
    which : {"LM", "LA", "SA", "BE"}
    """
    k, least = values.shape[0], int(abs(values).argmin())
    if which == "LA":
        return [Side(1, float(values[0]), float(margins[0]))]
    if which == "SA":
        return [Side(-1, -float(values[-1]), float(margins[-1]))]
    if which == "LM":
        last, margin = float(abs(values[least])), float(margins[least])
        return [Side(1, last, margin), Side(-1, last, margin)]
    below = k // 2
    sides = [Side(1, float(values[below]), float(margins[below]))]
    if below:
        sides.append(Side(-1, -float(values[below - 1]), float(margins[below - 1])))
    return sides


class Probe:
    """The decision of searches in the complement: something is missing, or nothing, or unknown.

    Parameters
    ----------
    which : {"LM", "LA", "SA", "BE"}
    sides : list of Side
        The ends of the spectrum at which eigenvalues are wanted.
    tolerance : float
        The distance beyond the last wanted values from which eigenvalues are looked for.
    n : int
        The dimension of the complement.
    rounding : float
        The smallest residual length that is not rounding.
    """

    def __init__(
        self, which: str, sides: list[Side], tolerance: float, n: int, rounding: float
    ) -> None:
        self.which, self.sides, self.tolerance = which, sides, tolerance
        self.n, self.rounding = n, rounding
        self.runs: list[Run] = []

    def begin_run(self) -> None:
        """Begin a search from another random vector, which is independent of the earlier ones."""
        self.runs.append(Run())

    def record(self, values: Any, length: float, invariant: bool) -> None:
        """Record the Ritz values and the residual length after one step of the latest search."""
        run = self.runs[-1]
        run.values = values
        run.lengths.append(0.0 if invariant else max(length, self.rounding))

    @property
    def found(self) -> bool:
        """Whether a Ritz value shows that a wanted eigenvalue is missing."""
        return bool(self.beyond(self.runs[-1].values).any())

    def beyond(self, values: Any) -> Any:
        """Return which values are beyond the last wanted ones by more than their bounds."""
        return host.logical_or.reduce(
            [side.sign * values > side.last + side.margin for side in self.sides]
        )

    def chance(self, gap: float) -> float:
        """Return the bound on the chance of a miss beyond the last wanted values by a gap."""
        logs = (side.log_chance(self.runs, max(side.margin, gap), self.n) for side in self.sides)
        return min(1.0, sum(math.exp(log) for log in logs))

    @property
    def excludes_a_miss(self) -> bool:
        """Whether the chance is small beyond the tolerance."""
        return self.chance(self.tolerance) <= MISS_CHANCE

    def gap(self, norm: float) -> float:
        """Return the least gap beyond which the chance is small, or one beyond all eigenvalues."""
        low, high = 0.0, self.tolerance
        while self.chance(high) > MISS_CHANCE and high < 2.0 * norm:
            low, high = high, 2.0 * high
        for _ in range(BISECTIONS if low > 0.0 else 0):
            middle = 0.5 * (low + high)
            if self.chance(middle) <= MISS_CHANCE:
                high = middle
            else:
                low = middle
        return high


def complete(
    pairs: Eigenpairs,
    problem: EigenProblem,
    H: CountedOperator,
    which: str,
    search: Callable[[Callable[[], Lanczos]], Eigenpairs],
    relative_to_each: bool = False,
) -> Eigenpairs:
    """Return the wanted pairs after a search for others in their complement.

    Parameters
    ----------
    pairs : Eigenpairs
        The pairs found.
    problem : EigenProblem
    H : CountedOperator
        The operator whose eigenpairs they are: that of the problem, or an inverse.
    which : str
        The wanted eigenvalues of `H`.
    search : callable
        ``search(begin)`` returns the wanted pairs, from a Lanczos process that ``begin()`` returns.
    relative_to_each : bool, optional
        Whether the tolerance is relative to the smallest of the wanted values.

    Returns
    -------
    Eigenpairs
        With the chance of a miss, its gap and the additional products in the report.

    Raises
    ------
    ConvergenceError
        If a wanted eigenvalue is missing, but searches do not find its pair.
    """
    if largest_residual(pairs) > residual_tolerance(pairs, problem.rtol):
        return pairs  # the products are inaccurate, of which the caller complains
    begin, dimension = H.count, pairs.vectors.shape[0] - pairs.vectors.shape[1]
    for attempt in itertools.count():
        values, bounds = (array_on_host(x) for x in (pairs.values, pairs.error_bounds))
        norm = pairs.report.norm
        size = float(abs(values).min() if relative_to_each else abs(values).max())
        tolerance = max(problem.rtol * size, ROUNDING_FACTOR * H.backend.eps * norm)
        sides = wanted_sides(values, bounds, which)
        probe = Probe(which, sides, tolerance, dimension, H.backend.eps * norm)
        H.set_accuracy(tolerance, norm, norm, values.shape[0])
        lanczos = _probe(probe, pairs, H, problem, FIRST_SEED + attempt)
        if not probe.found:
            break
        if attempt == MAX_ATTEMPTS_PER_PAIR * values.shape[0]:
            pairs.report.converged = False
            raise ConvergenceError(
                f"eigsh: an eigenvalue beyond the {values.shape[0]} found is missing, and "
                f"{attempt} searches in their complement have not found its pair. Products with H "
                "may be inaccurate: tighten the tolerance of the solver",
                best=pairs,
                report=pairs.report,
            )
        pairs = search(functools.partial(_begin_at_found, lanczos, probe, pairs, H, problem))
        pairs.report.norm = max(pairs.report.norm, norm)
    report = pairs.report
    report.extra_products, report.products = H.count - begin, H.count
    gap = probe.gap(norm)
    report.miss_chance, report.miss_gap = probe.chance(gap), gap / norm if norm > 0.0 else 0.0
    return pairs


def _random_vector(metric: Metric, n: int, seed: int) -> Array:
    """Return a random vector, (n, 1), that is as likely in all directions if R has a root.

    Otherwise it is the sum of one that favours large R and one that favours small R.
    """
    try:
        return metric.gaussian(n, 1, seed=seed)
    except ArgumentError:
        z = metric.backend.random(n, 2, seed=seed)
        x, y = z[:, :1], metric.solve(z[:, 1:])
        return x / metric.norms(x, metric.apply(x)) + y / metric.norms(y, z[:, 1:])


def _with_unwanted(
    pairs: Eigenpairs, which: str, sides: list[Side], room: int
) -> tuple[Array, Any]:
    """Return the vectors of the pairs and of others that have nearly converged, and their values.

    Without these, the Ritz values of the complement come less close to the last wanted one. A pair
    of residual ρ and value θ holds at most ρ / |λ - θ| of an eigenvector of another value λ.
    """
    vectors, values = pairs.vectors, array_on_host(pairs.values)
    if pairs.krylov is None:
        return vectors, values
    ritz, Y, residuals = pairs.krylov.ritz()
    distances = host.minimum.reduce([side.last - side.sign * ritz for side in sides])
    distances[select_wanted(ritz, values.shape[0], which)] = -1.0
    near = host.nonzero(residuals < NEARLY_CONVERGED * distances)[0]
    near = near[host.argsort(distances[near], kind="stable")[:room]]
    if near.shape[0]:
        vectors = Backend.of(vectors).xp.concat([vectors, pairs.krylov.vectors(Y[:, near])], axis=1)
        values = host.concatenate([values, ritz[near]])
    return vectors, values


def _begin_at_found(
    lanczos: Lanczos, probe: Probe, pairs: Eigenpairs, H: CountedOperator, problem: EigenProblem
) -> Lanczos:
    """Begin a search in the complement of the pairs from what the probe has found."""
    start = lanczos.unlocked_vectors(probe.beyond(lanczos.unlocked_values))
    known = pairs.vectors, array_on_host(pairs.values)
    return Lanczos.in_complement(H.backend, H, *known, start, problem.max_size, H.metric)


def _probe(
    probe: Probe, pairs: Eigenpairs, H: CountedOperator, problem: EigenProblem, seed: int
) -> Lanczos:
    """Search the complement until the probe has decided, or enough products are used."""
    n, k = pairs.vectors.shape
    size = problem.max_size
    vectors, values = _with_unwanted(pairs, probe.which, probe.sides, (size - k) // 2)
    end = min(H.count + max(MAX_PROBE, 2 * size), problem.max_products)
    for run in itertools.count():
        start = _random_vector(H.metric, n, SEEDS_PER_PROBE * seed + run)
        lanczos = Lanczos.in_complement(H.backend, H, vectors, values, start, size, H.metric)
        probe.begin_run()
        while not (lanczos.full or lanczos.spans_all):
            lanczos.expand()
            exhausted = lanczos.invariant or lanczos.spans_all
            probe.record(lanczos.unlocked_values, lanczos.residual_bound, exhausted)
            decided = probe.found or exhausted or probe.excludes_a_miss
            if decided or H.count >= end:
                return lanczos
        if lanczos.spans_all:
            break
    return lanczos
