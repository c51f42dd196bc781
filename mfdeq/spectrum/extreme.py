"""Extreme eigenpairs by the Lanczos method, with a search for copies that it missed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..errors import ArgumentError
from .completeness import complete
from .counted_operator import CountedOperator
from .eigenpairs import Eigenpairs, largest_residual, residual_tolerance
from .lanczos import Lanczos
from .lanczos_search import METHOD_NAME, LanczosSearch
from .problem import EigenMethod, EigenProblem


def _solve(problem: EigenProblem) -> Eigenpairs:
    """Compute the pairs, and those that a search in their complement finds."""
    H = problem.H
    if problem.resume is None:
        begin = functools.partial(Lanczos, H.backend, H, problem.start, problem.max_size, H.metric)
    else:
        begin = functools.partial(_resume_lanczos, problem.resume, H, problem.max_size)
    H.relaxed = problem.relaxed and H.relaxable
    search = functools.partial(_search, problem)
    pairs = search(begin)
    return complete(pairs, problem, H, problem.which, search) if problem.complete else pairs


def _search(problem: EigenProblem, begin: Callable[[], Lanczos]) -> Eigenpairs:
    """Compute the pairs by one search, or by two if the first was too rough."""
    H, k = problem.H, problem.k
    shared = H, k, problem.which, problem.rtol, problem.search_products, problem.checkpoint
    search = LanczosSearch(begin, *shared)
    pairs = search.run()
    rough = H.relaxed or problem.resume is not None or search.lanczos.locked > 0
    off = largest_residual(pairs) > residual_tolerance(pairs, problem.rtol)
    if rough and off and not search.final:
        # The errors of the products have accumulated: search again with exact products.
        H.relaxed = False
        max_size = max(problem.max_size, 4 * k)
        draws = 0 if pairs.krylov is None else pairs.krylov.random_blocks
        again = functools.partial(
            Lanczos, H.backend, H, pairs.vectors, max_size, H.metric, random_blocks=draws
        )
        pairs = LanczosSearch(again, *shared, final=True).run()
    return pairs


def _resume_lanczos(resume: Any, H: CountedOperator, max_size: int) -> Lanczos:
    """Return the Lanczos process of an earlier result, with room for `max_size` vectors."""
    if not isinstance(resume, Eigenpairs):
        raise ArgumentError(
            "resume: expected the Eigenpairs that mfdeq.eigsh returned for the same H, got a "
            f"{type(resume).__name__}"
        )
    lanczos, size = resume.krylov, H.H.shape[1]
    if lanczos is None:
        raise ArgumentError(
            "resume: expected pairs computed by the Lanczos method of mfdeq.eigsh, got pairs by "
            f"the method {resume.report.method!r}"
        )
    if lanczos.basis.shape[1] != size:
        raise ArgumentError(
            f"resume: expected pairs of the same H, of size {size}, got pairs of size "
            f"{lanczos.basis.shape[1]}"
        )
    if not lanczos.has_metric(H.metric):
        raise ArgumentError("resume: expected pairs of the same M, got pairs of another M")
    H.exponent = lanczos.exponent
    return lanczos.copy_with(H, max_size)


LANCZOS = EigenMethod(METHOD_NAME, lambda problem: True, _solve)
