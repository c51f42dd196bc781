"""Precisions on cupy's arrays, in every form in which they may be given."""

from __future__ import annotations

import pytest
from support.cupy_problems import assert_cupy_agrees_with_numpy, bratu, bratu_prior, needs_cupy

import mfdeq

MATRICES = {
    "sparse": lambda xp: bratu_prior(xp).array,
    "dense": lambda xp: bratu_prior(xp).array.toarray(),
    "diagonal": lambda xp: xp.arange(1.0, 82),
}


@needs_cupy
@pytest.mark.parametrize("name", MATRICES)
def test_a_precision_by_its_entries_agrees_with_numpy(name):
    def compute(xp):
        b, R = bratu(xp).random(81, 3), mfdeq.Precision(MATRICES[name](xp))
        return (
            R @ b,
            R.solve(b),
            R.solve(b[:, 0]),
            R.covariance @ b,
            R.samples(2),
            R.samples(),
            R.variances(),
            R.log_determinant(),
        )

    assert_cupy_agrees_with_numpy(compute)


@needs_cupy
def test_a_precision_by_its_products_and_solves_agrees_with_numpy():
    def compute(xp):
        prior, b = bratu_prior(xp), bratu(xp).random(81, 3)
        inverse = xp.linalg.inv(prior.array.toarray())
        R = mfdeq.Precision(prior + prior, solve=lambda b: inverse @ b / 2)
        return R @ b, R.solve(b)

    assert_cupy_agrees_with_numpy(compute)
