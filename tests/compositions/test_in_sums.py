"""Sums hold trajectories, trajectories of one matrix, constrained models and batches."""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import close
from support.step_models import PARAMS, THETA, reaction_trajectory

import mfdeq

jax = pytest.importorskip("jax")
jnp = jax.numpy
WEIGHTS = [1.0, 0.5, 2.0, 3.0]


def functionals():
    """Return functionals of two trajectories, a batch, and a constrained model."""
    rng = np.random.default_rng(0)
    C = jnp.asarray(0.3 * rng.standard_normal((2, PARAMS)))
    args = jnp.asarray(rng.standard_normal(5))
    batch = mfdeq.from_jax(
        lambda h, p, x: jnp.tanh(0.3 * h + C @ p + x),
        *(np.zeros(2), THETA, "map"),
        args=args,
        batched=True,
    )
    closed = mfdeq.constrain(
        mfdeq.from_function(
            lambda h, p: (np.exp(p[0]) * h[0] - np.exp(p[1]) * h[1]) * np.array([1.0, -1.0]),
            *(2, PARAMS, "residual"),
        ),
        mfdeq.LinearConstraint(np.ones(2), 3.0),
    )
    models = [reaction_trajectory(), reaction_trajectory(sparse=True), batch, closed]
    sizes = [3, 5, 4, 1]
    return [
        mfdeq.ReducedFunctional(
            model, mfdeq.LeastSquares(np.arange(m), rng.standard_normal(m), error)
        )
        for model, m, error in zip(models, sizes, (1.0, 2.0, 1.0, 0.5), strict=True)
    ]


def test_a_sum_holds_structured_models_of_all_kinds():
    alone, together = functionals(), functionals()
    F = mfdeq.SumFunctional(together, WEIGHTS)
    total = [0.0, 0.0, 0.0]
    for weight, one in zip(WEIGHTS, alone, strict=True):
        parts = one.value(THETA), one.gradient(THETA), one.hessian(THETA).toarray()
        total = [sum_ + weight * part for sum_, part in zip(total, parts, strict=True)]
    close(np.array(F.value(THETA)), np.array(total[0]), 1e-9)
    close(F.gradient(THETA), total[1], 1e-8)
    H = F.hessian(THETA)
    close(H.toarray(), total[2], 1e-6)
    product, error = H.with_error(np.eye(PARAMS))
    close(product, total[2], 1e-6)
    assert np.abs(error).max() <= 1e-3 * np.abs(total[2]).max()
    close(mfdeq.eigsh(H, k=PARAMS).values, np.linalg.eigvalsh(total[2]), 1e-5)
