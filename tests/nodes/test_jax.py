"""Equilibria as functions of JAX, against derivatives of an unrolled iteration."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close

import mfdeq

jax = pytest.importorskip("jax", reason="the jax extra is not installed")
jnp = jax.numpy

N, P = 7, 4
RNG = np.random.default_rng(0)
W = 0.3 * RNG.standard_normal((N, N)) / N**0.5
U = RNG.standard_normal((N, P))
THETA = RNG.standard_normal(P)
OTHERS = RNG.standard_normal((3, P))
WEIGHTS = np.arange(1.0, N + 1)


def layer(h, theta):
    return jnp.tanh(W @ h + U @ theta + 0.1 * (h * h).sum() * theta[0])


def unrolled(theta):
    step = lambda h, _: (layer(h, theta), None)  # noqa: E731
    return jax.lax.scan(step, jnp.zeros(N, theta.dtype), None, length=45)[0]


def loss_of(state):
    return lambda theta: jnp.sum(jnp.sin(state(theta)) * WEIGHTS) * theta[1]


@pytest.fixture(scope="module")
def from_jax():
    return mfdeq.from_jax(layer, np.zeros(N), np.zeros(P), "map")


class ByHand(mfdeq.FixedPointModel):
    """The layer with derivatives that JAX does not see, and a sparse d_state."""

    state_size, param_size = N, P

    def __init__(self):
        self.source = mfdeq.from_jax(layer, np.zeros(N), np.zeros(P), "map")

    def map(self, h, theta):
        return self.source.map(h, theta)

    def linearize(self, h, theta):
        at = self.source.linearize(h, theta)
        d_state = sp.csr_array(at.d_state @ np.eye(N))
        return mfdeq.Linearization(d_state, at.d_params, at.curvature, at.second)


MODELS = {
    "from_jax": lambda: mfdeq.from_jax(layer, np.zeros(N), np.zeros(P), "map"),
    "residual": lambda: mfdeq.from_jax(
        lambda h, theta: 3.0 * (layer(h, theta) - h), np.zeros(N), np.zeros(P), "residual"
    ),
    "by hand": ByHand,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


TRANSFORMS = {
    "hessian": jax.hessian,
    "jacrev twice": lambda f: jax.jacrev(jax.jacrev(f)),
    "jacfwd twice": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "jacrev of jacfwd": lambda f: jax.jacrev(jax.jacfwd(f)),
    "hessian of a checkpoint": lambda f: jax.hessian(jax.checkpoint(f)),
}


@pytest.fixture(scope="module")
def reference():
    loss = loss_of(unrolled)
    both = jax.jit(lambda theta: (jax.value_and_grad(loss)(theta), jax.hessian(loss)(theta)))
    (value, gradient), hessian = both(THETA)
    jacobian = jax.jit(jax.jacfwd(unrolled))(THETA)
    return {"value": value, "gradient": gradient, "hessian": hessian, "jacobian": jacobian}


def test_first_derivatives_are_those_of_the_unrolled_iteration(model, reference):
    state = mfdeq.to_jax(model)
    value, gradient = jax.value_and_grad(loss_of(state))(THETA)
    close(value, reference["value"], 1e-9)
    close(gradient, reference["gradient"], 1e-9)
    for jacobian in jax.jacfwd, jax.jacrev:
        close(jacobian(state)(THETA), reference["jacobian"], 1e-9)
    out, along = jax.linearize(state, THETA)
    close(along(np.ones(P)), reference["jacobian"] @ np.ones(P), 1e-9)
    close(jax.vjp(state, THETA)[1](out)[0], reference["jacobian"].T @ out, 1e-9)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_second_derivatives_are_those_of_the_unrolled_iteration(model, name, reference):
    state = mfdeq.to_jax(model)
    close(jax.jit(TRANSFORMS[name](loss_of(state)))(THETA), reference["hessian"], 1e-9)


def test_hessian_outside_jit_is_that_of_the_unrolled_iteration(model, reference):
    close(jax.hessian(loss_of(mfdeq.to_jax(model)))(THETA), reference["hessian"], 1e-9)


def test_third_derivatives_are_those_of_the_unrolled_iteration(from_jax):
    third = [
        jax.jit(jax.jacfwd(jax.hessian(loss_of(state))))(THETA)
        for state in (mfdeq.to_jax(from_jax), unrolled)
    ]
    close(*third, 1e-7)
    again = jax.jit(jax.jacrev(jax.jacrev(jax.jacrev(loss_of(mfdeq.to_jax(from_jax))))))(THETA)
    close(again, third[1], 1e-7)


def test_third_derivatives_of_other_models_are_refused():
    state = mfdeq.to_jax(ByHand())
    with pytest.raises(mfdeq.ModelError, match="at most second derivatives"):
        jax.jacfwd(jax.hessian(loss_of(state)))(THETA)


def test_hessians_of_batches_are_those_of_the_unrolled_iteration(model):
    def hessian(state):
        loss = lambda thetas: jnp.sum(jax.vmap(loss_of(state))(thetas) ** 2)  # noqa: E731
        return jax.jit(jax.hessian(loss))(OTHERS)

    close(hessian(mfdeq.to_jax(model)), hessian(unrolled), 1e-9)
    by_rows = jax.jit(jax.vmap(jax.hessian(loss_of(mfdeq.to_jax(model)))))(OTHERS)
    close(by_rows[1], jax.jit(jax.hessian(loss_of(unrolled)))(OTHERS[1]), 1e-9)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("solver", ["auto", mfdeq.Direct()])
def test_one_solve_and_one_factor_serve_all_products(from_jax, compiled, solver):
    options = {} if solver == "auto" else {"solver": solver, "method": "newton"}
    state = mfdeq.to_jax(from_jax, **options)

    def products(theta):
        loss = loss_of(state)
        value, gradient = jax.value_and_grad(loss)(theta)
        return value, gradient, jax.hessian(loss)(theta) @ gradient

    (jax.jit(products) if compiled else products)(THETA)
    assert state.solves == 1
    assert state.report.converged
    # Newton's method sets up factors, of which the derivatives use the last, or one more.
    assert state.report.linear.setups <= (solver != "auto")
    assert state.report.linear.columns >= P
    state(2.0 * THETA)
    assert state.solves == 2


def test_the_columns_of_a_jacobian_are_one_block(from_jax):
    state = mfdeq.to_jax(from_jax)
    jax.jacfwd(state)(THETA)
    assert (state.report.linear.solves, state.report.linear.columns) == (1, P)
    jax.jacrev(state)(THETA)
    assert (state.report.linear.adjoint_solves, state.report.linear.columns) == (1, P + N)


def test_float32_is_kept(from_jax):
    state = mfdeq.to_jax(from_jax)
    theta = THETA.astype(np.float32)
    gradient = jax.jit(jax.grad(lambda theta: jnp.sum(state(theta) ** 2)))(theta)
    assert state(theta).dtype == gradient.dtype == np.float32
    exact = jax.jit(jax.grad(lambda theta: jnp.sum(unrolled(theta) ** 2)))(THETA)
    close(gradient, exact, 1e-5)


def test_pytrees_have_the_structure_of_the_examples():
    example = {"b": np.zeros((2, 2)), "w": np.zeros((2, 3))}
    model = mfdeq.from_jax(
        lambda h, p: {"x": 0.2 * jnp.sin(h["x"]) @ p["b"] + p["w"].T},
        {"x": np.zeros((3, 2))},
        example,
        "map",
    )
    state = mfdeq.to_jax(model)
    params = jax.tree_util.tree_map(lambda x: jnp.ones(x.shape), example)
    h = state(params, h0={"x": jnp.ones((3, 2))})
    close(h["x"], 0.2 * jnp.sin(h["x"]) @ params["b"] + params["w"].T, 1e-12)
    gradient = jax.grad(lambda p: jnp.sum(state(p)["x"]))(params)
    assert {name: x.shape for name, x in gradient.items()} == {"b": (2, 2), "w": (2, 3)}
    flat = model.flat_params(params)
    assert state(flat)["x"].shape == (3, 2)
    with pytest.raises(mfdeq.ModelError, match=r"params of .*: expected an array of shape"):
        state({"b": jnp.ones((2, 2))})
    with pytest.raises(mfdeq.ModelError, match="h0 of "):
        state(params, h0=jnp.ones(5))


def square_root():
    return mfdeq.from_jax(
        lambda h, theta: h**2 - theta, np.zeros(1), np.zeros(1), "residual", initial_state=0.7
    )


def test_a_start_selects_the_equilibrium():
    state = mfdeq.to_jax(square_root())
    theta = jnp.array([4.0])
    close(state(theta), [2.0], 1e-12)
    close(state(theta, h0=jnp.array([-1.0])), [-2.0], 1e-12)
    slope = jax.grad(lambda theta, h0: state(theta, h0=h0)[0], argnums=(0, 1))
    close(slope(theta, jnp.array([-1.0])), ([-0.25], [0.0]), 1e-12)


def test_failures_are_typed_outside_jit_and_kept_under_jit():
    state = mfdeq.to_jax(square_root(), method="newton")
    with pytest.raises(mfdeq.ConvergenceError, match="the worst residual"):
        state(jnp.array([-1.0]))
    with pytest.raises(mfdeq.ConvergenceError):
        jax.grad(lambda theta: state(theta)[0])(jnp.array([-1.5]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="the worst residual"):
        jax.jit(state)(jnp.array([-2.0])).block_until_ready()
    error = mfdeq.last_error()
    assert isinstance(error, mfdeq.ConvergenceError)
    assert not error.report.converged
    close(jax.jit(state)(jnp.array([9.0])), [3.0], 1e-12)


def test_derivatives_at_a_fold_are_refused():
    state = mfdeq.to_jax(square_root())
    with pytest.raises(mfdeq.SingularStateError):
        jax.grad(lambda theta: state(theta, h0=jnp.zeros(1))[0])(jnp.array([0.0]))


def test_a_constrained_model_is_differentiated_twice():
    K = np.array([[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])
    base = mfdeq.from_jax(
        lambda h, theta: K @ (h + 0.1 * theta[0] * h**3) - jnp.array([1.0, 0.0, -1.0]) * theta[1],
        np.zeros(3),
        np.zeros(2),
        "residual",
    )
    model = mfdeq.constrain(base, mfdeq.LinearConstraint(np.ones((1, 3)), 1.0))
    state = mfdeq.to_jax(model)
    theta, v = np.array([0.5, 0.7]), np.array([1.0, -2.0])
    f = lambda theta: jnp.sum(state(theta) ** 2)  # noqa: E731
    product = jax.jit(lambda theta: jax.jvp(jax.grad(f), (theta,), (v,))[1])(theta)
    step = 1e-5
    gradients = [jax.grad(f)(theta + sign * step * v) for sign in (1.0, -1.0)]
    close(product, (gradients[0] - gradients[1]) / (2 * step), 1e-6)


def test_stored_equilibria_are_bounded(from_jax):
    state = mfdeq.to_jax(from_jax)
    state.host._known.capacity = 2
    gradient = jax.jit(jax.vmap(jax.grad(loss_of(state))))
    close(gradient(OTHERS), jax.jit(jax.vmap(jax.grad(loss_of(unrolled))))(OTHERS), 1e-9)
    assert state.solves == len(OTHERS)
    assert len(state.host._known) <= 4


def test_threads_and_nodes_do_not_disturb_each_other(from_jax):
    nodes = [mfdeq.to_jax(from_jax), mfdeq.to_jax(ByHand())]
    compiled = [jax.jit(jax.grad(loss_of(node))) for node in nodes]
    expected = jax.jit(jax.vmap(jax.grad(loss_of(unrolled))))(OTHERS)
    found = {}

    def run(which, i):
        for _ in range(3):
            found[which, i] = compiled[which](OTHERS[i])

    threads = [threading.Thread(target=run, args=(k, i)) for k in range(2) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for (_, i), gradient in found.items():
        close(gradient, expected[i], 1e-9)
    assert len(found) == 6


def test_bad_models_and_options_are_refused():
    with pytest.raises(
        mfdeq.ArgumentError, match=r"model of mfdeq.to_jax: expected an mfdeq.Fixed"
    ):
        mfdeq.to_jax(lambda h: h)
    with pytest.raises(mfdeq.ArgumentError, match=r"options of mfdeq.to_jax: expected one of"):
        mfdeq.to_jax(ByHand(), tolerance=1e-3)


def with_data(h, theta, args):
    x, (kind,) = args["x"], args["kind"]
    return jnp.tanh(W @ h + U @ theta * x[0] + jnp.where(kind == 1, x[1:], 0.0))


DATA = {"x": RNG.standard_normal(N + 1), "kind": (np.arange(N) % 2,)}


def unrolled_with(theta, args):
    step = lambda h, _: (with_data(h, theta, args), None)  # noqa: E731
    return jax.lax.scan(step, jnp.zeros(N, theta.dtype), None, length=60)[0]


def all_close(found, expected):
    leaves = map(jax.tree_util.tree_leaves, (found, expected))
    for ours, theirs in zip(*leaves, strict=True):
        close(ours, theirs, 1e-9)


def test_data_beside_the_parameters_have_derivatives():
    example = jax.tree_util.tree_map(np.zeros_like, DATA)
    model = mfdeq.from_jax(with_data, np.zeros(N), np.zeros(P), "map", args=example)
    state = mfdeq.to_jax(model)
    own = mfdeq.to_jax(model.with_args(DATA))
    close(own(THETA), unrolled_with(jnp.asarray(THETA), DATA), 1e-9)
    with pytest.raises(mfdeq.ModelError, match="expected data beside the parameters, got none"):
        state(THETA)

    def derivatives(solve):
        def loss(theta, x):
            return jnp.sum(jnp.sin(solve(theta, {"x": x, "kind": DATA["kind"]})))

        return jax.jit(jax.hessian(loss, argnums=(0, 1)))(THETA, DATA["x"])

    all_close(derivatives(state), derivatives(unrolled_with))
    assert state.solves == 1
    with pytest.raises(mfdeq.ModelError, match="expected the structure of the args"):
        state(THETA, DATA["x"])
    with pytest.raises(mfdeq.ModelError, match="data for a model that has none"):
        mfdeq.to_jax(square_root())(jnp.ones(1), 2.0)


def test_a_batched_model_is_solved_as_a_batch():
    xs = RNG.standard_normal((5, N))
    f = lambda h, theta, x: jnp.tanh(W @ h + U @ theta + x)  # noqa: E731
    model = mfdeq.from_jax(f, np.zeros(N), np.zeros(P), "map", args=np.zeros((5, N)), batched=True)
    state = mfdeq.to_jax(model)

    def by_samples(theta, xs):
        step = lambda h, x: jax.lax.scan(  # noqa: E731
            lambda h, _: (f(h, theta, x), None), h, None, length=60
        )[0]
        return jax.vmap(lambda x: step(jnp.zeros(N), x))(xs)

    def hessian(solve):
        loss = lambda theta, xs: jnp.sum(jnp.sin(solve(theta, xs)))  # noqa: E731
        value_and_gradients = jax.value_and_grad(loss, argnums=(0, 1))
        return jax.jit(lambda *x: (value_and_gradients(*x), jax.hessian(loss)(*x)))(THETA, xs)

    all_close(hessian(state), hessian(by_samples))
    assert state.solves == 1
    assert state(THETA, xs).shape == (5, N)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["outside of jit", "in jit"])
def test_a_node_in_the_function_of_another_node_has_derivatives(transform):
    def inner_map(g, p):
        return 0.5 * jnp.cos(g) + p

    inner = mfdeq.to_jax(mfdeq.from_jax(inner_map, np.zeros(2), np.zeros(2), "map"))

    def outer_map(inner):
        return lambda h, theta: 0.3 * jnp.tanh(inner(h + theta))

    def iterated(f):
        step = lambda h, theta: (f(h, theta), None)  # noqa: E731
        return lambda theta: jax.lax.scan(
            lambda h, _: step(h, theta), jnp.zeros(2), None, length=60
        )[0]

    nested = mfdeq.to_jax(mfdeq.from_jax(outer_map(inner), np.zeros(2), np.zeros(2), "map"))
    theta = jnp.array([0.2, -0.4])
    losses = [
        lambda t, s=s: jnp.sum(jnp.sin(s(t)))
        for s in (nested, iterated(outer_map(iterated(inner_map))))
    ]
    values = [transform(jax.hessian(loss))(theta) for loss in losses]
    close(*values, 1e-8)
    close(*(transform(jax.grad(loss))(theta) for loss in losses), 1e-9)


def test_memory_does_not_grow_with_the_steps(from_jax):
    state = mfdeq.to_jax(from_jax)
    gradient = jax.jit(jax.grad(loss_of(state)))
    theta = jnp.asarray(THETA)
    counts = []
    for i in range(1000):
        theta = theta - 1e-4 * gradient(theta)
        if i in (600, 999):
            gc.collect()
            counts.append(len(gc.get_objects()))
    assert state.solves == 1000
    assert counts[1] <= counts[0] + 100


def test_a_functional_takes_the_pytree_of_its_model():
    def f(h, p):
        return jnp.tanh(W @ h + U @ p["a"] + p["b"])

    example = {"a": np.zeros(P), "b": np.zeros(N)}
    model = mfdeq.from_jax(f, np.zeros(N), example, "map")
    F = mfdeq.ReducedFunctional(model, mfdeq.LeastSquares(np.arange(N), np.ones(N)))
    params = {"a": jnp.asarray(THETA), "b": 0.1 * jnp.arange(N)}
    for functional in (F, F + 2.0 * F):
        node = mfdeq.to_jax(functional)
        value, slopes = jax.value_and_grad(node)(params)
        vector = model.flat_params(params)
        close(value, functional.value(vector), 1e-12)
        close(model.flat_params(slopes), functional.gradient(vector), 1e-10)
    with pytest.raises(mfdeq.ModelError, match="or the structure of the example"):
        node({"a": params["a"]})


def test_a_sum_of_functionals_is_a_scalar_function(from_jax):
    losses = [mfdeq.LeastSquares([i], [0.3], 1.0 + i) for i in range(3)]
    total = mfdeq.SumFunctional([mfdeq.ReducedFunctional(from_jax, loss) for loss in losses])
    value = mfdeq.to_jax(total)

    def iterated(theta):
        return 0.5 * jnp.sum(jnp.arange(1.0, 4.0) * (unrolled(theta)[:3] - 0.3) ** 2)

    def whole(f):
        return jax.jit(lambda theta: (jax.value_and_grad(f)(theta), jax.hessian(f)(theta)))

    all_close(whole(value)(THETA), whole(iterated)(THETA))
    assert value(THETA).shape == ()
    with pytest.raises(mfdeq.ArgumentError, match="expected none for a functional"):
        mfdeq.to_jax(total, method="newton")


def test_a_trajectory_is_differentiated_twice():
    n = 2

    class Decay(mfdeq.StepModel):
        state_size, param_size = n, 3

        def residual(self, h, previous, theta, k):
            return h - previous + 0.1 * theta[:n] * h**2 - 0.1 * theta[n]

        def linearize(self, h, previous, theta, k):
            return mfdeq.StepLinearization(
                d_state=np.diag(1.0 + 0.2 * theta[:n] * h),
                d_previous=-np.eye(n),
                d_params=np.hstack([np.diag(0.1 * h**2), np.full((n, 1), -0.1)]),
                curvature=lambda lam: mfdeq.StepCurvature(
                    state_state=np.diag(0.2 * theta[:n] * lam),
                    state_params=np.hstack([np.diag(0.2 * h * lam), np.zeros((n, 1))]),
                ),
            )

    model = mfdeq.trajectory(Decay(), 5, np.array([1.0, 2.0]))
    state = mfdeq.to_jax(model)

    def iterated(theta):
        def step(previous, _):
            a, c = 0.1 * theta[:n], previous + 0.1 * theta[n]
            h = (jnp.sqrt(1.0 + 4.0 * a * c) - 1.0) / (2.0 * a)
            return h, h

        return jax.lax.scan(step, jnp.array([1.0, 2.0]), None, length=5)[1].reshape(-1)

    theta = np.array([0.5, 1.5, 0.7])

    def hessian(f):
        return jax.jit(jax.hessian(lambda theta: jnp.sum(jnp.sin(f(theta)))))

    all_close(state(theta), iterated(theta))
    all_close(hessian(state)(theta), hessian(iterated)(theta))


def test_large_nodes_of_several_threads_do_not_wait_for_each_other():
    n = 50_000

    class Large(mfdeq.ResidualModel):
        state_size = param_size = n

        def residual(self, h, theta):
            return h + h**3 - theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(
                sp.diags_array(1.0 + 3.0 * h**2).tocsr(), -sp.eye_array(n, format="csr")
            )

    gradient = jax.jit(jax.grad(lambda theta: jnp.sum(mfdeq.to_jax(Large())(theta))))
    found = {}

    def run(i):
        found[i] = np.asarray(gradient(jnp.full(n, h[i] + h[i] ** 3)))

    h = np.arange(1.0, 5.0)
    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for i, size in enumerate(h):
        close(found[i], np.full(n, 1.0 / (1.0 + 3.0 * size**2)), 1e-9)


# A callback holds the only thread of JAX's client, and the map of a large state needs one, too.
ON_ONE_CORE = """
import os
import pickle
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np, threading
import mfdeq

