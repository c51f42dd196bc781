"""Models whose crossings and Hopf points are known in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from support.closed_forms import five_point_laplacian

import mfdeq


def laplacian(n):
    """Return -u'' on (0, 1) with zero values at both ends, at n inner points."""
    return (n + 1) ** 2 * sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)).tocsr()


def laplacian_eigenvalues(n):
    return 4 * (n + 1) ** 2 * np.sin(np.arange(1, n + 1) * np.pi / (2 * (n + 1))) ** 2


def ring_laplacian(n):
    """Return 2 u_i - u_(i-1) - u_(i+1) on a ring, of the symmetry of a regular polygon."""
    one = np.eye(n)
    return sp.csr_matrix(2 * one - np.roll(one, 1, 0) - np.roll(one, -1, 0))


class Loaded(mfdeq.ResidualModel):
    """L u = t g(u), with g(0) = 0 and g'(0) = 1: u = 0 is crossed where t is an eigenvalue of L."""

    param_size = 1

    def __init__(self, L, g=lambda u: u - u**3, slope=lambda u: 1 - 3 * u**2):
        self.L, self.g, self.slope = L.tocsr(), g, slope
        self.state_size = L.shape[0]

    def residual(self, h, t):
        return self.L @ h - t[0] * self.g(h)

    def linearize(self, h, t):
        A = self.L - t[0] * sp.diags(self.slope(h))
        return mfdeq.Linearization(A.tocsr(), -self.g(h)[:, None])


class Brusselator(mfdeq.ResidualModel):
    """The Brusselator on a line, about its homogeneous state (a, b / a), with b the parameter.

    x' = dx x'' + a - (b + 1) x + x² y,  y' = dy y'' + b x - x² y. With an eigenvalue k of -u'',
    a complex pair crosses at b = 1 + a² + k (dx + dy), and zero is an eigenvalue at
    b = 1 + dx a² / dy + a² / (dy k) + dx k.
    """

    param_size = 1

    def __init__(self, n, a, dx, dy):
        self.n, self.a, self.dx, self.dy = n, a, dx, dy
        self.state_size = 2 * n
        self.L = laplacian(n)
        k = laplacian_eigenvalues(n)
        b = 1 + a**2 + k * (dx + dy)
        determinant = a**2 * b - (b - 1 - dx * k) * (a**2 + dy * k)
        pairs = determinant > 0
        self.hopfs = np.stack([b[pairs], np.sqrt(determinant[pairs])], axis=1)
        self.turing = np.sort(1 + dx * a**2 / dy + a**2 / (dy * k) + dx * k)

    def start(self, b):
        return np.concatenate([np.full(self.n, self.a), np.full(self.n, b / self.a)])

    def residual(self, h, t):
        n, a, (b,) = self.n, self.a, t
        x, y = h[:n], h[n:]
        ends = np.zeros(n)
        ends[[0, -1]] = (n + 1) ** 2
        fx = self.dx * (self.L @ x - ends * a) - (a - (b + 1) * x + x**2 * y)
        fy = self.dy * (self.L @ y - ends * b / a) - (b * x - x**2 * y)
        return np.concatenate([fx, fy])

    def linearize(self, h, t):
        n, a, (b,) = self.n, self.a, t
        x, y = h[:n], h[n:]
        ends = np.zeros(n)
        ends[[0, -1]] = (n + 1) ** 2
        xx, xy = sp.diags(x**2), sp.diags(2 * x * y)
        one = sp.identity(n)
        A = sp.bmat(
            [
                [self.dx * self.L + (b + 1) * one - xy, -xx],
                [-(b * one - xy), self.dy * self.L + xx],
            ]
        )
        B = np.concatenate([x, -self.dy * ends / a - x])
        return mfdeq.Linearization(A.tocsr(), B[:, None])


class Tank(mfdeq.ResidualModel):
    """A stirred tank with an exothermic reaction, after Uppal, Ray and Poore (1974).

    x' = -x + D (1 - x) exp(y),  y' = -y + B D (1 - x) exp(y) - beta y. The parameters are D, B and
    beta. Along the branch y = B x / (1 + beta), D = x / ((1 - x) exp(y)).
    """

    state_size, param_size = 2, 3

    def residual(self, h, theta):
        (x, y), (D, B, beta) = h, theta
        rate = D * (1 - x) * np.exp(y)
        return np.array([x - rate, (1 + beta) * y - B * rate])

    def linearize(self, h, theta):
        (x, y), (D, B, beta) = h, theta
        e = np.exp(y)
        rate = D * (1 - x) * e
        A = [[1 + D * e, -rate], [B * D * e, 1 + beta - B * rate]]
        P = [[-(1 - x) * e, 0.0, 0.0], [-B * (1 - x) * e, -rate, y]]
        return mfdeq.Linearization(np.array(A), np.array(P))


class Case(NamedTuple):
    """A model with a zero state that is crossed at known t, counted by dimension."""

    model: Loaded
    t0: float
    width: float

    @property
    def exact(self):
        """The t of the crossings, from t0, and their dimensions."""
        values = np.linalg.eigvalsh(self.model.L.toarray()) - self.t0
        values = values[(values > 0) & (values < self.width)]
        first = np.diff(values, prepend=-np.inf) > 1e-9 * abs(values)
        return values[first], np.diff(np.append(np.flatnonzero(first), values.size))


def swift_hohenberg(L):
    """Return (1 + u'')² for -u'' = L."""
    one = sp.identity(L.shape[0])
    return ((one - L) @ (one - L)).tocsr()


CROSSED = {
    "Chafee-Infante": Case(Loaded(laplacian(50)), 0.0, 200.0),
    "transcritical": Case(Loaded(laplacian(20), lambda u: u - u**2, lambda u: 1 - 2 * u), 0, 200.0),
    "buckled rod": Case(Loaded(laplacian(40), np.sin, np.cos), 0.0, 250.0),
    "Chafee-Infante on a square": Case(Loaded(sp.csr_matrix(five_point_laplacian(9))), 0.0, 150.0),
    "large square": Case(Loaded(sp.csr_matrix(five_point_laplacian(16))), 0.0, 150.0),
    "large line": Case(Loaded(laplacian(300)), 0.0, 200.0),
    "Swift-Hohenberg": Case(Loaded(swift_hohenberg(laplacian(40) / 100)), -0.1, 1.5),
    "Swift-Hohenberg, periodic": Case(
        Loaded(swift_hohenberg(ring_laplacian(48) * (48 / (4 * np.pi)) ** 2)), -0.1, 0.9
    ),
    **{f"ring of {n}": Case(Loaded(ring_laplacian(n)), -0.5, 4.7) for n in (2, 3, 4, 5, 6, 8, 12)},
}
