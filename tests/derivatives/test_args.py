"""Data beside the parameters: f(h, theta, args), and models with other data."""

import copy
import pickle

import numpy as np
import pytest
from support.autodiff import library

import mfdeq

N, P = 3, 2
RNG = np.random.default_rng(3)
EXAMPLE = {"x": RNG.standard_normal(N), "scale": np.array(0.7)}
OTHER = {"x": RNG.standard_normal(N), "scale": np.array(0.3)}
THETA = np.array([0.4, -0.3])


def f_numpy(h, theta, args):
    return 0.3 * np.sin(h) * theta[0] + args["scale"] * args["x"] + theta[1] * h[::-1] ** 2 / 5


def f_jax(h, theta, args):
    jnp = library("from_jax")[0]
    return 0.3 * jnp.sin(h) * theta[0] + args["scale"] * args["x"] + theta[1] * h[::-1] ** 2 / 5


def f_torch(h, theta, args):
    torch = library("from_torch")[0]
    reflected = torch.flip(h, (0,))
    return 0.3 * torch.sin(h) * theta[0] + args["scale"] * args["x"] + theta[1] * reflected**2 / 5


def make(source, args=EXAMPLE, **fields):
    if source == "function":
        return mfdeq.from_function(f_numpy, N, P, "map", args=args, **fields)
    f, create = {"jax": (f_jax, "from_jax"), "torch": (f_torch, "from_torch")}[source]
    library(f"from_{source}")
    return getattr(mfdeq, create)(f, np.zeros(N), np.zeros(P), "map", args=args, **fields)


SOURCES = pytest.mark.parametrize("source", ["function", "jax", "torch"])
LOSS = mfdeq.LeastSquares(np.arange(N), np.array([0.3, -0.2, 0.1]))


def closed_over(args):
    """Return the equilibrium of the same function with its data closed over."""
    model = mfdeq.from_function(lambda h, theta: f_numpy(h, theta, args), N, P, "map")
    return mfdeq.solve(model, THETA)


@SOURCES
@pytest.mark.parametrize("args", [EXAMPLE, OTHER], ids=["example", "other"])
def test_derivatives_are_those_of_the_function_with_its_data(source, args):
    eq, expected = mfdeq.solve(make(source).with_args(args), THETA), closed_over(args)
    np.testing.assert_allclose(eq.state, expected.state, rtol=1e-9)
    np.testing.assert_allclose(
        eq.sensitivity.toarray(), expected.sensitivity.toarray(), rtol=1e-7, atol=1e-9
    )
    np.testing.assert_allclose(eq.gradient(LOSS), expected.gradient(LOSS), rtol=1e-7)
    H, V = expected.hessian(LOSS), np.eye(P)
    np.testing.assert_allclose(eq.hessian(LOSS) @ V, H @ V, rtol=1e-5, atol=1e-7)
    u, v = np.array([1.0, 0.5]), np.array([-0.2, 1.0])
    np.testing.assert_allclose(
        eq.second_order(u, v), expected.second_order(u, v), rtol=1e-5, atol=1e-7
    )


@SOURCES
def test_the_model_with_other_data_leaves_the_first_unchanged(source):
    model = make(source)
    before = mfdeq.solve(model, THETA).state
    other = model.with_args(OTHER)
    assert type(other) is type(model)
    mfdeq.solve(other, THETA)
    np.testing.assert_array_equal(mfdeq.solve(model, THETA).state, before)
    assert not np.allclose(np.asarray(other.args["x"]), np.asarray(model.args["x"]))


def test_other_data_cost_no_compilation():
    library("from_jax")
    traces = []

    def traced(h, theta, args):
        traces.append(None)
        return f_jax(h, theta, args)

    model = mfdeq.from_jax(traced, np.zeros(N), np.zeros(P), "map", args=EXAMPLE)
    loss = mfdeq.loss_from_jax(
        lambda h, theta, args: (traces.append(None), (args * h**2).sum())[1],
        np.zeros(N),
        np.zeros(P),
        args=np.ones(N),
    )

    def everything(model, loss):
        eq = mfdeq.solve(model, THETA)
        eq.gradient(loss)
        return eq.hessian(loss) @ np.eye(P), eq.second_order(THETA, THETA)

    everything(model, loss)
    count = len(traces)
    assert count > 0
    everything(model.with_args(OTHER), loss.with_args(np.arange(3.0)))
    assert len(traces) == count