n = 60_000
zeros = np.zeros(n, np.float32)
f = lambda h, t: 0.2 * jnp.sin(jnp.roll(h, 1)) + t
state = mfdeq.to_jax(mfdeq.from_jax(f, zeros, zeros, "map"))
loss = jax.jit(jax.value_and_grad(lambda t: (state(2.0 * t) ** 2).sum()))
theta = jnp.ones(n, jnp.float32)
loss(theta)

def run(k):
    value, gradient = loss(theta * k)  # theta * k is still being computed
    h = 2.0 * k
    for _ in range(50):
        h = 0.2 * np.sin(h) + 2.0 * k
    np.testing.assert_allclose(value, n * h**2, rtol=1e-4)
    np.testing.assert_allclose(gradient, 4.0 * h / (1.0 - 0.2 * np.cos(h)), rtol=1e-4)
    done.append(k)

done = []
threads = [threading.Thread(target=run, args=(k,)) for k in (0.1, 0.2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(done) == 2
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinities on this system")
def test_programs_with_large_states_end_on_one_core():
    subprocess.run([sys.executable, "-c", ON_ONE_CORE], check=True, timeout=300)


def test_a_node_is_copied_and_pickled():
    node = mfdeq.to_jax(ByHand(), rtol=1e-8)
    h = node(THETA)
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        close(other(THETA), h, 1e-12)
        assert other.solves == node.solves == 1
