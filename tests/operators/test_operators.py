"""Every operator of every case against its dense truth, on both sides, for vectors and blocks."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from support.case_models import linear_operator_of
from support.cases import EVERY, close, error, to_numpy

import mfdeq
from mfdeq.arrays.backend import Backend
from mfdeq.linear import operator_of
from mfdeq.operators.dot_tests import check_symmetric, is_symmetric
from mfdeq.operators.user_operators import as_operator


def weights(case):
    return case.random(case.model.state_size, seed=9)


def direction(case, seed=8):
    return case.random(case.model.param_size, seed=seed)


TERMS = [
    f"{of}_{term}"
    for of in ("loss", "dynamics")
    for term in ("state", "mixed", "mixed_adjoint", "params")
]
# By name: the operator, and its dense truth.
OPERATORS = {
    "A": (lambda eq, case: eq.state_operator, lambda t, case: t.A),
    "A_inverse": (lambda eq, case: eq.inverse, lambda t, case: t.A_inverse),
    "B": (lambda eq, case: eq.param_operator, lambda t, case: t.B),
    "Z": (lambda eq, case: eq.sensitivity, lambda t, case: t.Z),
    "T": (lambda eq, case: eq.tangent, lambda t, case: t.T),
    "K": (lambda eq, case: eq.hessian(case.loss).lagrangian, lambda t, case: t.K),
    "H": (lambda eq, case: eq.hessian(case.loss), lambda t, case: t.H),
    "gauss_newton": (
        lambda eq, case: eq.hessian(case.loss).gauss_newton,
        lambda t, case: t.gauss_newton,
    ),
    "dynamics": (lambda eq, case: eq.hessian(case.loss).dynamics, lambda t, case: t.dynamics),
    "curvature": (
        lambda eq, case: eq.curvature(weights(case)),
        lambda t, case: t.curvature(to_numpy(weights(case))),
    ),
    **{
        f"curvature.{name}": (
            lambda eq, case, name=name: getattr(eq.curvature(weights(case)), name),
            lambda t, case, k=k: t.curvature_blocks(to_numpy(weights(case)))[k],
        )
        for k, name in enumerate(("params_params", "state_params", "state_state"))
    },
    "component_hessian": (
        lambda eq, case: eq.component_hessian(weights(case)),
        lambda t, case: t.component_hessian(to_numpy(weights(case))),
    ),
    "component_hessian of the last": (
        lambda eq, case: eq.component_hessian(-1),
        lambda t, case: t.component_hessian(t.N - 1),
    ),
    "component_hessian of a numpy integer": (
        lambda eq, case: eq.component_hessian(np.int32(0)),
        lambda t, case: t.component_hessian(0),
    ),
    "second_order_slice": (
        lambda eq, case: eq.second_order_slice(direction(case)),
        lambda t, case: t.second_order_slice(to_numpy(direction(case))),
    ),
    **{
        f"terms.{name}": (
            lambda eq, case, name=name: eq.hessian(case.loss).terms[name],
            lambda t, case, name=name: t.terms[name],
        )
        for name in TERMS
    },
}
# The products of a slice of the second order need the field `second`; those of its adjoint do not.
WITH_SECOND = [case for case in EVERY if case.form != "without_second"]
WITHOUT_SECOND = [case for case in EVERY if case.form == "without_second"]
PAIRS = [
    pytest.param(case, name, id=f"{case}-{name}")
    for case in EVERY
    for name in OPERATORS
    if not (case.form == "without_second" and name == "second_order_slice")
]


@cache
def equilibrium(case):
    return case.equilibrium()


def scale_of(case, dense):
    """The size that the error of an operator is relative to: that of H where a term vanishes."""
    size = np.linalg.norm(dense)
    return size if size > 0 else max(np.linalg.norm(case.truth.H), 1.0)


def assert_product(case, dense, actual, x, adjoint=False):
    """Assert that an operator's product with x is that of its dense truth."""
    expected = (dense.T if adjoint else dense) @ to_numpy(x)
    assert actual.shape == expected.shape
    assert actual.dtype == case.dtype
    off = np.linalg.norm(to_numpy(actual) - expected)
    allowed = case.rtol * scale_of(case, dense) * np.linalg.norm(to_numpy(x))
    assert off <= allowed, f"off by {off:.2e}, allowed {allowed:.2e}"


def assert_adjoint_products(case, op, dense):
    """Assert that all ways to multiply with the adjoint give what its dense truth does."""
    y, Y = case.random(dense.shape[0], seed=3), case.random(dense.shape[0], 3, seed=4)
    for x in (y, Y, y[:, None]):
        for product in (op.H @ x, op.T @ x, op.H.H.H @ x):
            assert_product(case, dense, product, x, adjoint=True)
    assert_product(case, dense, op.rmatvec(y), y, adjoint=True)
    assert_product(case, dense, op.rmatmat(Y), Y, adjoint=True)


