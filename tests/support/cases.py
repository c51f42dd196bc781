"""The table of test cases: each has a model, its parameters, a loss and the dense truth.

``CASES`` has every model in its original form, in float64; ``SINGLE`` the same in float32;
``GIVEN`` every model with every form of its derivatives; ``CUPY`` all of these in cupy arrays, if
there is a device or its simulation; ``EVERY`` has all.

    @pytest.mark.parametrize("case", EVERY, ids=str)
    def test_adjoint_state(case):
        eq = case.equilibrium()
        close(eq.adjoint(case.loss), case.truth.adjoint_state, case.rtol)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from support.case_forms import FORMS, linearization, with_linearize
from support.case_losses import (
    CaseLoss,
    IndexedMisfit,
    LinearLoss,
    MisfitLoss,
    MixedLoss,
    OperatorMisfit,
    ProductLoss,
    StateLoss,
)
from support.case_models import (
    Affine,
    Bratu,
    Chandrasekhar,
    Cosine,
    Data,
    Diffusion,
    Smooth,
    SpectralBratu,
    Stiff,
)
from support.case_truth import DenseTruth, truth_of
from support.closed_forms import chandrasekhar_quadrature, chebyshev_laplacian, five_point_laplacian
from support.places import available_cupy, cupy_label, to_numpy

import mfdeq


@dataclass(frozen=True, eq=False)
class Case:
    """One row of the table, in one array namespace and dtype."""

    name: str
    model: Any
    params: Any
    loss: Any
    h0: Any
    truth: DenseTruth
    written: tuple[Data, CaseLoss]
    xp: Any = np
    form: str = "as written"

    def __str__(self):
        return self.name

    @property
    def dtype(self):
        return self.model.dtype

    @property
    def rtol(self):
        """The largest error of a correct result, relative to the norm of the truth.

        It is rounding, or the tolerance 1e-10 of a Krylov method if A has no entries, times the
        condition number of A and a margin. A wrong term causes a far larger error.
        """
        eps = float(np.finfo(self.dtype).eps)
        unit = max(eps, 1e-11) if self.form == "operators" else eps
        return 30 * unit * max(self.truth.condition, 10.0)

    def equilibrium(self, **options):
        """Return the equilibrium at the true state, so that tests do not depend on the solve."""
        state = self.xp.asarray(self.truth.state, dtype=self.dtype)
        return mfdeq.equilibrium_at(self.model, self.params, state, **options)

    def solve(self, **options):
        return mfdeq.solve(self.model, self.params, self.h0, **options)

    def array(self, host):
        """Convert a host array to the case's namespace and dtype."""
        return self.xp.asarray(np.asarray(host), dtype=self.dtype)

    def random(self, *shape, seed=0):
        """Return a standard normal array in the case's namespace and dtype."""
        return self.array(np.random.default_rng(seed).standard_normal(shape))


def error(actual, expected):
    """Return the error relative to the norm of `expected`; assert that the shapes agree."""
    actual, expected = to_numpy(actual), np.asarray(expected, dtype=float)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(actual - expected) / (scale if scale else 1.0))


def close(actual, expected, rtol):
    """Assert that actual equals expected within rtol of its norm (NaN is never close)."""
    off = error(actual, expected)
    assert off <= rtol, f"relative error {off:.2e}, allowed {rtol:.2e}"


def case_in_form(case, form):
    """Return the case with the derivatives of its model and loss in another form."""
    model, loss = case.written
    given = FORMS[form]
    return replace(
        case,
        name=f"{case.name}-{form}",
        form=form,
        model=with_linearize(
            model, lambda self, h, theta: linearization(self, self.fields(h, theta), given)
        ),
        loss=mfdeq.Loss(
            loss.value,
            d_state=loss.d_state,
            d_params=loss.d_params,
            curvature=lambda h, theta: given.curvature(loss.blocks(h, theta), model),
        ),
    )


# The table


