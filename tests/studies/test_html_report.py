"""Studies as HTML pages."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import study_functions as functions

import mfdeq
from mfdeq.studies import grid


@pytest.fixture(autouse=True)
def packages():
    for package in ("jinja2", "matplotlib"):
        pytest.importorskip(package, reason="the studies extra is not installed")


def test_a_report_is_one_page_with_figures_failures_and_provenance(study):
    cases = [{"x": x, "kind": "<b>"} for x in (1.0, 1.1, 1.2, 2.0)]
    records = study.map(functions.spectrum, cases, workers=0)
    page = study.to_html()
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # nothing is loaded from elsewhere
    assert len(re.findall(r"<img ", page)) == page.count("data:image/png;base64,") > 4
    assert "3 of 4 planned cases done" in page
    assert "1 failed" in page
    assert "ValueError: 2.0 is too large" in page
    assert "kind" in page
    assert "<b>" not in page  # escaped
    assert "&lt;b&gt;" in page
    assert f"numpy {np.__version__}" in page
    assert f"{records[0].outputs['norm']:.5g}" in page
    assert "support.study_functions.spectrum" in page


def test_complex_numbers_are_reported(study):
    study.map(functions.complex_outputs, grid(i=[2, 3]), workers=0)
    assert "complex_outputs" in study.to_html()


def test_an_empty_study_is_reported(tmp_path):
    assert "no case yet" in mfdeq.Study(tmp_path).to_html()
