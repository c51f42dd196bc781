"""Over a thousand spectra: none has a wanted eigenvalue that is missing without a word."""

from collections import Counter

import pytest
from support.many_spectra import FAMILIES, Case, cases, missing

import mfdeq

CASES = list(cases())
MAX_REFUSED = 0.03
SAMPLE = CASES[5::29]
PARTS = 11  # for several processes; not a divisor of the number of cases, which alternate


def check(some: list[Case]) -> Counter:
    """Return how many cases had each outcome, after printing those that were not right."""
    outcomes = {case: case.outcome() for case in some}
    counts = Counter(outcomes.values())
    print(f"{len(some)} spectra:", dict(counts))
    for case, outcome in outcomes.items():
        if outcome != "right":
            print(f"  {outcome}: {case}")
    return counts


def test_there_are_many_cases_of_every_kind():
    assert len(set(CASES)) > 1000
    for name, least in (("family", 50), ("kind", 60), ("which", 200), ("rtol", 60), ("dtype", 100)):
        assert min(Counter(getattr(case, name) for case in CASES).values()) >= least
    assert {case.family for case in SAMPLE} == set(FAMILIES)
    assert {case.k for case in CASES} >= {1, 50}


def test_a_sample_of_spectra_is_right():
    counts = check(SAMPLE)
    assert counts["missed"] == counts["no eigenvalue"] == 0
    assert counts["refused"] <= MAX_REFUSED * len(SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_all_spectra_are_right(part):
    some = CASES[part::PARTS]
    counts = check(some)
    assert counts["missed"] == counts["no eigenvalue"] == 0
    assert counts["refused"] <= MAX_REFUSED * len(some)


def test_a_missing_copy_counts_as_missed():
    case = Case("torus", "LA", 6, 1e-6)
    values, found = case.values, mfdeq.eigsh(case.matrix, k=6, which="LA", complete=False)
    got = values[[-12, -8, -7, -6, -5, -1]]
    assert missing(got, found.error_bounds, values, "LA", found.report)
    assert not missing(values[-6:], found.error_bounds, values, "LA", found.report)