@pytest.mark.parametrize(("case", "name"), PAIRS)
def test_an_operator_equals_its_dense_truth(case, name):
    operator_of, truth_of = OPERATORS[name]
    op, dense = operator_of(equilibrium(case), case), truth_of(case.truth, case)
    assert isinstance(op, linear_operator_of(case.xp))
    assert op.shape == dense.shape
    assert op.dtype == case.dtype
    columns = dense.shape[1]
    x, X = case.random(columns, seed=1), case.random(columns, 3, seed=2)
    for operand in (x, X, x[:, None], case.xp.asfortranarray(X), X[:, ::2]):
        assert_product(case, dense, op @ operand, operand)
    assert_product(case, dense, op.toarray(), case.array(np.eye(columns)))
    assert_adjoint_products(case, op, dense)


@pytest.mark.parametrize("case", WITHOUT_SECOND, ids=str)
def test_a_slice_of_a_model_without_second_has_only_its_adjoint(case):
    operator_of, truth_of = OPERATORS["second_order_slice"]
    op, dense = operator_of(equilibrium(case), case), truth_of(case.truth, case)
    assert isinstance(op, linear_operator_of(case.xp))
    assert op.dtype == case.dtype
    with pytest.raises(mfdeq.ModelError, match=r"second=lambda a, b"):
        op @ case.random(dense.shape[1], seed=1)
    assert_adjoint_products(case, op, dense)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_adjoint_and_gradient_equal_their_dense_truth(case):
    eq, truth = equilibrium(case), case.truth
    close(eq.adjoint(case.loss), truth.adjoint_state, case.rtol)
    close(eq.gradient(case.loss), truth.gradient, case.rtol)
    close(eq.hessian(case.loss).adjoint_state, truth.adjoint_state, case.rtol)


@pytest.mark.parametrize("case", WITH_SECOND, ids=str)
def test_second_order_vectors_equal_their_dense_truth(case):
    eq, truth = equilibrium(case), case.truth
    u, v = direction(case, 5), direction(case, 6)
    for ours, theirs, size in (
        (eq.total_curvature, truth.total_curvature, truth.total_curvature_tensor),
        (eq.second_order, truth.second_order, truth.second_order_tensor),
    ):
        scale = max(np.linalg.norm(size) * np.linalg.norm(u) * np.linalg.norm(v), 1e-3)
        off = np.linalg.norm(to_numpy(ours(u, v)) - theirs(to_numpy(u), to_numpy(v)))
        assert off <= case.rtol * scale


@pytest.mark.parametrize("case", WITHOUT_SECOND, ids=str)
def test_second_order_vectors_of_a_model_without_second_are_refused(case):
    eq, u, v = equilibrium(case), direction(case, 5), direction(case, 6)
    for compute in (eq.total_curvature, eq.second_order):
        with pytest.raises(mfdeq.ModelError, match=r"second=lambda a, b"):
            compute(u, v)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_the_hessian_is_the_sum_of_its_terms(case):
    H = equilibrium(case).hessian(case.loss)
    v = direction(case)
    assert set(H.terms) == set(TERMS)
    size = sum(np.linalg.norm(term @ v) for term in H.terms.values())
    rtol = 100 * np.finfo(case.dtype).eps * max(case.truth.condition, 10) + 1e-9
    assert np.linalg.norm(sum(term @ v for term in H.terms.values()) - H @ v) <= rtol * size
    assert np.linalg.norm((H.gauss_newton + H.dynamics) @ v - H @ v) <= rtol * size


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_a_hessian_product_takes_two_solves_whatever_the_columns(case):
    eq = case.equilibrium()
    H = eq.hessian(case.loss)
    counts = eq.report.linear
    for columns in (1, 5):
        before = (counts.solves, counts.adjoint_solves, counts.columns)
        H @ case.random(case.model.param_size, columns, seed=1)
        after = (counts.solves, counts.adjoint_solves, counts.columns)
        assert np.subtract(after, before).tolist() == [1, 1, 2 * columns]
    assert eq.report.forward.setups + counts.setups == 1


