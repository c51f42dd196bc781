"""TAO finds the minimum that mfdeq.minimize finds."""

import functools

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.petsc_problems import (
    LOSS,
    THETA,
    Cubic,
    N,
    Twin,
    diagonal_of,
    gathered,
    mat_of,
    vec_of,
)

import mfdeq
import mfdeq.petsc
from mfdeq.errors import ConvergenceError, MfdeqError


@functools.cache
def minimum():
    return mfdeq.minimize(mfdeq.ReducedFunctional(Twin(), LOSS), THETA, gtol=1e-10)


@pytest.mark.parametrize("kind", ["nls", "ntr", "bnls", "bntr", "blmvm", "lmvm"])
def test_tao_finds_the_same_minimum(kind):
    start = minimum().params + 0.05 if "lmvm" in kind else THETA
    theta = vec_of(start)
    F = mfdeq.ReducedFunctional(Cubic(), LOSS)
    # Without a Hessian it takes hundreds of equilibria, and rounding ends its line search.
    gatol = 1e-5 if "lmvm" in kind else 1e-7
    options = {"tao_type": kind, "tao_gatol": gatol, "tao_grtol": 0.0}
    tao = mfdeq.petsc.tao(F, theta, prefix=f"{kind}_", options=options)
    tao.solve(theta)
    assert tao.getType() == kind
    assert tao.getConvergedReason() > 0
    assert np.allclose(gathered(theta), minimum().params, rtol=0, atol=100 * gatol)
    assert abs(tao.getObjectiveValue() - minimum().value) < 1e-8


class Root(mfdeq.ResidualModel):
    """h² = theta, which has no solution if an entry of theta is negative."""

    state_size = param_size = N

    def initial_state(self, theta):
        h = theta.duplicate()
        h.set(1.0)
        return h

    def residual(self, h, theta):
        return h * h - theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            diagonal_of(2.0 * h),
            mat_of(-sp.identity(N)),
            lambda lam: mfdeq.Curvature(state_state=diagonal_of(2.0 * lam)),
        )


def root_loss():
    return mfdeq.LeastSquares(np.arange(N), np.full(N, 0.5), 1.0) + mfdeq.QuadraticPrior(1e-3)


@pytest.mark.parametrize("kind", ["ntr", "bntr"])
def test_tao_steps_back_from_points_without_equilibrium(kind):
    theta = vec_of(np.full(N, 4.0))
    F = mfdeq.ReducedFunctional(Root(), root_loss(), on_failure="inf")
    assert F.value(vec_of(np.full(N, -1.0))) == np.inf
    values, value = [], F.value
    F.value = lambda x: values.append(value(x)) or values[-1]
    options = {"tao_type": kind, "tao_gatol": 1e-8, "tao_trust0": 1e3}
    tao = mfdeq.petsc.tao(F, theta, prefix=f"root_{kind}_", options=options)
    tao.setInitialTrustRegionRadius(1e3)
    tao.solve()
    assert np.inf in values
    assert tao.getConvergedReason() > 0
    # (h - 1/2) / (2 h) + theta / 1000 = 0 at theta = h².
    assert np.linalg.norm(gathered(F.gradient(theta).vec())) < 1e-6


def test_errors_of_the_functional_come_through_tao():
    theta = vec_of(np.full(N, -1.0))
    tao = mfdeq.petsc.tao(mfdeq.ReducedFunctional(Root(), root_loss()), theta, prefix="raised_")
    with pytest.raises((MfdeqError, PETSc.Error)) as caught:
        tao.solve()
    # Later versions than 3.18 raise an error of their own from it.
    assert isinstance(caught.value.__cause__ or caught.value, ConvergenceError | ArithmeticError)
