"""The table, the notes and the verdicts of a verification."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator
from support.case_forms import with_linearize
from support.cases import build, case_in_form

import mfdeq
from mfdeq.verification.taylor_remainders import FAIL, INCONCLUSIVE, PASS, judge_remainders

STEPS = [4.0**-k for k in range(8)]


def test_a_verification_prints_a_table_with_a_verdict():
    case = build("smooth")
    found = mfdeq.verify(case.model, case.params, case.loss, solver=mfdeq.Direct())
    lines = str(found).splitlines()
    assert lines[0].split() == ["check", "verdict", "figure", "threshold"]
    assert lines[-1] == "verdict: PASS"
    assert len(lines) == len(found.checks) + 2
    assert found.notes == []
    found.raise_if_failed()


def test_missing_fields_are_listed():
    case = case_in_form(build("smooth"), "without_second")
    found = mfdeq.verify(case.model, case.params, case.loss)
    assert "not given, not checked: second" in str(found)


def test_the_note_names_the_first_failure():
    model = build("smooth").model

    class Wrong(type(model)):
        def linearize(self, h, theta):
            right = super().linearize(h, theta)
            return mfdeq.Linearization(1.01 * right.d_state, right.d_params, right.curvature)

    wrong = object.__new__(Wrong)
    wrong.__dict__.update(model.__dict__)
    found = mfdeq.verify(wrong, build("smooth").params)
    assert not found
    assert found.verdict == FAIL
    assert "look first at: d_state" in str(found)
    with pytest.raises(mfdeq.DerivativeError, match="d_state"):
        found.raise_if_failed()


@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-5])
def test_loose_linear_solves_are_inconclusive_and_named(rtol):
    case = build("smooth")
    found = mfdeq.verify(case.model, case.params, case.loss, solver=mfdeq.Krylov(rtol=rtol))
    assert found.verdict == INCONCLUSIVE
    assert "too loose to decide: pass a solver with a smaller rtol" in str(found)
    assert all(check.verdict == PASS for check in found if "curvature" in check.name)


@pytest.mark.parametrize("rtol", [1e-1, 1e-2, 1e-4])
def test_loose_equilibria_do_not_fail(rtol):
    case = build("smooth")
    found = mfdeq.verify(case.model, case.params, case.loss, rtol=rtol)
    assert found.verdict != FAIL, str(found)
    assert found or "too loose to decide: pass a smaller rtol" in str(found)


def test_one_wrong_row_fails():
    case = build("diffusion")
    model = case.written[0]

    def linearize(self, h, theta):
        right = type(model).linearize(self, h, theta)
        rows = np.where(np.arange(len(h)) == 7, 1.001, 1.0)
        return mfdeq.Linearization(right.d_state, right.d_params.multiply(rows[:, None]))

    found = mfdeq.verify(with_linearize(model, linearize), case.params)
    assert next(c for c in found if c.verdict == FAIL).name.startswith("d_params")


def test_a_wrong_derivative_fails_under_loose_solves():
    case = build("smooth")

    class Wrong(type(case.model)):
        def linearize(self, h, theta):
            right = super().linearize(h, theta)
            return mfdeq.Linearization(right.d_state, 1.01 * right.d_params, right.curvature)

    wrong = object.__new__(Wrong)
    wrong.__dict__.update(case.model.__dict__)
    found = mfdeq.verify(wrong, case.params, case.loss, solver=mfdeq.Krylov(rtol=1e-3))
    assert found.verdict == FAIL
    assert "look first at: d_params" in str(found)


class Mixing(mfdeq.ResidualModel):
    """A(theta) h = b, where A is the identity at theta = 0 only."""

    state_size, param_size = 8, 3
    W = np.random.default_rng(0).standard_normal((3, 8, 8))
    b = np.random.default_rng(1).standard_normal(8)
    error = 1.0  # factor of the curvature

    def residual(self, h, theta):
        return h + np.einsum("pij,p,j", self.W, theta, h) - self.b

    def linearize(self, h, theta):
        def curvature(lam):
            return mfdeq.Curvature(state_params=self.error * np.einsum("i,pij->jp", lam, self.W))

        A = np.eye(8) + np.einsum("pij,p", self.W, theta)
        return mfdeq.Linearization(A, np.einsum("pij,j->ip", self.W, h), curvature)


@pytest.mark.parametrize(("error", "verdict"), [(1.0, PASS), (1.01, FAIL)])
def test_solves_may_be_exact_at_the_parameters_only(error, verdict):
    # GMRES is exact for the identity, and nearby it stops just below its tolerance.
    model = Mixing()
    model.error = error
    loss = mfdeq.LeastSquares(np.arange(0, 8, 2), np.ones(4))
    found = mfdeq.verify(model, np.zeros(3), loss, solver=mfdeq.Krylov("gmres"))
    assert found.verdict == verdict, str(found)


def test_correct_derivatives_without_equilibrium_are_inconclusive():
    class WithoutEquilibrium(mfdeq.FixedPointModel):
        state_size = param_size = 1

        def map(self, h, theta):
            return h * h + theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(np.diag(2 * h), np.eye(1))

    found = mfdeq.verify(WithoutEquilibrium(), np.ones(1))
    assert found.verdict == INCONCLUSIVE
    assert not found
    found.raise_if_failed()


@pytest.mark.parametrize(
    ("remainder", "verdict"),
    [
        (lambda t: t**2, PASS),
        (lambda t: t**3 + 1e-13, PASS),
        (lambda t: t**2 + 1e-3 * t, FAIL),
        (lambda t: 0.1 * t, FAIL),
        (lambda t: t**1.5, INCONCLUSIVE),
        (lambda t: 1e-13, PASS),
        (lambda t: 0.0, PASS),
        (lambda t: float("nan"), INCONCLUSIVE),
    ],
)
def test_remainders_are_judged_by_their_slope(remainder, verdict):
    remainders = [remainder(t) for t in STEPS]
    found, figure, threshold, detail = judge_remainders(
        2, STEPS, remainders, STEPS, [1e-13] * 9, 1.0, 1e-3
    )
    assert found == verdict, detail
    if verdict == PASS:
        assert figure >= threshold or figure <= 1e-3


def test_noise_that_hides_the_term_is_inconclusive():
    found, *_ = judge_remainders(
        2, STEPS, [1e-3] * 8, [1e-3 * t for t in STEPS], [1e-3] * 8, 1e-3, 1e-3
    )
    assert found == INCONCLUSIVE


@pytest.mark.parametrize("field", ["d_state", "d_params", "curvature"])
def test_products_of_blocks_that_differ_from_columns_fail(field):
    model = build("smooth").model

    def doubled(M):
        M = np.asarray(M)
        return LinearOperator(
            M.shape,
            matvec=lambda x: M @ x,
            rmatvec=lambda y: M.T @ y,
            matmat=lambda X: 2 * (M @ X),
            rmatmat=lambda Y: M.T @ Y,
            dtype=M.dtype,
        )

    class Wrong(type(model)):
        def linearize(self, h, theta):
            right = super().linearize(h, theta)

            def curvature(lam):
                K = right.curvature(lam)

                def apply(u, z):
                    times = 1.0 if u.ndim == 1 else 2.0
                    return (
                        times * (K.params_params @ u + K.state_params.T @ z),
                        times * (K.state_params @ u + K.state_state @ z),
                    )

                return mfdeq.Curvature(apply=apply, blocks=True)

            return mfdeq.Linearization(
                doubled(right.d_state) if field == "d_state" else right.d_state,
                doubled(right.d_params) if field == "d_params" else right.d_params,
                curvature if field == "curvature" else right.curvature,
            )

    wrong = object.__new__(Wrong)
    wrong.__dict__.update(model.__dict__)
    found = mfdeq.verify(wrong, build("smooth").params)
    assert found.verdict == FAIL, found
    assert f"look first at: {field}" in str(found)


def test_functionals_are_refused_with_advice():
    model = mfdeq.from_function(lambda h, theta: h + h**3 - theta, 2, 2, "residual")
    F = mfdeq.ReducedFunctional(model, mfdeq.LeastSquares([0, 1], np.zeros(2)))
    for functional in (F, F + F):
        with pytest.raises(mfdeq.ArgumentError, match=r"mfdeq\.verify\(F\.model, theta, F\.loss\)"):
            mfdeq.verify(functional, np.ones(2))
