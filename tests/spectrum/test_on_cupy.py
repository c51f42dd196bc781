"""Eigenvalues, posteriors, traces and densities on cupy arrays agree with numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from support.cupy_problems import (
    assert_cupy_agrees_with_numpy,
    bratu,
    bratu_hessian,
    bratu_prior,
    misfit_hessian,
    needs_cupy,
    sparse_hessian,
)

import mfdeq


def preconditioned_smallest(xp):
    H, prior = misfit_hessian(xp).gauss_newton, bratu_prior(xp)
    M = mfdeq.LowRank(mfdeq.eigsh(H, 5, M=prior))
    return mfdeq.eigsh(H + prior, 3, "SA", preconditioner=M)


EIGENPAIRS = {
    **{
        f"eigenvalues {which}": lambda xp, which=which: mfdeq.eigsh(
            bratu_hessian(xp), 4, which, rtol=1e-10
        )
        for which in ("LM", "LA", "SA", "BE")
    },
    "in blocks": lambda xp: mfdeq.eigsh(bratu_hessian(xp), 4, block=3, basis=24, rtol=1e-10),
    "near a shift": lambda xp: mfdeq.eigsh(sparse_hessian(xp), 3, sigma=0.05, certify=True),
    "near a shift, with a prior": lambda xp: mfdeq.eigsh(
        sparse_hessian(xp), 3, sigma=0.2, M=bratu_prior(xp)
    ),
    "with a prior": lambda xp: mfdeq.eigsh(bratu_hessian(xp), 3, M=bratu_prior(xp)),
    "with a dense prior": lambda xp: mfdeq.eigsh(
        bratu_hessian(xp), 3, M=bratu_prior(xp).array.toarray()
    ),
    "resumed": lambda xp: mfdeq.eigsh(
        bratu_hessian(xp), 5, resume=mfdeq.eigsh(bratu_hessian(xp), 3), rtol=1e-9
    ),
    "smallest, preconditioned": preconditioned_smallest,
    "by random products": lambda xp: mfdeq.randomized_eigsh(
        misfit_hessian(xp).gauss_newton, 5, M=bratu_prior(xp), rtol=1e-8
    ),
}


@needs_cupy
@pytest.mark.parametrize("name", EIGENPAIRS)
def test_eigenpairs_agree_with_numpy(name):
    def compute(xp):
        pairs = EIGENPAIRS[name](xp)
        assert pairs.report.converged
        # Eigenvectors are compared by their projector, which does not depend on signs.
        return pairs.values, pairs.vectors @ pairs.vectors.T, pairs.error_bounds < 1e-3

    # Eigenspaces have the requested accuracy divided by the gap.
    assert_cupy_agrees_with_numpy(compute, lambda here: 1e-7 if here.ndim == 2 else 1e-9)


@needs_cupy
def test_all_eigenvalues_agree_with_numpy():
    assert_cupy_agrees_with_numpy(lambda xp: [mfdeq.eigsh(bratu_hessian(xp), 81).values])


@needs_cupy
def test_a_low_rank_posterior_agrees_with_numpy():
    def compute(xp):
        post = mfdeq.LowRank(mfdeq.eigsh(misfit_hessian(xp), 5, M=bratu_prior(xp)))
        b = bratu(xp).random(81, 2)
        return (
            post @ b,
            post.precision @ b,
            post.variances(),
            post.variance_reduction(),
            post.log_determinant(),
            post.expected_information_gain(),
            post.information_gain(b[:, 0]),
        )

    assert_cupy_agrees_with_numpy(compute)


ESTIMATES = {
    "trace": lambda xp: mfdeq.trace(bratu_hessian(xp), products=30),
    "Frobenius norm": lambda xp: mfdeq.frobenius_norm(
        bratu_hessian(xp), products=30, M=bratu_prior(xp)
    ),
    "log determinant": lambda xp: mfdeq.log_determinant(bratu_hessian(xp), probes=6, steps=30),
}


@needs_cupy
@pytest.mark.parametrize("name", ESTIMATES)
def test_an_estimate_and_its_standard_error_agree_with_numpy(name):
    def compute(xp):
        estimate = ESTIMATES[name](xp)
        return estimate.value, estimate.standard_error

    assert_cupy_agrees_with_numpy(compute)


@needs_cupy
def test_the_condition_number_agrees_with_numpy():
    assert_cupy_agrees_with_numpy(lambda xp: [mfdeq.condition_number(sparse_hessian(xp)).value])


@needs_cupy
def test_the_numerical_rank_agrees_with_numpy():
    assert_cupy_agrees_with_numpy(
        lambda xp: [mfdeq.numerical_rank(misfit_hessian(xp).gauss_newton, probes=6, steps=20).value]
    )


@needs_cupy
def test_a_spectral_density_agrees_with_numpy():
    def compute(xp):
        density = mfdeq.spectral_density(bratu_hessian(xp), M=bratu_prior(xp), probes=6, steps=20)
        total = density.sum(np.exp)
        return (
            total.value,
            total.standard_error,
            density.cumulative([1.0, 10.0]),
            density([1.0], 0.5),
        )

    assert_cupy_agrees_with_numpy(compute, results_are_on_host=True)


@needs_cupy
def test_a_nystrom_preconditioner_agrees_with_numpy():
    assert_cupy_agrees_with_numpy(
        lambda xp: [mfdeq.Nystrom(misfit_hessian(xp).gauss_newton, 8, 1.0) @ bratu(xp).random(81)]
    )
