"""``python -m mfdeq run experiment.toml`` and what follows: files, their mistakes, reports."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.refusing import refused, table
from test_command_line import MODELS

import mfdeq
from mfdeq.__main__ import main
from mfdeq.studies import experiment, keeping
from mfdeq.studies.lines import line_of

MORE = """

def shifted(rng, size=2, shift=0.0):
    assert size == 2
    model = Cosine()
    model.noise = rng.standard_normal()
    model.shift = shift
    return model


def params(model, scale=1.0):
    return scale * THETA + model.shift


def misfit(model, weight=1.0):
    return mfdeq.LeastSquares(np.arange(2), THETA, weight) + mfdeq.QuadraticPrior(
        np.eye(2), np.zeros(2)
    )


def told(eq, loss):
    return {"largest": eq.state.max(), "noise": eq.model.noise}


def sized(rng, size, shift):
    return shifted(rng, size, shift)


def fussy(model, scale=1.0):
    if scale > 1.5:
        raise ValueError("too large a scale")
    return THETA
"""

FILE = """\
directory = "results"   # beside this file
seed = 3
workers = 0

[model]
from = "experiment_models:shifted"
size = 2

[params]
from = "experiment_models:params"

[loss]
from = "experiment_models:misfit"

[solve]
rtol = 1e-12

[compute]
state = true
value = true
gradient = true
eigenvalues = { k = 2, which = "LA" }
minimum = { gtol = 1e-9 }
call = "experiment_models:told"

