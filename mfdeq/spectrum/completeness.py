"""Whether wanted eigenvalues are missing, by searches in the complement of the pairs found.

Lanczos from one vector finds one copy of a repeated eigenvalue, and none of an eigenvector that is
orthogonal to the vector. A second search starts from a random vector in the complement of what was
found. It ends when the chance that it hides an eigenvalue beyond the last wanted value is small
(`mfdeq.spectrum.miss_chance`), or when a Ritz value is beyond it: then a wanted eigenvalue is
missing there, and it is computed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from ..arrays.backend import Array, Backend, array_on_host, host
from ..errors import ConvergenceError
from ..linear.krylov.columns import times
from .counted_operator import CountedOperator
from .eigenpairs import ROUNDING_FACTOR, Eigenpairs, largest_residual, residual_tolerance
from .lanczos import Lanczos, select_wanted
from .miss_chance import Probe, smallest_gap
from .problem import EigenProblem
from .schur_complement import Complement, UnwantedPairs, smallest_distance
from .sides import Side, wanted_sides

# Least limit on the products of a search in the complement. It may take as many as the pairs took:
# of a copy, as of the first, a Ritz value is visible only after that many.
MAX_PROBE = 100
RELAXED_ERROR_SHARE = 0.1  # error of relaxed products, relative to the distance of unwanted values
MIN_BLOCKS = 4  # in a basis, if a search begins with several vectors
MAX_ATTEMPTS_PER_PAIR = 2  # each of which should find a better pair
# Seeds, of which those of further random blocks differ by two: one block may take two.
FIRST_SEED, BLOCK_SEED = 50_000, 40_000


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
    saved = problem.checkpoint.completion
    begin, known_norm = saved.get("begin", H.count), saved.get("norm", 0.0)
    pairs.report.norm = max(pairs.report.norm, known_norm)
    for attempt in itertools.count(saved.get("attempt", 0)):
        values, bounds = (array_on_host(x) for x in (pairs.values, pairs.error_bounds))
        norm = pairs.report.norm
        size = float(abs(values).min() if relative_to_each else abs(values).max())
        tolerance = max(problem.rtol * size, ROUNDING_FACTOR * H.backend.eps * norm)
        sides = wanted_sides(values, bounds, which)
        residuals = array_on_host(pairs.report.residuals)
        tolerance = smallest_distance(sides, values, residuals, tolerance)
        probe = _begin_probe(pairs, H, which, sides, tolerance, problem.max_size)
        draws = _count_draw(pairs)
        H.show_progress(f"looking for others than the {values.shape[0]} pairs", 0.0)
        limit, seed = probe_limit(begin), FIRST_SEED + 2 * draws
        lanczos = _search_complement(probe, pairs, H, problem, limit, seed)
        if not probe.found:
            break
        if attempt == MAX_ATTEMPTS_PER_PAIR * values.shape[0]:
            raise not_found_error(pairs, attempt)
        begin_at_found = functools.partial(
            _begin_at_found, lanczos, probe, pairs, H, problem.max_size, attempt, draws
        )
        problem.checkpoint.completion = {"begin": begin, "attempt": attempt + 1, "norm": norm}
        pairs = search(begin_at_found)
        pairs.report.norm = max(pairs.report.norm, norm)
    H.show_progress(f"{pairs.vectors.shape[1]} pairs", 1.0)
    record_search(pairs, probe.chance, tolerance, H.count - begin)
    pairs.report.products = H.count
    return pairs


def probe_limit(first: int) -> int:
    """Return the limit on the products of a search in the complement.

    Parameters
    ----------
    first : int
        The number of products of the first search.
    """
    return max(MAX_PROBE, first)


def record_search(
    pairs: Eigenpairs, chance: Callable[[float], float], tolerance: float, products: int
) -> None:
    """Record in the report what a search for missing eigenvalues has shown and cost."""
    report, norm = pairs.report, pairs.report.norm
    gap = smallest_gap(chance, tolerance, norm)
    report.miss_chance, report.miss_gap = chance(gap), gap / norm if norm > 0.0 else 0.0
    report.extra_products = products


def not_found_error(pairs: Eigenpairs, attempts: int) -> ConvergenceError:
    """Return the error for an eigenvalue that is missing, but whose pair is not found."""
    pairs.report.converged = False
    return ConvergenceError(
        f"eigsh: an eigenvalue beyond the {pairs.vectors.shape[1]} found is missing, and "
        f"{attempts} searches in their complement have not found its pair. Products with H may be "
        "inaccurate: tighten the tolerance of the solver",
        best=pairs,
        report=pairs.report,
    )


def _begin_probe(
    pairs: Eigenpairs,
    H: CountedOperator,
    which: str,
    sides: list[Side],
    tolerance: float,
    max_size: int,
) -> Probe:
    """Return the probe of the complement of the pairs and of other Ritz vectors."""
    k, krylov = pairs.vectors.shape[1], pairs.krylov
    values, residuals = (array_on_host(x) for x in (pairs.values, pairs.report.residuals))
    ends = [side.end(tolerance) for side in sides]
    complement, error = Complement(pairs.vectors, values, residuals, host.zeros((0, 0))), 0.0
    if krylov is not None:
        ritz, Y, _ = krylov.ritz()
        unwanted = host.ones(ritz.shape[0], dtype=bool)
        unwanted[select_wanted(ritz, k, which)] = False
        unwanted &= (host.outer([s.sign for s in sides], ritz) < host.array(ends)[:, None]).all(0)
        couplings = krylov.couplings(Y[:, unwanted])
        # The residuals of locked vectors are not in the couplings.
        off = krylov.asymmetry + (tolerance if krylov.locked else 0.0)
        others = UnwantedPairs(sides, ends, ritz[unwanted], couplings, off)
        chosen, clearance = others.choose((max_size - k) // 2)
        more = krylov.vectors(Y[:, unwanted][:, chosen])
        vectors = Backend.of(pairs.vectors).xp.concat([pairs.vectors, more], axis=1)
        complement = others.complement(chosen, vectors, values, residuals)
        if H.relaxed:
            error = RELAXED_ERROR_SHARE * max(clearance, tolerance)
            H.set_accuracy(error, pairs.report.norm, pairs.report.norm, 1)
    return Probe(which, sides, tolerance, complement, error)


def _begin_at_found(
    lanczos: Lanczos,
    probe: Probe,
    pairs: Eigenpairs,
    H: CountedOperator,
    max_size: int,
    attempt: int,
    draws: int,
) -> Lanczos:
    """Begin a search from what the probe has found.

    At first the search that has missed it continues with it, since its other vectors are near
    unwanted eigenvectors. Further attempts mean that there are many copies: random vectors in the
    complement of the pairs find more of them at once.
    """
    start = lanczos.unlocked_vectors(probe.beyond(lanczos.unlocked_values))
    n, k = pairs.vectors.shape
    krylov = pairs.krylov
    if attempt == 0 and krylov is not None and not (krylov.locked or krylov.invariant):
        following = krylov.with_start(start, max_size)
        if following.full:
            following.restart(k, probe.which)
        following.expand()  # after which what was found is among the wanted Ritz vectors
        return following
    random_columns = min(2**attempt, (max_size - k) // MIN_BLOCKS) - start.shape[1]
    if random_columns > 0:
        more = H.backend.random(n, random_columns, seed=BLOCK_SEED + draws)
        start = H.backend.xp.concat([start, more], axis=1)
    values = array_on_host(pairs.values)
    return Lanczos.in_complement(
        H.backend, H, pairs.vectors, values, start, max_size, H.metric, draws
    )


def _count_draw(pairs: Eigenpairs) -> int:
    """Count one more random block in the search for these pairs, and return how many there were.

    A block that is drawn twice shows nothing of what it has already missed, so that each has its
    own seed, also after a search is resumed.
    """
    if pairs.krylov is None:
        return 0
    pairs.krylov.random_blocks += 1
    return pairs.krylov.random_blocks


def _search_complement(
    probe: Probe,
    pairs: Eigenpairs,
    H: CountedOperator,
    problem: EigenProblem,
    limit: int,
    seed: int,
) -> Lanczos:
    """Search the complement until the probe has decided, or `limit` products are used."""
    complement, size = probe.complement, problem.max_size
    rounding = H.backend.eps * pairs.report.norm
    end = min(H.count + limit, problem.max_products)
    start, _ = H.metric.random_pair(pairs.vectors.shape[0], 1, seed)
    product: Callable[[Array], Array] = H
    if pairs.krylov is not None:
        weights = H.backend.coefficients(complement.weights)
        product = _WithCouplings(H, pairs.krylov.next_duals, weights)
    lanczos = Lanczos.in_complement(
        H.backend, product, complement.vectors, complement.values, start, size, H.metric
    )
    while True:
        if lanczos.full and not lanczos.spans_all:
            before = lanczos.unlocked_values
            lanczos.restart(1, probe.which)
            probe.run.record_restart(before, lanczos.unlocked_values)
        if not lanczos.spans_all:
            lanczos.expand()
        exhausted = lanczos.invariant or lanczos.spans_all
        length = 0.0 if exhausted else max(lanczos.residual_bound, rounding)
        probe.run.record(*lanczos.unlocked_pairs, length)
        if probe.found or exhausted or probe.excludes_a_miss or H.count >= end:
            return lanczos


@dataclass
class _WithCouplings:
    """The product with G, from that with H: the search projects it on the complement."""

    H: CountedOperator
    duals: Array
    weights: Array

    def __call__(self, x: Array) -> Array:
        along = array_on_host(self.weights @ (self.duals.T @ x))
        return self.H(x) + times(self.H.backend, self.duals, along)