def symmetric(rng, n, scale):
    half = rng.standard_normal((n, n))
    return scale * (half @ half.T / n + np.eye(n))


def cosine():
    return (
        partial(Cosine),
        partial(MixedLoss, d=[0.2], q=[0.7], p=[-0.5], G=[[0.6]]),
        [0.3],
    )


def affine():
    rng = np.random.default_rng(1)
    N, P = 6, 4
    M = rng.standard_normal((N, N))
    return (
        partial(
            Affine,
            M=0.6 * M / np.linalg.norm(M, 2),
            C=rng.standard_normal((N, P)),
            c=rng.standard_normal(N),
        ),
        partial(
            IndexedMisfit,
            O=np.eye(N)[[4, 0, 5]],
            data=rng.standard_normal(3),
            weights=[0.5, 2.0, 1.0],
            precision=symmetric(rng, P, 0.3),
            mean=rng.standard_normal(P),
        ),
        rng.standard_normal(P),
    )


def smooth():
    rng = np.random.default_rng(2)
    N, P = 5, 3
    W = rng.standard_normal((N, N))
    Q, G = rng.standard_normal((N, N, N)), rng.standard_normal((N, P, P))
    return (
        partial(
            Smooth,
            W=0.5 * W / np.linalg.norm(W, 2),
            U=0.6 * rng.standard_normal((N, P)),
            b=0.5 * rng.standard_normal(N),
            Q=0.03 * (Q + Q.transpose(0, 2, 1)),
            E=0.08 * rng.standard_normal((N, N, P)),
            G=0.2 * (G + G.transpose(0, 2, 1)),
        ),
        partial(
            MixedLoss,
            d=rng.standard_normal(N),
            q=0.6 * rng.standard_normal(N),
            p=0.6 * rng.standard_normal(P),
            G=symmetric(rng, P, 0.5),
        ),
        0.5 * rng.standard_normal(P),
    )


def stiff():
    rng = np.random.default_rng(3)
    N, P = 4, 6
    X = np.eye(N) + 0.4 * rng.standard_normal((N, N))
    return (
        partial(
            Stiff,
            S=X @ np.diag([2.0, 9.0, 40.0, 150.0]) @ np.linalg.inv(X),
            V=rng.standard_normal((N, N)),
            E=0.5 * rng.standard_normal((N, P)),
            C=0.7 * rng.standard_normal((N, P)),
            s=[3.0, -6.0, 30.0, -60.0],
        ),
        partial(StateLoss, d=0.5 * rng.standard_normal(N), weights=[1.0, 0.3, 2.0, 0.7]),
        0.5 * rng.standard_normal(P),
    )


def chandrasekhar(n=8):
    mu, w = chandrasekhar_quadrature(n)
    return partial(Chandrasekhar, mu=mu, w=w), partial(ProductLoss, w=w), 0.25 + 0.2 * mu


def square():
    """Chandrasekhar's equation, N = P, with a loss of three full blocks."""
    rng = np.random.default_rng(8)
    model, _, psi = chandrasekhar(5)
    loss = partial(
        MixedLoss,
        d=rng.standard_normal(5),
        q=0.5 * rng.standard_normal(5),
        p=0.5 * rng.standard_normal(5),
        G=np.diag([1.0, 2.0, 0.5, 1.5, 1.0]),
    )
    return model, loss, psi


