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
from benchmarks import gpu
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


def test_small_problems_are_tabulated_beside_scipy():
    table = benchmark("--sizes", "2", "--large", "40", "--repeats", "1", program="small")
    rows = re.findall(r"^(N = P = 2|tridiagonal 40|dense 40) +(\w+) +[\d.]+ +(\d+)", table, re.M)
    calls = {(title, name): int(count) for title, name, count in rows}
    for title in ("N = P = 2", "tridiagonal 40", "dense 40"):
        assert calls[title, "scipy"] < calls[title, "hand"]
    assert re.search(r"^dense 40, over \d+ factorizations of scipy: ", table, re.MULTILINE)


def test_reused_factors_save_setups_and_refreshed_hierarchies_iterations():
    table = benchmark("--sizes", "20", "--repeats", "1", program="newton")
    rows = re.findall(
        r"^ +20 (Direct|CG \+ AMG) +(-?[\d.]+) +(\d+) +(\d+) +\d+", table, re.MULTILINE
    )
    setups = {(name, float(limit)): int(count) for name, limit, _, count in rows}
    assert len(setups) == 12
    assert setups["Direct", -1] > 2 * setups["Direct", 1]
    refreshed = re.findall(r"sigma \S+ +[\d.]+ +[\d.]+ +[\d.]+ +(\d+) +(\d+) +(\d+)$", table, re.M)
    assert len(refreshed) == 3
    assert all(int(again) <= int(new) + 2 < int(kept) for new, again, kept in refreshed)


@pytest.mark.slow
def test_nodes_are_tabulated_beside_those_by_hand():
    pytest.importorskip("jax", reason="the jax extra is not installed")
    pytest.importorskip("torch", reason="the torch extra is not installed")
    table = benchmark("--sizes", "4", "--grid", "8", "--repeats", "2", program="node")
    assert len(re.findall(r"^  mfdeq +[\d.]+ ms +1.00$", table, re.MULTILINE)) == 4
    assert len(re.findall(r"^  .* by hand +[\d.]+ ms +[\d.]+$", table, re.MULTILINE)) >= 1


@pytest.mark.slow
def test_threads_are_compared_with_one():
    pytest.importorskip("numba", reason="the fast extra is not installed")
    table = benchmark("--small", program="threads")
    rows = re.findall(
        r"^  (\S.*?) +([\d.]+) +([\d.]+) \(1.7: (?:met|missed)\)$", table, re.MULTILINE
    )
    assert len(rows) == 12
    assert {"A x, float32", "A' x, float64, 8 columns", "CG + AMG"} <= {name for name, *_ in rows}


@pytest.mark.slow
def test_linear_solves_are_tabulated():
    table = benchmark("--small", "--only", "mfdeq", program="linear")
    assert table.count("\nmfdeq auto ") >= 10
    for target in re.findall(r"memory, CG \+ AMG: .*", table):
        assert target.endswith("met)")


def test_block_preconditioners_of_saddle_points_are_tabulated():
    table = benchmark("--small", "--saddle-points", program="linear")
    assert table.count("    auto  ") == 4
    assert len(re.findall(r"iterations \d.* \(target <= 60: met\)", table)) == 6


def test_set_ups_of_direct_solvers_are_tabulated():
    table = benchmark("--small", "--rounds", "1", program="setup")
    assert len(re.findall(r"^    multifrontal +\d+\.\d{3} ", table, re.MULTILINE)) == 4
    assert re.search(r"^    symmetric fronts .* Multifrontal, 144 negative", table, re.MULTILINE)


def test_costs_of_auto_are_tabulated_for_one_solve_and_for_a_hundred():
    table = benchmark("--small", "--choices", program="linear")
    for solves in (1, 100):
        for hint in ("", f"solves={solves}"):
            assert (
                table.count(f"    Auto({hint}), {solves} solves (Direct (SuperLU)) / best (") == 6
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


def figures_of(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(line["stage"], line["figure"]): line["value"] for line in lines if "figure" in line}


@pytest.mark.slow
def test_the_stages_for_devices_run_on_the_host(tmp_path):
    path = tmp_path / "figures.jsonl"
    options = ["--device", "cpu", "--sizes", "small", "--output", str(path)]
    benchmark(*options, program="gpu")
    found = figures_of(path)
    jax = importlib.util.find_spec("jax") is not None
    failed = {stage for stage, figure in found if figure in ("failed", "left out")}
    assert failed == (set() if jax else {"JAX 32²", "JAX 8³"})
    for n in (32, 64, 96):
        assert found[f"Poisson {n}²", "true residual of 1e-10"] <= 1e-10
        assert found[f"Poisson {n}²", "iterations to 1e-06"] < 20
    assert found["Hessian 8³", "column in a block of 8"] > 0
    assert "   * - Poisson 64²\n     - set-up\n" in benchmark("--page", str(path), program="gpu")


def test_stages_that_take_longer_than_the_time_left_are_left_out(tmp_path):
    path = tmp_path / "figures.jsonl"
    options = ["--device", "cpu", "--sizes", "small", "--seconds", "20", "--output", str(path)]
    benchmark(*options, program="gpu")
    found = figures_of(path)
    assert "it takes about 30 s" in found["check", "left out"]
    assert found["copy", "bandwidth of a copy"] > 0
    assert "it takes about 80 s" in found["Hessian 32²", "left out"]


def test_a_stage_that_ends_its_process_is_followed_by_the_next_one(tmp_path, monkeypatch):
    path = tmp_path / "figures.jsonl"
    options = gpu.parse(["--device", "cpu", "--sizes", "small", "--output", str(path)])
    started = []

    def run(command, **settings):
        begun = ["check", "copy"][len(started)] if len(started) < 2 else None
        started.append(command)
        if begun is None:
            return subprocess.CompletedProcess(command, 0)
        gpu.write(path, {"begun": begun})
        return subprocess.CompletedProcess(command, -9)

    monkeypatch.setattr(gpu, "machine", lambda options: {"device": "none"})
    monkeypatch.setattr(gpu.subprocess, "run", run)
    gpu.supervise(options, 1e12)
    assert len(started) == 3
    found = figures_of(path)
    assert found["copy", "failed"] == "the process ended with -9"


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


def test_many_experiments_are_compared_with_blocks_by_hand():
    pytest.importorskip("threadpoolctl", reason="the fast extra is not installed")
    table = benchmark("experiments", "--small", "--repeats", "1", program="many")
    rows = re.findall(r"^  (\d+ sources, .*?) +([\d.]+) +([\d.]+) +[\d.]+ \(", table, re.MULTILINE)
    assert len(rows) >= 2
