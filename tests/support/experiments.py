"""Experiments over the same parameters, with the dense truth of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from support.case_truth import DenseTruth, LossData, MapData
from support.cases import build
from support.places import available_cupy

import mfdeq

P = 3  # as many parameters as the case "smooth" has


class Source(mfdeq.ResidualModel):
    """(D_0 + sum_k theta_k D_k) h = b, linear in h: models with equal D have the same A."""

    def __init__(self, D, b, form="sparse"):
        self.D, self.b, self.form = D, b, form
        self.state_size, self.param_size = len(b), len(D) - 1
        self.calls = 0

    @property
    def xp(self):
        return np if isinstance(self.b, np.ndarray) else available_cupy()

    def matrix(self, theta):
        return self.D[0] + sum(float(t) * D for t, D in zip(theta, self.D[1:], strict=True))

    def residual(self, h, theta):
        return self.matrix(theta) @ h - self.b

    def linearize(self, h, theta):
        self.calls += 1
        A = self.matrix(theta)

        def curvature(lam):
            mixed = self.xp.stack([D.T @ lam for D in self.D[1:]], axis=1)
            return mfdeq.Curvature(state_params=mixed)

        return mfdeq.Linearization(
            d_state=A if self.form == "dense" else sparse(self.xp, A),
            d_params=self.xp.stack([D @ h for D in self.D[1:]], axis=1),
            curvature=curvature,
        )


class Rootless(mfdeq.ResidualModel):
    """h² + 1 - theta_0 = 0, without a root below 1."""

    state_size, param_size = 1, P

    def residual(self, h, theta):
        return h**2 + 1.0 - theta[:1]

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            np.diag(2 * h), -np.eye(1, P), lambda lam: mfdeq.Curvature(state_state=np.diag(2 * lam))
        )

    def initial_state(self, theta):
        return np.full(1, 0.7)


class TableError(Exception):
    """An error whose copies and pickles fail, since its constructor takes two arguments."""

    def __init__(self, table, entry):
        super().__init__(f"{table} has no entry {entry}")


class Lookup(Rootless):
    """A model that cannot be evaluated anywhere."""

    def residual(self, h, theta):
        raise TableError("steam", 3)


def sparse(xp, A):
    if xp is np:
        return sp.csr_matrix(A)
    import cupyx.scipy.sparse

    return cupyx.scipy.sparse.csr_matrix(A)


@dataclass
class Experiment:
    """A functional with its dense truth at `theta`."""

    functional: mfdeq.ReducedFunctional
    truth: DenseTruth


def matrices(n, seed, dtype="float64", xp=np):
    """Return P + 1 matrices, of which the first one is regular."""
    rng = np.random.default_rng(seed)
    D = [0.2 * rng.standard_normal((n, n)) / np.sqrt(n) for _ in range(P + 1)]
    D[0] = D[0] + np.diag(2.0 + rng.random(n))
    return [xp.asarray(d.astype(dtype)) for d in D]


def source(D, seed, theta, *, form="sparse", xp=np, **options) -> Experiment:
    """Return an experiment with a source and the observations of three unknowns."""
    host = [np.asarray(getattr(d, "get", lambda d=d: d)()) for d in D]
    dtype, n, rng = host[0].dtype, len(host[0]), np.random.default_rng(seed)
    b = rng.standard_normal(n).astype(dtype)
    seen, data = np.array([0, n // 2, n - 1]), rng.standard_normal(3).astype(dtype)
    model = Source(D, xp.asarray(b), form)
    loss = mfdeq.LeastSquares(xp.asarray(seen), xp.asarray(data))
    functional = mfdeq.ReducedFunctional(model, loss, **options)
    host = [d.astype(float) for d in host]
    A = host[0] + sum(t * d for t, d in zip(np.asarray(theta, float), host[1:], strict=True))
    h = np.linalg.solve(A, b)
    zeros = np.zeros
    f = MapData(
        J=np.eye(n) - A,
        B=-np.stack([d @ h for d in host[1:]], axis=1),
        f_hh=zeros((n, n, n)),
        f_ht=-np.stack(host[1:], axis=2),
        f_tt=zeros((n, P, P)),
    )
    misfit = h[seen] - data
    L_h, L_hh = zeros(n), zeros((n, n))
    L_h[seen], L_hh[seen, seen] = misfit, 1.0
    value = 0.5 * float(misfit @ misfit)
    loss_data = LossData(value, L_h, zeros(P), L_hh, zeros((n, P)), zeros((P, P)))
    return Experiment(functional, DenseTruth(h, np.asarray(theta, float), f, loss_data))


def smooth(dtype="float64", xp=np, **options) -> tuple[Any, Experiment]:
    """Return the parameters and the experiment of the case "smooth", a nonlinear map."""
    case = build("smooth", dtype, xp)
    functional = mfdeq.ReducedFunctional(case.model, case.loss, case.h0, **options)
    return case.params.copy(), Experiment(functional, case.truth)


WEIGHTS = [1.0, 0.5, 2.0, 1.5, 0.7]
PRECISION = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 0.5]])


def mixed(dtype="float64", xp=np) -> tuple[Any, list[Experiment]]:
    """Return parameters and experiments: three sources with one A, another one, and a map."""
    theta, map_ = smooth(dtype, xp)
    host = np.asarray(getattr(theta, "get", lambda: theta)())
    D, other = matrices(8, 1, dtype, xp), matrices(6, 2, dtype, xp)
    sources = [source(D, seed, host, xp=xp) for seed in (3, 4)]
    alone = source(other, 5, host, xp=xp, form="dense")
    return theta, [*sources, map_, alone, source(D, 6, host, xp=xp)]