def diffusion():
    rng = np.random.default_rng(4)
    rows, columns = 4, 5
    N, P = rows * columns, 6

    def differences(n):  # across n + 1 faces, zero beyond both ends
        return np.eye(n + 1, n) - np.eye(n + 1, n, k=-1)

    def hats(n, nodes):  # linear interpolation from nodes to n cells
        return np.maximum(0, 1 - abs(np.linspace(0, nodes - 1, n)[:, None] - np.arange(nodes)))

    D = np.vstack(
        [
            np.kron(differences(rows), np.eye(columns)) * rows,
            np.kron(np.eye(rows), differences(columns)) * columns,
        ]
    )
    cells = abs(D) > 0
    seen = np.zeros((4, N))
    seen[np.arange(4), [3, 8, 11, 17]] = 0.75
    seen[np.arange(4), [4, 9, 12, 18]] = 0.25
    return (
        partial(
            Diffusion,
            D=D,
            E=(cells / cells.sum(axis=1, keepdims=True)) @ np.kron(hats(rows, 2), hats(columns, 3)),
            s=1 + rng.random(N),
        ),
        partial(
            MisfitLoss,
            O=seen,
            data=0.05 * rng.standard_normal(4),
            weights=[40.0, 10.0, 20.0, 30.0],
            precision=np.diag(0.02 * np.arange(1.0, P + 1)),
            mean=np.zeros(P),
        ),
        0.7 * rng.standard_normal(P),
    )


def bratu_spectral(n=20):
    return (
        partial(SpectralBratu, laplacian=chebyshev_laplacian(n), spread=np.ones((n - 1, 1))),
        partial(LinearLoss, c=np.eye(n - 1)[n // 2 - 1]),
        [2.5],
        np.sin(np.pi * np.arange(1, n) / n) * 0.3,
    )


def bratu_field(n=4):
    rng = np.random.default_rng(5)
    seen = np.eye(n * n)[[0, 5, 6, 9, 15]]
    seen[:, 3] += 0.3
    return (
        partial(Bratu, laplacian=five_point_laplacian(n), spread=np.eye(n * n)),
        partial(
            OperatorMisfit,
            O=seen,
            data=0.1 * rng.standard_normal(5),
            weights=np.full(5, 3.0),
            precision=np.eye(n * n) * 0.01,
            mean=np.full(n * n, 4.0),
        ),
        4 + rng.random(n * n),
    )


def bratu_scalar(n=5):
    weights = np.random.default_rng(6).random(n * n)
    return (
        partial(Bratu, laplacian=five_point_laplacian(n), spread=np.ones((n * n, 1))),
        partial(StateLoss, d=np.full(n * n, 0.2), weights=weights),
        [5.0],
    )


ROWS = {
    row.__name__: row
    for row in (
        cosine,
        affine,
        smooth,
        stiff,
        chandrasekhar,
        square,
        diffusion,
        bratu_spectral,
        bratu_field,
        bratu_scalar,
    )
}


@cache
def build(name, dtype="float64", xp=np):
    """Return a case by its name, with its data rounded to dtype and converted to xp."""
    return case_of(*ROWS[name](), name=name, dtype=dtype, xp=xp)


def case_of(model, loss, params, h0=None, *, name, dtype="float64", xp=np):
    """Return a case from partial(Model, **data), partial(Loss, **data), params and a start."""
    model, loss = model(xp, dtype), loss(xp, dtype)
    params = np.asarray(params, dtype=dtype)
    name = name if dtype == "float64" else f"{name}-{dtype}"
    return Case(
        name=name if xp is np else f"{name}-{cupy_label()}",
        model=model,
        params=xp.asarray(params),
        loss=loss.given(),
        h0=None if h0 is None else xp.asarray(np.asarray(h0, dtype=dtype)),
        truth=truth_of(model, loss, params.astype(float), h0),
        written=(model, loss),
        xp=xp,
    )


def all_of(xp):
    """Return all cases in arrays of xp: in both precisions, and in each form."""
    written = [[build(name, dtype, xp) for name in ROWS] for dtype in ("float64", "float32")]
    return (*written, [case_in_form(case, form) for case in written[0] for form in FORMS])


CASES, SINGLE, GIVEN = all_of(np)
CUPY_CASES, CUPY_SINGLE, CUPY_GIVEN = all_of(cupy) if (cupy := available_cupy()) else ([], [], [])
CUPY = CUPY_CASES + CUPY_SINGLE + CUPY_GIVEN
EVERY = CASES + SINGLE + GIVEN + CUPY
