"""The Lagrangian system: solves with H - sigma I, nearest eigenvalues and eigenvalue counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from benchmarks.problems import Diffusion
from scipy.sparse.linalg import aslinearoperator

import mfdeq
from mfdeq.equilibrium import lagrangian_system
from mfdeq.equilibrium.lagrangian_system import ShiftedInverse
from mfdeq.spectrum.inertia_counts import count_missed


class Coarse(mfdeq.ResidualModel):
    """Nonsymmetric A, nonlinear in h, and every parameter drives three equations: N = 3P."""

    def __init__(self, P, kind="residual"):
        self.param_size, self.state_size = P, 3 * P
        N = 3 * P
        self.L = sp.diags([-1.3, 2.5, -0.9], [-1, 0, 1], shape=(N, N)).tocsr()
        self.spread = sp.kron(sp.identity(P), np.ones((3, 1))).tocsr()

    def residual(self, h, theta):
        return self.L @ h + 0.3 * h**3 - np.exp(self.spread @ theta) * (1 + 0.1 * h)

    def linearize(self, h, theta):
        e = np.exp(self.spread @ theta)
        return mfdeq.Linearization(
            self.L + sp.diags(0.9 * h**2 - 0.1 * e),
            -sp.diags(e * (1 + 0.1 * h)) @ self.spread,
            lambda lam: mfdeq.Curvature(
                -self.spread.T @ sp.diags(lam * e * (1 + 0.1 * h)) @ self.spread,
                -sp.diags(0.1 * lam * e) @ self.spread,
                sp.diags(1.8 * lam * h),
            ),
        )


class Map(mfdeq.FixedPointModel):
    """h = tanh(M h) / 2 + U theta², N < P: two parameters an equation."""

    state_size, param_size = 30, 45

    def __init__(self):
        self.M = sp.diags([0.4, -0.3], [-1, 1], shape=(30, 30)).tocsr()
        self.U = sp.diags([1.0, 0.5], [0, 15], shape=(30, 45)).tocsr()

    def map(self, h, theta):
        return 0.5 * np.tanh(self.M @ h) + self.U @ theta**2

    def linearize(self, h, theta):
        t = np.tanh(self.M @ h)
        return mfdeq.Linearization(
            sp.diags(0.5 * (1 - t**2)) @ self.M,
            self.U @ sp.diags(2 * theta),
            lambda lam: mfdeq.Curvature(
                sp.diags(2 * (self.U.T @ lam)),
                state_state=self.M.T @ sp.diags(-lam * t * (1 - t**2)) @ self.M,
            ),
        )


def diffusion():
    model = Diffusion(9)
    rough = mfdeq.QuadraticPrior(1e-2 * sp.csr_matrix(model.Dt @ model.D) / 100)
    return model, model.lognormal(), model.loss(20) + rough


def coarse():
    model = Coarse(25)
    loss = mfdeq.LeastSquares(np.arange(0, 75, 4), np.full(19, 0.7), 3.0)
    return model, np.linspace(-1, 0.5, 25), loss + 1e-3 * mfdeq.QuadraticPrior(1.0)


def a_map():
    loss = mfdeq.LeastSquares(np.arange(0, 30, 2), np.ones(15)) + mfdeq.QuadraticPrior(0.01)
    return Map(), np.linspace(-1, 1, 45), loss


class Global(Coarse):
    """The same model with one more parameter, which is in all equations: N = 3P - 3."""

    def __init__(self, P):
        super().__init__(P - 1)
        self.param_size = P

    def residual(self, h, theta):
        return super().residual(h, theta[:-1]) + np.exp(theta[-1]) * h**2

    def linearize(self, h, theta):
        inner, e = super().linearize(h, theta[:-1]), np.exp(theta[-1])

        def curvature(lam):
            of = inner.curvature(lam)
            return mfdeq.Curvature(
                sp.block_diag([of.params_params, [[e * (lam @ h**2)]]]).tocsr(),
                sp.hstack([of.state_params, sp.csr_matrix((2 * e * lam * h)[:, None])]).tocsr(),
                of.state_state + sp.diags(2 * e * lam),
            )

        return mfdeq.Linearization(
            inner.d_state + sp.diags(2 * e * h),
            sp.hstack([inner.d_params, sp.csr_matrix((e * h**2)[:, None])]).tocsr(),
            curvature,
        )


def one_for_all():
    model = Global(420)  # its hub prevents small separators
    observed = np.arange(0, model.state_size, 4)
    loss = mfdeq.LeastSquares(observed, np.full(observed.size, 0.7), 3.0)
    return model, np.r_[np.linspace(-1, 0.5, 419), -2.0], loss + mfdeq.QuadraticPrior(1e-3)


PROBLEMS = {"diffusion": diffusion, "coarse": coarse, "map": a_map, "global": one_for_all}
CACHE = {}


def problem(name):
    """Return H, its eigenvalues and its dense matrix."""
    if name not in CACHE:
        model, theta, loss = PROBLEMS[name]()
        H = mfdeq.solve(model, theta).hessian(loss)
        CACHE[name] = H, np.linalg.eigvalsh(H.toarray()), H.toarray()
    return CACHE[name]


@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 1.1])
@pytest.mark.parametrize("name", PROBLEMS)
def test_solves_and_counts_match_the_dense_hessian(name, where):
    H, values, dense = problem(name)
    P = len(values)
    sigma = -0.5 * abs(values).max() if where == 0 else 1.1 * values[-1]
    if 0 < where < 1:
        i = int(where * P)
        sigma = 0.5 * (values[i - 1] + values[i])
    S = ShiftedInverse(H, sigma)
    assert S.below == np.sum(values < sigma)
    V = np.random.default_rng(0).standard_normal((P, 3))
    expected = np.linalg.solve(dense - sigma * np.eye(P), V)
    size = np.linalg.norm(expected)
    assert np.linalg.norm(S @ V - expected) <= 1e-7 * size
    assert np.linalg.norm(S.H @ V[:, 0] - expected[:, 0]) <= 1e-7 * size


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("name", PROBLEMS)
def test_eigsh_finds_the_eigenvalues_nearest_to_a_shift(name, k):
    H, values, _ = problem(name)
    for sigma in (0.0, values[len(values) // 2] * 1.0001, values[0] - 1e-3 * abs(values[0])):
        pairs = mfdeq.eigsh(H, k=k, sigma=sigma, certify=True)
        nearest = np.sort(values[np.argsort(abs(values - sigma))[:k]])
        np.testing.assert_allclose(pairs.values, nearest, atol=1e-9 * abs(values).max())
        assert np.all(abs(pairs.values - nearest) <= pairs.error_bounds)
        assert np.all(pairs.report.residuals <= 1e-6 * abs(nearest).max())
        assert pairs.report.missed == 0


def test_counts_certify_extreme_eigenvalues():
    H, values, _ = problem("diffusion")
    pairs = mfdeq.eigsh(H, k=5, which="SA", certify=True)
    np.testing.assert_allclose(pairs.values, values[:5], rtol=1e-6)
    assert pairs.report.missed == 0


def test_a_missed_eigenvalue_is_counted():
    H, *_ = problem("coarse")
    pairs = mfdeq.eigsh(H, k=5, sigma=0.0)
    kept = [0, 1, 3, 4]
    fewer = mfdeq.Eigenpairs(
        pairs.values[kept], pairs.vectors[:, kept], pairs.error_bounds[kept], pairs.report
    )
    assert count_missed(H, fewer, "LM", 0.0, None) == 1
    assert count_missed(H, pairs, "LM", 0.0, ShiftedInverse(H, 0.0)) == 0


def test_a_newton_step_solves_with_the_hessian():
    """The step solves H step = -g without products with the Hessian."""
    model, theta, loss = diffusion()
    eq = mfdeq.solve(model, theta)
    H, g = eq.hessian(loss), eq.gradient(loss)
    step = -(ShiftedInverse(H) @ g)
    assert np.linalg.norm(H @ step + g) <= 1e-8 * np.linalg.norm(g)


def test_a_shift_on_an_eigenvalue_is_an_error():
    H, values, _ = problem("map")
    with pytest.raises((mfdeq.SingularStateError, mfdeq.ConvergenceError), match="eigenvalue"):
        ShiftedInverse(H, values[-1]) @ np.ones(len(values))


def test_a_singular_gauss_newton_part_needs_another_shift():
    model, theta, _ = coarse()
    few = mfdeq.LeastSquares(np.arange(0, 75, 10), np.zeros(8))  # 8 data for 25 parameters
    H = mfdeq.solve(model, theta).hessian(few).gauss_newton
    with pytest.raises((mfdeq.SingularStateError, mfdeq.ConvergenceError), match="sigma"):
        mfdeq.eigsh(H, k=3, sigma=0.0)
    pairs = mfdeq.eigsh(H, k=3, sigma=-1e-3, certify=True)
    np.testing.assert_allclose(pairs.values, 0.0, atol=1e-10)


def test_float32_hessians_are_solved_and_counted():
    model, theta, loss = diffusion()

    class Single(Diffusion):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            matrices = given.d_state.astype("float32"), given.d_params.astype("float32")
            return mfdeq.Linearization(*matrices, given.curvature)

    H = mfdeq.solve(Single(9), theta.astype("float32")).hessian(loss)
    exact = np.linalg.eigvalsh(mfdeq.solve(model, theta).hessian(loss).toarray())
    sigma = 1.1 * exact[-1]
    pairs = mfdeq.eigsh(H, k=3, sigma=sigma, rtol=1e-3)
    assert pairs.values.dtype == np.float32
    np.testing.assert_allclose(pairs.values, exact[-3:], rtol=1e-3)
    assert ShiftedInverse(H, sigma).below == len(exact)


def test_certify_without_blocks_is_refused_before_any_solve():
    model, theta, _ = diffusion()
    product = mfdeq.Loss(
        lambda h, t: (h**2).sum(),
        lambda h, t: 2 * h,
        None,
        lambda h, t: lambda u, z: (0 * u, 2 * z),
    )
    eq = mfdeq.solve(model, theta)
    H = eq.hessian(product)
    before = eq.report.linear.columns
    with pytest.raises(mfdeq.ArgumentError, match="pass its blocks"):
        mfdeq.eigsh(H, k=3, certify=True)
    assert eq.report.linear.columns == before


def test_pairs_are_returned_even_if_the_count_fails(monkeypatch):
    H, values, _ = problem("coarse")

    def refuse(*_):
        raise mfdeq.ArgumentError("no small separators")

    refusing = replace(lagrangian_system.ON_HOST, shifted_inverse=refuse)
    monkeypatch.setattr(lagrangian_system, "ON_HOST", refusing)
    pairs = mfdeq.eigsh(H, k=2, which="LA", certify=True)
    np.testing.assert_allclose(pairs.values, values[-2:], rtol=1e-8)
    assert pairs.report.missed is None


def test_resume_with_a_shift_is_refused():
    H, *_ = problem("map")
    with pytest.raises(mfdeq.ArgumentError, match="resume"):
        mfdeq.eigsh(H, k=2, sigma=0.1, resume=mfdeq.eigsh(H, k=2))


def test_operators_without_entries_are_refused():
    model, theta, loss = a_map()
    H = mfdeq.solve(model, theta).hessian(loss)
    for sigma in (np.nan, "zero", True):
        with pytest.raises(mfdeq.ArgumentError, match="sigma: expected"):
            mfdeq.eigsh(H, k=2, sigma=sigma)
    with pytest.raises(mfdeq.ArgumentError, match=r"H: expected an mfdeq Hessian or a matrix"):
        mfdeq.eigsh(aslinearoperator(sp.identity(50, format="csr")), k=2, sigma=0.0)
    function = mfdeq.Loss(
        lambda h, t: (h**2).sum(),
        lambda h, t: 2 * h,
        None,
        lambda h, t: lambda u, z: (0 * u, 2 * z),
    )
    with pytest.raises(mfdeq.ArgumentError, match="pass its blocks"):
        mfdeq.eigsh(mfdeq.solve(model, theta).hessian(function), k=2, sigma=0.0)

    class Products(Map):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            return mfdeq.Linearization(
                aslinearoperator(given.d_state), given.d_params, given.curvature
            )

    with pytest.raises(mfdeq.ArgumentError, match="A is not a sparse matrix"):
        mfdeq.eigsh(mfdeq.solve(Products(), theta).hessian(loss), k=2, sigma=0.0)


class TwoControls(mfdeq.ResidualModel):
    """Four states and two controls a step, whose influences on the states are nearly parallel."""

    def __init__(self, steps):
        C = np.array([[2.0, 3], [3, 4], [4, 5], [5, 6]]) / 8
        self.state_size, self.param_size = 4 * steps, 2 * steps
        before = sp.kron(np.eye(steps, k=-1), 0.9 * np.eye(4))
        self.A = (sp.identity(4 * steps) - before).tocsr()
        self.B = -sp.kron(np.eye(steps), C).tocsr()

    def residual(self, h, t):
        return self.A @ h + self.B @ t - 1

    def linearize(self, h, t):
        return mfdeq.Linearization(self.A, self.B, lambda lam: mfdeq.Curvature())


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("steps", [3, 10, 100])
def test_a_definite_hessian_whose_fronts_are_singular_alone_has_an_inverse(steps, scale):
    model = TwoControls(steps)
    loss = mfdeq.LeastSquares(np.arange(4 * steps), np.zeros(4 * steps), 2.0 * scale)
    H = mfdeq.solve(model, np.zeros(2 * steps)).hessian(loss)
    S = ShiftedInverse(H)
    v = np.arange(1.0, 2 * steps + 1)
    np.testing.assert_allclose(H @ (S @ v), v, rtol=1e-6)
    assert S.below == 0
    values = np.linalg.eigvalsh(H.toarray())
    assert ShiftedInverse(H, 1.01 * values[3]).below == (values < 1.01 * values[3]).sum()


class RandomControl(mfdeq.ResidualModel):
    """A chain of random steps with several states and controls, in random units."""

    def __init__(self, seed):
        r = np.random.default_rng(seed)
        ny, nu, steps = (int(n) for n in (r.integers(1, 6), r.integers(1, 5), r.integers(2, 40)))
        N, P = self.state_size, self.param_size = ny * steps, nu * steps
        coupling = 0.5 * r.standard_normal((ny, ny)) / ny**0.5
        A = sp.identity(N) - sp.kron(np.eye(steps, k=-1), coupling)
        B = -sp.kron(np.eye(steps), r.standard_normal((ny, nu)))
        Q = sp.diags((r.random(N) < 0.7) * r.random(N))
        R = sp.diags(10.0 ** r.uniform(-8 if seed % 2 else -3, 0, P))
        spread = (0, 3, 6)[seed % 3]
        e, x, u = (sp.diags(10.0 ** r.uniform(-spread, spread, n)) for n in (N, N, P))
        self.A, self.B = (e @ A @ x).tocsr(), (e @ B @ u).tocsr()
        size = 10.0 ** r.uniform(-12, 12)
        self.Q, self.R = ((size * K).tocsr() for K in (x @ Q @ x, u @ R @ u))

    def residual(self, h, t):
        return self.A @ h + self.B @ t

    def linearize(self, h, t):
        return mfdeq.Linearization(self.A, self.B, lambda lam: mfdeq.Curvature())

    def loss(self):
        return mfdeq.Loss(
            lambda h, t: 0.5 * float(h @ (self.Q @ h) + t @ (self.R @ t)),
            lambda h, t: self.Q @ h,
            lambda h, t: self.R @ t,
            lambda h, t: mfdeq.Curvature(self.R, state_state=self.Q),
        )


@pytest.mark.parametrize("seed", range(18))
def test_definite_hessians_in_any_units_have_an_inverse(seed):
    """Solve in the units in which the diagonal of H is one, where its condition is moderate."""
    model = RandomControl(seed)
    N, P = model.state_size, model.param_size
    H = mfdeq.equilibrium_at(model, np.zeros(P), np.zeros(N)).hessian(model.loss())
    Z = np.linalg.solve(model.A.toarray(), model.B.toarray())
    dense = model.R.toarray() + Z.T @ model.Q.toarray() @ Z
    d = np.diag(dense) ** -0.5
    v = np.random.default_rng(1).standard_normal(P)
    S = ShiftedInverse(H)
    solution = (S @ (v / d)) / d
    scaled = d[:, None] * dense * d
    assert np.linalg.norm(scaled @ solution - v) <= 1e-6 * np.linalg.norm(v)
    assert S.below == 0


def test_a_hessian_of_few_parameters_takes_the_place_of_a_system_that_fails(monkeypatch):
    H, values, dense = problem("coarse")

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(ShiftedInverse, "_factorize", fail)
    S = ShiftedInverse(H, 0.1)
    assert S.below == (values < 0.1).sum()
    b = np.ones(25)
    np.testing.assert_allclose(S @ b, np.linalg.solve(dense - 0.1 * np.eye(25), b), rtol=1e-7)
    with pytest.raises(mfdeq.SingularStateError, match="eigenvalue"):
        ShiftedInverse(H, values[3])


def test_dense_matrices_that_are_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(lagrangian_system, "MAX_DENSE_SIZE", 50)
    with pytest.raises(mfdeq.ArgumentError, match="too large for a dense one"):
        ShiftedInverse(np.diag(np.arange(60.0)), 0.5)
