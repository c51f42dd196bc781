"""Hessians of whole programs that contain equilibria, against those of unrolled iterations."""

from __future__ import annotations

import numpy as np
import pytest
from support.tensors import close

import mfdeq

N, X, SAMPLES = 4, 3, 7
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((SAMPLES, X))
TARGETS = RNG.standard_normal((SAMPLES, 2))


def torch_network():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")

    class Cell(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.state, self.input = torch.nn.Linear(N, N), torch.nn.Linear(X, N)

        def forward(self, h, x):
            return torch.tanh(0.3 * self.state(h) + self.input(x))

    class Unrolled(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            h = x.new_zeros(len(x), N)
            for _ in range(60):
                h = self.module(h, x)
            return h

    torch.manual_seed(0)
    layer = mfdeq.torch_layer(Cell()).double()
    decoder = torch.nn.Linear(N, 2).double()
    network = torch.nn.Sequential(layer, decoder)
    unrolled = torch.nn.Sequential(Unrolled(layer.module), decoder)
    x, y = torch.tensor(INPUTS), torch.tensor(TARGETS)
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    mean = torch.nn.MSELoss()
    losses = [lambda x, y, net=net: mean(net(x), y) for net in (network, unrolled)]
    return list(network.parameters()), losses, batches, (x, y)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_products_of_a_torch_program_are_those_of_the_unrolled_iteration(reduction):
    parameters, (loss, unrolled), batches, whole = torch_network()
    H = mfdeq.hessian_of(loss, parameters, batches, reduction=reduction)
    data = [whole] if reduction == "mean" else batches
    expected = mfdeq.hessian_of(unrolled, parameters, data, reduction=reduction)
    V = RNG.standard_normal((H.shape[0], 3))
    close(H @ V, expected @ V, 1e-9)
    close(H @ V[:, 0], (expected @ V)[:, 0], 1e-9)
    close(H.gradient(), expected.gradient(), 1e-9)
    close(H.value(), expected.value(), 1e-9)


def test_spectra_of_a_torch_program():
    parameters, (loss, unrolled), batches, whole = torch_network()
    H = mfdeq.hessian_of(loss, parameters, batches)
    matrix = mfdeq.hessian_of(unrolled, parameters, [whole]) @ np.eye(H.shape[0])
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    found = mfdeq.eigsh(H, k=3, which="LA")
    close(np.sort(found.values), values[-3:], 1e-5)
    trace = mfdeq.trace(H, products=3 * H.shape[0])
    assert abs(trace.value - values.sum()) <= 5.0 * trace.standard_error + 1e-9
    density = mfdeq.spectral_density(H, probes=8, steps=H.shape[0])
    total = density.sum(lambda x: x)
    assert abs(total.value - values.sum()) <= 5.0 * total.standard_error


def test_an_optimizer_step_changes_the_operator():
    parameters, (loss, _), batches, _ = torch_network()
    H = mfdeq.hessian_of(loss, parameters, batches)
    v = np.ones(H.shape[0])
    before = H @ v
    for p in parameters:
        p.data.mul_(0.5)
    assert np.linalg.norm(H @ v - before) > 1e-3 * np.linalg.norm(before)


def test_products_of_a_jax_program_are_those_of_the_unrolled_iteration():
    jax = pytest.importorskip("jax", reason="the jax extra is not installed")
    jnp = jax.numpy
    W = 0.3 * RNG.standard_normal((N, N))

    def cell(h, p):
        return jnp.tanh(W @ h + p)

    state = mfdeq.to_jax(mfdeq.from_jax(cell, np.zeros(N), np.zeros(N), "map"))

    def unrolled(p):
        return jax.lax.scan(lambda h, _: (cell(h, p), None), jnp.zeros(N), None, length=80)[0]

    def loss_by(solve):
        def loss(params, x, y):
            h = jax.vmap(lambda x: solve(params["in"] @ x))(x)
            return jnp.mean((h @ params["out"] - y) ** 2)

        return loss

    params = {"in": RNG.standard_normal((N, X)), "out": RNG.standard_normal((N, 2))}
    batches = [(INPUTS[:4], TARGETS[:4]), (INPUTS[4:], TARGETS[4:])]
    H = mfdeq.hessian_of(loss_by(state), params, batches)
    expected = mfdeq.hessian_of(loss_by(unrolled), params, [(INPUTS, TARGETS)])
    V = RNG.standard_normal((H.shape[0], 2))
    close(H @ V, expected @ V, 1e-9)
    close(H.gradient(), expected.gradient(), 1e-9)
    close(H.value(), expected.value(), 1e-9)


def test_the_parameters_may_be_one_tensor_or_a_dict_of_them():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    p = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    for params in (p, {"p": p}, iter([p])):
        H = mfdeq.hessian_of(lambda: (p**3).sum(), params)
        close(H @ np.eye(3), np.diag([6.0, 12.0, 18.0]), 1e-14)
        close(H.flat_params(), np.array([1.0, 2.0, 3.0]), 1e-14)


def test_newton_by_factorization_says_which_methods_need_no_matrices():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    p = torch.ones(2, dtype=torch.float64, requires_grad=True)
    H = mfdeq.hessian_of(lambda: (p**2).sum(), p)
    with pytest.raises(mfdeq.ArgumentError, match=r"its products only.*newton-cg"):
        mfdeq.minimize(H.functional, H.flat_params(), "newton")


def test_bad_arguments_are_refused():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(mfdeq.ArgumentError, match="expected tensors that require gradients"):
        mfdeq.hessian_of(lambda: weight.sum(), [weight.detach()])
    with pytest.raises(mfdeq.ArgumentError, match="which can be iterated once"):
        mfdeq.hessian_of(lambda x: weight.sum(), [weight], iter([weight]))
    with pytest.raises(mfdeq.ArgumentError, match="expected at least one batch"):
        mfdeq.hessian_of(lambda x: weight.sum(), [weight], []).value()


def test_a_torch_module_is_refused_in_favour_of_its_parameters():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    linear = torch.nn.Linear(2, 1)
    for params in (linear, torch.nn.Sequential(linear), [linear]):
        with pytest.raises(
            mfdeq.ArgumentError, match=r"got a \w+: pass its param.*\.parameters\(\)"
        ):
            mfdeq.hessian_of(lambda x: linear(x).sum(), params)
    weights = torch.nn.ParameterList([torch.ones(2)])
    assert mfdeq.hessian_of(lambda: weights[0].sum(), weights).shape == (2, 2)


def test_what_is_not_a_list_of_batches_is_refused_with_what_to_pass():
    jax = pytest.importorskip("jax", reason="the jax extra is not installed")
    x, y = jax.numpy.ones((3, 2)), jax.numpy.ones(3)

    def loss(p, x, y):
        return jax.numpy.mean((x @ p - y) ** 2)

    close(mfdeq.hessian_of(loss, jax.numpy.zeros(2), [(x, y)]).value(), 1.0, 1e-6)
    for data in ((x, y), [x, y], [(x, y, y)], [{"x": x, "y": y}], None):
        H = mfdeq.hessian_of(loss, jax.numpy.zeros(2), data)
        with pytest.raises(mfdeq.ArgumentError, match=r"takes \(x, y\), got .*pass \[\(x, y\)\]"):
            H.value()
    for data in (x, {"x": x, "y": y}, 3):
        with pytest.raises(mfdeq.ArgumentError, match="a list or a DataLoader of batches"):
            mfdeq.hessian_of(loss, jax.numpy.zeros(2), data)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda value: value.item(), r"got 3\.0.*not its \.item\(\)"),
        (lambda value: value.detach(), r"got one without derivatives.*\.detach\(\)"),
        (lambda value: (value, 1), "got a tuple"),
        (lambda value: value.repeat(2), r"got shape \(2,\) of float64.*a mean or a sum"),
        (lambda value: value.to(int), r"got shape \(\) of int64"),
    ],
)
def test_a_torch_loss_that_is_no_scalar_tensor_is_refused(wrong, got):
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(mfdeq.ModelError, match=f"expected it to return a scalar that .*{got}"):
        mfdeq.hessian_of(lambda: wrong(p.sum()), [p]).gradient()


