"""Equilibria of modules for the samples of a batch, against unrolled iterations."""

from __future__ import annotations

import copy
import gc
import io
import tracemalloc

import pytest
from support.tensors import close

import mfdeq

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

B, N, X = 6, 5, 3


class Cell(torch.nn.Module):
    """A contraction of the state, with an input of another size."""

    def __init__(self, n=N, gain=0.4):
        super().__init__()
        torch.manual_seed(0)
        self.state, self.input = torch.nn.Linear(n, n), torch.nn.Linear(X, n)
        self.gain = gain

    def forward(self, h, x):
        return torch.tanh(self.gain * self.state(h) + self.input(x))


def inputs(count=B, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(count, X, dtype=dtype)


def unrolled(module, x, n=N, steps=200):
    h = x.new_zeros(len(x), n)
    for _ in range(steps):
        h = module(h, x)
    return h


@pytest.fixture
def layer():
    return mfdeq.torch_layer(Cell()).double()


def parameters_of(layer):
    return list(layer.module.parameters())


def losses(layer, x):
    equilibrium, iterated = layer(x), unrolled(layer.module, x)
    return torch.sin(equilibrium).pow(2).sum(), torch.sin(iterated).pow(2).sum()


def test_gradients_are_those_of_the_unrolled_iteration(layer):
    x = inputs().requires_grad_()
    variables = [x, *parameters_of(layer)]
    found, expected = (torch.autograd.grad(loss, variables) for loss in losses(layer, x))
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs, 1e-9)


@pytest.mark.parametrize("n", [N, 300])
def test_hessian_products_are_those_of_the_unrolled_iteration(n):
    layer = mfdeq.torch_layer(Cell(n)).double()
    x = inputs(3).requires_grad_()
    variables = [x, *parameters_of(layer)]
    products = []
    for h in (layer(x), unrolled(layer.module, x, n)):
        gradients = torch.autograd.grad(torch.sin(h).pow(2).sum(), variables, create_graph=True)
        slope = sum((g * torch.ones_like(g).cumsum(0)).sum() for g in gradients)
        products.append(torch.autograd.grad(slope, variables))
    for ours, theirs in zip(*products, strict=True):
        close(ours, theirs, 1e-8)


def test_third_derivatives_are_those_of_the_unrolled_iteration():
    layer = mfdeq.torch_layer(Cell(), order=3).double()
    x = inputs(2)
    weight = layer.module.input.weight.detach()

    def loss(state):
        return lambda s: torch.sin(state(s * x)).sum()

    values = []
    for state in (layer, lambda x: unrolled(layer.module, x)):
        s = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        d = loss(state)(s)
        for _ in range(3):
            (d,) = torch.autograd.grad(d, s, create_graph=True)
        values.append(d)
    assert weight.abs().sum() > 0
    close(*values, 1e-7)


def test_gradcheck_and_gradgradcheck_pass():
    layer = mfdeq.torch_layer(Cell(), rtol=1e-14, warm_start=False).double()
    x = inputs(2).requires_grad_()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_a_residual_is_solved_to_zero():
    class Cubic(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, h, x):
            return h + h**3 - self.scale * x

    layer = mfdeq.torch_layer(Cubic(), "residual").double()
    x = torch.tensor([[1.0], [5.0]], dtype=torch.float64)
    h = layer(x)
    close(h, [[1.0], [2.0]], 1e-9)
    h.sum().backward()
    close(layer.module.scale.grad, 1.0 / 4.0 + 5.0 / 13.0, 1e-9)


def test_transforms_of_torch_func(layer):
    x = inputs()
    params = dict(layer.named_parameters())

    def loss(params, x):
        return torch.sin(torch.func.functional_call(layer, params, (x,))).sum()

    def iterated(params, x):
        inner = {name.removeprefix("module."): p for name, p in params.items()}
        module = lambda h, x: torch.func.functional_call(layer.module, inner, (h, x))  # noqa: E731
        return torch.sin(unrolled(module, x)).sum()

    found, expected = (torch.func.grad(f)(params, x) for f in (loss, iterated))
    for name in params:
        close(found[name], expected[name], 1e-9)
    u = torch.ones_like(x)
    along = [torch.func.jvp(lambda x, f=f: f(params, x), (x,), (u,))[1] for f in (loss, iterated)]
    close(*along, 1e-9)
    by_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x[:, None])
    total = {name: g.sum(0) for name, g in by_sample.items()}
    for name in params:
        close(total[name], expected[name], 1e-9)
    name = "module.input.bias"
    hessians = [
        torch.func.hessian(lambda b, f=f: f({**params, name: b}, x))(params[name])
        for f in (loss, iterated)
    ]
    close(*hessians, 1e-8)


