"""The benchmarks run, and the memory of a million unknowns is what is promised (no timing)."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.gpu_cases import CASES
from benchmarks.gpu_traffic import counted
from benchmarks.problems import Convection, Diffusion

import mfdeq

ROOT = Path(__file__).parent.parent


def benchmark(*options, program="hessian"):
    command = [sys.executable, "-m", f"tests.benchmarks.{program}", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_hessian_products_are_tabulated():
    table = benchmark("--size", "24", "--pairs", "2")
    assert re.search(r"^Direct +[\d.]+ +[\d.]+ +[\d.]+ +1.3 +0$", table, re.MULTILINE)
    assert re.search(r"^CG \+ AMG +[\d.]+ +[\d.]+ +[\d.]+ +1.15 +\d+$", table, re.MULTILINE)


def test_reused_factors_save_setups_and_refreshed_hierarchies_iterations():
    table = benchmark("--sizes", "16", "--repeats", "1", program="newton")
    rows = re.findall(r"^ +16 (Direct|CG \+ AMG) +(-?\d+) +(\d+) +(\d+) +\d+", table, re.MULTILINE)
    setups = {(name, int(limit)): int(count) for name, limit, _, count in rows}
    assert len(setups) == 12
    assert setups["Direct", -1] > 2 * setups["Direct", 40]
    refreshed = re.findall(r"sigma \S+ +[\d.]+ +[\d.]+ +[\d.]+ +(\d+) +(\d+) +(\d+)$", table, re.M)
    assert len(refreshed) == 3
    assert all(int(again) <= int(new) + 2 < int(kept) for new, again, kept in refreshed)


@pytest.mark.slow
def test_linear_solves_are_tabulated():
    table = benchmark("--small", "--only", "mfdeq", program="linear")
    assert table.count("\nmfdeq auto ") >= 10
    for target in re.findall(r"memory, CG \+ AMG: .*", table):
        assert target.endswith("met)")


def test_block_preconditioners_of_saddle_points_are_tabulated():
    table = benchmark("--small", "--saddle-points", program="linear")
    assert table.count("    auto  ") == 4
    assert len(re.findall(r"iterations \d.* \(target <= 60: met\)", table)) == 4


def test_costs_of_auto_are_tabulated_for_one_solve_and_for_a_hundred():
    table = benchmark("--small", "--choices", program="linear")
    for solves in (1, 100):
        for hint in ("", f"solves={solves}"):
            assert (
                table.count(f"    Auto({hint}), {solves} solves (Direct (SuperLU)) / best (") == 2
            )


@pytest.mark.slow
def test_eigenvalues_are_tabulated_and_none_is_missed():
    table = benchmark("--small", "--rounds", "1", program="spectrum")
    assert table.count("ours / the best ARPACK") == 6
    assert "missed: 0" in table


@pytest.mark.slow
def test_newton_and_l_bfgs_are_tabulated():
    pytest.importorskip("matplotlib", reason="the terrain needs the extra plot")
    table = benchmark("--rows", "40", program="minimize")
    assert re.search(r"Newton-CG, prior .* \d\.\de-(09|1\d)\n", table)
    assert "equilibria over the best L-BFGS" in table


@pytest.mark.slow
def test_a_million_unknowns_fit_in_6_gb():
    peak = re.search(r"peak memory ([\d.]+) GiB", benchmark("--million"))
    assert float(peak[1]) * 2**30 < 6e9


@pytest.mark.slow
@pytest.mark.parametrize("problem", CASES)
def test_the_program_for_devices_runs_on_the_host(problem, tmp_path):
    pytest.importorskip("matplotlib", reason="the terrain needs the extra plot")
    options = ["--device", "cpu", "--sizes", "small", "--output", str(tmp_path)]
    table = benchmark(*options, "--problems", problem, program="gpu")
    record = json.loads(next(tmp_path.glob("*.jsonl")).read_text())
    jax = importlib.util.find_spec("jax") is not None
    for role in ("device", "cpu", "jax")[: 3 if jax else 2]:
        assert record[role]["product"] > 0
    assert record["device"]["failed"] == record["cpu"]["failed"] == {}
    assert 0.0 < record["device"]["fine"] < 5.0 * record["device"]["copy"]
    assert f"{problem}: device from host 0e+00 (<= 1e-09: met)" in table
    assert not jax or record["jax"]["off"] < 1e-6
    again = benchmark(*options, "--problems", problem, program="gpu")
    assert f"{problem}: is there already" in again


def test_a_table_names_what_was_not_measured(tmp_path):
    failed = {"failed": {"process": "ended with -9: "}}
    machine = dict.fromkeys(("name", "driver", "cuda", "versions", "host", "cores", "threads"), "x")
    record = {"problem": "4096²", "sizes": "full", "date": "d", "commit": "c", "machine": machine}
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(record | {"device": {"N": 5, "failed": {}}, "cpu": failed}))
    benchmark("--render", str(path), program="gpu")
    table = path.with_suffix(".rst").read_text()
    assert "4096², cpu, process: ended with -9" in table
    assert "times faster than the host (target >= 40: not measured)" in table
    assert "device from host not compared" in table


@pytest.mark.parametrize("make", [lambda: Diffusion(4, 3), lambda: Convection(6)])
def test_derivatives_of_the_inverse_problems_pass_verification(make):
    model = make()
    found = mfdeq.verify(model, model.lognormal(), model.loss(9))
    assert found.verdict == "PASS", str(found)


def test_the_problem_with_wind_is_neither_symmetric_nor_square():
    model = Convection(6)
    theta = model.lognormal()
    A = model.linearize(np.zeros(model.state_size), theta).d_state
    assert model.param_size == 9 < model.state_size == 36
    assert abs(A - A.T).max() > 0.1 * abs(A).max()


def test_bytes_read_by_a_product_are_those_counted_by_hand():
    """By hand, of conjugate gradients with a preconditioner that reads nothing."""
    model = Diffusion(8)
    eq = mfdeq.solve(model, model.lognormal(), solver=mfdeq.Krylov("cg", block=1))
    b, counts, A = np.ones(64), eq.report.linear, eq.state_operator.array
    _ = eq.factor
    before = counts.iterations
    with counted() as traffic:
        eq.factor.solve(b, rtol=1e-6)
    iterations = counts.iterations - before
    of_A = A.data.nbytes + A.indices.nbytes + A.indptr.nbytes + 2 * b.nbytes
    products = iterations + 1  # and that of the true residual
    assert iterations > 5
    assert traffic.bytes == products * of_A + 13 * iterations * b.nbytes


def test_the_cost_of_error_estimates_is_tabulated():
    pytest.importorskip("matplotlib", reason="the terrain needs the extra plot")
    table = benchmark("--rows", "24", "--repeats", "1", program="estimates")
    assert re.search(r"^first +[\d.]+ +[\d.]+ +-?[\d.]+%$", table, re.MULTILINE)
    assert "errors: gradient" in table