# Without entries, no approximate inverse to estimate errors with is cheaper than a solve.
@pytest.mark.parametrize("case", [case for case in EVERY if case.form != "operators"], ids=str)
def test_the_estimated_error_of_a_product_is_its_error(case):
    """The state is off, on purpose, by far more than rounding."""
    off = 1e-6 if case.dtype == np.float64 else 1e-3
    exact = equilibrium(case)
    state = exact.state + off * np.linalg.norm(exact.state) * weights(case)
    problem, linear = exact.problem, exact.solver
    moved = mfdeq.Equilibrium(
        problem,
        state,
        problem.linearize(state),
        linear,
        mfdeq.SolveReport(),
        error_estimates=False,
    )
    H = moved.hessian(case.loss)
    v = direction(case)
    product, estimate = H.with_error(v)
    close(product, to_numpy(H @ v), case.rtol)
    actual = to_numpy(product) - case.truth.H @ to_numpy(v)
    size = np.linalg.norm(actual)
    if size > 100 * case.rtol * np.linalg.norm(to_numpy(product)):
        assert np.linalg.norm(actual + to_numpy(estimate) / 2) < 0.1 * size


def test_most_products_at_an_inexact_state_are_off_by_more_than_rounding():
    """Otherwise the condition at the end of the test above would exempt most cases from it."""
    tested = 0
    for case in EVERY[:9]:
        exact = equilibrium(case)
        state = exact.state * (1 + 1e-6)
        moved = mfdeq.Equilibrium(
            exact.problem, state, exact.problem.linearize(state), exact.solver, mfdeq.SolveReport()
        )
        v = direction(case)
        off = error(moved.hessian(case.loss) @ v, case.truth.H @ v)
        tested += off > 100 * case.rtol
    assert tested >= 5


def test_a_dense_conversion_of_a_large_operator_is_refused():
    class Large(mfdeq.FixedPointModel):
        state_size, param_size = 5000, 6000

        def map(self, h, theta):
            return 0.5 * h + theta[:5000]

        def linearize(self, h, theta):
            half = LinearOperator(
                (5000, 5000), matvec=lambda x: 0.5 * x, rmatvec=lambda x: 0.5 * x, dtype=float
            )
            cut = LinearOperator(
                (5000, 6000),
                matvec=lambda x: x[:5000],
                rmatvec=lambda y: np.concatenate([y, np.zeros(1000)]),
                dtype=float,
            )
            return mfdeq.Linearization(half, cut)

    eq = mfdeq.solve(Large(), np.ones(6000))
    for convert in (np.asarray, lambda op: op.toarray()):
        with pytest.raises(mfdeq.ArgumentError, match="5000 x 6000"):
            convert(eq.sensitivity)
    # A block goes through column by column, since the user's operators take vectors only.
    close(eq.sensitivity @ np.eye(6000, 2), 2 * np.eye(5000, 2), 1e-9)


def test_underflow_is_not_mistaken_for_asymmetry():
    # Products of numbers this small have no digits left.
    diagonal = sp.diags(np.linspace(1.0, 3.0, 7) * 5e-324).tocsr()
    op = as_operator(Backend.of(np.zeros(1)), diagonal, (7, 7), "it")
    check_symmetric(op, "it", "its entries")
    wrong = sp.csr_matrix(([1e-200], ([0], [1])), shape=(7, 7))
    with pytest.raises(mfdeq.DerivativeError):
        check_symmetric(as_operator(Backend.of(np.zeros(1)), wrong, (7, 7), "it"), "it", "it")


def test_sizes_of_terms_do_not_cancel_where_entries_are_unknown():
    """With random signs alone the estimate would be zero for half of these rows."""
    n = 100
    differences = sp.diags([1.0, -1.0], [0, 1], shape=(n, n)).tocsr()
    known = as_operator(Backend.of(np.ones(1)), differences, (n, n), "A")
    unknown = as_operator(Backend.of(np.ones(1)), aslinearoperator(differences), (n, n), "A")
    sizes = known.abs_apply(np.ones(n))
    assert np.median(unknown.abs_apply(np.ones(n)) / sizes) > 0.2
    assert np.mean(unknown.abs_apply(np.ones(n)) < 0.01 * sizes) < 0.1


def test_a_matrix_is_tested_for_symmetry_once(monkeypatch):
    """Products may change between two calls; the entries of a matrix may not."""
    counts = {}
    for name, symmetric in (("matrix", True), ("other", False), ("products", True)):
        array = sp.csr_array([[2.0, -1.0], [-1.0 if symmetric else 0.5, 2.0]])
        op = operator_of(aslinearoperator(array) if name == "products" else array)
        calls, apply = [], op._apply
        monkeypatch.setattr(op, "_apply", lambda x, n=calls, f=apply: n.append(1) or f(x))
        assert [bool(is_symmetric(op)) for _ in range(3)] == 3 * [symmetric]
        counts[name] = len(calls)
    assert counts["matrix"] == counts["other"]
    assert counts["products"] == 3 * counts["matrix"]
