"""Whether a minimum is one: `definite` shows it or says that it is unknown, without an error."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

import mfdeq


class Identity(mfdeq.ResidualModel):
    """h = theta, whose derivatives are products only or sparse matrices."""

    def __init__(self, size, sparse):
        self.state_size = self.param_size = size
        self.sparse = sparse

    def residual(self, h, theta):
        return h - theta

    def linearize(self, h, theta):
        eye = sp.identity(self.state_size, format="csr")
        one = eye if self.sparse else aslinearoperator(eye)
        return mfdeq.Linearization(one, -one, lambda lam: mfdeq.Curvature())


def minimum_at_zero(weights, sparse, curvature=None):
    """Return the "minimum" of sum(weights h²) / 2 at zero, where the gradient is zero."""
    loss = mfdeq.Loss(
        lambda h, t: 0.5 * float(weights @ h**2),
        lambda h, t: weights * h,
        curvature=curvature
        or (lambda h, t: mfdeq.Curvature(state_state=sp.diags(weights).tocsr())),
    )
    model = Identity(len(weights), sparse)
    F = mfdeq.ReducedFunctional(model, loss, solver=mfdeq.Krylov("gmres"))
    return mfdeq.minimize(F, np.zeros(len(weights)), "l-bfgs")


def clustered(size, smallest):
    """Return weights over eight decades, half of them clustered at the lower end."""
    low = np.linspace(1e-3, 1.1e-3, size // 2)
    low[0] = smallest
    return np.r_[low, np.logspace(-1, 4, size - size // 2)]


@pytest.mark.parametrize("smallest", [1e-3, -1e-9])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("size", [5, 300])
def test_a_few_hundred_parameters_are_judged_with_or_without_matrices(size, sparse, smallest):
    found = minimum_at_zero(clustered(size, smallest), sparse)
    assert found.definite is (smallest > 0)


def test_the_smallest_of_a_few_hundred_clustered_eigenvalues_is_computed():
    found = minimum_at_zero(clustered(200, 1e-4), sparse=False)
    np.testing.assert_allclose(found.smallest.values, [1e-4], rtol=1e-6)
    assert found.smallest.vectors.shape == (200, 1)


@pytest.mark.parametrize("smallest", [1e-3, -1e-3])
def test_many_parameters_are_judged_by_an_inertia_count(smallest):
    assert minimum_at_zero(clustered(2000, smallest), sparse=True).definite is (smallest > 0)


def test_many_parameters_without_matrices_are_judged_only_by_a_negative_eigenvalue():
    assert minimum_at_zero(clustered(400, -1e4), sparse=False).definite is False
    assert minimum_at_zero(np.linspace(1, 2, 400), sparse=False).definite is None


@pytest.mark.parametrize("sparse", [False, True])
def test_a_singular_hessian_is_not_called_definite(sparse):
    found = minimum_at_zero(np.r_[0.0, np.ones(20)], sparse)
    assert found.definite is not True


@pytest.mark.parametrize("error", [ValueError("no"), mfdeq.ModelError("no"), TypeError("no")])
def test_a_hessian_that_fails_makes_it_unknown(error):
    def fail(h, t):
        raise error

    assert minimum_at_zero(np.ones(5), True, fail).definite is None
