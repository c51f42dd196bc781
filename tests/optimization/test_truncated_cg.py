"""Steps by truncated conjugate gradients: decrease, length and where they stop."""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import close

from mfdeq.arrays.backend import Backend
from mfdeq.optimization.truncated_cg import MAX_FORCING_TERM, forcing_term, steihaug


@pytest.mark.parametrize("preconditioned", [False, True])
def test_steihaug_steps_decrease_the_quadratic_model(preconditioned):
    """Check the decrease of the model, the length in the norm of the region, and full steps."""
    n, rng = 12, np.random.default_rng(0)
    C = rng.standard_normal((n, n))
    H, g = C @ C.T + np.eye(n), rng.standard_normal(n)
    W = rng.standard_normal((n, n))
    M = W @ W.T + np.eye(n) if preconditioned else np.eye(n)

    def path(H, radius, max_products=100):
        return steihaug(
            Backend.of(g), lambda v: H @ v, lambda r: M @ r, g, radius, 1e-10, max_products
        )

    def length(p):
        return np.sqrt(p @ np.linalg.solve(M, p))

    whole = path(H, np.inf)
    close(whole.step, -np.linalg.solve(H, g), 1e-6)
    assert whole.how == "inside"
    for radius in (0.01, 0.5 * length(whole.step)):
        found = path(H, radius)
        assert abs(length(found.step) - radius) < 1e-9 * radius
        assert abs(found.length - radius) < 1e-12
        assert found.how == "to the boundary"
        p = found.step
        assert abs(found.decrease + g @ p + 0.5 * p @ H @ p) < 1e-10
        best = -radius * (M @ g) / np.sqrt(g @ M @ g)  # along steepest descent
        assert found.decrease >= -(g @ best + 0.5 * best @ H @ best) - 1e-12
    down = path(-H, 0.3)
    assert down.how == "along negative curvature"
    assert abs(length(down.step) - 0.3) < 1e-9
    assert down.decrease > 0
    stopped = path(H, np.inf, max_products=2)
    assert (stopped.products, stopped.how) == (2, "ran out of products")
    first = path(H, None, max_products=1)
    cauchy = (g @ M @ g) / (M @ g @ H @ M @ g)
    assert abs(first.radius - 10 * cauchy * np.sqrt(g @ M @ g)) < 1e-9 * first.radius


def test_the_forcing_term_follows_the_gradient_and_never_exceeds_its_maximum():
    assert forcing_term(0.2, 1.0, 1.0, 1e-8) == MAX_FORCING_TERM  # no progress
    assert forcing_term(0.2, 0.1, 1.0, 1e-8) == pytest.approx(0.9 * 0.1**2)
    assert forcing_term(0.2, 1e-7, 1.0, 1e-8) == pytest.approx(0.05)  # the last step to the target