def test_a_jax_loss_that_is_no_scalar_is_refused():
    jax = pytest.importorskip("jax", reason="the jax extra is not installed")
    p = jax.numpy.ones(3)
    for wrong, got in ((lambda p: p, r"shape \(3,\) of float"), (lambda p: (p[0], 1), "a tuple")):
        with pytest.raises(mfdeq.ModelError, match=f"expected it to return a scalar .*got {got}"):
            mfdeq.hessian_of(wrong, p).value()
    with pytest.raises(jax.errors.JAXTypeError) as caught:
        mfdeq.hessian_of(lambda p: float(p[0]), p).value()
    assert "not its .item() or float(...)" in caught.value.__notes__[0]
    for params, got in ((object(), "a object"), ({"p": p.astype(int)}, r".*\(3,\) and int")):
        with pytest.raises(mfdeq.ArgumentError, match=f"real arrays of JAX, got {got}"):
            mfdeq.hessian_of(lambda p: p, params)


def test_minimize_finds_a_minimum_of_a_torch_program():
    parameters, (loss, _), batches, _ = torch_network()
    decay = lambda: 0.05 * sum(p.pow(2).sum() for p in parameters)  # noqa: E731
    H = mfdeq.hessian_of(lambda x, y: loss(x, y) + decay(), parameters, batches)
    start, value = H.flat_params(), H.value()
    found = mfdeq.minimize(H.functional, start)
    assert found.converged
    assert found.definite
    assert not any("Gauss" in step.how for step in found.report.steps)
    close(H.flat_params(), start, 1e-15)  # the program is as it was
    close(H.value(), value, 1e-12)
    H.set_params(found.params)
    close(H.value(), found.value, 1e-9)
    assert np.linalg.norm(H.gradient()) < 1e-5
    smallest = np.linalg.eigvalsh(H @ np.eye(H.shape[0]))[0]
    close(found.smallest.values[0], smallest, 1e-4)


