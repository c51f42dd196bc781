"""The common loop of Newton's and the chord method, x <- x - A^-1 R(x).

Newton's method for an equilibrium, the polishing of a state and the correctors of a continuation
all use this loop. They differ in the linearization, the step length and the stopping criterion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..arrays.backend import Array
from ..errors import ConvergenceError
from ..linear import Factor
from ..models.problem import Problem

CHORD_RTOL = 1e-3  # relative residual of the linear solve of a chord step


@dataclass(frozen=True)
class Iterate:
    """A state of an iteration, with its residual.

    Attributes
    ----------
    h : (N,) array
    residual : (N,) array
        R(h).
    """

    h: Array
    residual: Array


I = TypeVar("I", bound=Iterate)  # noqa: E741
Correction = TypeVar("Correction")


def newton_loop(
    start: I,
    solve: Callable[[I], Correction],
    advance: Callable[[I, Correction], I | None],
    stop: Callable[[I, int], bool],
    max_steps: int,
) -> tuple[I, int]:
    """Iterate x <- x - A^-1 R(x).

    Parameters
    ----------
    start : Iterate
        The first iterate, with its residual.
    solve : callable
        ``solve(iterate)`` computes the correction A^-1 R, with the linearization there (Newton's
        method) or with a factor from elsewhere (the chord method).
    advance : callable
        ``advance(iterate, correction)`` takes the step, whole or shortened by a line search, and
        returns the next iterate with its residual; None if no step is acceptable.
    stop : callable
        ``stop(iterate, steps)`` returns whether to stop at an iterate, with the number of steps
        taken so far.
    max_steps : int
        The limit on the number of steps, after which the last iterate is returned.

    Returns
    -------
    iterate : Iterate
        The last iterate.
    steps : int
        The number of steps taken.

    References
    ----------
    P. Deuflhard, Newton Methods for Nonlinear Problems, Springer (2004).
    """
    iterate = start
    for steps in range(max_steps):
        if stop(iterate, steps):
            return iterate, steps
        following = advance(iterate, solve(iterate))
        if following is None:
            return iterate, steps
        iterate = following
    return iterate, max_steps


def chord_steps(
    problem: Problem,
    start: Iterate,
    factor: Factor,
    *,
    max_steps: int,
    max_contraction: float = 1.0,
) -> tuple[Iterate, int]:
    """Improve a state by chord steps, with a factor of A at a nearby state.

    Parameters
    ----------
    problem : Problem
    start : Iterate
    factor : Factor
    max_steps : int
    max_contraction : float, optional
        A step is accepted if it reduces R to less than this multiple, relative to the terms of each
        equation.

    Returns
    -------
    iterate : Iterate
        The last accepted iterate; `start` itself if no step was accepted.
    steps : int
        The number of accepted steps.
    """
    backend = problem.backend
    xp = backend.xp
    terms = xp.maximum(factor.A.abs_apply(start.h), xp.abs(start.residual))
    terms = xp.where(terms > 0.0, terms, xp.ones_like(terms))

    def solve(iterate: Iterate) -> Array | None:
        try:
            return factor.solve(iterate.residual, rtol=CHORD_RTOL)
        except ConvergenceError:
            return None

    def advance(iterate: Iterate, correction: Array | None) -> Iterate | None:
        if correction is None:
            return None
        h = problem.limited(iterate.h, iterate.h - correction)
        residual, _ = problem.trial_residual(h)
        largest = max_contraction * backend.norm(iterate.residual / terms)
        if residual is None or not backend.norm(residual / terms) < largest:
            return None
        return Iterate(h, residual)

    return newton_loop(start, solve, advance, lambda iterate, steps: False, max_steps)
