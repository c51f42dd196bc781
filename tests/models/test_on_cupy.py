"""Losses on cupy arrays: observations and priors of every kind."""

from __future__ import annotations

import pytest
from support.case_models import linear_operator_of, sparse_of
from support.cupy_problems import (
    assert_cupy_agrees_with_numpy,
    bratu,
    bratu_equilibrium,
    bratu_prior,
    needs_cupy,
)
from support.matrices import diffusion, to_library

import mfdeq


def observed_by_indices(xp):
    return mfdeq.LeastSquares(xp.asarray([3, 3, 70]), xp.ones(3))


def observed_by_a_mask(xp):
    return mfdeq.LeastSquares(xp.arange(81) % 2 == 0, xp.ones(41))


def observed_by(xp, observe):
    return mfdeq.LeastSquares(observe, xp.ones(7), xp.arange(1.0, 8))


def sparse_observation(xp):
    return to_library(diffusion(9).tocsr()[:7], xp)


def observation_operator(xp):
    dense = sparse_observation(xp).toarray()
    return linear_operator_of(xp)(
        dense.shape, matvec=lambda x: dense @ x, rmatvec=lambda y: dense.T @ y, dtype=dense.dtype
    )


def mean(xp):
    return bratu(xp).random(81, seed=3)


LOSSES = {
    "indices": observed_by_indices,
    "mask": observed_by_a_mask,
    "sparse observation": lambda xp: observed_by(xp, sparse_observation(xp)),
    "dense observation": lambda xp: observed_by(xp, sparse_observation(xp).toarray()),
    "observation operator": lambda xp: observed_by(xp, observation_operator(xp)),
    "scalar prior": lambda xp: mfdeq.QuadraticPrior(2.0, mean(xp)),
    "dense prior": lambda xp: mfdeq.QuadraticPrior(xp.diag(xp.full(81, 2.0)), 1.0),
    "sparse prior": lambda xp: (
        mfdeq.QuadraticPrior(sparse_of(xp).diags(xp.full(81, 2.0)).tocsr(), mean(xp)) / 3
    ),
    "precision and data": lambda xp: (
        mfdeq.QuadraticPrior(bratu_prior(xp), mean(xp)) + 2 * observed_by_indices(xp)
    ),
}


@needs_cupy
@pytest.mark.parametrize("name", LOSSES)
def test_value_gradient_and_hessian_of_a_loss_agree_with_numpy(name):
    def compute(xp):
        eq, loss = bratu_equilibrium(xp), LOSSES[name](xp)
        value = loss.value(eq.state, eq.params)
        return value, eq.gradient(loss), eq.hessian(loss) @ mean(xp)

    assert_cupy_agrees_with_numpy(compute)
