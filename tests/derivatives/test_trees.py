"""Pytrees and tensors as parameters and starts, wherever a model takes them."""

from __future__ import annotations

import importlib
from collections import OrderedDict

import numpy as np
import pytest
from support.autodiff import library
from support.cases import close

import mfdeq

RNG = np.random.default_rng(0)
THETA = {"W": 0.1 * RNG.standard_normal((4, 4)), "b": RNG.standard_normal(4)}
X = RNG.standard_normal((3, 4))
LOSS = mfdeq.LeastSquares(np.arange(12), np.zeros(12))
SOURCES = ("from_jax", "from_torch")


def create(source, **fields):
    xp, array = library(source)
    x = array(X)

    def f(h, theta):
        return xp.tanh(h @ theta["W"] + theta["b"] + x)

    return getattr(mfdeq, source)(f, X, THETA, "map", **fields)


def converted(source):
    _, array = library(source)
    return {name: array(value) for name, value in THETA.items()}


@pytest.mark.parametrize("source", SOURCES)
def test_trees_are_flattened_wherever_parameters_are_passed(source):
    model, tree = create(source), converted(source)
    theta = model.flat_params(THETA)
    F = mfdeq.ReducedFunctional(model, LOSS, h0=X)
    eq = mfdeq.solve(model, tree, X)
    close(eq.state, mfdeq.solve(model, theta).state, 1e-9)
    close(mfdeq.equilibrium_at(model, tree, model.state_tree(eq.state)).state, eq.state, 1e-14)
    assert F.value(tree) == pytest.approx(F.value(theta), rel=1e-12)
    close(F.gradient(tree), F.gradient(theta), 1e-12)
    close(F.hessp(tree, theta), F.hessp(theta, theta), 1e-12)
    assert mfdeq.verify(model, tree, LOSS, h0=X)
    assert mfdeq.minimize(F, tree, max_iterations=50).params.shape == theta.shape
    direction = {"W": 0 * THETA["W"], "b": THETA["b"]}
    branch = mfdeq.follow(model, tree, direction, span=(0.0, 0.1))
    expected = mfdeq.follow(model, theta, model.flat_params(direction), span=(0.0, 0.1))
    close(branch.points[-1].state, expected.points[-1].state, 1e-9)


@pytest.mark.parametrize("source", SOURCES)
def test_dicts_of_any_kind_and_order_are_flattened(source):
    model = create(source)
    for other in (OrderedDict(b=THETA["b"], W=THETA["W"]), {"b": THETA["b"], "W": THETA["W"]}):
        np.testing.assert_array_equal(model.flat_params(other), model.flat_params(THETA))


def test_tensors_with_gradients_are_flattened():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    model = create("from_torch")
    tree = {name: torch.tensor(value, requires_grad=True) for name, value in THETA.items()}
    close(mfdeq.solve(model, tree).state, mfdeq.solve(model, THETA).state, 1e-12)
    module = torch.nn.Linear(4, 4).double()
    layer = mfdeq.from_torch(
        lambda h, p: torch.tanh(0.5 * torch.func.functional_call(module, p, (h,))),
        torch.zeros(3, 4).double(),
        dict(module.named_parameters()),
        "map",
    )
    assert mfdeq.solve(layer, dict(module.named_parameters())).report.converged


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"W": THETA["W"]}, r"\['b'\] is missing"),
        (THETA | {"c": np.ones(2)}, r"\['c'\] is not in the example"),
        (THETA | {"b": np.ones(3)}, r"\['b'\] has shape \(3,\), not \(4,\)"),
        ([THETA["W"], THETA["b"]], r"\['W'\] is missing"),
        (np.ones((2, 10)), r"\['W'\] is missing"),
    ],
)
def test_trees_of_another_structure_are_refused(source, tree, message):
    with pytest.raises(mfdeq.ModelError, match=f"params of mfdeq.{source}.*{message}"):
        mfdeq.solve(create(source), tree)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("leaf", [3, np.array([1, 2]), True, np.array([True])])
def test_leaves_that_are_not_floats_are_refused(source, leaf):
    library(source)
    example = {"w": np.ones(2), "n": leaf}
    with pytest.raises(mfdeq.ModelError, match=r"params of .*\['n'\] \((int64|bool)\).*close over"):
        getattr(mfdeq, source)(lambda h, t: h, np.zeros(3), example, "map")


