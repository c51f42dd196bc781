"""The curvature of functions of JAX and PyTorch is assembled where a factorization asks for it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq

N = 120
DIAGONAL = sp.identity(N, format="csr")
TARGET = np.sin(np.arange(N))


def jax_functions():
    jax = pytest.importorskip("jax")
    return jax.numpy, mfdeq.from_jax, mfdeq.loss_from_jax


def torch_functions():
    torch = pytest.importorskip("torch")
    return torch, mfdeq.from_torch, mfdeq.loss_from_torch


LIBRARIES = {"jax": jax_functions, "torch": torch_functions}


def problem(library, n=N, sparsity="detect"):
    """-h'' + h³ = exp(theta) on a line, with a loss that couples neighbours."""
    xp, model_from, loss_from = LIBRARIES[library]()
    target = xp.asarray(TARGET[:n])

    def residual(h, theta):
        zero = 0.0 * h[:1]
        padded = xp.concatenate([zero, h, zero])
        return 2.0 * h - padded[:-2] - padded[2:] + h**3 - xp.exp(theta)

    def misfit(h, theta):
        rough = theta[1:] - theta[:-1]
        return 0.5 * ((h - target) ** 2).sum() + 0.05 * (rough**2).sum() + 0.01 * (theta**2).sum()

    model = model_from(residual, np.zeros(n), np.zeros(n), "residual", sparsity=sparsity)
    return model, loss_from(misfit, np.zeros(n), np.zeros(n))


def entries(op):
    return op.array.toarray() if sp.issparse(op.array) else op.array


@pytest.mark.parametrize("n", [10, N])
@pytest.mark.parametrize("library", LIBRARIES)
def test_assembled_blocks_are_those_of_the_products(library, n):
    model, loss = problem(library, n)
    H = mfdeq.solve(model, np.linspace(-1, 1, n)).hessian(loss)
    blocks = H.lagrangian.assembled()
    np.testing.assert_allclose(blocks.toarray(), H.lagrangian.toarray(), atol=1e-12)
    for name in ("params_params", "state_state"):
        block, product = getattr(blocks, name), getattr(H.lagrangian, name)
        assert sp.issparse(block.array)
        np.testing.assert_allclose(entries(block), product.toarray(), atol=1e-12)
        assert block.array.nnz <= 3 * n


@pytest.mark.parametrize("library", LIBRARIES)
def test_counts_and_newton_work_for_functions(library):
    model, loss = problem(library)
    theta = np.linspace(-1, 1, N)
    H = mfdeq.solve(model, theta).hessian(loss)
    values = np.linalg.eigvalsh(H.toarray())
    sigma = 0.5 * (values[20] + values[21])
    assert mfdeq.ShiftedInverse(H, sigma).below == 21
    found = mfdeq.eigsh(H, k=3, sigma=sigma, certify=True)
    nearest = np.sort(values[np.argsort(abs(values - sigma))[:3]])
    np.testing.assert_allclose(found.values, nearest, rtol=1e-8)
    F = mfdeq.ReducedFunctional(model, loss)
    newton = mfdeq.minimize(F, theta, "newton", gtol=1e-9)
    assert newton.definite is True
    np.testing.assert_allclose(newton.params, mfdeq.minimize(F, theta, gtol=1e-9).params, atol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_entries_that_are_zero_at_first_are_found_later(library):
    """The second derivatives of h³ vanish at h = 0, and those of the loss at theta = 0."""
    _, model_from, loss_from = LIBRARIES[library]()
    model = model_from(
        lambda h, t: h + h**3 - t, np.zeros(N), np.zeros(N), "residual", sparsity=(DIAGONAL,) * 2
    )
    loss = loss_from(lambda h, t: (h**4).sum() + (h**2).sum() + (t**4).sum(), *(np.zeros(N),) * 2)
    for theta in (np.zeros(N), np.linspace(1, 2, N)):
        H = mfdeq.solve(model, theta).hessian(loss)
        np.testing.assert_allclose(
            H.lagrangian.assembled().toarray(), H.lagrangian.toarray(), atol=1e-12
        )
        assert mfdeq.ShiftedInverse(H, -1.0).below == 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_that_is_linear_has_no_blocks(library):
    _, model_from, _ = LIBRARIES[library]()
    model = model_from(
        lambda h, t: 2.0 * h - t, np.zeros(N), np.zeros(N), "residual", sparsity=(DIAGONAL,) * 2
    )
    K = mfdeq.solve(model, np.ones(N)).curvature(np.ones(N)).assembled()
    assert K.blocks == [None, None, None]


def test_products_assemble_nothing():
    model, loss = problem("jax")
    H = mfdeq.solve(model, np.zeros(N)).hessian(loss)
    H @ np.ones(N)
    assert "_assembled" not in vars(H.lagrangian.left) | vars(H.lagrangian.right)


def test_a_hessian_that_is_dense_is_assembled_for_few_unknowns():
    _, _, loss_from = jax_functions()
    model, _ = problem("jax")
    loss = loss_from(lambda h, t: (h.sum() - 1.0) ** 2 + (t**2).sum(), np.zeros(N), np.zeros(N))
    H = mfdeq.solve(model, np.zeros(N)).hessian(loss)
    dense = H.toarray()
    S = mfdeq.ShiftedInverse(H, 0.5)
    np.testing.assert_allclose(S @ ((dense - 0.5 * np.eye(N)) @ np.ones(N)), np.ones(N), rtol=1e-6)
    assert S.below == (np.linalg.eigvalsh(dense) < 0.5).sum()


def test_a_model_without_patterns_has_no_matrices():
    model, loss = problem("jax", sparsity=None)
    H = mfdeq.solve(model, np.zeros(N)).hessian(loss)
    assert H.lagrangian.assembled() is None
    with pytest.raises(mfdeq.ArgumentError, match="A is not a sparse matrix"):
        mfdeq.ShiftedInverse(H)
