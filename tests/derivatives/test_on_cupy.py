"""Derivatives of functions on cupy's arrays: differences, JAX and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from support.case_models import sparse_of
from support.cases import close
from support.cupy_problems import assert_cupy_agrees_with_numpy, bratu, cupy, needs_cupy
from support.matrices import diffusion, to_library

import mfdeq
from mfdeq.derivatives.fingerprints import fingerprint


@needs_cupy
@pytest.mark.parametrize(("sparsity", "n"), [("given", 6), ("detect", 6), (None, 3)])
def test_derivatives_by_the_complex_step_agree_with_numpy(sparsity, n):
    def compute(xp):
        laplacian = to_library(diffusion(n), xp)

        def residual(h, theta):
            return laplacian @ h - theta * xp.exp(h)

        pattern = sparsity
        if sparsity == "given":
            pattern = (laplacian, sparse_of(xp).identity(n * n, format="csr"))
        model = mfdeq.from_function(residual, n * n, n * n, "residual", sparsity=pattern)
        eq = mfdeq.solve(model, xp.linspace(0.02, 0.06, n * n))
        loss = mfdeq.LeastSquares(xp.arange(5), xp.ones(5)) + mfdeq.QuadraticPrior(0.1)
        u, v = bratu(xp).random(n * n, 2).T
        H = eq.hessian(loss)
        return eq.state, eq.gradient(loss), H @ u, eq.second_order(u, v), H.with_error(u)[0]

    assert_cupy_agrees_with_numpy(compute)


@needs_cupy
@pytest.mark.parametrize("size", [100, 200_000])
def test_arrays_changed_in_place_are_noticed(size):
    x = cupy.arange(size, dtype="float64")
    before = fingerprint(x)
    assert fingerprint(x.copy()) == before
    x[size // 3] = -1.0
    assert fingerprint(x) != before


@needs_cupy
def test_a_function_whose_array_changes_is_refused():
    W = cupy.linspace(0.1, 0.3, 5)
    model = mfdeq.from_function(lambda h, t: cupy.sin(W * h + t), 5, 5, "map")
    eq = mfdeq.solve(model, cupy.linspace(0.2, 0.5, 5))
    loss = mfdeq.LeastSquares(cupy.arange(5), cupy.ones(5))
    eq.gradient(loss)
    W *= 2.0
    with pytest.raises(mfdeq.ModelError, match="was changed"):
        eq.hessian(loss) @ cupy.ones(5)


# Functions of JAX and PyTorch, whose arrays and cupy's share their memory.

STATE_SIZE = 12
MIXING = np.random.default_rng(5).standard_normal((STATE_SIZE, STATE_SIZE)) / 10


def jax_source():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    return mfdeq.from_jax, jax.numpy, jax.numpy.asarray


def torch_source():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return mfdeq.from_torch, torch, torch.from_numpy


@pytest.fixture
def _shared_memory(monkeypatch):
    """On the simulation, let arrays of the other libraries count as arrays of its device."""
    if not hasattr(cupy, "_simulated"):
        return
    array = cupy.ndarray
    monkeypatch.setattr(array, "__dlpack__", lambda x, **_: x._a.__dlpack__())
    monkeypatch.setattr(array, "__dlpack_device__", lambda x: (1, 0))
    wrap = cupy._simulated.wrap
    monkeypatch.setattr(cupy, "from_dlpack", lambda x: wrap(np.from_dlpack(x)))
    import array_api_compat.cupy

    monkeypatch.setattr(array_api_compat.cupy, "from_dlpack", cupy.from_dlpack)


@needs_cupy
@pytest.mark.usefixtures("_shared_memory")
@pytest.mark.parametrize("source", [jax_source, torch_source])
def test_functions_of_other_libraries_agree_with_numpy_and_rarely_read_from_the_device(source):
    make, numbers, from_numpy = source()
    found = []
    for xp in (np, cupy):
        W = from_numpy(MIXING)
        model = make(
            lambda h, theta, W=W: numbers.tanh(W @ h) + theta[0] * theta[1:] ** 2,
            from_numpy(np.zeros(STATE_SIZE)),
            from_numpy(np.zeros(STATE_SIZE + 1)),
            kind="map",
        )
        theta = xp.asarray(np.linspace(0.5, 1, STATE_SIZE + 1))
        eq = mfdeq.solve(model, theta)
        H = eq.hessian(mfdeq.LeastSquares(xp.arange(4), xp.zeros(4)))
        block = xp.asarray(np.random.default_rng(0).standard_normal((3, STATE_SIZE + 1)).T)
        found.append([eq.state, eq.gradient(H.loss), H @ block, eq.second_order(theta, theta)])
        if xp is cupy and hasattr(cupy, "_simulated"):
            before, iterations = cupy._simulated.reads, eq.report.linear.iterations
            H @ block[:, 0]
            new_iterations = eq.report.linear.iterations - iterations
            assert cupy._simulated.reads - before <= 2 * new_iterations + 20
    for here, there in zip(*found, strict=True):
        assert type(there) is cupy.ndarray
        close(there, here, 1e-9)
