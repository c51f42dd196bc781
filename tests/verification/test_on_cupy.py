"""`mfdeq.verify` on cupy arrays."""

from __future__ import annotations

from support.cupy_problems import assert_cupy_agrees_with_numpy, bratu, needs_cupy

import mfdeq


@needs_cupy
def test_a_correct_model_passes_as_many_checks_as_with_numpy():
    def compute(xp):
        case = bratu(xp)
        verification = mfdeq.verify(case.model, case.params, case.loss)
        return verification.verdict == "PASS", len(verification.checks)

    assert_cupy_agrees_with_numpy(compute)
