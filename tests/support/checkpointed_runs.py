"""Minimizations, branches and eigenvalue problems of every kind that write checkpoints."""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from support.branch_models import PITCHFORK, TRANSCRITICAL, bratu, square
from support.cases import build
from support.functionals import wavy_functional
from support.spectra import (
    APPROXIMATE_INVERSE,
    AWKWARD_SPECTRA,
    ILL_CONDITIONED,
    awkward_operator,
    symmetric_operator,
)

import mfdeq

RECYCLING = mfdeq.Krylov("gmres", preconditioner=mfdeq.Jacobi(), recycle=15, restart=30)
ALONE = mfdeq.Krylov("gmres", recycle=15, restart=30)
GMRES = mfdeq.Krylov("gmres", preconditioner=mfdeq.Jacobi(), recycle=6)
AMG = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG())


# Minimization.


def functional(name, **options):
    case = build(name)
    return mfdeq.ReducedFunctional(case.model, case.loss, case.h0, **options), case.params


def diffusion(solver="auto"):
    model = Diffusion(8)
    prior = mfdeq.QuadraticPrior(1e-3 * sp.identity(64, format="csr"))
    return mfdeq.ReducedFunctional(model, model.loss(20) + prior, solver=solver), np.zeros(64)


def preconditioned(name):
    F, start = functional(name)
    return F, start, {"preconditioner": np.linalg.inv(F.hessian(start).toarray() + 3 * np.eye(6))}


def wavy():
    return wavy_functional(), np.array([0.1, -0.2, 0.05])


MINIMIZATIONS = {
    "newton-cg": lambda: (*functional("diffusion"), {}),
    "newton-cg, rejected steps": lambda: (*functional("bratu_field"), {"radius": 50.0}),
    "newton-cg, bounds": lambda: (*functional("diffusion"), {"bounds": (0.3, 0.9)}),
    "newton-cg, a preconditioner": lambda: preconditioned("diffusion"),
    "newton-cg, negative curvature": lambda: (*wavy(), {}),
    "newton-cg, GMRES": lambda: (*diffusion(GMRES), {"gtol": 1e-2}),
    "newton-cg, AMG": lambda: (*diffusion(AMG), {}),
    "newton-cg, accuracy": lambda: (*functional("diffusion", accuracy=1e-4), {"gtol": 1e-2}),
    "gauss-newton": lambda: (*functional("bratu_field"), {}),
    "line-search": lambda: (*functional("diffusion"), {}),
    "line-search, GMRES": lambda: (*diffusion(GMRES), {}),
    "newton": lambda: (*functional("diffusion"), {}),
    "newton, shifts": lambda: (*wavy(), {}),
    "l-bfgs": lambda: (*functional("diffusion"), {"gtol": 1e-2}),
    "l-bfgs, AMG": lambda: (*diffusion(AMG), {"gtol": 1e-1}),
    "every third": lambda: (*functional("diffusion"), {"checkpoint_every": 3}),
}


def minimize_with_checkpoint(what, path):
    method, _, _ = what.partition(", ")
    method = "newton-cg" if method == "every third" else method
    F, start, options = MINIMIZATIONS[what]()
    found = mfdeq.minimize(F, start, method, **{"gtol": 1e-7, **options}, checkpoint=path)
    return {
        "params": found.params,
        "value": found.value,
        "gradient": found.gradient,
        "reason": found.reason,
        "state": found.equilibrium.state,
        "residuals": found.equilibrium.report.residuals,
        "report": found.report,
        "solves": F.solves,
        "smallest": found.smallest.values,
    }


# Branches.

BRANCHES = {
    "a fold": lambda: (bratu(), [2.0], {"span": (-1.0, 2.0), "eigenvalues": 3}),
    "a fold, natural": lambda: (bratu(), [2.0], {"span": (-1.0, 2.0), "method": "natural"}),
    "natural": lambda: (bratu(), [2.0], {"span": (-1.0, 1.0), "method": "natural"}),
    "a crossing": lambda: (PITCHFORK, [-1.0], {"span": (-0.1, 2.0), "eigenvalues": 2}),
    "a transcritical one": lambda: (TRANSCRITICAL, [-1.0], {"span": (0.0, 2.0)}),
    "the other branch": lambda: other_branch(),
    "two dimensions": lambda: (square(9), [6.0], {"span": (-0.2, 2.0), "eigenvalues": 2}),
    "GMRES": lambda: (square(7), [6.0], {"span": (-0.2, 1.0), "solver": GMRES}),
    "AMG": lambda: (square(9), [5.0], {"span": (-0.2, 1.0), "solver": AMG}),
    "points": lambda: (bratu(), [2.0], {"span": (-1.0, 2.0), "max_points": 9}),
}


@functools.cache
def other_branch():
    branch = mfdeq.follow(PITCHFORK, np.array([-1.0]), span=(-0.1, 2.0))
    return PITCHFORK, [-1.0], {"span": (-0.1, 2.0), "start": branch.crossings[0], "towards": -1.0}


