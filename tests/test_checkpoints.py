"""Runs that continue from a file end in the same bits; other files are refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from cases import build
from interrupted import assert_same, killed_and_restarted
from test_continuation import PITCHFORK, TRANSCRITICAL, bratu, square
from test_minimize import Wavy

import mfdeq
from mfdeq.continuation.curve import Curve

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


def followed(what, path, **others):
    model, theta0, options = BRANCHES[what]()
    options = {**options, "checkpoint_every": 3, **others}
    return mfdeq.follow(model, np.array(theta0), checkpoint=path, **options)


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("what", BRANCHES)
def test_a_branch_that_is_killed(what, before, tmp_path, monkeypatch):
    whole = followed(what, tmp_path / "whole")
    found, kills = killed_and_restarted(
        lambda path: followed(what, path), tmp_path / "killed", monkeypatch, before
    )
    assert_same(found, whole)
    assert kills >= len(whole.points) // 6
    assert_same(mfdeq.Branch.load(tmp_path / "killed"), whole)
    monkeypatch.setattr(Curve, "corrected", None)  # nothing is followed again
    assert_same(followed(what, tmp_path / "killed"), whole)


def test_more_points_go_on_from_those_that_are_there(tmp_path):
    """At a multiple of the interval, where the longer run has a checkpoint too."""
    followed("points", tmp_path / "a", max_points=6, checkpoint_every=2)
    longer = followed("points", tmp_path / "a", max_points=12, checkpoint_every=2)
    whole = followed("points", tmp_path / "b", max_points=12, checkpoint_every=2)
    assert len(longer.points) == 12
    assert_same(longer, whole)


def test_a_branch_is_stored_and_read(tmp_path):
    branch = mfdeq.follow(PITCHFORK, np.array([-1.0]), span=(-0.1, 2.0), eigenvalues=2)
    branch.save(tmp_path / "branch.npz")
    found = mfdeq.Branch.load(tmp_path / "branch.npz")
    assert_same(found, branch)
    options = {"span": (-0.1, 2.0), "towards": -1.0}
    again, first = (
        mfdeq.follow(PITCHFORK, np.array([-1.0]), start=x.crossings[0], **options)
        for x in (found, branch)
    )
    assert_same(again, first)
    with pytest.raises(mfdeq.CheckpointError, match="directory that exists"):
        branch.save(tmp_path / "nowhere" / "branch.npz")
    with pytest.raises(mfdeq.CheckpointError, match="cannot be read"):
        mfdeq.Branch.load(tmp_path / "nowhere")
