"""Optimal-control problems of the CUTE collection: a chain of steps, with costs step by step.

The states are equilibria of the chain, the controls its parameters. The same definitions serve
`mfdeq.minimize` and Newton's method for all unknowns at once, so that a mistake in one of them
shows in the optimum, which is known.

HAGER2 and HAGER4: W. W. Hager, "Multiplier methods for nonlinear optimal control", SIAM Journal on
Numerical Analysis 27 (1990). DTOC2, DTOC4 and DTOC6: T. F. Coleman and A. Liao, "An efficient trust
region method for unconstrained discrete-time optimal control problems", 1992.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

import mfdeq


class Problem:
    """min L(u, x) subject to c(x, u) = 0.

    Subclasses define N, P and, for (x, u), `constraints`, `jacobians` (dc/dx and dc/du),
    `curvature` of nu'c, `cost`, `cost_gradients` (for u and for x) and `cost_curvature`. Curvatures
    are (uu, xu, xx), or None for zero.
    """

    N: int
    P: int
    upper = np.inf  # of the controls

    def model(self):
        return _Model(self)

    def loss(self):
        return mfdeq.Loss(
            self.cost,
            d_state=lambda x, u: self.cost_gradients(x, u)[1],
            d_params=lambda x, u: self.cost_gradients(x, u)[0],
            curvature=lambda x, u: mfdeq.Curvature(*self.cost_curvature(x, u)),
        )

    def functional(self):
        return mfdeq.ReducedFunctional(self.model(), self.loss())


class _Model(mfdeq.ResidualModel):
    def __init__(self, problem):
        self.problem = problem
        self.state_size, self.param_size = problem.N, problem.P

    def residual(self, x, u):
        return self.problem.constraints(x, u)

    def linearize(self, x, u):
        return mfdeq.Linearization(
            *self.problem.jacobians(x, u),
            lambda nu: mfdeq.Curvature(*self.problem.curvature(x, u, nu)),
        )


def full_space_newton(problem, u, x, steps=100):
    """Solve the optimality conditions for controls, states and multipliers at once.

    Bounds are kept by the primal-dual active set method. A step is halved as long as it increases
    the conditions' residual.
    """
    P, N = problem.P, problem.N
    nu, z = np.zeros(N), np.zeros(P)  # multipliers of the constraints and of the bounds

    def conditions(u, x, nu):
        A, B = problem.jacobians(x, u)
        g_u, g_x = problem.cost_gradients(x, u)
        return np.r_[g_u + B.T @ nu, g_x + A.T @ nu, problem.constraints(x, u)]

    for _ in range(steps):
        active = z + (u - problem.upper) > 0 if np.isfinite(problem.upper) else np.zeros(P, bool)
        u = np.where(active, problem.upper, u)
        A, B = problem.jacobians(x, u)
        blocks = [
            0.0
            if a is None and b is None
            else (0.0 if a is None else a) + (0.0 if b is None else b)
            for a, b in zip(problem.cost_curvature(x, u), problem.curvature(x, u, nu), strict=True)
        ]
        uu, xu, xx = (
            sp.csr_matrix(shape) if np.isscalar(block) else sp.csr_matrix(block)
            for block, shape in zip(blocks, [(P, P), (N, P), (N, N)], strict=True)
        )
        KKT = sp.bmat([[uu, xu.T, B.T], [xu, xx, A.T], [B, A, None]]).tocsr()
        free = np.r_[~active, np.ones(2 * N, bool)]
        F = conditions(u, x, nu)
        step = np.zeros(P + 2 * N)
        step[free] = -spsolve(KKT[free][:, free].tocsc(), F[free])
        t = 1.0
        while t > 1e-6:
            at = u + t * step[:P], x + t * step[P : P + N], nu + t * step[P + N :]
            with np.errstate(all="ignore"):
                after = np.linalg.norm(conditions(*at)[free])
            if after <= (1 - 1e-4 * t) * np.linalg.norm(F[free]) or after < 1e-9:
                break
            t /= 2
        u, x, nu = at
        z = np.where(active, -conditions(u, x, nu)[:P], 0.0)
        if np.abs(step).max() <= 1e-11 * max(1.0, np.abs(np.r_[u, x, nu]).max()) and t == 1.0:
            break
    return u, x


class LinearQuadratic(Problem):
    """x_0 given, a x_i - b x_(i-1) = w_i u_i, and a cost that is quadratic in neighbours."""

    def __init__(self, n, first, a, b, weights, same, cross, before, control):
        """The cost is the sum of same x_i² + cross x_i x_(i-1) + before x_(i-1)² + control u²."""
        self.N = self.P = n
        same, cross, before = (np.broadcast_to(c, n) for c in (same, cross, before))
        self.A = sp.diags([np.full(n, a), np.full(n - 1, -b)], [0, -1]).tocsr()
        self.B = -sp.diags(np.broadcast_to(weights, n)).tocsr()
        self.source = np.r_[b * first, np.zeros(n - 1)]
        diagonal = 2.0 * (same + np.r_[before[1:], 0.0])
        self.Q = sp.diags([cross[1:], diagonal, cross[1:]], [-1, 0, 1]).tocsr()
        self.q = np.r_[cross[0] * first, np.zeros(n - 1)]
        self.constant, self.R = before[0] * first**2, 2.0 * control * sp.identity(n, format="csr")

    def constraints(self, x, u):
        return self.A @ x + self.B @ u - self.source

    def jacobians(self, x, u):
        return self.A, self.B

    def curvature(self, x, u, nu):
        return None, None, None

    def cost(self, x, u):
        return 0.5 * x @ (self.Q @ x) + self.q @ x + self.constant + 0.5 * u @ (self.R @ u)

    def cost_gradients(self, x, u):
        return self.R @ u, self.Q @ x + self.q

    def cost_curvature(self, x, u):
        return self.R, None, self.Q


def hager2(n):
    """x' = x / 2 + u, and the integral of x² + u² / 2, by linear elements."""
    c = 1 / (6 * n)
    return LinearQuadratic(n, 1.0, n - 0.25, n + 0.25, 1.0, c, c, c, 1 / (4 * n))