def follow_with_checkpoint(what, path, **others):
    model, theta0, options = BRANCHES[what]()
    options = {**options, "checkpoint_every": 3, **others}
    return mfdeq.follow(model, np.array(theta0), checkpoint=path, **options)


# Eigenpairs.

METRIC = np.linspace(1.0, 3.0, 120)


def hessian(solver):
    """Return the Hessian of a problem that is large enough for recycled spaces to pay off."""
    model = Diffusion(16)
    eq = mfdeq.solve(model, model.lognormal(), solver=solver)
    return eq.hessian(model.loss(30) + mfdeq.QuadraticPrior(sp.identity(256, format="csr")))


def hessian_and_prior():
    H = hessian(RECYCLING)
    return H + mfdeq.Precision(np.ones(256)), {"k": 2, "rtol": 1e-3, "complete": False}


def generalized():
    return awkward_operator("indefinite"), {"k": 4, "M": METRIC, "which": "BE"}


def resumed():
    H = awkward_operator("clusters")
    return H, {"k": 9, "rtol": 1e-10, "resume": mfdeq.eigsh(H, k=3, rtol=1e-2)}


PRECONDITIONED = {"k": 5, "preconditioner": APPROXIMATE_INVERSE}


def smallest():
    return ILL_CONDITIONED, {**PRECONDITIONED, "which": "SA"}


def decaying_spectrum(**options):
    return awkward_operator("indefinite"), {
        "k": 5,
        "rtol": 1e-9,
        "basis": 20,
        **options,
    }


COPIES = np.r_[np.full(5, 1.0), np.geomspace(2.0, 100.0, 115)]
EIGENPAIRS = {
    **{
        which: lambda which=which: decaying_spectrum(which=which)
        for which in ("LA", "SA", "LM", "BE")
    },
    "a block": lambda: decaying_spectrum(block=3),
    "M": lambda: generalized(),
    "a block, M": lambda: (generalized()[0], {**generalized()[1], "block": 2}),
    "float32": lambda: (
        symmetric_operator(AWKWARD_SPECTRA["decay"].astype("f4"), dtype="f4"),
        {"k": 3, "rtol": 1e-4},
    ),
    "locked": lambda: (
        awkward_operator("repeated"),
        {"k": 5, "block": 3, "rtol": 1e-8},
    ),
    "low rank": lambda: (
        awkward_operator("low rank"),
        {"k": 5, "checkpoint_every": 2},
    ),
    "copies": lambda: (
        symmetric_operator(np.r_[np.full(5, 2.0), np.linspace(-1.0, 1.0, 115)]),
        {"k": 6, "which": "LA"},
    ),
    "Davidson, copies": lambda: (
        np.diag(COPIES),
        {"k": 6, "which": "SA", "preconditioner": np.diag(1.0 / (COPIES + 0.01))},
    ),
    "many, sampled": lambda: decaying_spectrum(k=20, basis=60),
    "resume": lambda: resumed(),
    "dense": lambda: (symmetric_operator(AWKWARD_SPECTRA["decay"][:30]), {"k": 3}),
    "Davidson": lambda: smallest(),
    "Davidson, a small basis": lambda: (
        smallest()[0],
        {**smallest()[1], "basis": 17, "block": 2},
    ),
    "Davidson, M": lambda: (
        smallest()[0],
        {**smallest()[1], "M": np.linspace(1, 2, 144)},
    ),
    "sigma": lambda: (hessian("auto"), {"k": 5, "sigma": 0.5, "certify": True}),
    "sigma, M": lambda: (hessian("auto"), {"k": 4, "sigma": 0.5, "M": np.linspace(1, 2, 256)}),
    "sigma, iterated": lambda: (
        ILL_CONDITIONED,
        {"k": 4, "sigma": 0.0, "preconditioner": APPROXIMATE_INVERSE},
    ),
    "GMRES": lambda: (hessian(RECYCLING), {"k": 6, "which": "BE"}),
    "GMRES, not relaxed": lambda: (hessian(RECYCLING), {"k": 6, "which": "BE", "relaxed": False}),
    "GMRES, a sum": lambda: hessian_and_prior(),
    "GMRES, to an accuracy": lambda: (hessian(RECYCLING).to_accuracy(1e-7), {"k": 3, "rtol": 1e-4}),
    "GMRES alone": lambda: (hessian(ALONE), {"k": 3, "rtol": 1e-4}),
    "AMG": lambda: (hessian(AMG), {"k": 6, "which": "BE", "certify": True}),
    "errors that add up": lambda: (hessian(AMG), {"k": 5, "rtol": 1e-8}),
}


def eigsh_with_checkpoint(what, path):
    H, options = EIGENPAIRS[what]()
    pairs = mfdeq.eigsh(H, checkpoint=path, **{"checkpoint_every": 5, **options})
    more = None
    if pairs.krylov is not None and "resume" not in options:
        given = {name: options[name] for name in ("M", "rtol") if name in options}
        more = mfdeq.eigsh(H, k=options["k"] + 1, resume=pairs, **given)
    return [{**vars(found), "precision": None, "krylov": None} for found in (pairs, more) if found]
