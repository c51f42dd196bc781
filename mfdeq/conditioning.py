"""How many digits a derivative at an equilibrium has left: rounding in A, and the state's error.

Both are judged along x = A^-1 r for a random r, which near a fold is the null vector, with
w = A^-T x: a perturbation dA of A changes x by -A^-1 dA x, along x itself by -w' dA x.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .arrays import Array
from .linear import Factor
from .linear.factor import FEWEST, rounding_digits, singular
from .linearized import Linearized

STATE_RTOL = 1e-3  # inner tolerance of a correction of the state that is only looked at


def digits_left(
    factor: Factor, linearized: Linearized, h: Array, residual: Callable[[Array], Array]
) -> float:
    """Decimal digits that a solution of A x = b can have, at most.

    Parameters
    ----------
    factor : Factor
        Of A at h.
    linearized : Linearized
        The model at h.
    h : (N,) array
        The state.
    residual : callable
        R of a state.

    Raises
    ------
    SingularStateError
        If less than one digit is left.
    """
    x, w = probe(factor)
    rounding = rounding_digits(factor.A, x, w)
    if rounding < FEWEST:
        raise singular(rounding, "to working precision")
    change = state_change(factor, linearized, h, residual, x, w)
    state = -math.log10(max(change, factor.backend.eps))
    if state < FEWEST:
        raise singular(
            state,
            f"to the accuracy of the state, whose error changes A^-1 by {change:.1g} of itself "
            "(a smaller rtol in mfdeq.solve may still do)",
        )
    return min(rounding, state)


def probe(factor: Factor) -> tuple[Array, Array]:
    """x = A^-1 r of unit length for a random r, and w = A^-T x."""
    n = factor.A.shape[0]
    # A random vector's component along one direction is 1/sqrt(N) of it: to see a near null
    # vector the solve must resolve that.
    rtol = max(factor.rtol, min(1e-3, 0.1 / math.sqrt(n)))
    x = factor.solve(factor.backend.random(n, seed=11), rtol=rtol)
    x = x / factor.backend.norm(x)
    return x, factor.solve_adjoint(x, rtol=rtol)


def state_change(
    factor: Factor,
    linearized: Linearized,
    h: Array,
    residual: Callable[[Array], Array],
    x: Array,
    w: Array,
) -> float:
    """|w' (A(h - e) - A(h)) x|, e = A^-1 (R + rounding of R) being the error of the state.

    To first order that is w' f''[(0, e), (0, x)] = e' K x, by the curvature of w'f. Where
    the model gives none, the contraction of a Newton step stands for it: ||R(h - e)|| / ||R||
    is a quarter at a double root.
    """
    backend = factor.backend
    xp = backend.xp
    rounding = backend.eps * xp.sign(w) * factor.A.abs_apply(h)
    R = residual(h)
    towards = 1.0 if float(xp.vecdot(w, R)) >= 0 else -1.0
    e = factor.solve(R + towards * rounding, rtol=STATE_RTOL)
    if linearized.given.curvature is None:
        noise = 10 * backend.norm(rounding)
        left = max(backend.norm(residual(h - e)) - noise, 0.0)
        return left / (backend.norm(R) + noise) if left > 0 else 0.0
    return abs(float(xp.vecdot(e, linearized.curvature(w).state_state._apply(x))))
