"""Eigenvalues, posteriors, traces and densities run on any array library and device."""

from __future__ import annotations

import numpy as np
import pytest
from support.places import Place, assert_agrees_with_numpy
from support.strict_library import strict_library

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.operators.matrix_operator import Matrix

RNG = np.random.default_rng(0)


@pytest.fixture(params=["CPU_DEVICE", "device1"])
def place(request):
    return Place(request.param)


@pytest.fixture
def _strict_library():
    with strict_library():
        yield


@pytest.mark.usefixtures("_strict_library")
@pytest.mark.parametrize("which", ["LM", "BE"])
@pytest.mark.parametrize("block", [1, 3])
def test_eigenvalues_with_restarts_and_copies_agree_with_numpy(place, block, which):
    """Random starts search for copies of eigenvalues."""
    Q = np.linalg.qr(RNG.standard_normal((60, 60)))[0]
    for values in (np.linspace(-1, 2, 60) ** 3, np.r_[np.full(20, -1.0), np.full(40, 2.0)]):
        dense = (Q * values) @ Q.T

        def compute(place, dense=dense, values=values):
            H = Matrix(Backend.of(place(dense)), place(dense))
            found = mfdeq.eigsh(H, k=3, which=which, block=block, basis=12, rtol=1e-10)
            off = H @ found.vectors - found.vectors * found.values
            assert float(place.xp.max(place.xp.abs(off))) < 1e-8
            return [found.values]

        assert_agrees_with_numpy(place, compute)


@pytest.mark.usefixtures("_strict_library")
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_eigenpairs_of_a_dense_matrix_agree_with_numpy(place, which):
    A = np.random.default_rng(1).standard_normal((12, 12))
    A = A + A.T

    def compute(place):
        found = mfdeq.eigsh(Matrix(Backend.of(place(A)), place(A)), 3, which)
        return found.values, abs(found.vectors), found.error_bounds

    assert_agrees_with_numpy(place, compute)


@pytest.mark.usefixtures("_strict_library")
@pytest.mark.parametrize("precision", ["dense", "diagonal"])
def test_a_generalized_problem_and_its_posterior_agree_with_numpy(place, precision):
    rng = np.random.default_rng(2)
    C, S = rng.standard_normal((60, 8)), rng.standard_normal((60, 60)) / 8
    M = S @ S.T + np.eye(60) if precision == "dense" else np.linspace(1, 9, 60)

    def compute(place):
        H = Matrix(Backend.of(place(C)), place(C @ C.T))
        R = mfdeq.Precision(place(M))
        found = mfdeq.eigsh(H, 9, M=R, rtol=1e-12)  # one more than the rank
        random = mfdeq.randomized_eigsh(H, 9, M=R)
        low = mfdeq.LowRank(found)
        return (
            found.values,
            random.values,
            mfdeq.LowRank(random) @ place(C),
            low.precision @ place(C),
            low.variances(),
            low.samples(3, mean=place(np.ones(60))),
            place([low.log_determinant(), low.information_gain(place(C[:, 0]))]),
        )

    assert_agrees_with_numpy(place, compute)


@pytest.mark.usefixtures("_strict_library")
def test_traces_and_densities_agree_with_numpy(place):
    C = np.random.default_rng(2).standard_normal((60, 80))

    def compute(place):
        H = Matrix(Backend.of(place(C)), place(C @ C.T))
        M = place(np.linspace(1, 9, 60))
        pairs = mfdeq.eigsh(H, 2, M=M)
        small = mfdeq.eigsh(H, 3, "SA", preconditioner=place(np.linalg.inv(C @ C.T + np.eye(60))))
        density = mfdeq.spectral_density(H, M=M, pairs=pairs, probes=4, steps=10)
        found = [
            density.sum(np.log1p),
            mfdeq.trace(H, products=30),
            mfdeq.frobenius_norm(H, M=M, products=30),
            mfdeq.log_determinant(H, probes=4, steps=10),
        ]
        numbers = [x for e in found for x in (e.value, e.standard_error)]
        return place(numbers), mfdeq.Nystrom(H, 10, 0.1) @ place(C), small.values

    assert_agrees_with_numpy(place, compute)
