"""The loop of Newton's method and of chord steps: its steps and stopping rules."""

import numpy as np
import pytest
from support.cases import build

from mfdeq.forward.newton_loop import Iterate, chord_steps, newton_loop


def square_root(h):
    """Return the iterate of h² = 2 at h."""
    return Iterate(h, h**2 - 2.0)


def size(iterate):
    return float(np.linalg.norm(iterate.residual))


def newton_step(iterate):
    return iterate.residual / (2.0 * iterate.h)


def full_step(iterate, correction):
    return square_root(iterate.h - correction)


def test_newton_steps_converge_quadratically():
    norms = []

    def stop(iterate, steps):
        norms.append(size(iterate))
        return norms[-1] < 1e-14

    end, steps = newton_loop(square_root(np.array([2.0])), newton_step, full_step, stop, 20)
    assert end.h[0] == pytest.approx(2.0**0.5, rel=1e-15)
    assert steps == len(norms) - 1 <= 6
    assert norms[3] < norms[2] ** 2


def test_the_loop_stops_if_no_step_is_acceptable():
    start = square_root(np.array([2.0]))
    end, steps = newton_loop(start, newton_step, lambda *_: None, lambda *_: False, 20)
    assert end is start
    assert steps == 0


def test_the_loop_takes_at_most_max_steps():
    start = square_root(np.array([1e6]))
    _, steps = newton_loop(start, newton_step, full_step, lambda *_: False, 3)
    assert steps == 3


def take_chord_steps(case, off, **options):
    """Take chord steps from a state that is off, with the factor at the solution."""
    eq = case.solve()
    h = case.truth.state + off
    R = eq.problem.residual(h)
    start = Iterate(h, R)
    return start, *chord_steps(eq.problem, start, eq.factor, **options)


def test_chord_steps_reduce_the_residual_linearly():
    start, end, steps = take_chord_steps(build("smooth"), 1e-3, max_steps=3)
    assert steps == 3
    assert size(end) < 1e-6 * size(start)


def test_a_chord_step_that_contracts_too_little_is_not_taken():
    start, end, steps = take_chord_steps(build("smooth"), 1e-3, max_steps=3, max_contraction=1e-12)
    assert end is start
    assert steps == 0
