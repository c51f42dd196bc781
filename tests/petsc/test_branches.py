"""Branches of a distributed model: crossings, folds and Hopf points as on one machine."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.bifurcation_models import Brusselator, Loaded, laplacian, ring_laplacian
from support.branch_models import square

pytest.importorskip("petsc4py")

from support.petsc_problems import gathered, mat_of, vec_of

import mfdeq


class OnRanks(mfdeq.ResidualModel):
    """A model in numpy that every rank evaluates whole, on Vecs and Mats."""

    def __init__(self, model):
        self.model = model
        self.state_size, self.param_size = model.state_size, model.param_size

    def residual(self, h, theta):
        return vec_of(self.model.residual(gathered(h), gathered(theta)))

    def linearize(self, h, theta):
        lin = self.model.linearize(gathered(h), gathered(theta))
        return mfdeq.Linearization(mat_of(lin.d_state), mat_of(sp.csr_matrix(lin.d_params)))


def both(model, theta0, start=None, **options):
    """Follow a branch on the ranks, and on one machine."""
    found = []
    for form, put in ((OnRanks(model), vec_of), (model, np.asarray)):
        given = {} if start is None else {"start": put(start)}
        found.append(mfdeq.follow(form, put(np.array([theta0])), **given, **options))
    return found


def check_same(found, expected):
    """The special points are the same; those in between depend on the units, which may differ."""
    special = [[p for p in branch.points if p.kind] for branch in (found, expected)]
    assert [p.kind for p in special[0]] == [p.kind for p in special[1]] != []
    np.testing.assert_allclose([p.t for p in special[0]], [p.t for p in special[1]], rtol=1e-7)
    assert [p.unstable for p in special[0]] == [p.unstable for p in special[1]]
    assert found.points[-1].unstable == expected.points[-1].unstable
    assert found.points[-1].t == expected.points[-1].t


@pytest.mark.parametrize("eigenvalues", [0, 4])
def test_simple_crossings_are_found(eigenvalues):
    model = Loaded(laplacian(20))
    branches = both(model, 0.0, np.zeros(20), span=(0.0, 100.0), eigenvalues=eigenvalues)
    check_same(*branches)
    exact = np.linalg.eigvalsh(model.L.toarray())
    np.testing.assert_allclose([p.t for p in branches[0].crossings], exact[exact < 100], rtol=1e-7)


def test_the_other_branch_is_followed():
    model = Loaded(laplacian(20))
    (crossing,) = both(model, 0.0, np.zeros(20), span=(0.0, 20.0))[0].crossings
    branch = mfdeq.follow(OnRanks(model), vec_of(np.zeros(1)), span=(0.0, 20.0), start=crossing)
    assert branch.t[-1] == pytest.approx(20.0)
    state = branch.points[-1].state.gathered()
    assert abs(state).max() > 0.3
    assert abs(model.residual(state, np.array([20.0]))).max() < 1e-7


RING = Loaded(ring_laplacian(5), lambda u: u - u**2 - u**3, lambda u: 1 - 2 * u - 3 * u**2)


@pytest.mark.parametrize("eigenvalues", [0, 3])
def test_a_double_point_is_found(eigenvalues):
    branches = both(RING, -0.5, np.zeros(5), span=(0.0, 3.0), eigenvalues=eigenvalues)
    check_same(*branches)
    assert branches[0].crossings[1].dimension == 2


@pytest.mark.slow
def test_a_branch_through_a_double_point_is_followed():
    theta0, span = vec_of(np.array([-0.5])), (0.0, 3.0)
    model = OnRanks(RING)
    trivial = mfdeq.follow(model, theta0, span=span, start=vec_of(np.zeros(5)))
    branch = mfdeq.follow(model, theta0, span=span, start=trivial.crossings[1], other=2)
    assert branch.t[-1] == pytest.approx(3.0)


def test_a_fold_is_found_with_its_derivative():
    found, expected = both(square(7), 6.0, span=(-0.5, 2.0), eigenvalues=2)
    check_same(found, expected)
    np.testing.assert_allclose(
        found.folds[0].derivative().gathered(), expected.folds[0].derivative(), rtol=1e-6
    )


def test_hopf_points_are_found():
    model = Brusselator(20, 2.0, 0.008, 0.004)
    found, expected = both(model, 4.5, model.start(4.5), span=(0.0, 1.5), eigenvalues=4)
    check_same(found, expected)
    assert len(found.hopfs) > 0
    assert found.hopfs[0].frequency == pytest.approx(expected.hopfs[0].frequency, rel=1e-6)


def test_eigenvalues_of_many_unknowns_are_refused():
    model = OnRanks(Loaded(laplacian(210)))
    start = vec_of(np.zeros(210))
    with pytest.raises(mfdeq.ArgumentError, match="at most 200 unknowns, got 210 unknowns"):
        mfdeq.follow(model, vec_of(np.zeros(1)), span=(0.0, 5.0), start=start, eigenvalues=2)
