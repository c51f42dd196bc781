"""Eigenpairs by SLEPc, and by mfdeq's own Lanczos on ranks, agree with those on one machine."""

import re
import sys

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")
pytest.importorskip("slepc4py")

from petsc4py import PETSc
from support.petsc_problems import (
    DATA,
    LOSS,
    OBSERVED,
    N,
    P,
    hessians,
    mat_of,
    on_ranks,
    vec_of,
)
from support.terminal import Terminal

import mfdeq
import mfdeq.petsc
from mfdeq.errors import ArgumentError, ConvergenceError, SingularStateError
from mfdeq.operators.operator import SelfAdjoint
from mfdeq.petsc.mats import MatOperator


def check(pairs, reference, exact=None):
    """Check values, vectors up to sign, and bounds; `exact` are all eigenvalues."""
    k = reference.values.shape[0]
    X = pairs.vectors.gathered()
    M = np.eye(P) if pairs.precision is None else METRIC
    assert pairs.vectors.shape == (P, k)
    assert np.allclose(pairs.values, reference.values, rtol=0, atol=1e-9)
    assert np.allclose(abs(X.T @ (M @ reference.vectors)), np.eye(k), rtol=0, atol=1e-6)
    assert np.allclose(X.T @ (M @ X), np.eye(k), rtol=0, atol=1e-12)
    assert pairs.report.converged
    if exact is None:
        return
    off = abs(pairs.values[:, None] - exact).min(axis=1)
    rounding = np.finfo(float).eps * abs(exact).max()  # of the eigenvalues to compare with
    assert (off <= pairs.error_bounds + rounding).all()
    assert (pairs.error_bounds < 1e-5 * abs(exact).max()).all()


def exact():
    H = hessians()[1].toarray()
    return np.linalg.eigvalsh(0.5 * (H + H.T))


@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_extreme_pairs_agree(which):
    H, ref = hessians()
    check(mfdeq.petsc.eigsh(H, 5, which, 1e-8), mfdeq.eigsh(ref, 5, which, 1e-8), exact())


@pytest.mark.parametrize("sigma", [0.0, 1.1, -3.0])
def test_pairs_nearest_to_a_shift_agree_and_are_counted(sigma):
    H, ref = hessians()
    found = mfdeq.petsc.eigsh(H, 4, sigma=sigma, certify=True)
    assert found.report.missed == 0
    assert mfdeq.petsc.eigsh(H, 2, "LA").report.missed is None
    assert mfdeq.petsc.eigsh(H, 2, "LA", certify=True).report.missed == 0
    check(found, mfdeq.eigsh(ref, 4, sigma=sigma), exact())
    assert "Lagrangian" in found.report.method


METRIC = sp.diags(np.linspace(1.0, 3.0, P)).tocsr()
LANCZOS_OPTIONS = {  # by a function that puts an array or matrix on ranks, or leaves it
    "largest": lambda put: {},
    "blocks": lambda put: {"block": 3, "basis": 30},
    "both ends": lambda put: {"which": "BE"},
    "a start": lambda put: {"v0": put(np.linspace(-1.0, 2.0, P))},
    "M by its diagonal": lambda put: {"M": put(METRIC.diagonal())},
    "M": lambda put: {"M": mfdeq.Precision(METRIC if put is np.asarray else mat_of(METRIC))},
    "sigma": lambda put: {"sigma": 0.3},
    "sigma, certified": lambda put: {"sigma": 0.3, "certify": True},
    "largest, certified": lambda put: {"which": "LA", "certify": True},
    "sigma, M": lambda put: {
        "sigma": 0.3,
        "M": mfdeq.Precision(METRIC if put is np.asarray else mat_of(METRIC)),
        "certify": True,
    },
    "all": lambda put: {"k": P, "which": "SA"},
}


@pytest.mark.parametrize("name", LANCZOS_OPTIONS)
def test_lanczos_agrees(name):
    H, ref = hessians()
    found = mfdeq.eigsh(H, **{"k": 5, "rtol": 1e-8} | LANCZOS_OPTIONS[name](vec_of))
    expected = mfdeq.eigsh(ref, **{"k": 5, "rtol": 1e-8} | LANCZOS_OPTIONS[name](np.asarray))
    check(found, expected)
    assert found.report.missed == expected.report.missed
    assert (found.report.missed == 0) == ("certif" in name or "sigma, M" in name)


def test_lanczos_agrees_when_resumed_and_preconditioned():
    H, ref = hessians()
    few = mfdeq.eigsh(H, 2, rtol=1e-9)
    more = mfdeq.eigsh(H, 5, rtol=1e-9, resume=few)
    check(more, mfdeq.eigsh(ref, 5, rtol=1e-9))
    inverse = MatOperator(
        H.backend, mat_of(np.linalg.inv(np.diag(np.diag(ref @ np.eye(P))) + np.eye(P)))
    )
    smallest = mfdeq.eigsh(H, 3, "SA", 1e-9, preconditioner=inverse)
    assert smallest.report.method != "Lanczos"
    check(smallest, mfdeq.eigsh(ref, 3, "SA", 1e-9))


