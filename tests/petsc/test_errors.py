"""Errors of PETSc are named as PETSc names them."""

import pytest

PETSc = pytest.importorskip("petsc4py.PETSc")
SLEPc = pytest.importorskip("slepc4py.SLEPc")
from mfdeq.petsc.errors import reason_name  # noqa: E402


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (PETSc.KSP, "DIVERGED_MAX_IT"),
        (PETSc.KSP, "CONVERGED_RTOL"),
        (PETSc.SNES, "DIVERGED_LINE_SEARCH"),
        (SLEPc.EPS, "CONVERGED_TOL"),
        (SLEPc.EPS, "DIVERGED_ITS"),
    ],
)
def test_reasons_have_the_names_of_petsc(solver, name):
    reasons = vars(solver.ConvergedReason)
    value = reasons[name] if name in reasons else reasons[name.partition("_")[2]]
    assert reason_name(solver, value) == name
