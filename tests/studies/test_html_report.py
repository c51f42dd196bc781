"""Studies as HTML pages."""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3

import numpy as np
import pytest
from support import study_functions as functions

import mfdeq
from mfdeq.studies import grid
from mfdeq.studies.intact_arrays import IntactArrays
from mfdeq.studies.report_figures import drawings


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


def draw(study, records, arrays):
    """Draw the figures of the report, by their titles."""
    from matplotlib.figure import Figure

    figures = {}
    for title, size, plot in drawings(records, study.units, arrays):
        figures[title] = Figure(figsize=size)
        plot(figures[title])
    return figures


@pytest.fixture
def drawn(study):
    """Run cases with fields, and return a function that draws the figures of the report."""
    units = {"x": "m", "depth": "m$^2$", "eigenvalues": "1/s"}
    records = study.map(functions.fields, grid(x=[1.0, 2.0, 3.0]), workers=0, units=units)
    return study, records, functools.partial(draw, study, records)


def test_maps_show_each_stored_field_with_one_scale(drawn):
    _, records, draw = drawn
    figures = draw(IntactArrays())
    assert {"maps of depth", "maps of signed"} <= figures.keys()
    assert not any("words" in title for title in figures)  # strings have no colours
    *maps, bar = figures["maps of depth"].axes
    assert [ax.get_title() for ax in maps] == ["x 1 m", "x 2 m", "x 3 m"]
    assert bar.get_ylabel() == r"depth (m\$^2\$)"  # no formula
    assert {ax.images[0].get_clim() for ax in maps} == {(1.0 + 1 / 121, 10.0)}
    image = maps[1].images[0].get_array()
    np.testing.assert_array_equal(image, records[1].outputs["depth"][:, ::2])  # 300 columns
    assert maps[1].images[0].get_extent() == [-0.5, 299.5, 11.5, -0.5]  # the array's own indices
    assert figures["maps of signed"].axes[0].images[0].get_clim() == (-3.0, 3.0)
    low = figures["maps of almost_positive"].axes[0].images[0].get_clim()[0]
    assert low == pytest.approx(1 / 121 - 0.1)  # its few negative values do not double the scale


def test_maps_of_a_field_in_time_show_steps_from_the_first_to_the_last(drawn):
    [(title, figure)] = [item for item in drawn[2](IntactArrays()).items() if "steps" in item[0]]
    assert title == "maps of steps by its first index, case x 1 m"
    assert [ax.get_title() for ax in figure.axes[:-1]] == [
        f"steps[{i}]" for i in (0, 1, 3, 4, 6, 8)
    ]


def test_eigenvalues_are_in_the_order_of_the_plot_of_a_spectrum(drawn):
    ax = drawn[2](IntactArrays())["eigenvalues by magnitude"].axes[0]
    pairs = mfdeq.eigsh(np.diag([0.5, -3.0, 2.0, 1e-3]), 2, "LM")
    theirs = mfdeq.plot.spectrum(pairs)
    assert ax.get_xlabel() == theirs.get_xlabel()
    assert ax.get_yscale() == theirs.get_yscale() == "log"
    assert ax.get_ylabel() == "|eigenvalues (1/s)|"
    markers = {line.get_label(): line for line in ax.lines if line.get_marker() == "o"}
    positive, negative = markers["median, positive"], markers["median, negative"]
    np.testing.assert_allclose(negative.get_xydata(), [[1, 6]])
    np.testing.assert_allclose(positive.get_xydata(), [[2, 4], [3, 1], [4, 2e-3]])
    assert negative.get_markerfacecolor() == "white"


def test_units_are_in_tables_and_stay_with_the_study(study):
    run = functools.partial(study.map, functions.spectrum, workers=0)
    run(grid(x=[1.0, 1.1], kind=["a"]), units={"x": "km", "norm": "Pa <absolute>"})
    run(grid(x=[1.0, 1.1, 1.2], kind=["a"]))
    page = mfdeq.Study(study.directory).to_html()
    assert page.count("<th>x (km)</th>") == 1
    assert "<td>norm (Pa &lt;absolute&gt;)</td>" in page
    assert "<th>kind</th>" in page
    for units in ({"x": 3}, {"a/b": "m"}, "m"):
        with pytest.raises(mfdeq.ArgumentError, match="units"):
            run(grid(x=[1.0], kind=["a"]), units=units)


@pytest.mark.parametrize("name", ["depth", "eigenvalues", "words"])
def test_a_damaged_array_is_named_and_the_rest_is_reported(drawn, name):
    study, records, draw = drawn
    whole = study.to_html()
    assert "Damaged" not in whole
    file = records[1].outputs.file(name)
    file.write_bytes(file.read_bytes()[:-1])
    page = study.to_html()
    assert "Damaged arrays" in page
    assert str(file) in page
    assert f"{name} of the case {{&#39;x&#39;: 2.0}}" in page
    assert page.count("<img ") == whole.count("<img ")
    arrays = IntactArrays()
    arrays.check(records)
    figures = draw(arrays)
    assert [ax.get_title() for ax in figures["maps of signed"].axes[:3]] == [
        "x 1 m",
        "x 2 m",
        "x 3 m",
    ]
    if name == "depth":
        maps = figures["maps of depth"].axes[:-1]
        assert [ax.get_title() for ax in maps] == ["x 1 m", "x 3 m"]


