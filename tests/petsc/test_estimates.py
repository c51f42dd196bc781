"""Estimates from Hessians, posteriors and branches agree on ranks and on one machine."""

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")

from support.petsc_problems import (
    LOSS,
    THETA,
    Cubic,
    P,
    Twin,
    mat_of,
    on_one_machine,
    on_ranks,
    vec_of,
)

import mfdeq
import mfdeq.petsc

R = sp.diags(np.linspace(1.0, 3.0, P)).tocsr()


def diagonal_of(R):
    """The diagonal of a Mat as a Vec, or of a scipy matrix as an array."""
    return R.getDiagonal() if hasattr(R, "getDiagonal") else R.diagonal()


def pair_of(kind):
    """The same operator on ranks and on one machine, and the precision of a prior for each."""
    found = (eq.hessian(LOSS) for eq in (on_ranks(), on_one_machine()))
    if kind == "gauss_newton":
        found = (H.gauss_newton for H in found)
    return zip(found, (mat_of(R), R), strict=True)


ESTIMATES = {
    "randomized": ("hessian", lambda H, R: mfdeq.randomized_eigsh(H, 6).values),
    "density": ("hessian", lambda H, R: mfdeq.spectral_density(H).sum(lambda x: x**2).value),
    "generalized density": (
        "hessian",
        lambda H, R: mfdeq.spectral_density(H, M=diagonal_of(R)).sum(lambda x: x**2).value,
    ),
    "log-determinant": ("gauss_newton", lambda H, R: mfdeq.log_determinant(H).value),
    "rank": ("hessian", lambda H, R: mfdeq.numerical_rank(H).value),
    "trace": ("hessian", lambda H, R: mfdeq.trace(H).value),
    "norm": ("hessian", lambda H, R: mfdeq.frobenius_norm(H).value),
    "condition": ("gauss_newton", lambda H, R: mfdeq.condition_number(H, rtol=1e-6).value),
}
INVERSES = {
    "Nystrom": lambda H, R: mfdeq.Nystrom(H, 10, shift=1.0),
    "LowRank": lambda H, R: mfdeq.LowRank(mfdeq.eigsh(H, 6, M=mfdeq.Precision(R), rtol=1e-10)),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_agree(name):
    kind, estimate = ESTIMATES[name]
    found, expected = (estimate(*given) for given in pair_of(kind))
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-7)


@pytest.mark.filterwarnings("ignore:the covariance of a LowRank:mfdeq.AccuracyWarning")  # six pairs
@pytest.mark.parametrize("name", INVERSES)
def test_approximate_inverses_agree(name):
    found, expected = (INVERSES[name](*given) for given in pair_of("gauss_newton"))
    x = np.linspace(-1.0, 1.0, P)
    np.testing.assert_allclose((found @ vec_of(x)).gathered(), expected @ x, rtol=1e-7, atol=1e-9)


@pytest.mark.filterwarnings("ignore:the covariance of a LowRank:mfdeq.AccuracyWarning")  # six pairs
def test_posterior_figures_agree():
    found, expected = (
        mfdeq.LowRank(mfdeq.eigsh(H, 6, M=mfdeq.Precision(R), rtol=1e-10))
        for H, R in pair_of("gauss_newton")
    )
    for name in ("log_determinant_ratio", "expected_information_gain"):
        assert float(getattr(found, name)()) == pytest.approx(float(getattr(expected, name)()))


def test_samples_of_a_precision_need_its_root():
    with pytest.raises(mfdeq.ArgumentError, match="expected root="):
        mfdeq.Precision(mat_of(R)).samples()
    with pytest.raises(mfdeq.ArgumentError, match="not positive definite: 1 eigenvalues"):
        mfdeq.Precision(mat_of(R - 1.01 * sp.identity(P)))


def test_branch_agrees():
    along = np.ones(P)
    branches = [
        mfdeq.follow(model(), put(THETA), put(along), span=(0.0, 1.0), eigenvalues=2)
        for model, put in ((Cubic, vec_of), (Twin, np.asarray))
    ]
    found, expected = (branch.points[-1] for branch in branches)
    assert len(branches[0].points) == len(branches[1].points) > 3
    np.testing.assert_allclose(found.state.gathered(), expected.state, rtol=1e-7, atol=1e-9)