[vary.grid]
"params.scale" = [1.0, 2.0]
"loss.weight" = { start = 1, stop = 3 }
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "experiment_models.py").write_text(MODELS + MORE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # A module written twice in a second is not told from the one compiled before.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("experiment_models", None)


def write(text=FILE, name="experiment.toml"):
    file = Path(name)
    file.write_text(text)
    return file


def test_a_run(capsys):
    assert main(["run", str(write())]) == 0
    assert "4 cases done, 0 failed" in capsys.readouterr().out
    import experiment_models as of

    records = mfdeq.Study("results").records()
    assert [dict(r.params) for r in records] == [
        {"params.scale": scale, "loss.weight": weight} for scale in (1.0, 2.0) for weight in (1, 2)
    ]
    for record in records:
        scale, weight = record.params["params.scale"], record.params["loss.weight"]
        noise = np.random.default_rng(record.seed).standard_normal()
        model = of.shifted(np.random.default_rng(record.seed))
        loss = of.misfit(model, weight)
        eq = mfdeq.solve(model, scale * of.THETA, rtol=1e-12)
        H = eq.hessian(loss).toarray()
        found = record.outputs
        np.testing.assert_allclose(found["state"], eq.state, rtol=1e-10)
        np.testing.assert_allclose(found["loss"], loss.value(eq.state, eq.params), rtol=1e-10)
        np.testing.assert_allclose(found["gradient"], eq.gradient(loss), rtol=1e-9)
        np.testing.assert_allclose(np.sort(found["eigenvalues"]), np.linalg.eigvalsh(H), rtol=1e-8)
        assert found["gradient_norm"] == pytest.approx(np.linalg.norm(eq.gradient(loss)))
        assert found["noise"] == noise
        assert found["largest"] == pytest.approx(eq.state.max())
        end = mfdeq.solve(model, found["minimizer"], rtol=1e-12)
        assert np.linalg.norm(end.gradient(loss)) < 1e-8
        assert found["minimum"] == pytest.approx(loss.value(end.state, end.params))


def test_what_is_left_is_resumed(capsys, tmp_path, tmp_path_factory):
    text = FILE.replace("experiment_models:params", "experiment_models:fussy")
    assert main(["run", str(write(text))]) == 1
    assert "2 cases done, 2 failed" in capsys.readouterr().out
    before = {r.key: r.started for r in mfdeq.Study("results")}
    assert main(["status", "results"]) == 1
    out = capsys.readouterr().out
    assert "2 cases done, 2 failed, 0 left" in out
    assert "too large a scale" in out
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        assert main(["resume", str(tmp_path / "results")]) == 1
    assert {r.key: r.started for r in mfdeq.Study("results")} == before
    models = Path("experiment_models.py")
    models.write_text(models.read_text().replace("scale > 1.5", "scale > 2.5"))
    sys.modules.pop("experiment_models")
    assert main(["resume", "results", "--retry", "--workers", "0"]) == 0
    after = {r.key: r.started for r in mfdeq.Study("results")}
    assert sum(after[key] == before[key] for key in before) == 2
    assert main(["status", "results"]) == 0


def test_an_error_in_a_module_is_told_with_its_place():
    models = Path("experiment_models.py")
    models.write_text("def shifted(\n" + models.read_text())
    with refused(mfdeq.ExperimentError, "model.from", "SyntaxError", "line 1"):
        experiment.read(write())
    models.write_text("import numpy\n\nTHERE = numpy.ones(3)[5]\n")
    with refused(mfdeq.ExperimentError, "IndexError", "experiment_models.py, line 3"):
        experiment.read(write())


def test_more_cases_of_the_same(capsys):
    main(["run", str(write())])
    main(["run", str(write(FILE.replace("[1.0, 2.0]", "[1.0, 2.0, 3.0]")))])
    assert "6 cases done" in capsys.readouterr().out
    for old, new, words in (
        ("rtol = 1e-12", "rtol = 1e-11", ["line 16", "solve.rtol", "1e-12", "1e-11 came"]),
        ("size = 2", "", ["model.size", "nothing came", "another directory"]),
    ):
        with refused(mfdeq.ExperimentError, *words):
            keeping.refuse_changes(experiment.read(write(FILE.replace(old, new))))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    table(
        (
            "seed",
            "seed = 3",
            "seed = 9",
            "line 2: seed: the study in results was begun with 3, and 9",
        ),
        ("option", "rtol = 1e-12", "rtol = 1e-11", "line 16: solve.rtol"),
        ("twice", "[1.0, 2.0]", "[1.0, 1.0]", "line 27: vary.grid.params.scale: has 1.0 twice"),
        ("equal", "[1.0, 2.0]", "[1.0, 1]", "line 27: vary.grid.params.scale: has 1 twice"),
        ("list", "[vary.grid]", "[[vary.list]]\n[[vary.list]]\n[vary.grid]", "are the same"),
        ("workers", "workers = 0", "workers = -2", "line 3: workers"),
    ),
)
def test_a_refused_run_leaves_the_copy(old, new, said, capsys):
    main(["run", str(write())])
    kept = Path("results", "experiment.toml").read_text()
    with pytest.raises(SystemExit) as caught:
        main(["run", str(write(FILE.replace(old, new)))])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert Path("results", "experiment.toml").read_text() == kept
    assert main(["resume", "results"]) == 0


def test_the_copy_stays_while_another_writes(capsys):
    main(["run", str(write())])
    kept = Path("results", "experiment.toml").read_text()
    longer = write(FILE.replace("[1.0, 2.0]", "[1.0, 2.0, 3.0]"))
    with mfdeq.Study("results").store.writing(), pytest.raises(SystemExit):
        main(["run", str(longer)])
    assert "by this process already" in capsys.readouterr().err
    assert Path("results", "experiment.toml").read_text() == kept


