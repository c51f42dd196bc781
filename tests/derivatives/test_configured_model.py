"""Starts, sizes and names as keywords of every source, as values and as functions."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from support.autodiff import library
from support.cases import close

import mfdeq

N, P = 3, 2
U = np.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.3]])
THETA = np.array([2.0, 0.7])
NAMES = ["pressure", "flow", "temperature"]
SOURCES = ("from_function", "from_jax", "from_torch")
KEYWORDS = (
    "initial_state",
    "residual_scale",
    "state_scale",
    "state_names",
    "equation_names",
    "time_sign",
)


def create(source, **fields):
    """h² = (U theta)², whose start decides the signs of h."""
    _, array = (np, np.asarray) if source == "from_function" else library(source)
    matrix = array(U)

    def f(h, theta):
        return h**2 - (matrix @ theta) ** 2

    if source == "from_function":
        return mfdeq.from_function(f, N, P, "residual", **fields)
    return getattr(mfdeq, source)(f, np.zeros(N), np.zeros(P), "residual", **fields)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("start", [-1.0, [-1.0, -2.0, -1.0], lambda theta: -theta[0] + 0 * U[:, 0]])
def test_initial_state_is_a_keyword(source, start):
    if callable(start) and source == "from_torch":
        torch = pytest.importorskip("torch", reason="the torch extra is not installed")
        start = lambda theta: -theta[0] + torch.zeros(N, dtype=theta.dtype)  # noqa: E731
    eq = mfdeq.solve(create(source, initial_state=start), THETA)
    close(eq.state, -abs(U @ THETA), 1e-9)
    assert eq.state.dtype == np.float64


@pytest.mark.parametrize("source", SOURCES)
def test_sizes_and_names_are_keywords(source):
    model = create(
        source,
        initial_state=1.0,
        residual_scale=lambda h, theta: 2.0 * h**2,
        state_scale=np.arange(1.0, 4.0),
        state_names=NAMES,
        equation_names=tuple(NAMES),
        time_sign=-1,
    )
    close(model.residual_scale(np.full(N, 2.0), THETA), np.full(N, 8.0), 1e-14)
    close(model.state_scale(THETA), np.arange(1.0, 4.0), 1e-14)
    assert list(model.state_names) == NAMES == list(model.equation_names)
    assert model.time_sign == -1
    close(mfdeq.solve(model, THETA).state, abs(U @ THETA), 1e-9)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_lists_and_documents_the_keywords(source):
    function = getattr(mfdeq, source)
    signature = inspect.signature(function).parameters
    keywords = [p for p in signature.values() if p.kind is p.KEYWORD_ONLY]
    assert [p.name for p in keywords][-len(KEYWORDS) :] == list(KEYWORDS)
    assert all(p.default is None for p in keywords[-len(KEYWORDS) :])
    section = inspect.getdoc(function).partition("Parameters\n-")[2].partition("\nReturns\n")[0]
    headers = re.findall(r"^(\w[\w, ]*) : ", section, flags=re.MULTILINE)
    assert [name for header in headers for name in header.split(", ")] == list(signature)


@pytest.mark.parametrize("source", SOURCES)
def test_an_unknown_keyword_raises(source):
    expected = f"{source}.* got an unexpected keyword argument 'start'.*initial_state.*h0"
    with pytest.raises(TypeError, match=expected):
        create(source, start=1.0)


@pytest.mark.parametrize("source", SOURCES)
def test_the_fields_of_a_model_without_keywords_are_not_set(source):
    model = create(source)
    assert model.initial_state(THETA) is model.state_scale(THETA) is None
    assert model.residual_scale(np.ones(N), THETA) is None
    assert model.state_names is model.equation_names is model.time_sign is None


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"state_names": NAMES[:2]}, "state_names of .*: expected a sequence of 3 strings, got 2"),
        ({"equation_names": "flow"}, "equation_names of .*: expected a sequence .*, got 'flow'"),
        ({"time_sign": 2}, "time_sign of .*: expected 1, -1 or None, got 2"),
        ({"time_sign": True}, "time_sign of .*: expected 1, -1 or None, got True"),
    ],
)
def test_wrong_fields_raise(source, fields, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        create(source, **fields)


@pytest.mark.parametrize("source", SOURCES)
def test_a_start_of_a_wrong_size_raises(source):
    with pytest.raises(mfdeq.ModelError, match=r"initial_state|state of mfdeq"):
        mfdeq.solve(create(source, initial_state=np.ones(2)), THETA)
