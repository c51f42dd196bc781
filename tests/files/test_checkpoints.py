"""Runs that continue from a file end in the same bits; other files are refused."""

from __future__ import annotations

import errno
import functools
import json
import os

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from support.branch_models import PITCHFORK, SADDLE, TRANSCRITICAL, bratu, square
from support.cases import build
from support.functionals import WAVY_LOSS, IdentityModel, wavy_functional
from support.interrupted import (
    assert_same,
    kill_cases,
    killed_after_writing,
    killed_and_restarted,
    killed_by_signal,
)
from support.spectra import (
    APPROXIMATE_INVERSE,
    AWKWARD_SPECTRA,
    ILL_CONDITIONED,
    awkward_operator,
    symmetric_operator,
)

import mfdeq
from mfdeq.continuation.curve import Curve
from mfdeq.linear import Auto
from mfdeq.linear.operands import operator_of

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


@pytest.mark.parametrize(
    ("what", "before"),
    kill_cases(
        MINIMIZATIONS,
        also_before={"newton-cg", "newton", "l-bfgs", "every third"},
        slow={"line-search, GMRES"},
    ),
)
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


@pytest.mark.parametrize(
    ("what", "before"),
    kill_cases(BRANCHES, also_before={"natural", "a crossing"}, slow={"GMRES"}),
)
def test_a_branch_that_is_killed(what, before, tmp_path, monkeypatch):
    whole = followed(what, tmp_path / "whole")
    found, kills = killed_and_restarted(
        lambda path: followed(what, path), tmp_path / "killed", monkeypatch, before
    )
    assert_same(found, whole)
    assert kills >= len(whole.points) // 6
    assert_same(mfdeq.Branch.load(tmp_path / "killed"), whole)
    monkeypatch.setattr(Curve, "correct", None)  # nothing is followed again
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


# Eigenpairs.

METRIC = np.linspace(1.0, 3.0, 120)


def hessian(solver):
    """Of so many cells that recycled spaces pay, and are kept."""
    model = Diffusion(16)
    eq = mfdeq.solve(model, model.lognormal(), solver=solver)
    return eq.hessian(model.loss(30) + mfdeq.QuadraticPrior(sp.identity(256, format="csr")))


def hessian_and_prior():
    H = hessian(RECYCLING)
    return H + mfdeq.Precision(np.ones(256)), {"k": 4}


def beside_a_prior():
    return awkward_operator("indefinite"), {"k": 4, "M": METRIC, "which": "BE"}


def gone_on_from():
    H = awkward_operator("clusters")
    return H, {"k": 9, "rtol": 1e-10, "resume": mfdeq.eigsh(H, k=3, rtol=1e-2)}


PRECONDITIONED = {"k": 5, "preconditioner": APPROXIMATE_INVERSE}


def smallest():
    return ILL_CONDITIONED, {**PRECONDITIONED, "which": "SA"}


def decaying(**options):
    return awkward_operator("indefinite"), {
        "k": 5,
        "rtol": 1e-9,
        "basis": 20,
        **options,
    }