def test_all_pairs_and_pairs_of_the_users_matrices():
    assert np.allclose(mfdeq.petsc.eigsh(hessians()[0], P, "SA").values, exact(), rtol=0, atol=1e-9)
    A = mat_of(np.diag(np.arange(63.0)))
    assert np.allclose(mfdeq.petsc.eigsh(A, 3, "SA").values, [0, 1, 2], rtol=0, atol=1e-7)
    assert np.allclose(mfdeq.petsc.eigsh(mat_of(np.zeros((62, 62))), 3).values, 0)


def test_options_of_the_prefix_are_read():
    H, _ = hessians()
    PETSc.Options()["other_eps_type"] = "lobpcg"
    found = mfdeq.petsc.eigsh(H, 2, "SA", prefix="other_")
    assert "lobpcg" in found.report.method
    assert np.allclose(found.values, exact()[:2], rtol=0, atol=1e-9)


def test_fewer_pairs_than_asked_for_are_an_error():
    H, _ = hessians()
    few = {"eps_max_it": 1}
    with pytest.raises(ConvergenceError, match=r"1 of 6 .* DIVERGED_ITS") as caught:
        mfdeq.petsc.eigsh(H, 6, "SA", 1e-12, prefix="few_", options=few)
    assert np.allclose(caught.value.best.values, exact()[:1], rtol=0, atol=1e-9)
    assert not caught.value.report.converged
    with pytest.raises(ConvergenceError, match="0 of 6"):
        mfdeq.petsc.eigsh(H, 6, "SA", 1e-12, prefix="none_", options={**few, "eps_ncv": 8})


@pytest.mark.parametrize(("options", "unit"), [({}, "products"), ({"sigma": 0.3}, "solves")])
def test_a_progress_bar_counts_what_takes_the_time(options, unit, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    mfdeq.petsc.eigsh(on_ranks().hessian(LOSS), 4, progress=True, **options)
    [count] = re.findall(rf"eigsh: (\d+) {unit}", terminal.getvalue().split("\r")[-1])
    assert int(count) > 4


def test_sigma_on_an_eigenvalue_is_an_error():
    few = mfdeq.LeastSquares(OBSERVED, DATA)  # fewer than there are parameters
    with pytest.raises(SingularStateError, match="sigma is an eigenvalue"):
        mfdeq.petsc.eigsh(on_ranks().hessian(few).gauss_newton, 3, sigma=0.0)


def test_sigma_needs_blocks_and_a_hessian():
    curved = mfdeq.Loss(
        lambda h, theta: 0.5 * h.dot(h),
        lambda h, theta: h,
        curvature=lambda h, theta: lambda u, z: (0.0 * u, z),
    )
    H = on_ranks().hessian(curved)
    with pytest.raises(ArgumentError, match="pass its blocks"):
        mfdeq.petsc.eigsh(H, 3, sigma=0.0)
    with pytest.raises(ArgumentError, match="H: expected an mfdeq Hessian or a matrix"):
        mfdeq.petsc.eigsh(Failing(H, (P, P)), 3, sigma=0.5)


@pytest.mark.parametrize("scale", [1e-16, 1.0, 1e16])
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_mats_have_a_shift_and_a_count(which, scale):
    matrix = scale * sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(60, 60)).tocsr()
    found = mfdeq.petsc.eigsh(mat_of(matrix), 4, which, sigma=scale, certify=True)
    expected = mfdeq.eigsh(matrix, 4, which, sigma=scale)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)
    assert found.report.missed == 0


class Failing(SelfAdjoint):
    calls = 0

    def _apply(self, x):
        self.calls += 1
        if self.calls > 4:
            raise ConvergenceError("stopped here")
        return x


def test_error_of_a_product_is_raised():
    with pytest.raises(ConvergenceError, match="stopped here"):
        mfdeq.petsc.eigsh(Failing(on_ranks().of.backend, (P, P)), 2)


def test_matrix_that_is_not_symmetric_is_refused():
    A = np.triu(np.random.default_rng(0).standard_normal((P, P)))
    with pytest.raises(ConvergenceError, match="not symmetric"):
        mfdeq.petsc.eigsh(mat_of(A), 3)


def test_wrong_arguments_are_refused():
    H, _ = hessians()
    for arguments in (
        (H, 0),
        (H, P + 1),
        (H, 2, "SM"),
        (H, 2, "LM", 2.0),
        (mat_of(np.ones((3, 4))), 1),
    ):
        with pytest.raises(ArgumentError):
            mfdeq.petsc.eigsh(*arguments)
    with pytest.raises(ArgumentError, match=r"use mfdeq\.eigsh"):
        mfdeq.petsc.eigsh(np.eye(4), 1)
    with pytest.raises(ArgumentError, match="v0: expected shape"):
        mfdeq.petsc.eigsh(H, 2, v0=vec_of(np.ones(N)))