def test_what_is_false_is_as_if_left_out(capsys):
    text = FILE.replace("gradient = true\n", "")
    main(["run", str(write(text))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        added = text.replace("value = true", "value = true\ngradient = false")
        assert main(["run", str(write(added.replace("seed = 3", "seed = 3\nwarm = false")))]) == 0


def test_a_file_with_a_byte_order_mark():
    file = write()
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(experiment.read(file).cases) == 4


def test_in_processes_and_warm():
    text = FILE.replace("workers = 0", "workers = 2\nwarm = true")
    run = [sys.executable, "-m", "mfdeq", "run", str(write(text))]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(mfdeq.Study("results")) == 4


@pytest.mark.parametrize(
    ("old", "new", "words"),
    table(
        ("syntax", "seed = 3", "seed = = 3", [r"experiment\.toml: .*line 2"]),
        ("unknown", "seed = 3", "seeds = 3", ["line 2: seeds: is not known", "Was seed meant?"]),
        ("kind", "seed = 3", 'seed = "3"', ["line 2: seed: is '3'; an integer was expected"]),
        ("workers", "workers = 0", "workers = -1", ["line 3: workers: is -1; a number from 0 up"]),
        ("missing", 'directory = "results"', "", ["directory: is missing; a string"]),
        ("no from", 'from = "experiment_models:shifted"', "", ["line 5: model.from: is missing"]),
        ("module", "experiment_models:shifted", "no_such:x", ["line 6: model.from", "No module"]),
        (
            "name",
            "experiment_models:shifted",
            "numpy:sihn",
            ["line 6: model.from: 'sihn'"],
        ),
        ("form", "experiment_models:shifted", "numpy", ["line 6", "module:expression was expect"]),
        ("params", 'from = "experiment_models:params"', "", ["line 9: params: one of from"]),
        (
            "no loss",
            '[loss]\nfrom = "experiment_models:misfit"',
            "",
            ["compute.value: needs a"],
        ),
        ("option", "k = 2", "kk = 2", ["line 22: compute.eigenvalues.kk: is not known", "Was k"]),
        ("compute", "value = true", "vlaue = true", ["line 20: compute.vlaue", "Was value meant"]),
        ("solve", "rtol = 1e-12", "tol = 1e-12", ["line 16: solve.tol: is not known"]),
        ("which", 'which = "LA"', 'which = "XX"', ["line 22: compute.eigenvalues.which", "LM, LA"]),
        ("k", "k = 2", "k = 2.5", ["line 22: compute.eigenvalues.k: is 2.5; an integer"]),
        ("a method", "gtol = 1e-9", 'method = "bfgs"', ["line 23: compute.minimum.method", "l-bf"]),
        ("rtol", "rtol = 1e-12", 'rtol = "1e-12"', ["line 16: solve.rtol: is '1e-12'; a number"]),
        ("model's", "size = 2", "sice = 2", ["line 7: model.sice: is no parameter", "Was size"]),
        ("varied", '"loss.weight"', '"loss.wait"', ["line 28: vary.grid.loss.wait: is no param"]),
        ("rng", "size = 2", "rng = 2", ["line 7: model.rng: is no parameter", "size, shift"]),
        ("empty", "start = 1, stop = 3", "start = 3, stop = 3", ["line 28: vary.grid.loss.weight"]),
        ("axis", "[1.0, 2.0]", "3.0", [r"line 27: vary.grid.params.scale: is 3\.0; a list"]),
        (
            "names nothing",
            '"loss.weight"',
            '"los.weight"',
            ["line 28", "'los.weight' names"],
        ),
        ("rtol 1", "rtol = 1e-12", "rtol = 1", ["line 16: solve.rtol: is 1; a number between 0"]),
        ("rtol -1", "rtol = 1e-12", "rtol = -1.0", [r"line 16: solve.rtol: is -1\.0; a number be"]),
        ("k 0", "k = 2", "k = 0", ["line 22: compute.eigenvalues.k: is 0; a positive integer"]),
        (
            "several",
            "value = true",
            "valeu = true\ngradeint = 1",
            ["line 20: compute.valeu.*\n.*line 21: compute.gradeint"],
        ),
        (
            "no file",
            'from = "experiment_models:params"',
            'file = "no.npy"',
            ["line 10: params.file"],
        ),
        (
            "no function",
            "models:told",
            "models:THETA",
            ["line 24: compute.call: is a ndarray; a fu"],
        ),
        ("needed", "shifted", "sized", ["line 6: model.from: experiment_models:sized needs shift"]),
        (
            "varied option",
            '"loss.weight"',
            '"compute.eigenvalues.kk"',
            ["line 28: vary.grid.compute.eigenvalues.kk: is not known", "Was k meant"],
        ),
        (
            "varied method",
            '"loss.weight" = { start = 1, stop = 3 }',
            '"solve.method" = ["newton", "foo"]',
            ["line 28: vary.grid.solve.method: is 'foo'; one of auto"],
        ),
        (
            "varied call",
            '"loss.weight" = { start = 1, stop = 3 }',
            '"compute.call" = ["experiment_models:told", "experiment_models:LOSS"]',
            ["line 28: vary.grid.compute.call: is a .*; a function was expected"],
        ),
        (
            "varied deep",
            '"loss.weight"',
            '"compute.minimum.a.b"',
            ["line 28", "'compute.minimum.a.b' names nothing"],
        ),
        ("warm", "state = true", "state = false\n[x]", ["line 20: x: is not known"]),
    ),
)
def test_mistakes_are_told_with_line_and_key(old, new, words, capsys):
    assert old in FILE
    file = write(FILE.replace(old, new, 1))
    with refused(mfdeq.ExperimentError, *words):
        experiment.read(file)
    with pytest.raises(SystemExit) as caught:
        main(["run", str(file)])
    assert caught.value.code == 2
    assert str(file) in capsys.readouterr().err
    assert not Path("results").exists()


def test_what_is_needed_may_be_varied():
    text = FILE.replace("shifted", "sized").replace('"loss.weight"', '"model.shift"')
    assert len(experiment.read(write(text)).cases) == 4


def test_a_warm_start_needs_states():
    text = FILE.replace("seed = 3", "warm = true").replace("state = true", "state = false")
    with refused(mfdeq.ExperimentError, "line 2: warm: starts from stored states"):
        experiment.read(write(text))


def test_settings_may_be_mended_before_a_case_is_done(capsys):
    text = FILE.replace("experiment_models:params", "experiment_models:fussy")
    file = write(text.replace("[1.0, 2.0]", "[2.0, 3.0]"))
    assert main(["run", str(file)]) == 1
    assert "4 failed, {'loss.weight': 1, 'params.scale': 2.0} first: ValueError: too large" in (
        capsys.readouterr().out
    )
    file = write(FILE.replace("[1.0, 2.0]", "[2.0, 3.0]"))
    assert main(["run", str(file), "--retry"]) == 0


def test_failures_are_told_in_groups(capsys):
    text = FILE.replace("experiment_models:params", "experiment_models:fussy")
    models = Path("experiment_models.py")
    said = 'f"at {1e3 * scale:.3e} " + "abcdefghi"[int(scale) % 7] + ": much to say" * 99'
    models.write_text(models.read_text().replace('"too large a scale"', said))
    file = write(text.replace("[1.0, 2.0]", str([2.0 + i for i in range(14)])))
    assert main(["run", str(file)]) == 1
    first, *groups, last = capsys.readouterr().out.splitlines()
    assert first.startswith("0 cases done, 28 failed")
    assert len(groups) == 5
    assert all(re.match(r"4 failed, .* first: ValueError: at .* \.\.\.$", line) for line in groups)
    assert all(len(line) < 500 for line in groups)
    assert last == "8 failed with 2 other errors; `report` has them"


def test_a_study_without_its_modules_says_where_they_were_looked_for(tmp_path, capsys):
    main(["run", str(write())])
    (tmp_path / "far" / "away").mkdir(parents=True)
    shutil.copytree("results", "far/away/results")
    sys.modules.pop("experiment_models")
    sys.path[:] = [folder for folder in sys.path if folder not in ("", str(tmp_path))]
    with contextlib.chdir(tmp_path / "far"), pytest.raises(SystemExit):
        main(["resume", "away/results"])
    assert f"modules are looked for in {tmp_path / 'far' / 'away'}" in capsys.readouterr().err


def test_a_project_may_be_moved(tmp_path, capsys):
    main(["run", str(write())])
    moved = tmp_path / "elsewhere" / "project"
    moved.mkdir(parents=True)
    for name in ("results", "experiment_models.py"):
        (tmp_path / name).rename(moved / name)
    sys.modules.pop("experiment_models")
    sys.path[:] = [folder for folder in sys.path if folder not in ("", str(tmp_path))]
    assert main(["resume", str(moved / "results")]) == 0
    assert sys.modules["experiment_models"].__file__ == str(moved / "experiment_models.py")


def test_a_name_that_two_tables_vary():
    text = FILE + '[vary.sample]\ncount = 2\n"params.scale" = "uniform(0, 1)"\n'
    with refused(mfdeq.ExperimentError, "params.scale: is varied twice"):
        experiment.read(write(text))


def test_a_study_of_a_script_is_not_resumed_from_a_file(capsys):
    mfdeq.Study("script").map(float, [{"x": 1}][:0], workers=0)
    with pytest.raises(SystemExit):
        main(["resume", "script"])
    assert "a study that a script has begun: run that again" in capsys.readouterr().err


def test_an_interrupted_run_says_how_far_it_is(monkeypatch, capsys):
    text = FILE.replace("experiment_models:told", "experiment_models:stopped")
    models = Path("experiment_models.py")
    models.write_text(models.read_text() + STOPPED)
    assert main(["run", str(write(text))]) == 130
    assert "interrupted: 2 cases are recorded" in capsys.readouterr().out


STOPPED = """

def stopped(eq, loss, calls=[]):
    calls.append(1)
    if len(calls) > 2:
        raise KeyboardInterrupt
    return {}
"""


def test_samples_and_lists():
    text = FILE[: FILE.index("[vary.grid]")]
    drawn = '[vary.sample]\ncount = 5\nseed = 2\n"params.scale" = "uniform(2, 1)"\n'
    listed = "[[vary.list]]\nmodel.shift = 0.5\n\n[[vary.list]]\nmodel.shift = 0.7\n"
    cases = experiment.read(write(text + listed + drawn)).cases
    assert [case["model.shift"] for case in cases] == [0.5] * 5 + [0.7] * 5
    assert all(2 <= case["params.scale"] <= 3 for case in cases)
    for wrong, words in (
        (
            "unifrom(2, 1)",
            ["line 29: vary.sample.params.scale", "unifrom", "distribution"],
        ),
        ("3", ["line 29", "a distribution of scipy.stats"]),
    ):
        text_of = text + drawn.replace("uniform(2, 1)", wrong)
        with refused(mfdeq.ExperimentError, *words):
            experiment.read(write(text_of))
    with refused(mfdeq.ExperimentError, "line 27: vary.sample.count"):
        experiment.read(write(text + drawn.replace("5", '"many"', 1)))


def test_lines_of_keys():
    text = 'a.b = 1\n[x]\n"y.z" = 2\n  w = {q = 3}\n[[x.v]]\nr = """\ns = 1"""\n'
    for key, line in (("a.b", 1), ("x.y.z", 3), ("x.w.q", 4), ("x.v.r", 6), ("x.nothing", 2)):
        assert line_of(text, key) == line
    assert line_of(text, "nothing") is None


# Reports.


def test_a_report_is_one_page(capsys):
    for package in ("jinja2", "matplotlib"):
        pytest.importorskip(package, reason="the studies extra is not installed")
    text = FILE.replace("experiment_models:params", "experiment_models:fussy")
    text = text.replace("[1.0, 2.0]", "[1.0, 1.1, 1.2, 2.0]")
    main(["run", str(write(text))])
    assert main(["report", "results"]) == 0
    file = Path(capsys.readouterr().out.splitlines()[-1])
    page = file.read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is fetched
    assert len(re.findall(r"<img ", page)) == page.count("data:image/png;base64,") > 4
    for shown in ("6 of 8 planned cases done", "2 failed", "too large a scale", "gradient_norm"):
        assert shown in page, shown
    assert "rtol = 1e-12" in page  # the experiment
    assert f"numpy {np.__version__}" in page
    first = mfdeq.Study("results").records()[0]
    assert f"{first.outputs['loss']:.5g}" in page
    assert "&#39;params.scale&#39;: 2.0" in page  # escaped
    assert main(["report", "results", "-o", "other.html"]) == 0
    assert Path("other.html").exists()


@pytest.mark.parametrize("command", ["status", "report", "resume"])
def test_a_directory_without_a_study(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "nowhere"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert "holds no study" in err or "cannot be read" in err
    assert not Path("nowhere").exists()
