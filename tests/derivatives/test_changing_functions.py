"""Functions that change between calls, change what they use, or have no derivative at a point."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest
from support.cases import close

import mfdeq

N = 24
THETA = np.linspace(-1.0, 1.0, N)
LOSS = mfdeq.LeastSquares(np.arange(N), np.zeros(N))


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    torch.manual_seed(0)
    return torch


def from_torch(f, kind="map"):
    return mfdeq.from_torch(f, np.zeros(N), np.zeros(N), kind)


@pytest.mark.parametrize("method", ["auto", "picard", "newton"])
@pytest.mark.parametrize("start", [None, np.full(N, 0.7)])
def test_dropout_in_training_is_refused(torch, start, method):
    drop = torch.nn.Dropout(0.5)
    model = from_torch(lambda h, t: torch.tanh(drop(0.5 * h) + t))
    with pytest.raises(mfdeq.ModelError, match=r"module.eval\(\)"):
        mfdeq.solve(model, 0.0 * THETA, start, method=method)
    drop.eval()
    model = from_torch(lambda h, t: torch.tanh(drop(0.5 * h) + t))
    close(
        mfdeq.solve(model, THETA).state,
        np.tanh(0.5 * mfdeq.solve(model, THETA).state + THETA),
        1e-9,
    )


def test_a_change_to_training_mode_is_noticed(torch):
    drop = torch.nn.Dropout(0.5).eval()
    model = from_torch(lambda h, t: torch.tanh(drop(0.5 * h) + t))
    mfdeq.solve(model, THETA)
    drop.train()
    with pytest.raises(mfdeq.ModelError, match="random numbers"):
        mfdeq.solve(model, THETA, method="newton")


def test_dropout_that_seldom_drops_anything_is_refused(torch):
    drop = torch.nn.Dropout(0.02)
    model = from_torch(lambda h, t: torch.tanh(drop(0.5 * h) + t))
    with pytest.raises(mfdeq.ModelError, match=r"random numbers.*module.eval\(\)"):
        mfdeq.solve(model, THETA, np.full(N, 0.7))


def test_modules_whose_parameters_require_gradients_give_no_warning(torch):
    layer = torch.nn.Linear(N, N).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = mfdeq.solve(from_torch(lambda h, t: torch.tanh(0.3 * layer(h) + t)), THETA)
        eq.gradient(mfdeq.LeastSquares([0], [0.0]))
        eq.hessian(mfdeq.LeastSquares([0], [0.0])) @ THETA


def test_random_numbers_of_a_fixed_seed_are_accepted(torch):
    def f(h, theta):
        generator = torch.Generator().manual_seed(3)
        return torch.tanh(0.5 * h + theta + torch.randn(N, generator=generator, dtype=h.dtype))

    assert mfdeq.solve(from_torch(f), THETA).report.converged


def test_a_function_of_numpy_random_numbers_is_refused(torch):
    noise = np.random.default_rng(0)
    model = from_torch(lambda h, t: torch.tanh(0.5 * h + t) + 1e-6 * noise.standard_normal())
    with pytest.raises(mfdeq.ModelError, match="same value at the same point"):
        mfdeq.solve(model, THETA)


def test_random_callbacks_of_jax_are_refused():
    jax = pytest.importorskip("jax", reason="the jax extra is not installed")
    noise = np.random.default_rng(0)

    def f(h, theta):
        shape = jax.ShapeDtypeStruct(h.shape, h.dtype)
        return (
            0.5 * h
            + theta
            + jax.pure_callback(lambda h: noise.standard_normal(N), shape, jax.lax.stop_gradient(h))
        )

    model = mfdeq.from_jax(f, np.zeros(N), np.zeros(N), "map")
    with pytest.raises(mfdeq.ModelError, match="same value at the same point"):
        mfdeq.solve(model, THETA)


@pytest.mark.parametrize("name", ["BatchNorm", "spectral_norm"])
def test_modules_that_change_their_buffers_are_refused(torch, name):
    if name == "BatchNorm":
        layer = torch.nn.BatchNorm1d(4).double()
    else:
        layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 4)).double()

    def f(h, theta):
        return torch.tanh(0.3 * layer(h.reshape(6, 4)).reshape(-1) + theta)

    with pytest.raises(mfdeq.ModelError, match=r"same value|changes tensors.*module.eval\(\)"):
        mfdeq.solve(from_torch(f), THETA).gradient(LOSS)
    layer.eval()
    assert mfdeq.verify(from_torch(f), THETA, LOSS)


def test_a_normalization_of_one_sample_in_training_is_refused_in_words(torch):
    layer = torch.nn.BatchNorm1d(N).double()
    with pytest.raises(mfdeq.ModelError, match=r"training mode .*module.eval\(\)"):
        from_torch(lambda h, theta: layer(h[None])[0] + theta)
    layer.eval()
    from_torch(lambda h, theta: layer(h[None])[0] + theta)


USES = {
    "gradient": lambda eq, loss, H: eq.gradient(loss),
    "sensitivity": lambda eq, loss, H: eq.sensitivity @ np.ones(N),
    "hessian": lambda eq, loss, H: H @ np.ones(N),
    "second_order": lambda eq, loss, H: eq.second_order(np.ones(N), np.ones(N)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("change", ["in place", "data"])
def test_tensors_changed_after_a_linearization_are_noticed(torch, change, use):
    W = (0.1 * torch.randn(N, N, dtype=torch.float64)).requires_grad_()
    model = from_torch(lambda h, t: torch.tanh(W @ h + t))
    eq = mfdeq.solve(model, THETA)
    H = eq.hessian(LOSS)
    with torch.no_grad():
        if change == "in place":
            W.mul_(0.5)
        else:
            W.data = 0.5 * W.detach()
    with pytest.raises(mfdeq.ModelError, match=r"shape \(24, 24\)\) were changed in place"):
        USES[use](eq, LOSS, H)
    again = mfdeq.solve(model, THETA)  # a new linearization is of the new tensor
    A = np.eye(N) - (1 - again.state**2)[:, None] * W.detach().numpy()
    expected = (1 - again.state**2) * np.linalg.solve(A.T, again.state)
    close(again.gradient(LOSS), expected, 1e-8)


def test_tensors_of_a_loss_changed_after_its_curvature_are_noticed(torch):
    W = torch.ones(N, dtype=torch.float64)
    loss = mfdeq.loss_from_torch(lambda h, t: (W * h**4).sum(), np.zeros(N), np.zeros(N))
    model = from_torch(lambda h, t: torch.tanh(0.5 * h + t))
    H = mfdeq.solve(model, THETA).hessian(loss)
    H @ np.ones(N)
    W.mul_(2.0)
    with pytest.raises(mfdeq.ModelError, match="changed in place"):
        H @ np.ones(N)


def _closure(factor):
    """A function and a way to assign another factor to the variable that it closes over."""

    def f(h, theta, tanh):
        return tanh(factor * h + theta)

    def replace(change):
        nonlocal factor
        factor = change(factor)

    return f, replace


class _Owner:
    """An object whose attribute a function uses, through another method and a list."""

    def __init__(self, factor):
        self.factors = [factor]
        self.calls = 0

    def __call__(self, h, theta, tanh):
        self.calls += 1  # replaced at every call, and without effect
        return tanh(self._scale() * h + theta)

    def _scale(self):
        return self.factors[0]


def _attribute(factor):
    owner = _Owner(factor)

    def replace(change):
        owner.factors = [change(owner.factors[0])]

    return owner, replace


_factor = None


def _global(factor):
    global _factor
    _factor = factor

    def replace(change):
        global _factor
        _factor = change(_factor)

    return lambda h, theta, tanh: tanh(_factor * h + theta), replace


def _model(source, f):
    if source == "from_function":
        return mfdeq.from_function(lambda h, t: f(h, t, np.tanh), N, N, "map")
    xp = pytest.importorskip("jax.numpy" if source == "from_jax" else "torch")
    if source == "from_jax":
        pytest.importorskip("jax")
    return getattr(mfdeq, source)(lambda h, t: f(h, t, xp.tanh), np.zeros(N), np.zeros(N), "map")


def _array(source, values):
    if source == "from_function":
        return values
    if source == "from_torch":
        return pytest.importorskip("torch").tensor(values)
    return pytest.importorskip("jax.numpy").asarray(values)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["array", "number"])
@pytest.mark.parametrize("where", [_closure, _attribute, _global])
@pytest.mark.parametrize("source", ["from_torch", "from_function", "from_jax"])
def test_what_a_function_uses_cannot_be_replaced_between_solve_and_derivative(
    source, where, kind, use
):
    """JAX compiles the function with the former value, so that derivatives are those of it."""
    pytest.importorskip(source.removeprefix("from_")) if source != "from_function" else None
    factor = 0.3 if kind == "number" else _array(source, np.linspace(0.1, 0.5, N))
    f, replace = where(factor)
    model = _model(source, f)
    expected = mfdeq.solve(model, THETA)
    expected = USES[use](expected, LOSS, expected.hessian(LOSS))
    eq = mfdeq.solve(model, THETA)
    replace(lambda factor: 0.5 * factor)
    if source == "from_jax":
        close(USES[use](eq, LOSS, eq.hessian(LOSS)), expected, 1e-12)
        return
    with pytest.raises(mfdeq.ModelError, match=r"replaced|same point|was changed"):
        USES[use](eq, LOSS, eq.hessian(LOSS))
    again = mfdeq.solve(model, THETA)
    assert abs(USES[use](again, LOSS, again.hessian(LOSS)) - expected).max() > 1e-6


@pytest.mark.parametrize("source", ["from_torch", "from_function", "from_jax"])
def test_what_a_function_uses_cannot_be_replaced_between_two_products(source):
    f, replace = _closure(_array(source, np.linspace(0.1, 0.5, N)))
    eq = mfdeq.solve(_model(source, f), THETA)
    H = eq.hessian(LOSS)
    before = [eq.sensitivity @ np.ones(N), H @ np.ones(N), eq.second_order(*np.ones((2, N)))]
    replace(lambda factor: 0.5 * factor)
    for k, product in enumerate(
        (
            lambda: eq.sensitivity @ np.ones(N),
            lambda: H @ np.ones(N),
            lambda: eq.second_order(*np.ones((2, N))),
        )
    ):
        try:
            close(product(), before[k], 1e-10)  # of what was computed before
        except mfdeq.ModelError:
            assert source != "from_jax"


@pytest.mark.parametrize("change", ["parameter", "layer", "mode"])
def test_replaced_parts_of_modules_are_noticed(torch, change):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(N, N).double())

        def forward(self, h):
            return self.layers(h) if self.training else 0.1 * self.layers(h)

    net = Net().eval()
    eq = mfdeq.solve(from_torch(lambda h, t: torch.tanh(0.3 * net(h) + t)), THETA)
    eq.gradient(LOSS)
    if change == "parameter":
        net.layers[0].weight = torch.nn.Parameter(0.5 * net.layers[0].weight.detach())
    elif change == "layer":
        net.layers[0] = torch.nn.Linear(N, N).double()
    else:
        net.train()
    with pytest.raises(mfdeq.ModelError, match=r"layers|training"):
        eq.sensitivity @ np.ones(N)


def test_a_replaced_tensor_is_noticed_at_a_state_of_zeros(torch):
    """There the value of f does not depend on it."""
    W = 0.1 * torch.eye(N, dtype=torch.float64)
    eq = mfdeq.solve(from_torch(lambda h, t: torch.tanh(W @ h + t)), 0.0 * THETA)
    W = 0.5 * W
    with pytest.raises(mfdeq.ModelError, match="W was replaced after the linearization"):
        eq.gradient(LOSS)


@pytest.mark.parametrize("how", ["script", "trace"])
def test_modules_of_torchscript_are_searched(torch, how):
    net = torch.nn.Linear(N, N).double()
    example = torch.ones(N, dtype=torch.float64)
    compiled = torch.jit.script(net) if how == "script" else torch.jit.trace(net, example)
    model = from_torch(lambda h, t: torch.tanh(0.1 * compiled(h) + t))
    plain = from_torch(lambda h, t: torch.tanh(0.1 * net(h) + t))
    gradients = [mfdeq.solve(of, THETA).gradient(LOSS) for of in (model, plain)]
    close(gradients[0], gradients[1], 1e-12)


class Link:
    def __init__(self, following):
        self.following = following

    def factor(self):
        return 0.3 if self.following is None else self.following.factor()


def test_long_chains_of_objects_are_searched():
    chain = None
    for _ in range(400):
        chain = Link(chain)

    def f(h, t):
        return np.tanh(chain.factor() * h + t)

    model = mfdeq.from_function(f, N, N, "map")
    assert mfdeq.solve(model, THETA).gradient(LOSS).shape == THETA.shape


def test_default_arguments_are_searched():
    class Settings:
        factor = 0.3

    settings = Settings()
    settings.factor = 0.3

    def f(h, t, settings=settings):
        return np.tanh(settings.factor * h + t)

    eq = mfdeq.solve(mfdeq.from_function(f, N, N, "map"), THETA)
    eq.gradient(LOSS)
    settings.factor = 0.2
    with pytest.raises(mfdeq.ModelError, match="same point"):
        eq.hessian(LOSS) @ np.ones(N)


def test_residuals_that_round_differently_at_each_call_are_not_changed(torch):
    W = torch.as_tensor(0.2 * np.random.default_rng(0).standard_normal((N, N)))
    orders = torch.Generator().manual_seed(0)

    def f(h, t):
        order = torch.randperm(N, generator=orders)
        return h - torch.tanh((W[:, order] * h[order]).sum(axis=1) + t)

    eq = mfdeq.solve(from_torch(f, kind="residual"), THETA)
    assert eq.gradient(LOSS).shape == THETA.shape


# Derivatives that do not exist.


def friction(source):
    if source == "from_jax":
        pytest.importorskip("jax", reason="the jax extra is not installed")
        xp = importlib.import_module("jax.numpy")
    else:
        xp = pytest.importorskip("torch", reason="the torch extra is not installed")
    return lambda q, t: q * xp.abs(q) ** 0.852 + 0.1 * q - t


SOLVERS = {
    "default": "auto",
    "gmres": mfdeq.Krylov("gmres"),
    "cg": mfdeq.Krylov("cg"),
    "direct": mfdeq.Direct(),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sparsity", [None, "detect"])
@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_a_nan_in_a_derivative_is_named(source, sparsity, solver):
    if sparsity is None and solver == "direct":
        pytest.skip("a factorization needs entries")
    names = [f"flow {i}" for i in range(6)]
    model = getattr(mfdeq, source)(
        friction(source), np.zeros(6), np.ones(6), "residual", sparsity=sparsity, state_names=names
    )
    start = np.ones(6)
    start[2] = 0.0
    with pytest.raises(mfdeq.ModelError, match=r"d_state of .*NaN.*flow 2"):
        mfdeq.solve(model, np.ones(6), start, method="newton", solver=SOLVERS[solver])


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_a_nan_in_a_derivative_by_a_parameter_is_named(source):
    f = friction(source)
    model = getattr(mfdeq, source)(lambda h, q: h - f(q, 0.0), np.zeros(3), np.ones(3), "residual")
    eq = mfdeq.solve(model, np.array([1.0, 0.0, 2.0]))
    loss = mfdeq.LeastSquares(np.arange(3), np.ones(3))
    with pytest.raises(mfdeq.ModelError, match=r"d_params of .*NaN.*parameter 1"):
        eq.gradient(loss)


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_a_nan_in_a_second_derivative_is_a_model_error(source):
    """|q|^1.5 has a first derivative at zero, and no second one."""
    pytest.importorskip(source.removeprefix("from_"), reason="the extra is not installed")
    xp = importlib.import_module("jax.numpy" if source == "from_jax" else "torch")
    model = getattr(mfdeq, source)(
        lambda q, t: q + xp.abs(q) ** 1.5 - t, np.zeros(2), np.zeros(2), "residual"
    )
    eq = mfdeq.equilibrium_at(model, np.array([0.0, 2.0]), np.array([0.0, 1.0]))
    loss = mfdeq.LeastSquares(np.arange(2), np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="NaN or infinity"):
        eq.hessian(loss) @ np.ones(2)


def test_a_derivative_that_is_nan_in_reverse_mode_only_names_unknowns_only(torch):
    """`where` multiplies the infinite slope of the branch that it does not select by zero."""

    def f(h, theta):
        return h + torch.where(h > 50.0, torch.sqrt(h - 50.0), 0.0) - theta

    model = mfdeq.from_torch(f, np.zeros(2), np.zeros(2), "residual")
    at_kink = np.array([50.0, 1.0])
    with pytest.raises(mfdeq.ModelError, match="NaN or infinity") as caught:
        mfdeq.equilibrium_at(model, at_kink, at_kink).gradient(
            mfdeq.LeastSquares(np.arange(2), np.ones(2))
        )
    assert "unknown 0" in str(caught.value)
    assert "of  with" not in str(caught.value)


@pytest.mark.parametrize("source", ["from_jax", "from_torch"])
def test_errors_of_the_domain_go_through(source):
    pytest.importorskip(source.removeprefix("from_"), reason="the extra is not installed")
    undefined = []

    def f(h, theta):
        if undefined:
            raise mfdeq.DomainError("outside of the table")
        return h - theta

    if source == "from_jax":
        undefined.append(True)
        with pytest.raises(mfdeq.DomainError, match="outside of the table"):
            mfdeq.from_jax(f, np.zeros(1), np.zeros(1), "residual")
        return
    model = mfdeq.from_torch(f, np.zeros(1), np.zeros(1), "residual")
    eq = mfdeq.solve(model, np.ones(1))
    undefined.append(True)
    for use in (model.residual, model.linearize):
        with pytest.raises(mfdeq.DomainError, match="outside of the table"):
            use(np.ones(1), np.ones(1))
    with pytest.raises(mfdeq.DomainError, match="outside of the table"):
        eq.hessian(mfdeq.LeastSquares(np.array([0]), np.zeros(1))) @ np.ones(1)