@SOURCES
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": EXAMPLE["x"]}, "scale'] is missing"),
        ({**EXAMPLE, "y": EXAMPLE["x"]}, "y'] is not in the example"),
        ({**EXAMPLE, "x": np.zeros(N + 1)}, r"of shape \(4,\), not float64 of shape \(3,\)"),
        ({**EXAMPLE, "x": np.zeros(N, dtype=np.float32)}, "float32 of shape"),
        (None, "got None"),
    ],
)
def test_data_of_another_structure_are_refused(source, wrong, message):
    with pytest.raises(mfdeq.ArgumentError, match=message):
        make(source).with_args(wrong)


@pytest.mark.parametrize("source", ["jax", "torch"])
def test_losses_refuse_data_of_another_structure(source):
    library(f"from_{source}")
    create = getattr(mfdeq, f"loss_from_{source}")
    loss = create(
        lambda h, theta, args: (args * h).sum(), np.zeros(N), np.zeros(P), args=np.ones(N)
    )
    with pytest.raises(mfdeq.ArgumentError, match=f"loss_from_{source}|shape"):
        loss.with_args(np.ones(2))


def test_a_model_without_data_has_none_to_replace():
    model = mfdeq.from_function(lambda h, theta: theta[0] * h, N, P, "map")
    assert model.args is None
    with pytest.raises(mfdeq.ArgumentError, match=r"pass args=example to mfdeq\.from_function"):
        model.with_args(EXAMPLE)


def test_data_of_plain_functions_may_be_any_object():
    class Load:
        def __init__(self, size):
            self.size = size

    model = mfdeq.from_function(
        lambda h, t, load: t[0] * h - load.size, 1, 1, "residual", args=Load(1)
    )
    eq = mfdeq.solve(model.with_args(Load(6.0)), np.array([2.0]))
    assert eq.state[0] == pytest.approx(3.0)
    with pytest.raises(mfdeq.ArgumentError, match="is a str, not a Load"):
        model.with_args("6")


@pytest.mark.parametrize("source", ["jax", "torch"])
@pytest.mark.parametrize("data", [np.array([3.0, 2.0, 1.0]), np.arange(3)], ids=["float", "int"])
def test_losses_take_data(source, data):
    library(f"from_{source}")
    create = getattr(mfdeq, f"loss_from_{source}")
    loss = create(
        lambda h, theta, args: (args * h**2).sum() * theta[0], np.zeros(N), np.zeros(P), args=data
    )
    h, other = np.array([1.0, -2.0, 0.5]), loss.with_args(data + 1)
    expected = THETA[0] * ((data + 1) * h**2).sum()
    assert other.value(h, THETA) == pytest.approx(expected)
    np.testing.assert_allclose(other.gradients(h, THETA)[1], 2 * THETA[0] * (data + 1) * h)
    K = other.curvature_operator(h, THETA)
    z = np.concatenate([np.zeros(P), np.ones(N)])
    np.testing.assert_allclose((K @ z)[P:], 2 * THETA[0] * (data + 1))
    assert loss.value(h, THETA) == pytest.approx(THETA[0] * (data * h**2).sum())


@SOURCES
def test_callable_fields_take_the_data(source):
    def start(theta, args):
        return 0.1 * args["x"]

    def scale(h, theta, args):
        return 1.0 + 0.0 * args["x"]

    model = make(source, initial_state=start, residual_scale=scale).with_args(OTHER)
    np.testing.assert_allclose(np.asarray(model.initial_state(THETA)), 0.1 * OTHER["x"])
    np.testing.assert_allclose(np.asarray(model.residual_scale(THETA[:1] * np.ones(N), THETA)), 1.0)


