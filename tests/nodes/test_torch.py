"""Equilibria as functions of PyTorch tensors, by finite differences and by unrolling."""

from __future__ import annotations

import copy
import io
import threading

import numpy as np
import pytest
from support.tensors import close

import mfdeq

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

N, P = 5, 3
RNG = np.random.default_rng(0)
W = torch.tensor(0.3 * RNG.standard_normal((N, N)) / N**0.5)
U = torch.tensor(RNG.standard_normal((N, P)))
THETA = torch.tensor(RNG.standard_normal(P))


def layer(h, theta):
    return torch.tanh(W @ h + U @ theta + 0.1 * (h * h).sum() * theta[0])


def unrolled(theta):
    h = torch.zeros(N, dtype=theta.dtype)
    for _ in range(45):
        h = layer(h, theta)
    return h


def from_torch():
    return mfdeq.from_torch(layer, np.zeros(N), np.zeros(P), "map")


class ByHand(mfdeq.FixedPointModel):
    """The layer with derivatives that PyTorch does not see."""

    state_size, param_size = N, P

    def __init__(self):
        self.source = from_torch()

    def map(self, h, theta):
        return self.source.map(h, theta)

    def linearize(self, h, theta):
        at = self.source.linearize(h, theta)
        return mfdeq.Linearization(at.d_state, at.d_params, at.curvature, at.second)


@pytest.fixture(scope="module", params=[from_torch, ByHand])
def model(request):
    return request.param()


def parameters():
    return THETA.clone().requires_grad_()


def loss_of(state):
    return lambda theta: (torch.sin(state(theta)) * torch.arange(1.0, N + 1)).sum() * theta[1]


def test_gradcheck_and_gradgradcheck_pass(model):
    state = mfdeq.to_torch(model, rtol=1e-13)
    assert torch.autograd.gradcheck(state, parameters())
    assert torch.autograd.gradgradcheck(state, parameters())


def test_gradcheck_of_forward_mode_passes():
    model = mfdeq.from_function(
        lambda h, theta: np.sin(h) / 2 + theta[:1] * theta[1:], 2, 3, kind="map"
    )
    state = mfdeq.to_torch(model, rtol=1e-13)
    assert torch.autograd.gradcheck(state, parameters(), check_forward_ad=True)


def test_derivatives_are_those_of_the_unrolled_iteration(model):
    state = mfdeq.to_torch(model)
    expected = torch.func.hessian(loss_of(unrolled))(THETA)
    close(torch.func.grad(loss_of(state))(THETA), torch.func.grad(loss_of(unrolled))(THETA), 1e-9)
    close(torch.autograd.functional.hessian(loss_of(state), THETA), expected, 1e-9)
    close(torch.func.hessian(loss_of(state))(THETA), expected, 1e-9)
    close(torch.func.jacrev(torch.func.jacrev(loss_of(state)))(THETA), expected, 1e-9)
    close(torch.func.jacrev(state)(THETA), torch.func.jacrev(unrolled)(THETA), 1e-9)
    v = torch.ones_like(THETA)
    close(
        torch.func.jvp(state, (THETA,), (v,))[1], torch.func.jvp(unrolled, (THETA,), (v,))[1], 1e-9
    )


def test_batches_are_solved_one_after_the_other(model):
    state = mfdeq.to_torch(model)
    thetas = torch.stack([THETA, 2.0 * THETA, -THETA])
    close(torch.vmap(state)(thetas), torch.stack([unrolled(theta) for theta in thetas]), 1e-9)
    assert state.solves == 3
    hessians = torch.vmap(torch.func.hessian(loss_of(state)))(thetas)
    close(hessians[1], torch.func.hessian(loss_of(unrolled))(thetas[1]), 1e-9)


def test_one_solve_and_one_factor_serve_all_products(model):
    state = mfdeq.to_torch(model, method="newton", solver=mfdeq.Direct())
    theta = parameters()
    (gradient,) = torch.autograd.grad(loss_of(state)(theta), theta, create_graph=True)
    for i in range(P):
        torch.autograd.grad(gradient[i], theta, retain_graph=True)
    loss_of(state)(theta)
    assert state.solves == 1
    assert state.report.linear.setups <= 1
    assert state.report.converged


def test_third_derivatives_are_refused(model):
    state = mfdeq.to_torch(model)
    with pytest.raises(mfdeq.ModelError, match="at most second derivatives"):
        torch.func.jacrev(torch.func.hessian(loss_of(state)))(THETA)


