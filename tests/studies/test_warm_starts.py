"""Warm starts: the nearest case that is done, by the distance of real parameters."""

from __future__ import annotations

from support import study_functions as functions
from support.refusing import refused
from support.study_checks import assert_complete

import mfdeq
from mfdeq.studies import grid


def test_warm_starts_come_from_the_nearest_case_done(study):
    cases = [{"x": x, "kind": kind} for kind in ("a", "b") for x in (0.0, 10.0, 1.0, 6.0, 4.9)]
    warm = {"start": "state"}
    records = study.map(functions.warm_started, cases, workers=0, warm=warm)
    assert [r.outputs["was"] for r in records] == [None, 0.0, 0.0, 10.0, 6.0] * 2
    assert records[4].warm == records[3].key
    assert records[0].warm is None
    [later] = study.map(functions.warm_started, [{"x": 5.5, "kind": "b"}], workers=0, warm=warm)
    assert later.warm is None  # of the cases of that call
    with refused(mfdeq.StudyError, "warm: expected one of .* state, was, got 'nothing'"):
        study.map(
            functions.warm_started,
            [{"x": x, "kind": "c"} for x in (1.0, 2.0)],
            workers=0,
            warm={"start": "nothing"},
        )
    assert len(assert_complete(study)) == 12


def test_a_warm_start_may_have_the_name_of_its_output(study):
    cases, warm = grid(x=[1.0, 2.0]), {"state": "state"}
    first, second = study.map(functions.continue_state, cases, workers=0, warm=warm)
    assert (first.outputs["state"], second.outputs["state"]) == (0, 1)
    with refused(mfdeq.ArgumentError, "the study itself passes 'state'"):
        study.map(functions.continue_state, grid(state=[1]), workers=0, warm=warm)


def test_warm_starts_come_only_from_equal_sizes(study):
    """A start of another size would not fit."""
    cases = [{"x": x, "kind": n} for n in (40, 80) for x in (0.0, 1.0)]
    records = study.map(functions.warm_started, cases, workers=0, warm={"start": "state"})
    assert [record.outputs["was"] for record in records] == [None, 0.0, None, 0.0]


def test_a_study_without_cases_needs_no_start(study):
    assert study.map(functions.warm_started, [], workers=0, warm={"start": "state"}) == []
