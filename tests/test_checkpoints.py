"""Runs that continue from a file end in the same bits; files that are none of theirs are refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from cases import build
from interrupted import assert_same, killed_and_restarted
from test_minimize import Wavy

import mfdeq

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
    return Wavy().functional(), np.array([0.1, -0.2, 0.05])


MINIMIZATIONS = {
    "newton-cg": lambda: (*functional("diffusion"), {}),
    "newton-cg, rejected steps": lambda: (*functional("bratu_field"), {"radius": 50.0}),
    "newton-cg, bounds": lambda: (*functional("diffusion"), {"bounds": (0.3, 0.9)}),
    "newton-cg, a preconditioner": lambda: preconditioned("diffusion"),
    "newton-cg, negative curvature": lambda: (*wavy(), {}),
    "newton-cg, GMRES": lambda: (*diffusion(GMRES), {}),
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


def minimized(what, path):
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


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("what", MINIMIZATIONS)
def test_a_minimization_that_is_killed(what, before, tmp_path, monkeypatch):
    whole = minimized(what, tmp_path / "whole")
    found, kills = killed_and_restarted(
        lambda path: minimized(what, path), tmp_path / "killed", monkeypatch, before
    )
    assert_same(found, whole)
    iterations = len(whole["report"].steps)
    assert kills == (-(-iterations // 3) if what == "every third" else iterations) - before
    assert_same(minimized(what, tmp_path / "whole"), whole)  # which had ended
