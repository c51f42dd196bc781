"""``python -m mfdeq verify`` in scripts and CI: what it prints, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mfdeq.__main__ import main

MODELS = """
import numpy as np
import mfdeq

THETA = np.array([0.3, -0.2])


class Cosine(mfdeq.FixedPointModel):
    state_size = param_size = 2

    def __init__(self, factor=1.0):
        self.factor = factor

    def map(self, h, theta):
        return np.cos(h) + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            np.diag(-self.factor * np.sin(h)),
            np.eye(2),
            curvature=lambda lam: mfdeq.Curvature(state_state=np.diag(-lam * np.cos(h))),
            second=lambda a, b: -np.cos(h) * a[1] * b[1],
        )


class Never(Cosine):
    def map(self, h, theta):
        return h + 1.0

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.eye(2), np.zeros((2, 2)))


class Broken(Cosine):
    def map(self, h, theta):
        return h * np.nan


def make(n):
    return Cosine(n)


wrong = Cosine(1.1)
LOSS = mfdeq.LeastSquares(np.arange(2), THETA)
WRONG_LOSS = mfdeq.Loss(lambda h, t: (h**2).sum(), lambda h, t: h)
number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "command_line_models.py").write_text(MODELS)
    np.save(tmp_path / "theta.npy", np.array([0.1, 0.2]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["Cosine"], 0, "verdict: PASS"),
        (["Cosine()"], 0, "verdict: PASS"),
        (["Cosine(1.1)"], 1, "look first at: d_state"),
        (["wrong", "--params", "0.3,-0.2"], 1, "verdict: FAIL"),
        (["Never"], 3, "verdict: INCONCLUSIVE"),
        (["Cosine", "--params", "theta.npy"], 0, "verdict: PASS"),
        (["Cosine", "--params", "numpy:full(2, 0.1)", "--seed", "5"], 0, "verdict: PASS"),
        (["Cosine", "--params", "command_line_models:THETA", "--rtol", "1e-8"], 0, "verdict: PASS"),
        (["Cosine", "--loss", "command_line_models:LOSS"], 0, "d_state of the loss"),
        (["Cosine", "--loss", "command_line_models:WRONG_LOSS"], 1, "d_state of the loss"),
    ],
)
def test_verify(arguments, status, said, capsys):
    assert main(["verify", f"command_line_models:{arguments[0]}", *arguments[1:]]) == status
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["command_line_models"], "module:expression was expected"),
        (["no_such_module:Model"], "No module named 'no_such_module'"),
        (["command_line_models:Sine"], "name 'Sine' is not defined"),
        (["command_line_models:Cosine("], "'Cosine(' in command_line_models"),
        (["command_line_models:number"], "MODEL is a int"),
        (["command_line_models:Cosine", "--params", "one,two"], "numbers, a .npy file"),
        (["command_line_models:Cosine", "--params", "1,2,3"], "params: expected an array of shape"),
        (["command_line_models:Cosine", "--rtol", "5"], "rtol is 5.0"),
        (["command_line_models:make"], "MODEL is called without arguments: missing a required"),
        (["command_line_models:Cosine", "--loss", "command_line_models:make"], "--loss is called"),
        (["command_line_models:Broken"], "Broken.map holds NaN"),
    ],
)
def test_wrong_arguments(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["verify", *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_as_a_module_from_the_directory_of_the_model():
    for model, status in (("Cosine", 0), ("wrong", 1)):
        run = [sys.executable, "-m", "mfdeq", "verify", f"command_line_models:{model}"]
        done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=Path.cwd())
        assert done.returncode == status, done.stderr
        assert done.stdout.splitlines()[0].split() == ["check", "verdict", "figure", "threshold"]
