"""Batches of samples: one function, dense blocks, and each sample by its own measure."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support.autodiff import library

import mfdeq
from mfdeq.linear import BlockDiagonal

S, N, D = 5, 3, 2
RNG = np.random.default_rng(0)
X = RNG.standard_normal((S, D))
PARAMS = {"U": RNG.standard_normal((N, D)), "W": 0.4 * RNG.standard_normal((N, N))}
P = N * N + N * D
THETA = np.concatenate([PARAMS["U"].ravel(), PARAMS["W"].ravel()])  # keys in order
U_SIZE = N * D


def f_jax(h, w, x):
    jnp, _ = library("from_jax")
    return jnp.tanh(w["W"] @ h + w["U"] @ x)


def f_torch(h, w, x):
    torch, _ = library("from_torch")
    return torch.tanh(w["W"] @ h + w["U"] @ x)


def f_numpy(h, theta, x):
    U, W = theta[:U_SIZE].reshape(N, D), theta[U_SIZE:].reshape(N, N)
    return np.tanh(W @ h + U @ x)


def loss_of_one(h, w, x):
    return 0.5 * (h**2).sum() * x[0] + (w["U"] ** 2).sum() * h[0] / 7


def make(source, x=X, kind="map", **fields):
    signs = {"map": 1.0, "residual": 0.0}[kind]
    if source == "function":

        def f(h, theta, x):
            return f_numpy(h, theta, x) - (1.0 - signs) * h

        return mfdeq.from_function(f, N, P, kind, args=x, batched=True, **fields)
    library(f"from_{source}")
    one = {"jax": f_jax, "torch": f_torch}[source]
    return getattr(mfdeq, f"from_{source}")(
        lambda h, w, x: one(h, w, x) - (1.0 - signs) * h,
        np.zeros(N),
        PARAMS,
        kind,
        args=x,
        batched=True,
        **fields,
    )


@pytest.fixture(scope="module")
def truth():
    """The states, the gradient and the Hessian of the loss of the batch, by JAX alone."""
    jax = pytest.importorskip("jax")
    jnp, _ = library("from_jax")

    def states(theta):
        w = {"U": theta[:U_SIZE].reshape(N, D), "W": theta[U_SIZE:].reshape(N, N)}

        def one(x):
            h = jnp.zeros(N)
            for _ in range(120):
                h = f_jax(h, w, x)
            return h

        return jax.vmap(one)(jnp.asarray(X)), w

    def total(theta):
        H, w = states(theta)
        return jax.vmap(loss_of_one, in_axes=(0, None, 0))(H, w, jnp.asarray(X)).sum()

    def flat(theta):
        return states(theta)[0].reshape(-1)

    theta = jnp.asarray(THETA)
    Z = jax.jacfwd(flat)(theta)
    second = jax.jacfwd(jax.jacfwd(flat))(theta)
    found = flat(theta), jax.grad(total)(theta), jax.hessian(total)(theta), Z, second
    return [np.asarray(x) for x in found]


def make_loss(source):
    if source == "function":
        source = "jax"
    library(f"from_{source}")
    create = getattr(mfdeq, f"loss_from_{source}")
    return create(loss_of_one, np.zeros(N), PARAMS, args=X, batched=True)


SOURCES = pytest.mark.parametrize(
    ("source", "rtol"), [("jax", 1e-9), ("torch", 1e-9), ("function", 1e-5)]
)
KINDS = pytest.mark.parametrize("kind", ["map", "residual"])


@SOURCES
@KINDS
def test_derivatives_are_those_of_the_explicit_solution(source, rtol, kind, truth):
    state, gradient, hessian, Z, second = truth
    eq, loss = mfdeq.solve(make(source, kind=kind), THETA), make_loss(source)
    assert eq.samples.shape == (S, N)
    np.testing.assert_allclose(eq.state, state, rtol=1e-9)
    np.testing.assert_array_equal(eq.samples.ravel(), eq.state)
    scale = abs(hessian).max()
    np.testing.assert_allclose(eq.gradient(loss), gradient, rtol=rtol, atol=rtol)
    H = eq.hessian(loss)
    np.testing.assert_allclose(H @ np.eye(P), hessian, rtol=0, atol=rtol * scale)
    v = RNG.standard_normal(P)
    np.testing.assert_allclose(H @ v, hessian @ v, rtol=0, atol=10 * rtol * scale)
    np.testing.assert_allclose(eq.sensitivity @ np.eye(P), Z, rtol=0, atol=rtol)
    w = RNG.standard_normal((S * N, 2))
    np.testing.assert_allclose(eq.sensitivity.H @ w, Z.T @ w, rtol=0, atol=10 * rtol)
    u = RNG.standard_normal(P)
    expected = np.einsum("ijk,j,k->i", second, u, v)
    np.testing.assert_allclose(eq.second_order(u, v), expected, rtol=0, atol=100 * rtol)


def test_the_state_operator_is_dense_blocks_and_nothing_larger_is_formed():
    eq, loss = mfdeq.solve(make("jax"), THETA), make_loss("jax")
    eq.gradient(loss)
    eq.hessian(loss) @ np.ones(P)
    A = eq.state_operator
    assert isinstance(A, BlockDiagonal)
    assert A.blocks.shape == (S, N, N)
    assert "array" not in vars(A)
    assert eq.report.solver == "Direct (dense blocks)"
    assert eq.report.samples.converged.all()


def test_a_sample_is_solved_as_it_would_be_alone():
    model = make("jax")
    together = mfdeq.solve(model, THETA)
    for i in range(S):
        alone = mfdeq.solve(make("jax", X[i : i + 1]), THETA)
        np.testing.assert_allclose(together.samples[i], alone.state, rtol=1e-14, atol=1e-15)
        assert together.report.samples[i].iterations == alone.report.samples[0].iterations


def test_new_data_cost_no_compilation():
    jnp, _ = library("from_jax")
    traces = []

    def traced(h, w, x):
        traces.append(None)
        return jnp.tanh(w["W"] @ h + w["U"] @ x)

    def traced_loss(h, w, x):
        traces.append(None)
        return loss_of_one(h, w, x)

    model = mfdeq.from_jax(traced, np.zeros(N), PARAMS, "map", args=X, batched=True)
    loss = mfdeq.loss_from_jax(traced_loss, np.zeros(N), PARAMS, args=X, batched=True)

    def everything(model, loss):
        eq = mfdeq.solve(model, THETA)
        H = eq.hessian(loss)
        return eq.gradient(loss), H @ THETA, H @ np.eye(P)[:, :8], eq.second_order(THETA, THETA)

    everything(model, loss)
    before = len(traces)
    everything(model.with_args(X + 0.1), loss.with_args(X + 0.1))
    assert len(traces) == before


# One sample among many that has no equilibrium: h² = a with a < 0.

A_VALUES = np.array([1.0, 4.0, -1.0, 9.0, 2.0])


def square_model(source="jax", **fields):
    if source == "jax":
        library("from_jax")
        return mfdeq.from_jax(
            lambda h, t, a: h**2 - a * t[0],
            np.zeros(1),
            np.ones(2),
            "residual",
            args=A_VALUES,
            batched=True,
            initial_state=2.0,
            **fields,
        )
    return mfdeq.from_function(
        lambda h, t, a: h**2 - a * t[0],
        1,
        2,
        "residual",
        args=A_VALUES,
        batched=True,
        initial_state=2.0,
        **fields,
    )


PLAIN_AND_COMPILED = pytest.mark.parametrize("source", ["jax", "function"])


@PLAIN_AND_COMPILED
def test_a_sample_without_an_equilibrium_is_named(source):
    with pytest.raises(mfdeq.ConvergenceError, match=r"1 of 5 samples \(sample 2: it ") as raised:
        mfdeq.solve(square_model(source), np.ones(2))
    reports = raised.value.report.samples
    assert reports.failed == 1
    np.testing.assert_array_equal(reports.converged, [True, True, False, True, True])
    np.testing.assert_allclose(np.delete(raised.value.best, 2), [1.0, 2.0, 3.0, 2.0**0.5])


@PLAIN_AND_COMPILED
def test_masked_samples_have_no_weight(source):
    library("from_jax")
    theta, kept = np.array([1.5, 0.3]), np.array([True, True, False, True, True])
    eq = mfdeq.solve(square_model(source), theta, on_failure="mask")
    assert eq.report.samples.failed == 1
    assert "no decrease" in eq.report.samples[2].reason or eq.report.samples[2].reason
    h = np.sqrt(A_VALUES[kept] * theta[0])
    np.testing.assert_allclose(eq.samples[kept, 0], h)
    assert np.isnan(eq.samples[2, 0])
    loss = mfdeq.loss_from_jax(
        lambda h, t, a: (h**3).sum() * t[1], np.zeros(1), np.ones(2), args=A_VALUES, batched=True
    )
    assert eq.value(loss) == pytest.approx((h**3).sum() * theta[1])
    slope = 0.5 * np.sqrt(A_VALUES[kept] / theta[0])
    expected = [(3 * h**2 * slope).sum() * theta[1], (h**3).sum()]
    np.testing.assert_allclose(eq.gradient(loss), expected)
    exact = (A_VALUES[kept] ** 1.5).sum()
    hessian = np.array(
        [[0.75 * theta[0] ** -0.5 * theta[1], 1.5 * theta[0] ** 0.5], [1.5 * theta[0] ** 0.5, 0.0]]
    )
    atol = {"jax": 1e-9, "function": 1e-4}[source]
    np.testing.assert_allclose(eq.hessian(loss) @ np.eye(2), exact * hessian, atol=atol)
    Z = eq.sensitivity @ np.eye(2)
    np.testing.assert_array_equal(Z[2], 0.0)
    np.testing.assert_allclose(Z[kept, 0], slope)


@PLAIN_AND_COMPILED
def test_functionals_mask_samples_in_data_and_priors(source):
    theta = np.array([1.5, 0.3])
    kept = np.array([0, 1, 3, 4])
    loss = mfdeq.LeastSquares(np.arange(5), np.ones(5)) + mfdeq.QuadraticPrior(0.1)
    F = mfdeq.ReducedFunctional(square_model(source), loss, on_failure="mask")
    h = np.sqrt(A_VALUES[kept] * theta[0])
    assert F.value(theta) == pytest.approx(0.5 * ((h - 1) ** 2).sum() + 0.05 * theta @ theta)
    slope = h / (2 * theta[0])
    expected = [((h - 1) * slope).sum() + 0.1 * theta[0], 0.1 * theta[1]]
    np.testing.assert_allclose(F.gradient(theta), expected)


def test_losses_of_all_samples_together_cannot_be_masked():
    eq = mfdeq.solve(square_model(), np.ones(2), on_failure="mask")
    loss = mfdeq.loss_from_jax(lambda h, t: h.sum(), np.zeros(5), np.ones(2))
    with pytest.raises(mfdeq.ArgumentError, match="pass batched=True"):
        eq.gradient(loss)
    with pytest.raises(mfdeq.ArgumentError, match="on_failure='mask'"):
        eq.gradient(mfdeq.Loss(lambda h, t: h.sum(), d_state=lambda h, t: np.ones_like(h)))


def test_a_sample_in_which_the_function_raises_is_named_or_masked():
    def residual(h, theta, a):
        if a < 0:
            raise mfdeq.DomainError("the load is negative")
        return theta[0] * h - a

    model = mfdeq.from_function(residual, 1, 1, "residual", args=A_VALUES, batched=True)
    with pytest.raises(mfdeq.ConvergenceError, match=r"sample 2: the model has no value"):
        mfdeq.solve(model, np.array([2.0]))
    eq = mfdeq.solve(model, np.array([2.0]), on_failure="mask")
    np.testing.assert_allclose(eq.samples[[0, 1, 3, 4], 0], A_VALUES[[0, 1, 3, 4]] / 2)
    np.testing.assert_allclose(
        eq.gradient(mfdeq.LeastSquares(np.arange(5), np.zeros(5))), [-(16 - 1 + 87) / 8], rtol=1e-6
    )


def test_functions_that_return_another_shape_are_refused_with_the_sample():
    model = mfdeq.from_function(
        lambda h, theta, a: h[:1], 2, 1, "map", args=np.ones(3), batched=True
    )
    with pytest.raises(mfdeq.ModelError, match=r"of shape \(2,\) for one sample, got \(1,\)"):
        mfdeq.solve(model, np.ones(1))


def test_torch_functions_that_vmap_does_not_support_are_looped_over():
    torch, _ = library("from_torch")

    def f(h, w, x):
        slope = 0.5 if float(x[0]) > 0 else 0.25  # a branch that depends on a value
        return slope * torch.tanh(h) + w["U"] @ x

    model = mfdeq.from_torch(f, np.zeros(N), PARAMS, "map", args=X, batched=True)
    eq = mfdeq.solve(model, THETA)
    slopes = np.where(X[:, :1] > 0, 0.5, 0.25)
    H = eq.samples
    np.testing.assert_allclose(slopes * np.tanh(H) + X @ PARAMS["U"].T, H, rtol=1e-9)
    loss = mfdeq.LeastSquares(np.arange(S * N), np.zeros(S * N))
    lam = H / (1 - slopes / np.cosh(H) ** 2)
    np.testing.assert_allclose(eq.gradient(loss)[:U_SIZE], (lam.T @ X).ravel())


def test_masking_is_for_batches():
    model = mfdeq.from_function(lambda h, theta: h - theta, 2, 2, "residual")
    with pytest.raises(mfdeq.ArgumentError, match="only a batch"):
        mfdeq.solve(model, np.ones(2), on_failure="mask")
    with pytest.raises(mfdeq.ArgumentError, match="only a batch"):
        mfdeq.ReducedFunctional(model, mfdeq.QuadraticPrior(1.0), on_failure="mask")


def test_a_batch_without_any_equilibrium_is_an_error_even_if_masked():
    model = square_model().with_args(-abs(A_VALUES))
    with pytest.raises(mfdeq.ConvergenceError, match="5 of 5 samples"):
        mfdeq.solve(model, np.ones(2), on_failure="mask")


def test_a_sample_that_diverges_does_not_change_the_others():
    eq = mfdeq.solve(square_model(), np.ones(2), on_failure="mask")
    good = A_VALUES.copy()
    good[2] = 16.0
    other = mfdeq.solve(square_model().with_args(good), np.ones(2))
    kept = [0, 1, 3, 4]
    np.testing.assert_array_equal(eq.samples[kept], other.samples[kept])
    np.testing.assert_array_equal(
        eq.report.samples.iterations[kept], other.report.samples.iterations[kept]
    )


def test_the_digits_left_are_those_of_the_worst_sample():
    library("from_jax")
    model = mfdeq.from_jax(
        lambda h, t, a: h**2 - 2 * h + 1 - a * t[0],
        np.zeros(1),
        np.ones(2),
        "residual",
        args=np.array([1.0, 4.0, 1e-9, 9.0, 2.0]),
        batched=True,
        initial_state=3.0,
    )
    eq = mfdeq.solve(model, np.ones(2))
    eq.gradient(mfdeq.LeastSquares(np.arange(5), np.ones(5)))
    smallest = eq.smallest_singular
    assert smallest.value == pytest.approx(2 * 1e-9**0.5, rel=1e-3)
    np.testing.assert_allclose(abs(smallest.right), [0, 0, 1, 0, 0], atol=1e-12)
    assert eq.report.digits_left < 13


def singular_model(x):
    library("from_jax")
    return mfdeq.from_jax(
        lambda h, t, x: library("from_jax")[0].stack([h[0] - t[0], x * (h[1] - t[1])]),
        np.zeros(2),
        np.ones(2),
        "residual",
        args=x,
        batched=True,
    )


def test_a_sample_with_a_singular_derivative_is_named():
    model = singular_model(np.array([1.0, 2.0, 0.0, 3.0]))
    with pytest.raises(mfdeq.MfdeqError, match=r"of sample 2|sample 2:"):
        mfdeq.solve(model, np.ones(2))
    eq = mfdeq.solve(model, np.ones(2), on_failure="mask")
    np.testing.assert_allclose(np.delete(eq.samples, 2, axis=0), 1.0)
    assert eq.report.samples.failed == 1


def test_derivatives_at_a_singular_sample_are_an_error_that_names_it():
    model = singular_model(np.array([1.0, 2.0, 0.0, 3.0]))
    eq = mfdeq.equilibrium_at(model, np.ones(2), np.ones(8))
    with pytest.raises(mfdeq.SingularStateError, match="sample 2") as raised:
        eq.gradient(mfdeq.LeastSquares(np.arange(8), np.zeros(8)))
    assert raised.value.unknowns == [5]


def test_names_say_the_sample():
    model = make("jax", state_names=["a", "b", "c"])
    assert model.state_names[4] == "b of sample 1"
    assert len(model.state_names) == S * N
    assert make("jax").state_names[S * N - 1] == f"unknown {N - 1} of sample {S - 1}"


@pytest.mark.parametrize(
    "start",
    [
        0.1,
        np.full(N, 0.1),
        np.full((S, N), 0.1),
        np.full(S * N, 0.1),
        lambda w, x: 0.0 * x[0] + 0.1 + 0.0 * w["U"][:, 0],
    ],
    ids=["number", "one", "rows", "vector", "function"],
)
def test_starts_are_for_one_sample_or_for_all(start):
    model = make("jax", initial_state=start)
    start = model.initial_state(THETA)
    np.testing.assert_allclose(start + np.zeros(S * N), 0.1)
    np.testing.assert_allclose(
        mfdeq.solve(model, THETA).state, mfdeq.solve(make("jax"), THETA).state
    )


def test_starts_of_a_solve_may_be_rows():
    H0 = RNG.standard_normal((S, N))
    eq = mfdeq.solve(make("jax"), THETA, H0)
    np.testing.assert_allclose(eq.state, mfdeq.solve(make("jax"), THETA).state, rtol=1e-9)
    tree = np.asarray(make("jax").state_tree(eq.state))
    np.testing.assert_array_equal(tree, eq.samples)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (None, "got none"),
        ({"x": X, "y": np.zeros(S + 1)}, "same length"),
        (np.array(1.0), "has none"),
        (np.zeros((0, D)), "at least one"),
    ],
)
def test_data_without_a_common_axis_are_refused(args, message):
    library("from_jax")
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mfdeq.from_jax(lambda h, t, x: h, np.zeros(N), PARAMS, "map", args=args, batched=True)


def test_patterns_and_odd_values_are_refused():
    library("from_jax")
    for fields, message in (({"sparsity": "detect"}, "expected none"), ({"batched": 5}, "True or")):
        fields = {"batched": True, **fields}
        with pytest.raises(mfdeq.ArgumentError, match=message):
            mfdeq.from_jax(lambda h, t, x: h, np.zeros(N), PARAMS, "map", args=X, **fields)


def test_single_precision():
    library("from_jax")
    params = {k: w.astype(np.float32) for k, w in PARAMS.items()}
    model = mfdeq.from_jax(
        f_jax, np.zeros(N, np.float32), params, "map", args=X.astype(np.float32), batched=True
    )
    eq = mfdeq.solve(model, THETA.astype(np.float32))
    assert eq.state.dtype == eq.samples.dtype == np.float32
    assert eq.report.limited_by == "rounding"
    exact = mfdeq.solve(make("jax"), THETA)
    np.testing.assert_allclose(eq.state, exact.state, rtol=1e-4, atol=1e-5)
    loss = mfdeq.LeastSquares(np.arange(S * N), np.zeros(S * N))
    np.testing.assert_allclose(eq.gradient(loss), exact.gradient(loss), rtol=1e-3, atol=1e-5)


def test_argmin_batches_have_symmetric_blocks():
    jnp, _ = library("from_jax")
    model = mfdeq.from_jax(
        lambda h, t, x: (jnp.cosh(h) * t[0]).sum() + 0.1 * h[0] * h[1] - (x * h).sum(),
        np.zeros(2),
        np.ones(1),
        "argmin",
        args=X,
        batched=True,
    )
    eq = mfdeq.solve(model, np.ones(1))
    blocks = eq.state_operator.blocks
    np.testing.assert_allclose(blocks, blocks.transpose(0, 2, 1))
    H = eq.samples
    np.testing.assert_allclose(np.sinh(H) + 0.1 * H[:, ::-1], X, rtol=1e-9)


@pytest.mark.parametrize("method", ["picard", "anderson"])
def test_other_methods_solve_for_all_samples_together(method):
    eq = mfdeq.solve(make("jax"), THETA, method=method)
    assert eq.report.method == method
    np.testing.assert_allclose(eq.state, mfdeq.solve(make("jax"), THETA).state, rtol=1e-8)
    assert eq.report.samples.converged.all()
    assert len(eq.report.samples) == S


def test_states_that_are_known_make_batched_equilibria():
    model = make("jax")
    eq = mfdeq.equilibrium_at(model, THETA, mfdeq.solve(model, THETA).samples)
    assert eq.samples.shape == (S, N)
    np.testing.assert_allclose(eq.gradient(make_loss("jax")).shape, (P,))


def test_equilibria_travel():
    eq = mfdeq.solve(square_model(), np.ones(2), on_failure="mask")
    loss = mfdeq.LeastSquares(np.arange(5), np.ones(5))
    gradient = eq.gradient(loss)
    other = copy.deepcopy(eq)
    np.testing.assert_array_equal(other.samples, eq.samples)
    np.testing.assert_allclose(other.gradient(loss), gradient)


def test_reports_of_samples_are_a_sequence():
    reports = mfdeq.solve(make("jax"), THETA).report.samples
    assert [r.converged for r in reports] == [True] * S
    assert reports[-1] == reports[S - 1]
    assert len(reports[1:3]) == 2
    assert f"{S} of {S} converged" in str(reports)
    assert pickle.loads(pickle.dumps(reports)).failed == 0


def test_blocks_of_equations_in_other_units_are_solved_alike():
    library("from_jax")
    units = np.array([1e8, 1.0, 1e-6])

    def scaled(h, w, x):
        return units * (f_jax(h, w, x) - h)

    model = mfdeq.from_jax(scaled, np.zeros(N), PARAMS, "residual", args=X, batched=True)
    eq, loss = mfdeq.solve(model, THETA), make_loss("jax")
    plain = mfdeq.solve(make("jax"), THETA)
    np.testing.assert_allclose(eq.state, plain.state, rtol=1e-12)
    np.testing.assert_allclose(eq.gradient(loss), plain.gradient(loss), rtol=1e-9)


def test_verify_passes():
    model, loss = make("jax"), make_loss("jax")
    assert mfdeq.verify(model, THETA, loss)


def test_steps_from_the_start_are_computed_once_if_all_samples_converge(monkeypatch):
    model, states = make("jax"), []
    compute = type(model).sample_step

    def counted(self, H, theta, sizes):
        states.append(np.array(H))
        return compute(self, H, theta, sizes)

    monkeypatch.setattr(type(model), "sample_step", counted)
    mfdeq.solve(model, THETA)
    assert len(states) > 1
    assert not any(np.array_equal(H, states[0]) for H in states[1:])


def test_samples_whose_iteration_cycles_begin_again_with_a_stricter_line_search():
    """atan(10 h) - a: Newton's method overshoots, but its steps reduce the residual if short."""
    jnp, _ = library("from_jax")
    model = mfdeq.from_jax(
        lambda h, t, a: jnp.arctan(t[0] * h) - a,
        np.zeros(1),
        np.ones(2),
        "residual",
        args=np.array([0.1, -0.5, 1.2]),
        batched=True,
        initial_state=8.0,
    )
    eq = mfdeq.solve(model, np.array([10.0, 0.0]))
    np.testing.assert_allclose(eq.samples[:, 0], np.tan([0.1, -0.5, 1.2]) / 10)


