"""Trajectories on cupy arrays."""

from __future__ import annotations

import numpy as np
import pytest
from support.case_models import sparse_of
from support.cupy_problems import assert_cupy_agrees_with_numpy, needs_cupy
from support.matrices import diffusion, to_library

import mfdeq

SIZE, COUNT = 25, 6


class Burning(mfdeq.StepModel):
    """R = h − previous + dt (K h + theta_0 h² previous) on 5 x 5 points; P = 2."""

    state_size, param_size = SIZE, 2

    def __init__(self, xp, sparse):
        self.xp, self.sparse = xp, sparse_of(xp)
        self.K = to_library(diffusion(5).tocsr(), xp)
        self.eye = self.sparse.identity(SIZE, format="csr")
        self.form = (lambda x: x) if sparse else (lambda x: x.toarray())

    def residual(self, h, previous, theta, k):
        return h - previous + 0.1 * (self.K @ h + theta[0] * h**2 * previous)

    def diagonal(self, x):
        return self.sparse.diags(x).tocsr()

    def linearize(self, h, previous, theta, k):
        xp, diagonal = self.xp, self.diagonal
        slope = 0.2 * theta[0] * h * previous

        def curvature(lam):
            def column(x):
                return xp.stack([x, 0.0 * x], axis=1)

            return mfdeq.StepCurvature(
                previous_params=column(0.1 * h**2 * lam),
                state_params=column(0.2 * h * previous * lam),
                state_previous=self.form(diagonal(0.2 * theta[0] * h * lam)),
                state_state=self.form(diagonal(0.2 * theta[0] * previous * lam)),
            )

        return mfdeq.StepLinearization(
            d_state=self.form((self.eye + 0.1 * self.K + diagonal(slope)).tocsr()),
            d_previous=self.form((-self.eye + diagonal(0.1 * theta[0] * h**2)).tocsr()),
            d_params=xp.stack([0.1 * h**2 * previous, 0.0 * h], axis=1),
            curvature=curvature,
        )


def start(xp):
    ones = xp.ones(SIZE)
    return mfdeq.Start(
        lambda theta: theta[1] * ones, lambda theta: xp.stack([0.0 * ones, ones], axis=1)
    )


@needs_cupy
@pytest.mark.parametrize("checkpoints", [None, 2])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_derivatives_agree_with_numpy(sparse, checkpoints):
    def compute(xp):
        model = mfdeq.trajectory(Burning(xp, sparse), COUNT, start(xp), checkpoints)
        eq = mfdeq.solve(model, xp.asarray([0.8, 1.3]))
        loss = mfdeq.LeastSquares(xp.asarray([12, 60, 140]), xp.zeros(3))
        H, V = eq.hessian(loss), xp.asarray(np.eye(2))
        return eq.steps, eq.gradient(loss), eq.sensitivity @ V, H @ V, H @ V[:, 0]

    assert_cupy_agrees_with_numpy(compute)