EIGENPAIRS = {
    **{which: lambda which=which: decaying(which=which) for which in ("LA", "SA", "LM", "BE")},
    "a block": lambda: decaying(block=3),
    "M": lambda: beside_a_prior(),
    "a block, M": lambda: (beside_a_prior()[0], {**beside_a_prior()[1], "block": 2}),
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
    "many, sampled": lambda: decaying(k=20, basis=60),
    "resume": lambda: gone_on_from(),
    "dense": lambda: (symmetric_operator(AWKWARD_SPECTRA["decay"][:30]), {"k": 3}),
    "Davidson": lambda: smallest(),
    "Davidson, a small basis": lambda: (smallest()[0], {**smallest()[1], "basis": 17, "block": 2}),
    "Davidson, M": lambda: (smallest()[0], {**smallest()[1], "M": np.linspace(1, 2, 144)}),
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


def eigenpairs(what, path):
    H, options = EIGENPAIRS[what]()
    pairs = mfdeq.eigsh(H, checkpoint=path, **{"checkpoint_every": 5, **options})
    more = None
    if pairs.krylov is not None and "resume" not in options:
        given = {name: options[name] for name in ("M", "rtol") if name in options}
        more = mfdeq.eigsh(H, k=options["k"] + 1, resume=pairs, **given)
    return [{**vars(found), "precision": None, "krylov": None} for found in (pairs, more) if found]


@pytest.mark.parametrize(
    ("what", "before"),
    kill_cases(
        EIGENPAIRS,
        also_before={"LA", "M", "a block", "Davidson", "dense"},
        slow={"GMRES alone", "GMRES, not relaxed", "GMRES, to an accuracy"},
    ),
)
def test_eigenpairs_that_are_killed(what, before, tmp_path, monkeypatch):
    if what == "errors that add up":
        monkeypatch.setattr("mfdeq.spectrum.counted_operator.ERROR_SHARE", 1e3)
    whole = eigenpairs(what, tmp_path / "whole")
    found, kills = killed_and_restarted(
        lambda path: eigenpairs(what, path), tmp_path / "killed", monkeypatch, before
    )
    assert_same(found, whole)
    assert kills >= (0 if what == "dense" else 2 - before)
    H, options = EIGENPAIRS[what]()
    # A run that has ended searches nothing again, and writes nothing.
    monkeypatch.setattr("mfdeq.spectrum.checkpoint.EigenCheckpoint.save_search", None)
    monkeypatch.setattr("mfdeq.spectrum.checkpoint.EigenCheckpoint.save_result", None)
    options = {"checkpoint_every": 5, **options}
    finished = mfdeq.eigsh(H, checkpoint=tmp_path / "killed", **options)
    assert_same({**vars(finished), "precision": None, "krylov": None}, whole[0])
    assert (finished.precision is not None) == ("M" in options)


def test_more_products_go_on_from_those_that_were_made(tmp_path):
    H, options = decaying(which="SA", max_products=32, checkpoint_every=5)
    with pytest.raises(mfdeq.ConvergenceError, match="Raise max_products"):
        mfdeq.eigsh(H, checkpoint=tmp_path / "a", **options)
    del options["max_products"]
    longer = mfdeq.eigsh(H, checkpoint=tmp_path / "a", **options)
    whole = mfdeq.eigsh(H, checkpoint=tmp_path / "b", **options)
    assert_same(vars(longer.report), vars(whole.report))
    assert_same(longer.vectors, whole.vectors)


# What forgetting drops.


def test_what_solves_have_left_is_dropped():
    """A product is then what it was at first, through sums and multiples and after a failure."""
    H = hessian(RECYCLING)
    v = np.random.default_rng(0).standard_normal(256)
    for operator_ in (H, 2.0 * H + mfdeq.Precision(np.ones(256)), (H @ H).H, H.to_accuracy(1e-7)):
        operator_.forget()
        first = operator_ @ v
        assert not np.array_equal(operator_ @ v, first)
        operator_.forget()
        np.testing.assert_array_equal(operator_ @ v, first)


def test_a_solver_that_was_replaced_is_tried_again(monkeypatch):
    A = sp.random(60, 60, 0.1, random_state=0).tocsr() + 4 * sp.identity(60)
    auto, b = Auto(), np.ones(60)
    first = (mfdeq.Krylov("gmres", max_iterations=2), "it was first")
    monkeypatch.setattr(auto, "candidates", lambda A: [(*first, None), (mfdeq.Direct(), "", None)])
    factor = auto.setup(operator_of(A))
    factor.solve(b)
    assert "Direct" in factor.current.name
    factor.forget()
    assert "gmres" in factor.current.name
    np.testing.assert_allclose(A @ factor.solve(b), b, rtol=1e-9)


# Killed by a signal, in the middle of anything.

SCRIPT = """
import sys
import numpy as np
sys.path[:0] = ["tests"]
import mfdeq
import test_checkpoints as these
path = sys.argv[1]
{0}
"""
SCRIPTS = {
    "minimize": """
F, start = these.diffusion(these.GMRES)
found = mfdeq.minimize(F, start, checkpoint=path, gtol=1e-8)
print(found.params.tobytes(), found.report.products, F.solves)
""",
    "follow": """
branch = mfdeq.follow(these.square(15), np.array([5.0]), span=(-0.5, 1.0), solver=these.AMG,
                      eigenvalues=2, checkpoint=path, checkpoint_every=2)
print([(p.t, p.state.tobytes(), p.eigenvalues.tobytes()) for p in branch.points], branch.reason)
""",
    "eigsh": """
pairs = mfdeq.eigsh(these.hessian(these.RECYCLING), 8, "BE", checkpoint=path, checkpoint_every=4)
print(pairs.values.tobytes(), pairs.vectors.tobytes(), pairs.report.products)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SCRIPTS)
def test_a_process_that_is_killed(what, tmp_path):
    code = SCRIPT.format(SCRIPTS[what])
    whole, _ = killed_by_signal(code, tmp_path / "whole", seed=0, most=0.0, times=0)
    found, kills = killed_by_signal(code, tmp_path / "killed", seed=1, most=0.5, times=6)
    assert kills > 0
    assert found == whole
    assert not (tmp_path / "killed.part").exists()


# Files that are none of this run.


def minimum(path, start=(0.1, -0.2, 0.05), model=None, weight=1.0, **options):
    F = mfdeq.ReducedFunctional(model or IdentityModel(len(start)), weight * WAVY_LOSS)
    return mfdeq.minimize(F, np.array(start), checkpoint=path, gtol=1e-6, **options)


def branch(path, theta0=-1.0, model=PITCHFORK, **options):
    options = {"span": (-0.1, 0.5), **options}
    return mfdeq.follow(model, np.array([theta0]), checkpoint=path, **options)


def pairs(path, values=AWKWARD_SPECTRA["indefinite"], **options):
    return mfdeq.eigsh(symmetric_operator(values), checkpoint=path, **{"k": 3, **options})


RUNS = {"minimize": minimum, "follow": branch, "eigsh": pairs}
OTHERS = {
    "minimize": {
        "theta0": {"start": (0.1, -0.2, 0.06)},
        "N and P": {"start": (0.1, -0.2)},
        "method": {"method": "l-bfgs"},
        "bounds": {"bounds": (-9.0, 9.0)},
        "radius": {"radius": 0.5},
        "preconditioner": {"preconditioner": np.eye(3)},
        "loss": {"weight": 1.01},
        "model": {"model": type("Other", (IdentityModel,), {})()},
    },
    "follow": {
        "theta0": {"theta0": -0.9},
        "span": {"span": (-0.1, 0.6)},
        "towards": {"towards": -1.0},
        "method": {"method": "natural"},
        "step and longest": {"step": 0.01},
        "start": {"start": np.array([0.0, 1.0])},
        "eigenvalues": {"eigenvalues": 1},
        "direction": {"direction": np.array([2.0])},
        "another model": {"model": SADDLE},
    },
    "eigsh": {
        "k": {"k": 4},
        "which": {"which": "LA"},
        "rtol": {"rtol": 1e-5},
        "M": {"M": METRIC},
        "start": {"block": 2},
        "basis": {"basis": 50},
        "preconditioner": {"which": "SA", "preconditioner": np.eye(120)},
        "H or M": {"values": AWKWARD_SPECTRA["gap"]},
        "P": {"values": np.arange(50.0)},
    },
}


@pytest.mark.parametrize("ended", [False, True], ids=["killed", "ended"])
@pytest.mark.parametrize(("of", "what"), [(of, what) for of in OTHERS for what in OTHERS[of]])
def test_another_run(of, what, ended, tmp_path, monkeypatch):
    run, path = RUNS[of], tmp_path / "run"
    if ended:
        run(path)
    else:
        killed_after_writing(lambda: run(path, checkpoint_every=1), monkeypatch)
    before = path.read_bytes()
    with pytest.raises(mfdeq.CheckpointError, match="another run") as caught:
        run(path, **OTHERS[of][what])
    assert what in str(caught.value)
    assert "delete it to start anew" in str(caught.value)
    assert path.read_bytes() == before


def test_another_metric(tmp_path, monkeypatch):
    run = functools.partial(pairs, tmp_path / "run", checkpoint_every=1)
    killed_after_writing(lambda: run(M=METRIC), monkeypatch)
    with pytest.raises(mfdeq.CheckpointError, match="H or M is another"):
        run(M=METRIC + 1.0)


def truncated(path, data):
    path.write_bytes(data[: len(data) // 2])


def flipped(path, data):
    at = data.index(b"\x93NUMPY") + 200  # in the entries of an array
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def stored(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


def held(path):
    with np.load(path) as members:
        return dict(members)


def of_another_format(path, data):
    head = {**json.loads(bytes(held(path)["mfdeq"])), "format": 99, "version": "9.9"}
    stored(path, **{**held(path), "mfdeq": np.frombuffer(json.dumps(head).encode(), "uint8")})


NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"
DAMAGED = {
    "empty": (lambda path, data: path.write_bytes(b""), "no checkpoint of mfdeq"),
    "text": (lambda path, data: path.write_bytes(b"theta = 3"), "no checkpoint of mfdeq"),
    "one array": (lambda path, data: path.write_bytes(NPY), "no checkpoint of mfdeq"),
    "truncated": (truncated, "damaged"),
    "flipped": (flipped, "damaged"),
    "pickled": (lambda path, data: stored(path, mfdeq=np.array([{}])), "no checkpoint of mfdeq"),
    "without a head": (lambda path, data: stored(path, x=np.ones(3)), "no checkpoint of mfdeq"),
    "lacking": (lambda path, data: stored(path, mfdeq=held(path)["mfdeq"]), "damaged"),
    "another format": (of_another_format, "of format 99, written by mfdeq 9.9.*format 2"),
    "a directory": (lambda path, data: (path.unlink(), path.mkdir()), "cannot be read"),
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("of", RUNS)
def test_a_file_that_is_no_checkpoint(of, what, tmp_path):
    RUNS[of](path := tmp_path / "run")
    damage, said = DAMAGED[what]
    damage(path, path.read_bytes())
    with pytest.raises(mfdeq.CheckpointError, match=said) as caught:
        RUNS[of](path)
    assert str(path) in str(caught.value)
    with pytest.raises(mfdeq.CheckpointError):
        mfdeq.Branch.load(path)


def test_a_checkpoint_of_another_kind(tmp_path):
    for of, run in RUNS.items():
        run(tmp_path / of)
    kinds = {"minimize": "a minimization", "follow": "a branch", "eigsh": "eigenpairs"}
    for of, run in RUNS.items():
        for other in RUNS:
            if of != other:
                with pytest.raises(mfdeq.CheckpointError, match=f"holds {kinds[other]}"):
                    run(tmp_path / other)


@pytest.mark.parametrize("of", RUNS)
def test_where_nothing_can_be_written(of, tmp_path):
    """It is said before the work."""
    with pytest.raises(mfdeq.CheckpointError, match="directory that exists"):
        RUNS[of](tmp_path / "nowhere" / "run")
    with pytest.raises(mfdeq.ArgumentError, match="checkpoint is 3; the name of a file"):
        RUNS[of](3)
    with pytest.raises(mfdeq.ArgumentError, match=r"checkpoint_every: .* got 0"):
        RUNS[of](tmp_path / "run", checkpoint_every=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("of", RUNS)
def test_a_disk_that_fills_up(of, tmp_path, monkeypatch):
    """The run ends as it would have, and the file is the last that could be written."""
    run, written, true = RUNS[of], [], os.fsync

    def fsync(file):
        written.append(file)
        if len(written) > 2:  # of a file and of its directory
            raise OSError(errno.ENOSPC, "No space left on device")
        true(file)

    whole = run(tmp_path / "whole", checkpoint_every=1)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(mfdeq.CheckpointWarning, match="No space"):
        found = run(tmp_path / "run", checkpoint_every=1)
    monkeypatch.setattr(os, "fsync", true)
    assert len(written) > 3
    assert_same(told(found), told(whole))
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == ["run"]
    assert_same(told(run(tmp_path / "run", checkpoint_every=1)), told(whole))


def told(found):
    """What is compared of a result."""
    if isinstance(found, mfdeq.Minimum):
        return [found.params, found.value, found.report]
    return found if isinstance(found, mfdeq.Branch) else [found.values, found.vectors, found.report]


def test_nothing_is_pickled(tmp_path):
    for of, run in RUNS.items():
        run(tmp_path / of)
        with np.load(tmp_path / of, allow_pickle=False) as members:
            assert all(members[name].dtype.kind in "biufc" for name in members.files)