@pytest.mark.parametrize("method", ["newton-cg", "l-bfgs"])
def test_the_best_point_of_a_minimization_with_a_budget_has_the_smallest_loss(method):
    parameters, (loss, _), batches, _ = torch_network()
    H = mfdeq.hessian_of(loss, parameters, batches)
    with pytest.raises(mfdeq.ConvergenceError, match="max_iterations = 3 was reached") as caught:
        mfdeq.minimize(H.functional, H.flat_params(), method, max_iterations=3)
    found = caught.value.best
    H.set_params(found.params)
    close(H.value(), found.value, 1e-12)
    steps = [step.value for step in found.report.steps]
    assert found.value == min(steps) < steps[0]


def test_minimize_finds_a_minimum_of_a_jax_program():
    jax = pytest.importorskip("jax", reason="the jax extra is not installed")
    jnp = jax.numpy
    state = mfdeq.to_jax(
        mfdeq.from_jax(lambda h, p: jnp.cos(h) + p, np.zeros(2), np.zeros(2), "map")
    )

    def loss(params):
        return jnp.sum((state(params["p"]) - 1.0) ** 2) + (params["q"] - 2.0) ** 4

    H = mfdeq.hessian_of(loss, {"p": jnp.zeros(2), "q": jnp.zeros(())})
    found = mfdeq.minimize(H.functional, H.flat_params(), gtol=1e-8)
    H.set_params(found.params)
    close(H.params["p"], np.full(2, 1.0 - np.cos(1.0)), 1e-6)
    close(H.params["q"], 2.0, 1e-2)


