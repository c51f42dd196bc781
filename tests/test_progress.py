"""Progress bars: in a terminal, and nowhere else."""

import io
import sys

import numpy as np
import pytest
from support.terminal import Terminal

import mfdeq
from mfdeq.progress import ProgressBar


def count_to_three(stream, monkeypatch, **options):
    """What is written to standard error while three units are counted."""
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar("work", "pieces", **options) as bar:
        for _ in range(3):
            bar.advance(text="going well")
    return stream.getvalue()


def test_a_bar_is_shown_in_a_terminal(monkeypatch):
    shown = count_to_three(Terminal(), monkeypatch, total=5, done=2)
    for part in ("work", "5/5", "going well"):
        assert part in shown


def test_nothing_is_written_where_standard_error_is_a_file(monkeypatch):
    assert count_to_three(io.StringIO(), monkeypatch) == ""


def test_nothing_is_written_where_no_bar_is_wanted(monkeypatch):
    assert count_to_three(Terminal(), monkeypatch, shown=False) == ""


def test_the_line_of_the_bar_is_ended_after_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(mfdeq.ConvergenceError), ProgressBar("work", "pieces"):
        raise mfdeq.ConvergenceError("it went wrong")
    assert sys.stderr.getvalue().endswith("\n")


def test_products_of_eigsh_are_counted_in_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    mfdeq.eigsh(np.diag(np.arange(1.0, 61.0)), 2, progress=True)
    assert "eigsh" in sys.stderr.getvalue()
    assert "products" in sys.stderr.getvalue()