def hager4(n):
    """x' = x + e^t u with u <= 1, and half the integral of e^(-2t) x² + u², by linear elements."""
    h, e = 1 / n, np.e
    t = h * np.arange(n + 1)
    z = np.exp(-2 * t)
    # Antiderivatives of e^(-2t) times 1, 2t and 2t², at both ends of the first element.
    a = -0.5 * z[:2]
    b, c = a * (t[:2] + 0.5), a * (t[:2] ** 2 + t[:2] + 0.5)
    d, f, g = (z[:-1] * s * (k[1] - k[0]) for k, s in ((a, 0.5), (b, 1 / h), (c, 0.5 / h**2)))
    problem = LinearQuadratic(
        n,
        (1 + 3 * e) / (2 - 2 * e),
        n - 1.0,
        float(n),
        np.exp(t[1:]),
        d - f + g,
        f - 2 * g,
        g,
        h / 2,
    )
    problem.upper = 1.0
    return problem


class Chain(Problem):
    """y_(t+1) = F(y_t, u_t), y_1 given, with a cost of each (u_t, y_t) and of the last y.

    Subclasses define ``step(y, u)`` -> F, F_y, F_u; ``step_hessian(y, u, nu)``, the Hessian of nu'F
    over z = (u, y); ``stage(y, u)`` -> the costs, their gradients and Hessians over z; and
    ``last(y)``, the same of the last y. All are vectorized over t in the first axis.
    """

    ny: int
    nu: int

    def __init__(self, n):
        self.n, self.T = n, n - 1
        self.N, self.P = self.T * self.ny, self.T * self.nu

    def _steps(self, x, u):
        y = np.concatenate([self.first, x]).reshape(-1, self.ny)
        return y, u.reshape(-1, self.nu)

    def constraints(self, x, u):
        y, u = self._steps(x, u)
        return (y[1:] - self.step(y[:-1], u)[0]).ravel()

    def jacobians(self, x, u):
        y, u = self._steps(x, u)
        _, F_y, F_u = self.step(y[:-1], u)
        return (sp.identity(self.N) - _blocks(F_y[1:], below=True)).tocsr(), -_blocks(F_u)

    def _split(self, of_z):
        """Split Hessians over (u_t, y_t) into (uu, xu, xx); y_1 is not an unknown."""
        k = self.nu
        return (
            _blocks(of_z[:, :k, :k]),
            _blocks(of_z[1:, k:, :k], left=True),
            _blocks(of_z[1:, k:, k:], above=True),
        )

    def curvature(self, x, u, nu):
        y, u = self._steps(x, u)
        return self._split(-self.step_hessian(y[:-1], u, nu.reshape(-1, self.ny)))

    def cost(self, x, u):
        y, u = self._steps(x, u)
        return float(self.stage(y[:-1], u)[0].sum() + self.last(y[-1])[0])

    def cost_gradients(self, x, u):
        y, u = self._steps(x, u)
        of_z = self.stage(y[:-1], u)[1]
        k = self.nu
        return of_z[:, :k].ravel(), np.r_[of_z[1:, k:].ravel(), self.last(y[-1])[1]]

    def cost_curvature(self, x, u):
        y, u = self._steps(x, u)
        uu, xu, xx = self._split(self.stage(y[:-1], u)[2])
        last = sp.block_diag([sp.csr_matrix((self.N - self.ny,) * 2), self.last(y[-1])[2]])
        return uu, xu, (xx + last).tocsr()