def test_a_class_that_derives_from_a_batch_may_have_another_matrix():
    model = mfdeq.from_function(
        lambda h, w, x: np.tanh(w * h + x), 2, 2, "map", args=np.ones((3, 2)), batched=True
    )

    class Dense(type(model)):
        def linearize(self, h, theta):
            found = super().linearize(h, theta)
            return mfdeq.Linearization(found.d_state.toarray(), found.d_params, found.curvature)

    theta, expected = np.array([0.3, 0.5]), mfdeq.solve(model, np.array([0.3, 0.5]))
    model.__class__ = Dense
    eq = mfdeq.equilibrium_at(model, theta, expected.state)
    np.testing.assert_allclose(eq.sensitivity.toarray(), expected.sensitivity.toarray(), rtol=1e-8)


def test_reports_count_the_factorizations_and_solves_of_all_samples():
    forward = mfdeq.solve(make("function"), THETA).report.forward
    assert 1 <= forward.setups <= forward.solves


def test_newton_by_factorization_says_which_methods_need_no_matrices():
    model, loss = make("jax"), mfdeq.LeastSquares(np.arange(S * N), np.zeros(S * N))
    with pytest.raises(mfdeq.ArgumentError, match=r"newton-cg.*mfdeq\.minimize"):
        mfdeq.minimize(mfdeq.ReducedFunctional(model, loss), PARAMS, method="newton")