def test_training_uses_the_parameters_of_each_step(layer):
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    x, target = inputs(), torch.full((B, N), 0.3, dtype=torch.float64)
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (layer(x) - target).pow(2).sum()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
        close(layer(x), unrolled(layer.module, x), 1e-8)
    assert values[-1] < 0.3 * values[0]


def test_the_next_batch_starts_from_the_last_states(layer):
    x = inputs()
    layer(x)
    cold = layer.report.iterations
    layer(x + 1e-6)
    assert layer.report.iterations < cold
    layer.eval()
    layer(x)
    assert layer.report.iterations == cold
    assert layer.solves == 3
    h = layer(x, h0=layer(x))
    assert layer.report.iterations == 0
    close(h, unrolled(layer.module, x), 1e-9)


def test_float32_converges_to_rounding():
    layer = mfdeq.torch_layer(Cell())
    x = inputs(dtype=torch.float32).requires_grad_()
    h = layer(x)
    assert h.dtype == torch.float32
    close(h.detach(), unrolled(Cell().double(), x.detach().double()), 1e-6)
    h.sum().backward()
    assert x.grad.dtype == torch.float32


def test_states_copies_and_files(layer, tmp_path):
    x = inputs()
    expected = layer(x)
    other = mfdeq.torch_layer(Cell(gain=0.4)).double()
    assert set(layer.state_dict()) == {f"module.{name}" for name in Cell().state_dict()}
    torch.nn.init.zeros_(other.module.input.weight)
    other.load_state_dict(layer.state_dict())
    for again in other, copy.deepcopy(layer):
        close(again(x), expected, 1e-9)
    torch.save(layer, tmp_path / "layer.pt")
    close(torch.load(tmp_path / "layer.pt", weights_only=False)(x), expected, 1e-9)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))


class Normalized(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.linear = inner, torch.nn.Linear(X, X)

    def forward(self, h, x):
        return torch.tanh(0.3 * self.inner(self.linear(h)) + x)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (torch.nn.BatchNorm1d(X), "changes its buffers"),
        (torch.nn.BatchNorm1d(X, track_running_stats=False), "depend on each other"),
        (torch.nn.Dropout(0.5), "draws random numbers"),
    ],
)
def test_training_modes_without_an_equilibrium_are_refused(inner, reason):
    layer = mfdeq.torch_layer(Normalized(inner)).double()
    x = inputs()
    with pytest.raises(mfdeq.ModelError, match=reason):
        layer(x)
    if getattr(inner, "track_running_stats", True):
        layer.module.eval()
        close(layer(x), unrolled(layer.module, x, X), 1e-9)


def test_a_layer_norm_is_a_part_like_any_other():
    layer = mfdeq.torch_layer(Normalized(torch.nn.LayerNorm(X))).double()
    x = inputs()
    close(layer(x), unrolled(layer.module, x, X), 1e-9)


class Square(torch.nn.Module):
    def forward(self, h, x):
        return h**2 - x


def test_the_sample_without_an_equilibrium_is_named():
    layer = mfdeq.torch_layer(Square(), "residual", max_iterations=20)
    x = torch.tensor([[4.0], [9.0], [-1.0]], dtype=torch.float64)
    with pytest.raises(mfdeq.ConvergenceError, match=r"sample 2 of 3") as caught:
        layer(x, h0=torch.full_like(x, 0.7))
    assert mfdeq.last_error() is caught.value
    close(layer(x[:2], h0=torch.ones_like(x[:2])), [[2.0], [3.0]], 1e-9)


def test_derivatives_at_a_fold_are_refused():
    layer = mfdeq.torch_layer(Square(), "residual")
    x = torch.tensor([[4.0], [0.0]], dtype=torch.float64, requires_grad=True)
    start = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    with pytest.raises(mfdeq.SingularStateError, match="sample 1 of 2"):
        layer(x, h0=start)