def _blocks(blocks, below=False, left=False, above=False):
    """Return a block-diagonal matrix, (count rows, count columns), or a shifted one.

    Block t is in row t + 1 if `below`, in column t + 1 if `left`, with one more row and column of
    blocks; if `above`, only these are added, with zeros.
    """
    count, rows, columns = blocks.shape
    t = np.arange(count)[:, None, None]
    i = rows * (t + below) + np.arange(rows)[:, None] + 0 * np.arange(columns)
    j = columns * (t + left) + np.arange(columns) + 0 * np.arange(rows)[:, None]
    size = count + (below or left or above)
    shape = rows * size, columns * size
    return sp.coo_matrix((blocks.ravel(), (i.ravel(), j.ravel())), shape=shape).tocsr()


class Dtoc2(Chain):
    """y' = sin y + C sin u, and the sum of |y|² (1 + sin²(|u|² / 2))."""

    ny, nu = 4, 2
    first = np.arange(1, 5) / 8
    C = np.add.outer(np.arange(1, 5), np.arange(1, 3)) / 8

    def step(self, y, u):
        F_y = np.cos(y)[:, :, None] * np.eye(4)
        return np.sin(y) + np.sin(u) @ self.C.T, F_y, self.C * np.cos(u)[:, None, :]

    def step_hessian(self, y, u, nu):
        diagonal = np.concatenate([-np.sin(u) * (nu @ self.C), -nu * np.sin(y)], axis=1)
        return diagonal[:, :, None] * np.eye(6)

    def stage(self, y, u):
        s, r = (u**2).sum(1), (y**2).sum(1)
        factor, slope, bend = 1 + np.sin(s / 2) ** 2, np.sin(s) / 2, np.cos(s) / 2  # over s
        g = np.concatenate([2 * (r * slope)[:, None] * u, 2 * factor[:, None] * y], axis=1)
        H = np.zeros((len(y), 6, 6))
        H[:, :2, :2] = 2 * (r * slope)[:, None, None] * np.eye(2)
        H[:, :2, :2] += 4 * (r * bend)[:, None, None] * u[:, :, None] * u[:, None, :]
        H[:, 2:, :2] = 4 * slope[:, None, None] * y[:, :, None] * u[:, None, :]
        H[:, :2, 2:] = H[:, 2:, :2].transpose(0, 2, 1)
        H[:, 2:, 2:] = 2 * factor[:, None, None] * np.eye(4)
        return r * factor, g, H

    def last(self, y):
        return y @ y, 2 * y, 2 * np.eye(4)


class Dtoc4(Chain):
    """A van der Pol oscillator of length 5 by Euler steps, and the integral of |y|² + u²."""

    ny, nu = 2, 1
    first = np.array([0.0, 1.0])

    def step(self, y, u):
        h, (a, b) = 5 / self.n, y.T
        F = np.stack([a + h * (a - b + u[:, 0] - b**2 * a), b + h * a], axis=1)
        one, zero = np.ones(len(y)), np.zeros(len(y))
        F_y = np.array([[1 + h * (1 - b**2), -h * (1 + 2 * a * b)], [h * one, one]])
        return F, F_y.transpose(2, 0, 1), np.array([[h * one], [zero]]).transpose(2, 0, 1)

    def step_hessian(self, y, u, nu):
        h, (a, b) = 5 / self.n, y.T
        H = np.zeros((len(y), 3, 3))
        H[:, 1, 2] = H[:, 2, 1] = -2 * h * nu[:, 0] * b
        H[:, 2, 2] = -2 * h * nu[:, 0] * a
        return H

    def _weights(self, y):
        w = np.full((len(y), 3), 5 / self.n)
        w[0, 1:] /= 2  # trapezoidal in y
        return w

    def stage(self, y, u):
        w, z = self._weights(y), np.concatenate([u, y], axis=1)
        return (w * z**2).sum(1), 2 * w * z, 2 * w[:, :, None] * np.eye(3)

    def last(self, y):
        h = 5 / self.n
        return h / 2 * (y @ y), h * y, h * np.eye(2)


class Dtoc6(Chain):
    """y' = y + exp u, and half the sum of (y + exp u)² + u²."""

    ny, nu = 1, 1
    first = np.zeros(1)

    def step(self, y, u):
        e = np.exp(u)
        return y + e, np.ones((len(y), 1, 1)), e[:, :, None]

    def step_hessian(self, y, u, nu):
        H = np.zeros((len(y), 2, 2))
        H[:, 0, 0] = nu[:, 0] * np.exp(u[:, 0])
        return H

    def stage(self, y, u):
        y, u = y[:, 0], u[:, 0]
        e = np.exp(u)
        H = np.array([[(y + e) * e + e**2 + 1, e], [e, np.ones_like(e)]]).transpose(2, 0, 1)
        return 0.5 * ((y + e) ** 2 + u**2), np.stack([(y + e) * e + u, y + e], axis=1), H

    def last(self, y):
        return 0.0, np.zeros(1), np.zeros((1, 1))