@pytest.mark.parametrize("source", SOURCES)
def test_starts_and_sizes_are_trees_too(source):
    xp, array = library(source)

    def f(h, theta):
        return {"a": h["a"] ** 2 - theta, "b": h["b"] - xp.exp(theta)}

    example = {"a": np.zeros(2), "b": np.zeros(2)}
    minus = array(np.full(2, -1.0))
    model = getattr(mfdeq, source)(
        f,
        example,
        np.zeros(2),
        "residual",
        initial_state=lambda theta: {"a": minus, "b": theta},
        state_scale={"a": np.ones(2), "b": np.full(2, 2.0)},
        residual_scale=lambda h, theta: {"a": h["a"] ** 2, "b": xp.exp(theta)},
    )
    theta = np.array([1.0, 4.0])
    close(model.initial_state(theta), [-1, -1, 1, 4], 1e-14)
    close(model.state_scale(theta), [1, 1, 2, 2], 1e-14)
    close(model.residual_scale(np.arange(4.0), theta), [0, 1, *np.exp(theta)], 1e-14)
    close(mfdeq.solve(model, theta).state, [-1, -2, *np.exp(theta)], 1e-9)


# Dtypes.


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("of_params", ["f4", "f8"])
@pytest.mark.parametrize("of_example", ["f4", "f8"])
def test_parameters_decide_the_dtype_of_a_generic_function(source, of_example, of_params):
    xp, _ = library(source)
    model = getattr(mfdeq, source)(
        lambda h, t: xp.tanh(0.5 * h + t), np.zeros(3, of_example), np.zeros(3, of_example), "map"
    )
    theta = np.linspace(0, 1, 3)
    loss = mfdeq.LeastSquares(np.arange(3), np.ones(3))
    eq, truth = mfdeq.solve(model, theta.astype(of_params)), mfdeq.solve(model, theta)
    for found, expected in (
        (eq.state, truth.state),
        (eq.gradient(loss), truth.gradient(loss)),
        (eq.hessian(loss) @ eq.params, truth.hessian(loss) @ theta),
    ):
        assert found.dtype == of_params
        close(found, expected, 1e-9 if of_params == "f8" else 1e-5)


def test_arrays_of_double_precision_in_a_function_of_jax_are_rounded():
    """The function promotes its results, which are then in the dtype of the parameters."""
    jnp, _ = library("from_jax")
    W = jnp.asarray(0.1 * RNG.standard_normal((4, 4)))
    model = mfdeq.from_jax(lambda h, t: jnp.tanh(W @ h + t), np.zeros(4), np.zeros(4), "map")
    theta = np.linspace(0, 1, 4)
    eq, truth = mfdeq.solve(model, theta.astype("f4")), mfdeq.solve(model, theta)
    loss = mfdeq.LeastSquares(np.arange(4), np.ones(4))
    assert eq.gradient(loss).dtype == np.float32
    close(eq.gradient(loss), truth.gradient(loss), 1e-5)


def test_modules_of_another_dtype_are_refused_in_words():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    module = torch.nn.Linear(4, 4)

    def f(h, theta):
        return torch.tanh(0.5 * module(h) + theta)

    with pytest.raises(mfdeq.ModelError, match=r"mixes dtypes.*float64.*module.double\(\)"):
        mfdeq.from_torch(f, np.zeros(4), np.zeros(4), "map")
    model = mfdeq.from_torch(f, np.zeros(4, "f4"), np.zeros(4, "f4"), "map")
    with pytest.raises(mfdeq.ModelError, match=r"mixes dtypes.*float64.*module.double\(\)"):
        mfdeq.solve(model, np.zeros(4))
    assert mfdeq.solve(model, np.ones(4, "f4")).state.dtype == np.float32


def test_operations_of_jax_on_two_dtypes_are_refused_in_words():
    jnp, _ = library("from_jax")
    jax = importlib.import_module("jax")
    w = jnp.ones(4, "f4")
    with pytest.raises(mfdeq.ModelError, match="mixes dtypes"):
        mfdeq.from_jax(lambda h, t: jax.lax.add(w, h) + t, np.zeros(4), np.zeros(4), "map")


@pytest.mark.parametrize("source", SOURCES)
def test_a_loss_that_is_not_scalar_is_refused(source):
    library(source)
    create_loss = getattr(mfdeq, f"loss_{source}")
    returned = {
        r"an array of shape \(3,\) and float64. Return its .sum": lambda h: h,
        r"an array of shape \(3, 3\) and float64. Return its .sum": lambda h: h * h[:, None],
        "a tuple. Return the number alone": lambda h: (h.sum(),),
        "a dict. Return the number alone": lambda h: {"loss": h.sum()},
    }
    for got, f in returned.items():
        words = f"mfdeq.loss_{source}: expected it to return a real number, got {got}"
        with pytest.raises(mfdeq.ModelError, match=words):
            create_loss(lambda h, t, f=f: f(h), np.zeros(3), np.zeros(2))


def test_functions_that_jax_cannot_trace_are_pointed_to_another_source():
    library("from_jax")
    with pytest.raises(TypeError) as caught:
        mfdeq.from_jax(lambda h, t: h * float(t[0]), np.zeros(2), np.zeros(1), "map")
    assert "mfdeq.from_function" in "".join(caught.value.__notes__)
