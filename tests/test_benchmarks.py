"""The benchmarks run, and the memory of a million unknowns is what is promised (no timing)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def benchmark(*options, program="hessian"):
    command = [sys.executable, "-m", f"tests.benchmarks.{program}", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_product_table():
    table = benchmark("--size", "24", "--pairs", "2")
    assert re.search(r"^Direct +[\d.]+ +[\d.]+ +[\d.]+ +1.3 +0$", table, re.MULTILINE)
    assert re.search(r"^CG \+ AMG +[\d.]+ +[\d.]+ +[\d.]+ +1.15 +\d+$", table, re.MULTILINE)


def test_the_table_of_refreshing():
    table = benchmark("--sizes", "16", "--repeats", "1", program="newton")
    rows = re.findall(r"^ +16 (Direct|CG \+ AMG) +(-?\d+) +(\d+) +(\d+) +\d+", table, re.MULTILINE)
    setups = {(name, int(limit)): int(count) for name, limit, _, count in rows}
    assert len(setups) == 12
    assert setups["Direct", -1] > 2 * setups["Direct", 40]


@pytest.mark.slow
def test_the_table_of_the_linear_layer():
    table = benchmark("--small", "--only", "mfdeq", program="linear")
    assert table.count("\nmfdeq auto ") >= 10
    for target in re.findall(r"memory, CG \+ AMG: .*", table):
        assert target.endswith("met)")


@pytest.mark.slow
def test_the_table_of_eigenvalues():
    table = benchmark("--small", "--rounds", "1", program="spectrum")
    assert table.count("ours / the best ARPACK") == 6
    assert "missed: 0" in table


@pytest.mark.slow
def test_a_million_unknowns_fit_in_6_gb():
    peak = re.search(r"peak memory ([\d.]+) GiB", benchmark("--million"))
    assert float(peak[1]) * 2**30 < 6e9