def test_products_and_spectra_are_those_of_curvlinops():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops is not installed")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(X, N), torch.nn.Tanh(), torch.nn.Linear(N, 2))
    network, criterion = network.double(), torch.nn.MSELoss()
    x, y = torch.tensor(INPUTS), torch.tensor(TARGETS)
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    parameters = list(network.parameters())
    ours = mfdeq.hessian_of(lambda x, y: criterion(network(x), y), parameters, batches)
    theirs = curvlinops.HessianLinearOperator(network, criterion, parameters, batches)
    V = RNG.standard_normal((ours.shape[0], 3))
    expected = theirs @ torch.tensor(V)
    close(ours @ V, expected.numpy(), 1e-10)
    matrix = (theirs @ torch.eye(ours.shape[0], dtype=torch.float64)).numpy()
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    close(mfdeq.eigsh(ours, 2, which="LA").values, values[-2:], 1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: {"x": x, "y": y},
        lambda x, y: ([x[:, :1], x[:, 1:]], y),
        lambda x, y: ("name", {"x": x, "y": y}),
    ],
)
def test_batches_of_dicts_and_nested_arrays_count_by_their_samples(form):
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    theta = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    x, y = torch.tensor(INPUTS), torch.tensor(TARGETS[:, 0])

    def loss(*batch):
        leaves, _ = torch.utils._pytree.tree_flatten(batch)
        *inputs, targets = (leaf for leaf in leaves if torch.is_tensor(leaf))
        return (torch.tanh(torch.cat(inputs, 1) @ theta) - targets).pow(2).mean()

    batches = [form(x[:2], y[:2]), form(x[2:], y[2:])]
    H, whole = (mfdeq.hessian_of(loss, [theta], data) for data in (batches, [form(x, y)]))
    close(H @ np.eye(X), whole @ np.eye(X), 1e-12)
    with pytest.raises(mfdeq.ArgumentError, match='str, str: pass reduction="sum"'):
        mfdeq.hessian_of(lambda *_: theta.sum(), [theta], [("name", "of a file")]).value()


def test_hessians_that_change_from_product_to_product_are_refused():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(X, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)
    ).double()
    samples = torch.utils.data.TensorDataset(torch.tensor(INPUTS), torch.tensor(TARGETS))

    def hessian(**options):
        loader = torch.utils.data.DataLoader(samples, 2, shuffle=True, **options)
        return mfdeq.hessian_of(
            lambda x, y: (network(x) - y).pow(2).mean(), network.parameters(), loader
        )

    v = np.ones(hessian().shape[0])
    with pytest.raises(mfdeq.ModelError, match=r"network\.eval\(\)"):
        hessian() @ v
    network.eval()
    close(hessian() @ v, hessian() @ v, 1e-12)
    with pytest.raises(mfdeq.ModelError, match="drop_last"):
        hessian(drop_last=True) @ v


def test_derivatives_that_are_not_finite_are_errors_that_name_the_batch():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    jnp = pytest.importorskip("jax", reason="the jax extra is not installed").numpy
    x = np.array([[1.0, 1.0], [0.0, 0.0]])
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
    by_torch = mfdeq.hessian_of(
        lambda x: (x @ theta).sum().sqrt(), [theta], [torch.tensor(x[:1]), torch.tensor(x[1:])]
    )
    by_jax = mfdeq.hessian_of(
        lambda theta, x: jnp.sqrt(jnp.sum(x @ theta)), jnp.ones(2), [x[:1], x[1:]]
    )
    for H in (by_torch, by_jax):
        with pytest.raises(mfdeq.ModelError, match=r"for batch 1 holds NaN .* entry 0\."):
            H @ np.ones(2)
        with pytest.raises(mfdeq.ModelError, match="its gradient for batch 1 holds NaN"):
            H.gradient()
        assert np.isfinite(H.value())