def test_a_study_whose_arrays_are_all_damaged_is_reported(drawn):
    study, records, _ = drawn
    for record in records:
        for name in record.outputs:
            record.outputs.file(name).unlink()
    page = study.to_html()
    assert page.count("cannot be read (") == 3 * len(records[0].outputs)
    assert "3 of 3 planned cases done" in page


def test_arrays_beyond_a_limit_are_counted_as_unchecked(drawn):
    _, records, _ = drawn
    size = sum(records[0].outputs.file(name).stat().st_size for name in records[0].outputs)
    arrays = IntactArrays()
    assert arrays.check(records, limit=size) == 2 * len(records[0].outputs)
    assert arrays.damaged == []


def test_vectors_are_drawn_as_curves_whatever_their_lengths(study):
    cases = grid(n=[100, 150, 200])
    records = study.map(functions.vectors, cases, workers=0, units={"state": "K$", "wave": "V"})
    figures = draw(study, records, IntactArrays())
    assert figures.keys() == {f"{name} by index" for name in ("state", "profile", "list", "wave")}
    [ax] = figures["state by index"].axes
    assert ax.get_ylabel() == r"state (K\$)"
    assert [text.get_text() for text in ax.get_legend().texts] == ["n 100", "n 150", "n 200"]
    for line, record in zip(ax.lines, records, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), record.outputs["state"].ravel())
        assert list(line.get_xdata()[[0, -1]]) == [1, record.params["n"]]
    [ax] = figures["wave by index"].axes
    assert ax.get_ylabel() == "|wave (V)|"
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 150.0)
    long = figures["profile by index"].axes[0].lines[0]
    np.testing.assert_array_equal(long.get_xdata(), np.arange(1, 5001, 3))
    np.testing.assert_array_equal(long.get_ydata(), np.arange(0.0, 5000.0, 3) - 100)
    assert [text.get_text() for text in figures["list by index"].axes[0].get_legend().texts] == [
        "10 % to 90 % of cases",
        "median",
    ]
    assert study.to_html().count("<img ") == 4


def test_at_most_six_vectors_are_drawn_and_damaged_ones_left_out(study):
    records = study.map(functions.vectors, grid(n=list(range(100, 120))), workers=0)
    file = records[0].outputs.file("state")
    file.write_bytes(file.read_bytes()[:-1])
    arrays = IntactArrays()
    arrays.check(records)
    lines = draw(study, records, arrays)["state by index"].axes[0].lines
    assert [line.get_ydata().size for line in lines] == [101, 104, 108, 111, 115, 119]


def execute(study, command, *values):
    with contextlib.closing(sqlite3.connect(study.store.path)) as db, db:
        db.execute(command, values)


@pytest.mark.parametrize(
    "change",
    ["outputs = '{\"sum\": 9}'", "outputs = x'00'", "error = cast(x'ff' as text)", "params = ''",
     "status = 'failed'", "seconds = 'never'", "session = 9", "key = 'elsewhere'"],
)  # fmt: skip
def test_a_damaged_record_is_named_and_the_rest_is_reported(study, change):
    records = study.map(functions.pair, functions.PAIRS[:3], workers=0)
    execute(study, f"update records set {change} where key = ?", records[1].key)
    page = mfdeq.Study(study.directory).to_html()
    named = "elsewhere" if change.startswith("key") else records[1].key
    [message] = re.findall(r"<li>(.*?)</li>", page)
    assert f"{study.store.path}: the record of case &#39;{named}&#39; cannot be read" in message
    assert "2 of 3 planned cases done" in page
    assert "1 row damaged" in page
    assert page.count("<td>done</td>") == 2
    assert 'alt="state by index"' in page
    with pytest.raises(mfdeq.StudyError, match="damaged"):
        study.records()


def test_damaged_sessions_and_settings_are_named_and_the_rest_is_reported(study):
    for count in (2, 3):
        study.map(functions.pair, functions.PAIRS[:count], workers=0, units={"i": "m"})
    execute(study, "update sessions set provenance = '{' where id = 1")
    execute(study, "update settings set value = '[' where name in ('units', 'function')")
    page = mfdeq.Study(study.directory).to_html()
    messages = re.findall(r"<li>(.*?)</li>", page)
    assert len(messages) == 3
    for words in ("session 1 cannot", "setting &#39;units&#39;", "setting &#39;function"):
        assert sum(words in message for message in messages) == 1
    assert page.count("<td>done</td>") == 3
    assert "unknown function" in page
    assert "3 rows damaged" in page
    assert 'alt="state by index"' in page
