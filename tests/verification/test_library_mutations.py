"""The comparison with dense matrices finds every mutation of the library itself.

If it missed one, the same comparison in the tests of the operators would miss it too.
"""

import functools
import warnings

import numpy as np
import pytest
from support.cases import CASES, build, case_in_form, close, error
from support.library_mutants import MUTANTS

import mfdeq
from mfdeq.equilibrium.reduced_hessian import SecondOrderSlice


def quantities(case):
    """Yield name, how to compute it, and the dense truth, for all that the library computes."""
    truth, eq = case.truth, case.equilibrium()
    u, v = case.random(truth.P, seed=1), case.random(truth.P, seed=2)
    w = case.random(truth.N, seed=3)
    yield "gradient", lambda: eq.gradient(case.loss), truth.gradient
    yield "adjoint", lambda: eq.adjoint(case.loss), truth.adjoint_state
    yield "total curvature", lambda: eq.total_curvature(u, v), truth.total_curvature(u, v)
    yield "second order", lambda: eq.second_order(u, v), truth.second_order(u, v)
    H = functools.cache(lambda: eq.hessian(case.loss))
    operators = {
        "A": (lambda: eq.state_operator, truth.A),
        "inverse": (lambda: eq.inverse, truth.A_inverse),
        "B": (lambda: eq.param_operator, truth.B),
        "Z": (lambda: eq.sensitivity, truth.Z),
        "T": (lambda: eq.tangent, truth.T),
        "curvature": (lambda: eq.curvature(w), truth.curvature(w)),
        "component hessian": (lambda: eq.component_hessian(w), truth.component_hessian(w)),
        "slice": (lambda: eq.second_order_slice(v), truth.second_order_slice(v)),
        "K": (lambda: H().lagrangian, truth.K),
        "H": (H, truth.H),
        "gauss_newton": (lambda: H().gauss_newton, truth.gauss_newton),
        "dynamics": (lambda: H().dynamics, truth.dynamics),
    }
    for name, expected in truth.terms.items():
        operators[name] = (lambda name=name: H().terms[name], expected)
    for name, (operator, expected) in operators.items():
        left, right = case.random(expected.shape[0], 2), case.random(expected.shape[1], 2)
        yield name, lambda op=operator, x=right: op() @ x, expected @ right
        yield f"{name} adjoint", lambda op=operator, y=left: op().H @ y, expected.T @ left


def differences(case):
    """Names of what the library refuses to compute, or computes differently from the truth."""
    for name, compute, expected in quantities(case):
        try:
            if not error(compute(), expected) <= case.rtol:
                yield name
        except mfdeq.MfdeqError:
            yield name
        except ValueError:  # shapes that do not match, where N and P differ: not how it is found
            continue


def case_named(name):
    name, _, form = name.partition("-")
    return case_in_form(build(name), form) if form else build(name)


def install(monkeypatch, mutant):
    """Replace the original by the mutant, as a property if it is one."""
    of = vars(mutant.where)[mutant.name]
    wrong = mutant.wrong if callable(of) else property(mutant.wrong)
    monkeypatch.setattr(mutant.where, mutant.name, wrong)


@pytest.mark.parametrize("case", [*CASES, case_in_form(build("smooth"), "operators")], ids=str)
def test_the_library_agrees_with_the_truth(case):
    assert list(differences(case)) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_comparison_finds_a_mutation(mutant, monkeypatch):
    case = case_named(mutant.case)
    install(monkeypatch, mutant)
    with warnings.catch_warnings():
        # The error estimate of the first gradient notices a wrong adjoint as well.
        warnings.simplefilter("ignore", mfdeq.AccuracyWarning)
        assert next(differences(case), None)


def verify_uses(mutant):
    """Verify uses A, B, Z, the gradient, H and h'', but not the parts that H is split into."""
    parts = ("terms", "dynamics", "component_hessian")
    return mutant.where is not SecondOrderSlice and mutant.name not in parts


FIRST = list({mutant.wrong: mutant for mutant in reversed(MUTANTS)}.values())  # of its cases


@pytest.mark.parametrize("mutant", [m for m in FIRST if verify_uses(m)], ids=str)
def test_verify_does_not_pass_for_a_mutation(mutant, monkeypatch):
    case = case_named(mutant.case)
    install(monkeypatch, mutant)
    verification = mfdeq.verify(case.model, case.params, case.loss, case.h0)
    assert verification.verdict != "PASS", str(verification)
    assert not verification


@pytest.mark.parametrize("name", ["smooth", "stiff", "square", "diffusion"])
def test_the_one_sided_mixed_form_is_not_the_hessian(name):
    """2M in place of M + M', from H.terms: not symmetric, and not H."""
    case = build(name)
    truth = case.truth
    H = case.equilibrium().hessian(case.loss)
    M, M_adjoint = H.terms["dynamics_mixed"], H.terms["dynamics_mixed_adjoint"]
    one_sided = sum(
        (2 * M if term is M else term for term in H.terms.values() if term is not M_adjoint),
        start=0.0 * H,
    )
    wrong, scale = one_sided @ np.eye(truth.P), np.linalg.norm(truth.H)
    assert np.linalg.norm(wrong - wrong.T) > 0.01 * scale
    assert np.linalg.norm(wrong - truth.H) > 0.01 * scale
    skew = truth.terms["dynamics_mixed"] - truth.terms["dynamics_mixed_adjoint"]
    close(wrong, truth.H + skew, case.rtol)
    # Its quadratic form is that of H: a check along one direction would not notice.
    v = case.random(truth.P)
    assert v @ (one_sided @ v) == pytest.approx(v @ truth.H @ v, rel=1e-9)