def test_many_unknowns_are_solved_without_matrices():
    layer = mfdeq.torch_layer(Cell(300)).double()
    x = inputs().requires_grad_()
    h = layer(x)
    assert layer.report.method == "anderson"
    assert layer.report.converged
    close(h.detach(), unrolled(layer.module, x, 300).detach(), 1e-8)
    found = torch.autograd.grad(h.pow(2).sum(), x)[0]
    close(found, torch.autograd.grad(unrolled(layer.module, x, 300).pow(2).sum(), x)[0], 1e-8)


@pytest.mark.parametrize("n", [N, 300])
def test_inexact_backward_passes_are_the_series_that_they_name(n):
    x = inputs(3)
    exact = mfdeq.torch_layer(Cell(n)).double()
    errors = []
    for backward, terms in (("one_step", 1), ("truncated", 2), ("truncated", 30)):
        layer = mfdeq.torch_layer(Cell(n), backward=backward, terms=terms).double()
        ours = torch.autograd.grad(layer(x).pow(2).sum(), parameters_of(layer))
        h = exact(x).detach()
        for _ in range(terms):
            h = exact.module(h, x)
        theirs = torch.autograd.grad(h.pow(2).sum(), parameters_of(exact))
        truth = torch.autograd.grad(exact(x).pow(2).sum(), parameters_of(exact))
        for a, b in zip(ours, theirs, strict=True):
            close(a, b, 1e-8)
        measured = layer.gradient_error(lambda h: h.pow(2).sum(), x)
        flat = [torch.cat([g.reshape(-1) for g in gradients]) for gradients in (ours, truth)]
        close(measured, ((flat[0] - flat[1]).norm() / flat[1].norm()).item(), 1e-5)
        errors.append(measured)
    assert errors[0] > errors[1] > 1e-3
    assert errors[2] < 1e-6


def test_autocast_and_bad_arguments_are_refused_in_words(layer):
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(mfdeq.ArgumentError, match=r"under torch.autocast"),
    ):
        layer(inputs())
    with pytest.raises(mfdeq.ArgumentError, match=r"expected a torch.nn.Module, got"):
        mfdeq.torch_layer(lambda h, x: h)
    with pytest.raises(mfdeq.ArgumentError, match='expected "exact" for a residual'):
        mfdeq.torch_layer(Square(), "residual", backward="one_step")
    for shape in (5, "ab", (0,), (2, 1.5)):
        with pytest.raises(mfdeq.ArgumentError, match="state_shape of"):
            mfdeq.torch_layer(Cell(N), state_shape=shape)
    with pytest.raises(mfdeq.ModelError, match="pass state_shape="):
        mfdeq.torch_layer(torch.nn.Bilinear(4, 2, 3))(inputs(dtype=torch.float32))


def test_compiled_networks_break_their_graph_at_a_layer(layer):
    network = torch.nn.Sequential(layer, torch.nn.Linear(N, 2).double())
    x = inputs()
    close(torch.compile(network, backend="eager")(x), network(x), 1e-9)


class Samples(torch.utils.data.Dataset):
    def __init__(self):
        self.x = inputs(8)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, which other tests have imported
def test_layers_train_on_batches_of_a_data_loader(layer):
    loader = torch.utils.data.DataLoader(Samples(), batch_size=3, num_workers=1)
    for x in loader:
        close(layer(x), unrolled(layer.module, x), 1e-9)
    assert layer.solves == 3


def test_memory_does_not_grow_with_the_steps(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    x = inputs()

    def count_after(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            layer(x).pow(2).sum().backward()
            optimizer.step()
        gc.collect()
        return sum(type(x) is torch.Tensor for x in gc.get_objects())

    assert count_after(5) >= count_after(40)


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"method": "anderson"}, "anderson"),
        ({"method": "newton"}, "newton"),
        ({"method": "picard"}, "mfdeq.solve"),
        ({"solver": mfdeq.Direct(), "lower": -2.0}, "mfdeq.solve"),
    ],
)
def test_options_of_solve_are_those_of_the_layer(options, method):
    layer = mfdeq.torch_layer(Cell(), **options).double()
    x = inputs(2).requires_grad_()
    h = layer(x)
    assert layer.report.method == method
    assert layer.report.converged
    close(h, unrolled(layer.module, x), 1e-8)
    (found,) = torch.autograd.grad(h.pow(2).sum(), x)
    close(found, torch.autograd.grad(unrolled(layer.module, x).pow(2).sum(), x)[0], 1e-8)
    with pytest.raises(mfdeq.ArgumentError, match=r"options of mfdeq.torch_layer: expected one of"):
        mfdeq.torch_layer(Cell(), tolerance=1e-3)


