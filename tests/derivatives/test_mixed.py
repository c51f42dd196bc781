"""Mixed models: each derivative comes from the first source that gives it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close
from support.chain_model import LOSS, MIX, THETA, HandWrittenChain, N, P, V, chain

import mfdeq

FIELDS = ("d_state", "d_params", "curvature", "second")
FUNCTION = mfdeq.from_function(chain, N, P, "residual")


class Parts(HandWrittenChain):
    """Some of the derivatives that are written by hand."""

    def __init__(self, *fields):
        super().__init__()
        self.fields, self.calls = fields, 0

    def linearize(self, h, theta):
        self.calls += 1
        given = super().linearize(h, theta)
        if not {"curvature", "second"} & set(self.fields):  # which read them later
            h[:], theta[:] = np.nan, np.nan
        return replace(given, **{f: None for f in FIELDS if f not in self.fields})


GIVEN = {
    "nothing": (),
    "d_state": ("d_state",),
    "first": ("d_state", "d_params"),
    "second": ("curvature", "second"),
    "curvature": ("d_state", "d_params", "curvature"),
    "all": FIELDS,
}


def assert_matches_hand_written(model, first, second):
    eq, truth = (
        mfdeq.solve(model, THETA, rtol=1e-12),
        mfdeq.solve(HandWrittenChain(), THETA, rtol=1e-12),
    )
    close(eq.gradient(LOSS), truth.gradient(LOSS), first)
    close(eq.hessian(LOSS) @ V, truth.hessian(LOSS) @ V, second)
    close(eq.second_order(V[:, 0], V[:, 1]), truth.second_order(V[:, 0], V[:, 1]), second)
    return eq


@pytest.mark.parametrize("given", GIVEN)
def test_missing_derivatives_come_from_the_next_model(given):
    model = mfdeq.mixed(Parts(*GIVEN[given]), FUNCTION)
    eq = assert_matches_hand_written(model, 1e-12, 1e-8)
    for field in FIELDS:
        by_hand = eq.report.derivatives[field] == "Parts.linearize"
        assert by_hand == (field in GIVEN[given])
        assert by_hand or "complex step" in eq.report.derivatives[field]
    assert mfdeq.verify(model, THETA, LOSS)


@pytest.mark.parametrize("given", GIVEN)
def test_derivatives_that_no_model_gives_are_differences(given):
    model = mfdeq.mixed(Parts(*GIVEN[given]))
    eq = assert_matches_hand_written(model, 1e-12, 1e-8)
    if given in ("d_state", "first"):
        assert eq.report.derivatives["curvature"] == "differences of first derivatives"
    if given == "d_state":
        assert eq.report.derivatives["d_params"] == "the complex step"
        assert "d_params by the complex step" in str(eq.report)
    found = mfdeq.verify(model, THETA, LOSS)
    assert found, found


def test_error_estimates_cover_the_error_of_differences():
    eq, truth = (
        mfdeq.solve(m, THETA) for m in (mfdeq.mixed(Parts(*FIELDS[:2])), HandWrittenChain())
    )
    product, estimate = eq.hessian(LOSS).with_error(V[:, 0])
    off = np.linalg.norm(product - truth.hessian(LOSS) @ V[:, 0])
    assert 1e-14 < off <= np.linalg.norm(estimate) <= 1e-7


def test_a_source_is_not_linearized_without_need():
    last = Parts(*FIELDS)
    mfdeq.solve(mfdeq.mixed(HandWrittenChain(), last), THETA).hessian(LOSS) @ V
    assert last.calls == 0


class Start(HandWrittenChain):
    def initial_state(self, theta):
        return np.full(N, 0.25)

    def residual_scale(self, h, theta):
        return 123.0

    def state_scale(self, theta):
        return np.arange(1.0, N + 1)


def test_start_and_scale_are_those_of_the_first_model():
    model = mfdeq.mixed(Start(), FUNCTION)
    assert np.array_equal(model.initial_state(THETA), np.full(N, 0.25))
    assert model.residual_scale(np.zeros(N), THETA) == 123.0
    assert np.array_equal(model.state_scale(THETA), np.arange(1.0, N + 1))
    assert mfdeq.solve(model, THETA).report.converged


def test_verification_finds_a_source_of_another_map():
    def f(h, theta):
        return 0.3 * np.tanh(h) + MIX @ theta

    def wrong(h, theta):
        return 0.3 * np.tanh(1.1 * h) + MIX @ theta

    class Map(mfdeq.FixedPointModel):
        state_size, param_size = N, P

        def map(self, h, theta):
            return f(h, theta)

        def linearize(self, h, theta):
            return mfdeq.Linearization(None, sp.csr_matrix(MIX))

    right = mfdeq.mixed(Map(), mfdeq.from_function(f, N, P, "map"))
    assert mfdeq.verify(right, THETA, LOSS)
    found = mfdeq.verify(mfdeq.mixed(Map(), mfdeq.from_function(wrong, N, P, "map")), THETA, LOSS)
    assert found.verdict == "FAIL"
    assert next(check for check in found if check.verdict == "FAIL").name == "d_state"


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((), "got nothing"),
        (
            (HandWrittenChain(), mfdeq.from_function(chain, N, P, "map")),
            "only FixedPointModels or only",
        ),
        (
            (HandWrittenChain(), mfdeq.from_function(chain, N, P + 1, "residual")),
            r"\(12, 5\), \(12, 6\)",
        ),
        ((HandWrittenChain(), 3), r"got \w+, int"),
    ],
)
def test_wrong_arguments_raise(models, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.mixed(*models)


def test_linearize_must_return_a_linearization():
    class Nothing(HandWrittenChain):
        def linearize(self, h, theta):
            return None

    with pytest.raises(mfdeq.ModelError, match=r"Nothing.linearize: expected .* got NoneType"):
        mfdeq.solve(mfdeq.mixed(Nothing()), THETA)