def test_functions_in_single_precision_keep_the_dtype_of_the_data():
    library("from_jax")
    args = {"x": EXAMPLE["x"].astype(np.float32), "scale": np.float32(0.7)}
    model = mfdeq.from_jax(
        f_jax, np.zeros(N, np.float32), np.zeros(P, np.float32), "map", args=args
    )
    eq = mfdeq.solve(model, THETA.astype(np.float32))
    assert eq.state.dtype == np.float32
    np.testing.assert_allclose(eq.state, closed_over(EXAMPLE).state, rtol=1e-4)


def picklable(h, theta, args):
    return 0.3 * h * theta[0] + args


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@SOURCES
def test_models_travel_with_their_data(source, travel):
    if source == "function":
        model = mfdeq.from_function(picklable, N, P, "map", args=np.ones(N))
    else:
        library(f"from_{source}")
        create = getattr(mfdeq, f"from_{source}")
        model = create(picklable, np.zeros(N), np.zeros(P), "map", args=np.ones(N))
    model = model.with_args(np.arange(3.0))
    other = travel(model)
    np.testing.assert_allclose(np.asarray(other.args), np.arange(3.0))
    expected = mfdeq.solve(model, THETA).state
    np.testing.assert_allclose(mfdeq.solve(other, THETA).state, expected, rtol=1e-14)
    again = other.with_args(np.ones(N))
    assert not np.allclose(mfdeq.solve(again, THETA).state, expected)


def test_strings_among_the_data_of_jax_are_refused():
    library("from_jax")
    with pytest.raises(mfdeq.ModelError, match=r"args\['name'\] of mfdeq.from_jax: expected"):
        mfdeq.from_jax(
            lambda h, theta, args: h, np.zeros(N), np.zeros(P), "map", args={"name": "pump"}
        )


def test_argmin_takes_data():
    library("from_jax")
    model = mfdeq.from_jax(
        lambda h, theta, args: 0.5 * (theta[0] * h**2).sum() - (args * h).sum(),
        np.zeros(N),
        np.zeros(P),
        "argmin",
        args=np.ones(N),
    )
    eq = mfdeq.solve(model.with_args(np.arange(3.0)), np.array([2.0, 0.0]))
    np.testing.assert_allclose(eq.state, np.arange(3.0) / 2)


def test_patterns_are_detected_with_the_data():
    library("from_jax")
    model = make("jax", sparsity="detect").with_args(OTHER)
    eq = mfdeq.solve(model, THETA)
    np.testing.assert_allclose(
        eq.sensitivity.toarray(), closed_over(OTHER).sensitivity.toarray(), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["model", "loss"])
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("products", [0, 1])
def test_data_of_plain_functions_that_are_changed_in_place_are_noticed(kind, replaced, products):
    n = 40  # so many that second derivatives are not tabulated

    def f(h, theta, args):
        return 0.3 * np.cos(args["W"] @ h) + theta

    def L(h, theta, args):
        return ((args["W"] @ h) ** 3).sum() + (theta**2).sum()

    W, theta, v = np.eye(n) + 0.1 / n, np.linspace(0.1, 0.3, n), np.linspace(1.0, 2.0, n)
    args = {"W": np.eye(n) if replaced else W}
    if kind == "model":
        model = mfdeq.from_function(f, n, n, "map", args=args)
        model = model.with_args({"W": W}) if replaced else model
        eq = mfdeq.solve(model, theta, error_estimates=False)
        H = eq.hessian(mfdeq.LeastSquares(np.arange(n), np.zeros(n)))
    else:
        loss = mfdeq.loss_from_function(L, n, n, args=args)
        loss = loss.with_args({"W": W}) if replaced else loss
        H, v = loss.curvature_operator(theta, theta), np.concatenate([v, v])
    for _ in range(products):
        H @ v
    W *= 0.5
    with pytest.raises(mfdeq.ModelError, match="changed before all of its derivatives"):
        H @ v[::-1]