@pytest.mark.parametrize("n", [40, 300])
def test_transforms_of_torch_func_at_sizes_without_matrices(n):
    layer = mfdeq.torch_layer(Cell(n)).double()
    x = inputs(2)

    def loss(state):
        return lambda x: torch.sin(state(x)).sum()

    both = [loss(layer), loss(lambda x: unrolled(layer.module, x, n))]
    u = torch.ones_like(x)
    close(*(torch.func.grad(f)(x) for f in both), 1e-9)
    close(*(torch.func.jvp(f, (x,), (u,))[1] for f in both), 1e-9)
    close(*(torch.vmap(torch.func.grad(f))(x[:, None]) for f in both), 1e-9)
    close(*(torch.func.hessian(f)(x[:1]) for f in both), 1e-8)


def test_many_products_use_one_factor_of_matrices_that_fit():
    layer = mfdeq.torch_layer(Cell(40)).double()
    x = inputs(2).requires_grad_()
    matrices = []
    for h in (layer(x), unrolled(layer.module, x, 40)):
        (g,) = torch.autograd.grad(torch.sin(h).sum(), x, create_graph=True)
        rows = [torch.autograd.grad(e, x, retain_graph=True)[0] for e in g.reshape(-1)]
        matrices.append(torch.stack(rows))
    close(*matrices, 1e-8)


class Powers(torch.nn.Module):
    """h = h + c + h² + x², without an equilibrium for c > 0."""

    def __init__(self, constant):
        super().__init__()
        self.constant = torch.nn.Parameter(torch.tensor(constant))

    def forward(self, h, x):
        return h + self.constant + h**2 + x**2


@pytest.mark.parametrize("n", [4, 300])
def test_a_map_without_an_equilibrium_is_an_error_after_few_evaluations(n):
    layer, calls = mfdeq.torch_layer(Powers(1.0)), []
    layer.module.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(mfdeq.ConvergenceError, match=r"sample 0 of 3 of mfdeq.torch_layer: no equ"):
        layer(torch.ones(3, n))
    assert len(calls) < 5000


def test_wrong_inputs_are_refused_in_words():
    layer = mfdeq.torch_layer(Cell())
    x = inputs(dtype=torch.float32)
    for bad, match in (
        (x.double(), "expected float32 like the parameters of the module, got float64"),
        (x.half(), "expected a module and samples of float32 or float64, got float16"),
        (x.numpy(), "expected a tensor, got a ndarray"),
        (x[:, :2], r"input = Linear.in_features=3, .* cannot take shape \(6, 2\)"),
        (torch.full_like(x, torch.nan), "got NaN or infinity in 3 of 3 entries of sample 0 of 6"),
    ):
        with pytest.raises((mfdeq.ArgumentError, mfdeq.ModelError), match=match):
            layer(bad)
    with pytest.raises(mfdeq.ArgumentError, match=r"h0 .* float32 on cpu, got .* float64"):
        layer(x, torch.zeros(B, N).double())
    with pytest.raises(mfdeq.ArgumentError, match=r"expected shape \(6, 4\).*got shape \(5, 4\)"):
        layer(x, torch.zeros(5, 4))
    with pytest.raises(mfdeq.ModelError, match=r"state of shape \(6, 4\) .* its part state = "):
        layer(x, torch.zeros(B, 4))
    with pytest.raises(mfdeq.ArgumentError, match="got bfloat16"):
        mfdeq.torch_layer(Cell().bfloat16())(x.bfloat16())
    torch.nn.init.constant_(layer.module.state.bias, torch.nan)
    with pytest.raises(mfdeq.ModelError, match=r"its parameter state.bias holds NaN"):
        layer(x)


def test_one_sample_without_an_axis_of_samples_is_told_to_have_one(layer):
    x = inputs()
    layer(x)
    one = mfdeq.torch_layer(Cell(N)).double()
    for used in (layer, one):
        with pytest.raises(mfdeq.ModelError, match=r"number of samples.*shape \(3,\).*x\[None\]"):
            used(x[0])
    close(one(x[0][None]), unrolled(one.module, x[:1]), 1e-9)


@pytest.mark.parametrize("state_shape", [None, (N,)])
def test_a_module_with_its_arguments_in_the_other_order_is_told_the_order(state_shape):
    class Swapped(Cell):
        def forward(self, x, h):
            return super().forward(h, x)

    layer = mfdeq.torch_layer(Swapped(N), state_shape=state_shape).double()
    with pytest.raises(mfdeq.ModelError, match=r"other order: it is called as module\(h, x\)"):
        layer(inputs())


