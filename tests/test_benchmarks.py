"""The benchmarks run, and the memory of a million unknowns is what is promised (no timing)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def benchmark(*options):
    command = [sys.executable, "-m", "tests.benchmarks.hessian", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_product_table():
    table = benchmark("--size", "24", "--pairs", "2")
    assert re.search(r"^Direct +[\d.]+ +[\d.]+ +[\d.]+ +1.3 +0$", table, re.MULTILINE)
    assert re.search(r"^CG \+ AMG +[\d.]+ +[\d.]+ +[\d.]+ +1.15 +\d+$", table, re.MULTILINE)


@pytest.mark.slow
def test_a_million_unknowns_fit_in_6_gb():
    peak = re.search(r"peak memory ([\d.]+) GiB", benchmark("--million"))
    assert float(peak[1]) * 2**30 < 6e9
