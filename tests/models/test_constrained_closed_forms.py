"""Equilibria with constraints whose states and derivatives are known."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq


class Chain(mfdeq.FixedPointModel):
    """A Markov chain h = P(theta) h, with P = P0 + sum of theta_k D_k, by columns."""

    def __init__(self, P0, D, form=np.asarray):
        self.P0, self.D, self.form = P0, D, form
        self.state_size, self.param_size = P0.shape[0], len(D)

    @classmethod
    def random(cls, n, form=np.asarray, coupling=1.0, seed=0):
        """Make a chain of two halves, between which there is a coupling."""
        rng = np.random.default_rng([seed, n])
        P0, half = rng.random((n, n)), n // 2
        if form is sp.csr_matrix:
            P0 = P0 * (rng.random((n, n)) < 4.0 / n) + np.roll(np.eye(n), 1, axis=0)
        P0[:half, half:] *= coupling
        P0[half:, :half] *= coupling
        P0 /= P0.sum(axis=0)
        D = [0.1 * rng.standard_normal((n, n)) * P0 for _ in range(3)]
        return cls(P0, [d - P0 * d.sum(axis=0) for d in D], form)

    def initial_state(self, theta):
        return 1.0

    def map(self, h, theta):
        return (self.P0 + sum(t * d for t, d in zip(theta, self.D, strict=True))) @ h

    def linearize(self, h, theta):
        P = self.P0 + sum(t * d for t, d in zip(theta, self.D, strict=True))
        return mfdeq.Linearization(
            self.form(P),
            np.stack([d @ h for d in self.D], axis=1),
            lambda lam: mfdeq.Curvature(state_params=np.stack([d.T @ lam for d in self.D], axis=1)),
            lambda a, b: sum(
                a[0][k] * (d @ b[1]) + b[0][k] * (d @ a[1]) for k, d in enumerate(self.D)
            ),
        )

    def distribution(self):
        """Return the chain whose states sum to one."""
        return mfdeq.constrain(self, mfdeq.LinearConstraint(np.ones(self.state_size), 1.0))


def by_group_inverse(P0, D):
    """Return the stationary distribution with its derivatives at theta = 0.

    With the group inverse G of I - P, dh = G D h and d²h = G (D dh' + D' dh) (Meyer 1975).
    """
    n, one = P0.shape[0], np.ones(P0.shape[0])
    A = np.eye(n) - P0
    bordered = np.block([[A, one[:, None]], [one[None, :], np.zeros((1, 1))]])
    h = np.linalg.solve(bordered, np.r_[np.zeros(n), 1.0])[:n]
    G = np.linalg.inv(A + np.outer(h, one)) - np.outer(h, one)
    first = np.stack([G @ (d @ h) for d in D], axis=1)
    second = np.stack(
        [
            [G @ (D[j] @ first[:, k] + D[k] @ first[:, j]) for k in range(len(D))]
            for j in range(len(D))
        ]
    )
    return h, first, second


def second_derivatives(eq):
    unit = np.eye(eq.params.size)
    return np.array([[eq.second_order(u, v) for v in unit] for u in unit])


def assert_close(found, expected, rtol):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * abs(expected).max())


@pytest.mark.parametrize("n", [5, 50, 500])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_stationary_distributions_have_the_derivatives_of_the_group_inverse(n, form):
    chain = Chain.random(n, form)
    eq = mfdeq.solve(chain.distribution(), np.zeros(3))
    h, first, second = by_group_inverse(chain.P0, chain.D)
    assert_close(eq.state, h, 1e-11)
    assert_close(eq.sensitivity.toarray(), first, 1e-10)
    assert_close(second_derivatives(eq), second, 1e-9)
    assert_close(np.sum(eq.state), np.ones(1), 1e-14)


def exact_chain(P0, D):
    """Return the same as `by_group_inverse` in fractions, with columns that sum to one."""
    exact = np.vectorize(Fraction, otypes=[object])
    n, P, D = P0.shape[0], exact(P0), [exact(d) for d in D]
    diagonal = np.arange(n), np.arange(n)
    P[diagonal] += 1 - P.sum(axis=0)
    for d in D:
        d[diagonal] -= d.sum(axis=0)
    one, eye = exact(np.ones(n)), exact(np.eye(n))
    replaced = eye - P
    replaced[0] = one
    h = inverse_of_fractions(replaced)[:, 0]
    G = inverse_of_fractions(eye - P + np.outer(h, one)) - np.outer(h, one)
    first = [G @ (d @ h) for d in D]
    second = [[G @ (a @ first[k] + d @ first[j]) for k, d in enumerate(D)] for j, a in enumerate(D)]
    return (x.astype(float) for x in (h, np.stack(first, axis=1), np.array(second)))


def inverse_of_fractions(matrix):
    n = matrix.shape[0]
    rows = np.concatenate([matrix, np.vectorize(Fraction, otypes=[object])(np.eye(n))], axis=1)
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i, k] != 0)
        rows[[k, pivot]] = rows[[pivot, k]]
        rows[k] = rows[k] / rows[k, k]
        for i in range(n):
            if i != k:
                rows[i] = rows[i] - rows[i, k] * rows[k]
    return rows[:, n:]


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_nearly_reducible_chains_keep_their_digits(form):
    chain = Chain.random(8, form, coupling=1e-8)
    eq = mfdeq.solve(chain.distribution(), np.zeros(3))
    h, first, second = exact_chain(chain.P0, chain.D)
    assert_close(eq.state, h, 1e-6)
    assert_close(eq.sensitivity.toarray(), first, 1e-6)
    assert_close(second_derivatives(eq), second, 1e-6)


def by_elimination_of_states(P):
    """Return the stationary distribution, accurate entry by entry.

    W. K. Grassmann, M. I. Taksar and D. P. Heyman, Regenerative analysis and steady state
    distributions for Markov chains, Oper. Res. 33 (1985): nothing is subtracted.
    """
    P, n = P.T.copy(), P.shape[0]
    for k in range(n - 1, 0, -1):
        P[:k, k] /= P[k, :k].sum()
        P[:k, :k] += np.outer(P[:k, k], P[k, :k])
    h = np.ones(n)
    for k in range(1, n):
        h[k] = h[:k] @ P[:k, k]
    return h / h.sum()


@pytest.mark.parametrize("n", [5, 50, 500])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_nearly_reducible_chains_of_any_size_keep_their_digits(n, form):
    chain = Chain.random(n, form, coupling=1e-8)
    eq = mfdeq.solve(chain.distribution(), np.zeros(3))
    assert_close(eq.state, by_elimination_of_states(chain.P0), 1e-6)
    D, step = chain.D[0], 1e-4
    there, back = (by_elimination_of_states(chain.P0 + s * D) for s in (step, -step))
    assert_close(eq.sensitivity @ np.array([1.0, 0.0, 0.0]), (there - back) / (2.0 * step), 1e-6)


def neumann(n, balance=True):
    """Return -Laplace h = theta on an (n, n) grid without boundary values, and its matrix."""
    ends = np.r_[1.0, np.full(n - 2, 2.0), 1.0]
    L = sp.diags([-np.ones(n - 1), ends, -np.ones(n - 1)], [-1, 0, 1])
    A, N = sp.csr_matrix(sp.kronsum(L, L)), n * n

    class Neumann(mfdeq.ResidualModel):
        state_size = param_size = N

        def residual(self, h, theta):
            return A @ h - (theta - theta.mean() if balance else theta)

        def linearize(self, h, theta):
            B = np.full((N, N), 1.0 / N) - np.eye(N) if balance else -np.eye(N)
            return mfdeq.Linearization(A, B, lambda lam: mfdeq.Curvature())

    return Neumann(), A


def test_neumann_problem_has_the_pseudo_inverse():
    n = 12
    model, A = neumann(n)
    load = np.random.default_rng(0).standard_normal(n * n)
    mean = mfdeq.LinearConstraint(np.full(n * n, 1.0 / n**2))
    eq = mfdeq.solve(mfdeq.constrain(model, mean), load)
    pseudo = np.linalg.pinv(A.toarray())
    assert_close(eq.state, pseudo @ load, 1e-12)
    assert_close(eq.inverse.toarray(), pseudo, 1e-12)
    assert_close(eq.sensitivity.toarray(), pseudo, 1e-12)
    assert eq.state_operator.array.nnz == A.nnz


def test_loads_that_do_not_balance_are_named_with_their_difference():
    n = 6
    model, _ = neumann(n, balance=False)
    load = np.random.default_rng(0).standard_normal(n * n)
    mean = mfdeq.LinearConstraint(np.full(n * n, 1.0 / n**2))
    with pytest.raises(mfdeq.ConvergenceError, match="not consistent: expected the sum of") as info:
        mfdeq.solve(mfdeq.constrain(model, mean), load)
    assert_close(info.value.imbalance, -np.sum(load, keepdims=True), 1e-10)
    assert not info.value.report.converged
    balanced = load - load.mean()
    eq = mfdeq.solve(mfdeq.constrain(model, mean), balanced)
    assert abs(eq.imbalance).max() < 1e-12
    allowed = mfdeq.constrain(model, mean, imbalance_rtol=0.9)
    eq = mfdeq.solve(allowed, load)
    assert abs(eq.state.mean()) < 1e-14
    assert_close(eq.imbalance, -np.sum(load, keepdims=True), 1e-10)
    assert_close(eq.multipliers, load.mean(keepdims=True), 1e-10)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_an_allowed_imbalance_is_spread_over_the_equations(form):
    D = np.array([[1.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])

    class Beam(mfdeq.ResidualModel):
        state_size = param_size = 3

        def residual(self, h, theta):
            return D @ h - theta**3

        def linearize(self, h, theta):
            return mfdeq.Linearization(
                form(D),
                form(np.diag(-3.0 * theta**2)),
                lambda lam: mfdeq.Curvature(params_params=np.diag(-6.0 * theta * lam)),
                lambda a, b: -6.0 * theta * a[0] * b[0],
            )

    mean = mfdeq.LinearConstraint(np.full(3, 1.0 / 3.0), 5.0)
    model = mfdeq.constrain(Beam(), mean, imbalance_rtol=0.9)
    theta = np.array([1.0, 0.1, -0.9])
    eq = mfdeq.solve(model, theta)
    pseudo = np.linalg.pinv(D)
    assert_close(eq.state, 5.0 + pseudo @ theta**3, 1e-13)
    assert_close(eq.multipliers, np.mean(theta**3, keepdims=True), 1e-12)
    assert_close(eq.sensitivity.toarray(), pseudo @ np.diag(3.0 * theta**2), 1e-12)
    assert_close(second_derivatives(eq)[0, 0], pseudo[:, 0] * 6.0 * theta[0], 1e-12)
    assert_close(eq.inverse.toarray(), pseudo, 1e-12)
    loss = mfdeq.LeastSquares(np.arange(3), np.zeros(3))
    assert mfdeq.verify(model, theta, loss).verdict == "PASS"


def test_voltages_of_a_resistor_network_are_known_up_to_a_constant():
    # A ring of four nodes with a diagonal: theta has the five conductances.
    ends = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]
    D = np.zeros((5, 4))
    for k, (i, j) in enumerate(ends):
        D[k, i], D[k, j] = 1.0, -1.0
    current = np.array([1.0, 0.0, -1.0, 0.0])

    def residual(v, g):
        return D.T @ (g * (D @ v)) - current

    g = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    network = mfdeq.from_function(residual, 4, 5, "residual")
    expected = np.linalg.pinv(D.T @ np.diag(g) @ D) @ current
    for weights, value in (
        (np.full(4, 0.25), 0.0),
        (np.array([0.0, 0.0, 0.0, 1.0]), 7.0),
    ):
        eq = mfdeq.solve(mfdeq.constrain(network, mfdeq.LinearConstraint(weights, value)), g)
        assert_close(eq.state - eq.state.mean(), expected, 1e-13)
        assert abs(weights @ eq.state - value) < 1e-13
        drop = mfdeq.Loss(lambda v, g: v[0] - v[2], lambda v, g: np.array([1.0, 0.0, -1.0, 0.0]))
        # The effective resistance falls by the squares of the drops (Tellegen).
        assert_close(eq.gradient(drop), -((D @ expected) ** 2), 1e-12)


def economy(goods=4, consumers=3, seed=0):
    rng = np.random.default_rng(seed)
    shares = rng.random((consumers, goods))
    shares /= shares.sum(axis=1, keepdims=True)
    endowments = rng.random((consumers, goods))

    def excess_demand(p, theta):
        endowed = endowments * (1.0 + theta.reshape(consumers, goods))
        income = endowed @ p
        return (shares * income[:, None] / p).sum(axis=0) - endowed.sum(axis=0)

    model = mfdeq.from_function(
        excess_demand, goods, goods * consumers, "residual", initial_state=1.0
    )

    def prices(theta):
        """The null vector of a matrix (Cobb-Douglas), with the sum of one."""
        endowed = endowments * (1.0 + theta.reshape(consumers, goods))
        matrix = shares.T @ endowed - np.diag(endowed.sum(axis=0))
        p = np.linalg.svd(matrix)[2][-1]
        return p / p.sum()

    return model, prices


def test_numeraire_and_simplex_give_the_same_relative_prices():
    model, prices = economy()
    theta = 0.3 * np.random.default_rng(1).random(12)
    simplex = mfdeq.constrain(model, mfdeq.LinearConstraint(np.ones(4), 1.0))
    numeraire = mfdeq.constrain(model, mfdeq.LinearConstraint(np.eye(4)[:1], 1.0))
    eq, other = (mfdeq.solve(constrained, theta) for constrained in (simplex, numeraire))
    assert_close(eq.state, prices(theta), 1e-13)
    assert_close(other.state, prices(theta) / prices(theta)[0], 1e-13)
    # Walras's law: the value of excess demand vanishes, at the prices themselves.
    ratio = eq.redundant_equations[:, 0] / eq.state
    assert_close(ratio, np.full(4, ratio[0]), 1e-8)
    assert abs(eq.imbalance).max() < 1e-13
    v = np.random.default_rng(2).standard_normal(12)
    step = 1e-5
    slope = (prices(theta + step * v) - prices(theta - step * v)) / (2.0 * step)
    assert_close(eq.sensitivity @ v, slope, 1e-8)
    p = eq.state
    dp, dq = eq.sensitivity @ v, other.sensitivity @ v
    assert_close(dp / p[0] - p * dp[0] / p[0] ** 2, dq, 1e-10)
    assert mfdeq.verify(simplex, theta).verdict == "PASS"
    assert mfdeq.verify(numeraire, theta).verdict == "PASS"


def test_a_closed_network_depends_on_its_total():
    # A + B <-> C with the totals of A and of B: c solves a quadratic equation.
    def residual(h, p):
        rate = p[0] * h[0] * h[1] - p[1] * h[2]
        return rate * np.array([1.0, 1.0, -1.0])

    def product(p):
        b = p[2] + p[3] + p[1] / p[0]
        return 0.5 * (b - np.sqrt(b * b - 4.0 * p[2] * p[3]))

    network = mfdeq.from_function(residual, 3, 4, "residual")
    totals = mfdeq.LinearConstraint(
        np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), lambda p: p[2:], lambda p: np.eye(4)[2:]
    )
    p = np.array([2.0, 0.5, 1.0, 1.5])
    eq = mfdeq.solve(mfdeq.constrain(network, totals), p)
    assert_close(eq.state, np.array([p[2] - product(p), p[3] - product(p), product(p)]), 1e-13)
    step = 1e-5

    def gradient(p):
        return np.array([np.imag(product(p + 1e-200j * e)) * 1e200 for e in np.eye(4)])

    H = [(gradient(p + step * e) - gradient(p - step * e)) / (2.0 * step) for e in np.eye(4)]
    assert_close(eq.sensitivity.toarray()[2], gradient(p), 1e-12)
    assert_close(eq.component_hessian(2).toarray(), np.array(H), 1e-8)


@pytest.mark.parametrize("second", [0.5, 1.0, 2.0])
def test_a_start_at_zero_determines_no_scaling(second):
    # There, a column of A is zero, or rounding after the projection onto the totals.
    def residual(h, p):
        rate = 4.0 * h[0] * h[1] - h[2]
        return np.array([rate, rate, -rate])

    network = mfdeq.from_function(residual, 3, 1, "residual")
    totals = mfdeq.LinearConstraint(
        np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), np.array([1.0, second])
    )
    model = mfdeq.constrain(network, totals)
    eq = mfdeq.solve(model, np.ones(1))
    b = 1.0 + second + 0.25
    assert_close(eq.state[2:], np.array([0.5 * (b - np.sqrt(b * b - 4.0 * second))]), 1e-13)
    eq.gradient(mfdeq.LeastSquares([0], np.zeros(1)))
    assert eq.report.digits_left > 14.0


def test_a_total_that_is_not_linear_in_the_parameters_has_its_curvature():
    def residual(h, p):
        rate = h[0] - 2.0 * h[1]
        return rate * np.array([1.0, -1.0])

    network = mfdeq.from_function(residual, 2, 2, "residual")
    total = mfdeq.LinearConstraint(
        np.ones(2),
        lambda p: 3.0 * p[0] ** 2 * p[1],
        lambda p: np.array([6.0 * p[0] * p[1], 3.0 * p[0] ** 2]),
        lambda p, nu: nu[0] * np.array([[6.0 * p[1], 6.0 * p[0]], [6.0 * p[0], 0.0]]),
    )
    model, p = mfdeq.constrain(network, total), np.array([1.5, 0.5])
    eq = mfdeq.solve(model, p)
    assert_close(eq.state, p[0] ** 2 * p[1] * np.array([2.0, 1.0]), 1e-13)
    H = np.array([[2.0 * p[1], 2.0 * p[0]], [2.0 * p[0], 0.0]])
    assert_close(eq.component_hessian(1).toarray(), H, 1e-8)
    assert_close(second_derivatives(eq)[:, :, 0], 2.0 * H, 1e-8)
    assert mfdeq.verify(model, p).verdict == "PASS"