def test_parameters_in_the_structure_of_the_example():
    example = {"bias": torch.zeros(2, 2), "weight": torch.zeros(3, 2)}
    model = mfdeq.from_torch(
        lambda h, p: 0.2 * torch.sin(h) @ p["bias"] + p["weight"],
        torch.zeros(3, 2),
        example,
        "map",
    )
    state = mfdeq.to_torch(model)
    params = {name: torch.ones_like(x, requires_grad=True) for name, x in example.items()}
    h = state(params, h0=torch.ones(3, 2))
    close(h, 0.2 * torch.sin(h) @ params["bias"] + params["weight"], 1e-5)
    h.sum().backward()
    assert params["weight"].grad.shape == (3, 2)
    with pytest.raises(mfdeq.ModelError, match=r"params of .*: expected a tensor of shape \(10,\)"):
        state(torch.ones(4))


def test_a_failure_raises_the_typed_error():
    model = mfdeq.from_function(lambda h, theta: h**2 - theta, 1, 1, kind="residual")
    state = mfdeq.to_torch(model, method="newton")
    with pytest.raises(mfdeq.ConvergenceError) as caught:
        state(-torch.ones(1, dtype=torch.float64), h0=torch.full((1,), 0.7))
    assert mfdeq.last_error() is caught.value
    close(state(torch.full((1,), 4.0, dtype=torch.float64), h0=-torch.ones(1)), [-2.0], 1e-9)


def test_autocast_is_refused_in_words(model):
    state = mfdeq.to_torch(model)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(mfdeq.ArgumentError, match="expected full precision, got a call under"),
    ):
        state(THETA)


def test_compiled_programs_break_their_graph_at_a_node(model):
    state = mfdeq.to_torch(model)
    program = torch.compile(lambda theta: state(2.0 * theta).sum(), backend="eager")
    close(program(THETA), unrolled(2.0 * THETA).sum(), 1e-9)


def test_threads_and_nodes_do_not_disturb_each_other():
    nodes = [mfdeq.to_torch(from_torch()), mfdeq.to_torch(ByHand())]
    found = {}

    def run(which, i):
        theta = ((i + 1.0) * THETA).requires_grad_()
        for _ in range(3):
            found[which, i] = torch.autograd.grad(loss_of(nodes[which])(theta), theta)[0]

    threads = [threading.Thread(target=run, args=(k, i)) for k in range(2) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for (_, i), gradient in found.items():
        close(gradient, torch.func.grad(loss_of(unrolled))((i + 1.0) * THETA), 1e-9)
    assert len(found) == 6


def test_data_beside_the_parameters_have_derivatives():
    def f(h, theta, args):
        return torch.tanh(W @ h + U @ theta * args["scale"] + args["x"][args["order"]])

    args = {
        "scale": torch.tensor(0.8, dtype=torch.float64),
        "x": torch.tensor(RNG.standard_normal(N)),
        "order": torch.arange(N).flip(0),
    }
    example = {name: torch.zeros_like(x) for name, x in args.items()}
    state = mfdeq.to_torch(mfdeq.from_torch(f, np.zeros(N), np.zeros(P), "map", args=example))

    def iterated(theta, args):
        h = torch.zeros(N, dtype=torch.float64)
        for _ in range(80):
            h = f(h, theta, args)
        return h

    def loss(solve):
        return lambda theta, x: torch.sin(solve(theta, {**args, "x": x})).sum()

    found, expected = (
        torch.autograd.functional.hessian(loss(solve), (THETA, args["x"]))
        for solve in (state, iterated)
    )
    for i in range(2):
        for j in range(2):
            close(found[i][j], expected[i][j], 1e-9)
    assert state.solves == 1
    assert state.report.converged
    with pytest.raises(mfdeq.ModelError, match="expected the structure of the args"):
        state(THETA, args["x"])
    with pytest.raises(mfdeq.ModelError, match="data for a model that has none"):
        mfdeq.to_torch(ByHand())(THETA, args["x"])


class Network(torch.nn.Module):
    """A node among parameters."""

    def __init__(self):
        super().__init__()
        self.theta = torch.nn.Parameter(THETA.clone())
        self.equilibrium = mfdeq.to_torch(ByHand(), rtol=1e-8)

    def forward(self):
        return self.equilibrium(self.theta)


def test_networks_with_a_node_are_copied_and_saved():
    network = Network()
    h = network()
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for other in (copy.deepcopy(network), torch.load(file, weights_only=False)):
        close(other(), h, 1e-12)
        with torch.no_grad():
            other.theta.mul_(2.0)
        close(other(), unrolled(2.0 * THETA), 1e-8)
    close(network(), h, 1e-12)
    assert network.equilibrium.solves == 1


def test_batches_of_cotangents_of_autograd_are_refused_in_words():
    jacobian = torch.autograd.functional.jacobian
    equilibrium = mfdeq.to_torch(ByHand())
    with pytest.raises(mfdeq.ModelError, match="Use torch"):
        jacobian(equilibrium, THETA, vectorize=True)
    close(jacobian(equilibrium, THETA), torch.func.jacrev(equilibrium)(THETA), 1e-12)
