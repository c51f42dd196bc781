"""Reduced functionals and their minimization on cupy arrays."""

from __future__ import annotations

import pytest
from support.cupy_problems import assert_cupy_agrees_with_numpy, bratu, needs_cupy

import mfdeq

FUNCTIONALS = {
    "to the default tolerance": {},
    "to an accuracy": {"accuracy": 1e-10, "solver": mfdeq.Krylov(rtol=1e-12)},
}
MINIMIZATIONS = {
    "newton-cg": {"method": "newton-cg"},
    "gauss-newton within bounds": {"method": "gauss-newton", "bounds": (3.9, 4.4)},
    "l-bfgs": {"method": "l-bfgs"},
}


@needs_cupy
@pytest.mark.parametrize("name", FUNCTIONALS)
def test_a_reduced_functional_agrees_with_numpy(name):
    def compute(xp):
        case = bratu(xp)
        F = mfdeq.ReducedFunctional(case.model, case.loss, **FUNCTIONALS[name])
        theta, v = case.params + 0.1, case.random(81)
        return F.value(theta), F.gradient(theta), F.hessp(theta, v), F.hessian(theta) @ v

    assert_cupy_agrees_with_numpy(compute)


@needs_cupy
@pytest.mark.parametrize("name", MINIMIZATIONS)
def test_a_minimum_agrees_with_numpy(name):
    def compute(xp):
        case = bratu(xp, 4)
        F = mfdeq.ReducedFunctional(case.model, case.loss)
        found = mfdeq.minimize(
            F,
            case.params,
            preconditioner=mfdeq.Precision(xp.ones(16)),
            gtol=1e-9,
            **MINIMIZATIONS[name],
        )
        # The gradient at the minimum is rounding, so only its library and dtype are compared.
        return found.value, found.params + 0 * found.gradient

    assert_cupy_agrees_with_numpy(compute)
