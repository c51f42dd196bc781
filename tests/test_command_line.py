"""The command ``mfdeq``: what it prints, and its exit status."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import command_line_models, study_functions

import mfdeq
from mfdeq.__main__ import main
from mfdeq.studies import grid

MODULE = "command_line_models"


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """An empty directory with the module of the models, as the current one."""
    shutil.copy(command_line_models.__file__, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def usage_error(capsys, *arguments):
    """Run a command that must exit with status 2, and return its message."""
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments)])
    assert caught.value.code == 2
    return capsys.readouterr().err


# mfdeq verify


@pytest.mark.parametrize(
    ("expression", "options", "status", "words"),
    [
        ("Cosine", [], 0, "verdict: PASS"),
        ("Cosine()", [], 0, "verdict: PASS"),
        ("Cosine(1.1)", [], 1, "look first at: d_state"),
        ("wrong", ["--params", "0.3,-0.2"], 1, "verdict: FAIL"),
        ("WithoutEquilibrium", [], 3, "verdict: INCONCLUSIVE"),
        ("Cosine", ["--params", "theta.npy"], 0, "verdict: PASS"),
        ("Cosine", ["--params", "numpy:full(2, 0.1)", "--seed", "5"], 0, "verdict: PASS"),
        ("Cosine", ["--params", f"{MODULE}:THETA", "--rtol", "1e-8"], 0, "verdict: PASS"),
        ("Cosine", ["--loss", f"{MODULE}:LOSS"], 0, "d_state of the loss"),
        ("Cosine", ["--loss", f"{MODULE}:WRONG_LOSS"], 1, "d_state of the loss"),
    ],
)
def test_verify_exits_with_the_verdict(expression, options, status, words, capsys):
    np.save("theta.npy", np.array([0.1, 0.2]))
    assert main(["verify", f"{MODULE}:{expression}", *options]) == status
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([MODULE], "MODEL: expected MODULE:EXPRESSION, got 'command_line_models'"),
        (["no_such_module:Model"], "MODEL: cannot import no_such_module: ModuleNotFoundError"),
        ([f"{MODULE}:Sine"], "name 'Sine' is not defined"),
        ([f"{MODULE}:Cosine("], "cannot evaluate 'Cosine(' in command_line_models"),
        ([f"{MODULE}:number"], "MODEL: expected an mfdeq.FixedPointModel"),
        ([f"{MODULE}:Cosine", "--params", "one,two"], "--params: expected comma-separated numbers"),
        ([f"{MODULE}:Cosine", "--params", "none.npy"], "--params: cannot read none.npy"),
        ([f"{MODULE}:Cosine", "--params", "archive.npy"], "--params: cannot read archive.npy"),
        ([f"{MODULE}:Cosine", "--params", "pickle.npy"], "--params: cannot read pickle.npy"),
        ([f"{MODULE}:Cosine", "--params", "1,2,3"], "(3,)"),
        ([f"{MODULE}:Cosine", "--rtol", "5"], "rtol"),
        ([f"{MODULE}:make"], "MODEL: cannot be called without arguments: missing a required"),
        ([f"{MODULE}:Cosine", "--loss", f"{MODULE}:make"], "--loss: cannot be called"),
        ([f"{MODULE}:ReturnsNaN"], "ReturnsNaN.map"),
    ],
)
def test_verify_explains_wrong_arguments(arguments, words, capsys):
    with Path("archive.npy").open("wb") as file:
        np.savez(file, theta=np.ones(2))
    np.save("pickle.npy", np.array([{}]), allow_pickle=True)
    assert words in usage_error(capsys, "verify", *arguments)


def test_verify_names_the_line_of_an_error_in_the_module(capsys):
    Path("fails.py").write_text("import numpy\n\nTHERE = numpy.ones(3)[5]\n")
    message = usage_error(capsys, "verify", "fails:THERE")
    assert "IndexError" in message
    assert re.search(r"fails\.py, line 3", message)


def test_verify_finds_models_in_the_current_directory():
    run = [sys.executable, "-m", "mfdeq", "verify", f"{MODULE}:wrong"]
    process = subprocess.run(run, capture_output=True, text=True, check=False)
    assert process.returncode == 1, process.stderr
    head = process.stdout.splitlines()[0].split()
    assert head == ["check", "verdict", "figure", "threshold"]


# mfdeq status, mfdeq report


def test_status_counts_cases_and_shows_their_errors(capsys):
    study = mfdeq.Study("results")
    study.map(study_functions.fail_for_one_and_two, grid(i=range(4)), workers=0)
    assert main(["status", "results"]) == 1
    out = capsys.readouterr().out
    assert "2 cases done, 2 failed, 0 left" in out
    assert "not running" in out
    assert "1 failed, {'i': 1} first: ValueError: one is not liked" in out


def test_status_of_a_study_without_failures_is_0(capsys):
    mfdeq.Study("results").map(study_functions.pair, study_functions.PAIRS, workers=0)
    assert main(["status", "results"]) == 0
    assert "12 cases done, 0 failed, 0 left" in capsys.readouterr().out


def test_status_shows_errors_that_differ_in_numbers_once(capsys):
    def fail(i):
        raise ValueError(f"at {1e3 * i:.3e} " + "abcdefg"[i % 7] + ": much to say" * 99)

    mfdeq.Study("results").map(fail, grid(i=range(28)), workers=0)
    assert main(["status", "results"]) == 1
    *_, last = lines = capsys.readouterr().out.splitlines()
    groups = [line for line in lines if "first:" in line]
    assert len(groups) == 5
    assert all(re.match(r"4 failed, .* first: ValueError: at .* \.\.\.$", line) for line in groups)
    assert all(len(line) < 500 for line in groups)
    assert last == "8 failed with 2 other errors: `mfdeq report` lists them"


def test_report_writes_one_page(capsys):
    for package in ("jinja2", "matplotlib"):
        pytest.importorskip(package, reason="the studies extra is not installed")
    mfdeq.Study("results").map(study_functions.pair, study_functions.PAIRS[:2], workers=0)
    assert main(["report", "results"]) == 0
    file = Path(capsys.readouterr().out.strip())
    assert file == Path("results/report.html")
    assert "2 of 2 planned cases done" in file.read_text("utf-8")
    assert main(["report", "results", "-o", "other.html"]) == 0
    assert Path("other.html").exists()
    assert "cannot write" in usage_error(capsys, "report", "results", "-o", "nowhere/x.html")


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_directory_without_a_study_is_refused(command, capsys):
    message = usage_error(capsys, command, "nowhere")
    assert "expected a directory with a study, got nowhere" in message
    assert not Path("nowhere").exists()


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"mfdeq {mfdeq.__version__}\n"