@pytest.mark.parametrize("state_shape", [None, (X,)])
def test_a_module_that_returns_no_tensor_is_refused(state_shape):
    class Pair(torch.nn.Module):
        def forward(self, h, x):
            return h, x

    with pytest.raises(mfdeq.ModelError, match="expected it to return a tensor, got a tuple"):
        mfdeq.torch_layer(Pair(), state_shape=state_shape)(inputs())


def test_tokens_are_samples_of_integers():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.state = torch.nn.Embedding(7, N), torch.nn.Linear(N, N)

        def forward(self, h, x):
            return torch.tanh(0.3 * self.state(h) + self.embedding(x))

    layer = mfdeq.torch_layer(Tokens(), state_shape=(2, N)).double()
    h = layer(torch.tensor([[1, 2], [3, 4]]))
    assert (h.shape, h.dtype) == ((2, 2, N), torch.float64)
    again = layer.module(h, torch.tensor([[1, 2], [3, 4]]))
    close(h, again, 1e-9)


def test_the_report_of_samples_that_are_solved_again_is_about_their_states():
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    W = 1.5 * W / torch.linalg.eigvals(W).abs().max()  # no contraction: the batch stalls
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(103), dtype=torch.float64)

    class Cell(torch.nn.Module):
        def forward(self, h, x):
            return torch.tanh(h @ W.T + x)

    layer = mfdeq.torch_layer(Cell())
    h = layer(x)
    assert layer.report.solved_again
    assert torch.max(torch.abs(h - layer.module(h, x))) <= 1e-14
    assert layer.report.residuals[-1] <= 1e-13


def test_a_layer_within_a_layer_is_refused_in_words(layer):
    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def forward(self, h, x):
            return 0.3 * self.inner(h[:, :X] + x)

    with pytest.raises(mfdeq.ArgumentError, match=r"without layers inside, got inner"):
        mfdeq.torch_layer(Outer())


@pytest.mark.slow
@pytest.mark.parametrize("n", [N, 40])
def test_memory_is_constant_over_a_thousand_steps(n):
    layer = mfdeq.torch_layer(Cell(n)).double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    x, counts, sizes = inputs(), [], []
    tracemalloc.start()
    try:
        for step in range(1000):
            optimizer.zero_grad()
            layer(x + 0.01 * step).pow(2).mean().backward()
            optimizer.step()
            if step in (299, 999):
                gc.collect()
                objects = gc.get_objects()
                counts.append(len(objects))
                sizes.append(sum(t.nbytes for t in objects if type(t) is torch.Tensor))
                del objects
                counts.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert layer.solves == 1000
    assert sizes[1] <= sizes[0] + 10_000  # bytes; a state a step would be 150,000 more
    assert counts[2] <= counts[0] + 100
    assert counts[3] <= counts[1] + 50_000  # bytes; one step's graph is larger


def test_an_ensemble_of_layers_is_solved_by_vmap():
    layers = [mfdeq.torch_layer(Cell()).double() for _ in range(2)]
    with torch.no_grad():
        layers[1].module.input.weight.mul_(2.0)
    stacked, _ = torch.func.stack_module_state(layers)
    x = inputs()

    def of_one(parameters):
        return torch.func.functional_call(layers[0], parameters, (x,))

    close(torch.vmap(of_one)(stacked), torch.stack([layer(x) for layer in layers]), 1e-9)
    gradients = torch.vmap(torch.func.grad(lambda p: of_one(p).pow(2).sum()))(stacked)
    for i, layer in enumerate(layers):
        layer.zero_grad()
        layer(x).pow(2).sum().backward()
        for name, p in layer.named_parameters():
            close(gradients[name][i], p.grad, 1e-8)


def test_a_module_that_changes_its_buffers_is_not_said_to_be_random():
    class Normed(Cell):
        def __init__(self):
            super().__init__()
            self.state = torch.nn.utils.parametrizations.spectral_norm(self.state)

    layer = mfdeq.torch_layer(Normed()).double()
    with pytest.raises(mfdeq.ModelError, match="changes its buffers, as BatchNorm and spectral"):
        layer(inputs())
    layer.eval()
    assert layer(inputs()).isfinite().all()
