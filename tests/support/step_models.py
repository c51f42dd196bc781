"""Implicit time steps with derivatives by hand, and the same steps as one function of JAX."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import mfdeq

SIZE, PARAMS, COUNT = 3, 5, 4
THETA = np.array([0.8, -0.3, 0.5, 1.2, 0.4])
MIXING = np.array([[2.0, -1.0, 0.3], [0.5, 3.0, -0.4], [-0.2, 0.7, 2.5]])
INPUTS = np.array(
    [[0.3, -0.2, 0.0, 0.0, 0.5], [0.0, 0.4, 0.1, 0.0, 0.0], [0.2, 0.0, 0.0, 0.3, 0.1]]
)


def residual(xp, h, previous, theta, k):
    """R of step k, which is nonlinear in everything and depends on k."""
    rate = 0.1 * (1.0 + 0.5 * k)
    reaction = theta[0] * h**3 + theta[1] * h * previous + theta[2] ** 2 * previous**2
    return MIXING @ h - 1.5 * previous + rate * reaction - INPUTS @ theta * (1.0 + k)


def start(xp, theta):
    return xp.stack([theta[3] ** 2, theta[3] * theta[4], 0.5 * theta[0]])


class Reaction(mfdeq.StepModel):
    """The step by hand, with dense or sparse matrices."""

    state_size, param_size = SIZE, PARAMS

    def __init__(self, sparse=False, by_product=False):
        self.matrix = sp.csr_array if sparse else np.asarray
        self.by_product = by_product

    def residual(self, h, previous, theta, k):
        return residual(np, h, previous, theta, k)

    def linearize(self, h, previous, theta, k):
        rate, matrix = 0.1 * (1.0 + 0.5 * k), self.matrix
        d_params = -INPUTS * (1.0 + k)
        d_params[:, 0] += rate * h**3
        d_params[:, 1] += rate * h * previous
        d_params[:, 2] += rate * 2.0 * theta[2] * previous**2

        def curvature(lam):
            columns = np.zeros((SIZE, PARAMS)), np.zeros((SIZE, PARAMS)), np.zeros((PARAMS, PARAMS))
            of_state, of_previous, of_params = columns
            of_state[:, 0], of_state[:, 1] = lam * 3.0 * h**2, lam * previous
            of_previous[:, 1], of_previous[:, 2] = lam * h, lam * 4.0 * theta[2] * previous
            of_params[2, 2] = 2.0 * (lam @ previous**2)
            blocks = {
                "params_params": rate * of_params,
                "previous_params": rate * of_previous,
                "state_params": rate * of_state,
                "previous_previous": rate * np.diag(2.0 * theta[2] ** 2 * lam),
                "state_previous": rate * np.diag(theta[1] * lam),
                "state_state": rate * np.diag(6.0 * theta[0] * h * lam),
            }
            if not self.by_product:
                return mfdeq.StepCurvature(**{name: matrix(x) for name, x in blocks.items()})
            pp, qp, sp_, qq, sq, ss = blocks.values()

            def apply(u, q, z):
                return (
                    pp @ u + qp.T @ q + sp_.T @ z,
                    qp @ u + qq @ q + sq.T @ z,
                    sp_ @ u + sq @ q + ss @ z,
                )

            return apply

        def second(a, b):
            value = np.zeros(SIZE)
            for i in range(SIZE):
                e = np.zeros(SIZE)
                e[i] = 1.0
                K = Reaction(by_product=True).linearize(h, previous, theta, k).curvature(e)
                value[i] = sum(x @ y for x, y in zip(a, K(*b), strict=True))
            return value

        return mfdeq.StepLinearization(
            d_state=matrix(MIXING + np.diag(rate * (3.0 * theta[0] * h**2 + theta[1] * previous))),
            d_previous=matrix(
                np.diag(rate * (theta[1] * h + 2.0 * theta[2] ** 2 * previous) - 1.5)
            ),
            d_params=matrix(d_params),
            curvature=curvature,
            second=second,
        )


START = mfdeq.Start(
    lambda theta: start(np, theta),
    lambda theta: np.array(
        [[0, 0, 0, 2 * theta[3], 0], [0, 0, 0, theta[4], theta[3]], [0.5, 0, 0, 0, 0]]
    ),
    curvature=lambda theta, w: np.array(
        [[0.0] * 5] * 3 + [[0, 0, 0, 2 * w[0], w[1]], [0, 0, 0, w[1], 0]]
    ),
    second=lambda theta, u, v: np.array([2.0 * u[3] * v[3], u[3] * v[4] + u[4] * v[3], 0.0]),
)


def reaction_trajectory(checkpoints=None, **options):
    return mfdeq.trajectory(Reaction(**options), COUNT, START, checkpoints=checkpoints)


class Heat(mfdeq.StepModel):
    """Implicit Euler steps of the heat equation on a line; P = 2, or a source for each step.

    Parameters
    ----------
    size : int
    lengths : sequence of float
        Of the steps.
    """

    def __init__(self, size, lengths):
        self.state_size, self.param_size, self.lengths = size, 2 + len(lengths), lengths
        self.stiffness = (
            10.0 * sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(size, size)).tocsr()
        )
        self.mass = sp.eye_array(size, format="csr")

    def residual(self, h, previous, theta, k):
        dt = self.lengths[k]
        return h - previous + dt * (theta[0] * (self.stiffness @ h) - theta[1] - theta[2 + k])

    def linearize(self, h, previous, theta, k):
        dt, n = self.lengths[k], self.state_size
        d_params = sp.lil_array((n, self.param_size), dtype=h.dtype)
        d_params[:, 0] = (dt * (self.stiffness @ h))[:, None]
        d_params[:, 1] = d_params[:, 2 + k] = -dt
        d_state = (self.mass + dt * theta[0] * self.stiffness).tocsr()

        def curvature(lam):
            state_params = sp.lil_array((n, self.param_size), dtype=h.dtype)
            state_params[:, 0] = (dt * (self.stiffness @ lam))[:, None]
            return mfdeq.StepCurvature(state_params=state_params.tocsr())

        return mfdeq.StepLinearization(
            d_state=d_state.astype(h.dtype),
            d_previous=-self.mass.astype(h.dtype),
            d_params=d_params.tocsr(),
            curvature=curvature,
        )
