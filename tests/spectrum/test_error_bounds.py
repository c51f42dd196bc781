"""Error bounds hold for random spectra, products with noise of known size, and every method."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from support.fuzzing import CASE_FACTOR
from support.repeats import one_fast

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.operators.operator import SelfAdjoint
from mfdeq.spectrum.arguments import WHICH


class NoisyOperator(SelfAdjoint):
    """A dense matrix whose products have random errors of a known relative length."""

    def __init__(self, source, dense, noise, rng):
        super().__init__(source, dense.shape)
        self.dense, self.noise, self.rng = dense, noise, rng

    def _apply(self, x):
        return self.with_error(x)[0]

    def with_error(self, x, *, rtol=None):
        """Return a product and its error, which is known in length but not in direction."""
        off = self.rng.standard_normal(x.shape)
        off *= self.noise * np.linalg.norm(x, axis=0) / np.linalg.norm(off, axis=0)
        estimate = self.rng.standard_normal(x.shape)
        estimate *= np.linalg.norm(off, axis=0) / np.linalg.norm(estimate, axis=0)
        return self.dense @ x + off, estimate


def random_spectrum(rng, n, kind):
    """Return a random spectrum: six decades, copies, clusters, low rank or definite, scaled."""
    values = rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-6, 0, n)
    if kind == "copies":
        values[rng.integers(0, n, n // 2)] = rng.standard_normal()
    elif kind == "clusters":
        values[: n // 2] = rng.standard_normal() * (1 + 1e-5 * rng.standard_normal(n // 2))
    elif kind == "low rank":
        values[rng.integers(3, 12) :] = 0.0
    elif kind == "definite":
        values = abs(values)
    return 10.0 ** rng.integers(-12, 13) * values


def eigenpairs(H, k, which, M, kind, rng):
    """Compute eigenpairs by a random method that is suitable for the case."""
    method = rng.integers(0, 4)
    if method == 0:
        return mfdeq.randomized_eigsh(
            H, k, M=M, rtol=1e-2, max_passes=3, seed=int(rng.integers(99))
        )
    if method == 1 and kind == "definite":
        size = abs(H.dense).max()
        near = np.linalg.inv(H.dense + 1e-3 * size * np.eye(H.shape[0]))
        return mfdeq.eigsh(H, k, "SA", M=M, preconditioner=near, rtol=1e-3, max_products=200)
    block = int(rng.integers(1, 4))
    return mfdeq.eigsh(H, k, which, M=M, block=block, rtol=1e-3, max_products=150)


def bounds_hold(case):
    """Return whether each interval of one random case contains an eigenvalue."""
    rng = np.random.default_rng(case)
    n = int(rng.integers(42, 70))
    kind = ("wide", "copies", "clusters", "low rank", "definite")[case % 5]
    values = random_spectrum(rng, n, kind)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    dense = (Q * values) @ Q.T
    dense = (dense + dense.T) / 2
    M, truth = None, values
    if case % 2:
        M = 10.0 ** rng.uniform(-2, 2, n)
        truth = scipy.linalg.eigh(dense, np.diag(M), eigvals_only=True)
    noise = abs(values).max() * float(10.0 ** rng.uniform(-14, -5))
    H = NoisyOperator(Backend.of(dense), dense, noise, rng)
    try:
        k = int(rng.integers(1, 6 if case % 3 else 14))
        pairs = eigenpairs(H, k, WHICH[case % 4], M, kind, rng)
    except mfdeq.ConvergenceError as error:
        pairs = error.best
    distance = abs(truth[:, None] - pairs.values).min(axis=0)
    rounding = 1e-13 * abs(truth).max()
    return bool(np.all(distance <= pairs.error_bounds + rounding))


@pytest.mark.parametrize("hundred", one_fast(*range(4)))
def test_error_bounds_hold_for_random_spectra_and_noise(hundred):
    cases = range(100 * hundred, 100 * hundred + 100)
    assert [case for case in cases if not bounds_hold(case)] == []


@pytest.mark.slow
def test_error_bounds_hold_for_thousands_of_random_spectra():
    assert [case for case in range(400, 400 + 3_000 * CASE_FACTOR) if not bounds_hold(case)] == []
