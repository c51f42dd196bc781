"""Runs that are killed and restarted give the same bits as uninterrupted ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.branch_models import PITCHFORK
from support.checkpointed_runs import (
    BRANCHES,
    EIGENPAIRS,
    MINIMIZATIONS,
    RECYCLING,
    decaying_spectrum,
    eigsh_with_checkpoint,
    follow_with_checkpoint,
    hessian,
    minimize_with_checkpoint,
)
from support.interruptions import (
    assert_same,
    kill_and_restart,
    kill_by_signal,
    kill_cases,
)

import mfdeq
from mfdeq.continuation.curve import Curve
from mfdeq.linear import Auto
from mfdeq.linear.candidates import Candidate
from mfdeq.linear.choice import Choice
from mfdeq.linear.operands import operator_of


@pytest.mark.parametrize(
    ("what", "before"),
    kill_cases(
        MINIMIZATIONS,
        also_before={"newton-cg", "newton", "l-bfgs", "every third"},
        slow={"line-search, GMRES"},
    ),
)
def test_a_killed_minimization_gives_the_same_bits(what, before, tmp_path, monkeypatch):
    whole = minimize_with_checkpoint(what, tmp_path / "whole")
    found, kills = kill_and_restart(
        lambda path: minimize_with_checkpoint(what, path), tmp_path / "killed", monkeypatch, before
    )
    assert_same(found, whole)
    iterations = len(whole["report"].steps)
    assert kills == (-(-iterations // 3) if what == "every third" else iterations) - before
    assert_same(minimize_with_checkpoint(what, tmp_path / "whole"), whole)  # which had ended


@pytest.mark.parametrize(
    ("what", "before"), kill_cases(BRANCHES, also_before={"natural", "a crossing"}, slow={"GMRES"})
)
def test_a_killed_branch_gives_the_same_bits(what, before, tmp_path, monkeypatch):
    whole = follow_with_checkpoint(what, tmp_path / "whole")
    found, kills = kill_and_restart(
        lambda path: follow_with_checkpoint(what, path), tmp_path / "killed", monkeypatch, before
    )
    assert_same(found, whole)
    assert kills >= len(whole.points) // 6
    assert_same(mfdeq.Branch.load(tmp_path / "killed"), whole)
    monkeypatch.setattr(Curve, "correct", None)  # nothing is followed again
    assert_same(follow_with_checkpoint(what, tmp_path / "killed"), whole)


def test_a_longer_branch_continues_from_a_shorter_one(tmp_path):
    """At a multiple of the interval, where the longer run has a checkpoint too."""
    follow_with_checkpoint("points", tmp_path / "a", max_points=6, checkpoint_every=2)
    longer = follow_with_checkpoint("points", tmp_path / "a", max_points=12, checkpoint_every=2)
    whole = follow_with_checkpoint("points", tmp_path / "b", max_points=12, checkpoint_every=2)
    assert len(longer.points) == 12
    assert_same(longer, whole)


def test_a_saved_branch_loads_with_the_same_bits(tmp_path):
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


@pytest.mark.parametrize(
    ("what", "before"),
    kill_cases(
        EIGENPAIRS,
        also_before={"LA", "M", "a block", "Davidson", "dense"},
        slow={"GMRES", "GMRES alone", "GMRES, not relaxed", "GMRES, to an accuracy"},
    ),
)
def test_killed_eigenpairs_give_the_same_bits(what, before, tmp_path, monkeypatch):
    if what == "errors that add up":
        monkeypatch.setattr("mfdeq.spectrum.counted_operator.ERROR_SHARE", 1e3)
    whole = eigsh_with_checkpoint(what, tmp_path / "whole")
    found, kills = kill_and_restart(
        lambda path: eigsh_with_checkpoint(what, path), tmp_path / "killed", monkeypatch, before
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


def test_a_larger_limit_of_products_continues_the_run(tmp_path):
    H, options = decaying_spectrum(which="SA", max_products=32, checkpoint_every=5)
    with pytest.raises(mfdeq.ConvergenceError, match="Raise max_products"):
        mfdeq.eigsh(H, checkpoint=tmp_path / "a", **options)
    del options["max_products"]
    longer = mfdeq.eigsh(H, checkpoint=tmp_path / "a", **options)
    whole = mfdeq.eigsh(H, checkpoint=tmp_path / "b", **options)
    assert_same(vars(longer.report), vars(whole.report))
    assert_same(longer.vectors, whole.vectors)


# What forgetting drops.


def test_forget_discards_the_state_of_earlier_solves():
    """A product is then what it was at first, through sums and multiples and after a failure."""
    H = hessian(RECYCLING)
    v = np.random.default_rng(0).standard_normal(256)
    for operator_ in (H, 2.0 * H + mfdeq.Precision(np.ones(256)), (H @ H).H, H.to_accuracy(1e-7)):
        operator_.forget()
        first = operator_ @ v
        assert not np.array_equal(operator_ @ v, first)
        operator_.forget()
        np.testing.assert_array_equal(operator_ @ v, first)


def test_forget_tries_a_replaced_solver_again(monkeypatch):
    A = sp.random(60, 60, 0.1, random_state=0).tocsr() + 4 * sp.identity(60)
    auto, b = Auto(), np.ones(60)
    solvers = mfdeq.Krylov("gmres", max_iterations=2), mfdeq.Direct()
    both = [Candidate(solver, 0.0, 0.0) for solver in solvers]
    monkeypatch.setattr(auto, "_choice_for", lambda A: Choice(both, None, 1, "they were passed"))
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
from support import branch_models, checkpointed_runs as runs
path = sys.argv[1]
{0}
"""
SCRIPTS = {
    "minimize": """
F, start = runs.diffusion(runs.GMRES)
found = mfdeq.minimize(F, start, checkpoint=path, gtol=1e-8)
print(found.params.tobytes(), found.report.products, F.solves)
""",
    "follow": """
branch = mfdeq.follow(branch_models.square(15), np.array([5.0]), span=(-0.5, 1.0), solver=runs.AMG,
                      eigenvalues=2, checkpoint=path, checkpoint_every=2)
print([(p.t, p.state.tobytes(), p.eigenvalues.tobytes()) for p in branch.points], branch.reason)
""",
    "eigsh": """
pairs = mfdeq.eigsh(runs.hessian(runs.RECYCLING), 8, "BE", checkpoint=path, checkpoint_every=4)
print(pairs.values.tobytes(), pairs.vectors.tobytes(), pairs.report.products)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SCRIPTS)
def test_a_process_killed_by_a_signal_gives_the_same_bits(what, tmp_path):
    code = SCRIPT.format(SCRIPTS[what])
    whole, _ = kill_by_signal(code, tmp_path / "whole", seed=0, most=0.0, times=0)
    found, kills = kill_by_signal(code, tmp_path / "killed", seed=1, most=0.5, times=6)
    assert kills > 0
    assert found == whole
    assert not (tmp_path / "killed.part").exists()
