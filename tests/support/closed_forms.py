"""Solutions in closed form, and the discretizations that they belong to."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq


def chandrasekhar_quadrature(n):
    """Return Gauss-Legendre nodes and weights on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2


def chandrasekhar_closed_form(w, psi):
    """Return value, gradient and Hessian of L = sum w psi H, for sum w psi < 1/2."""
    root = np.sqrt(1 - 2 * (w @ psi))
    return 1 - root, w / root, np.outer(w, w) / root**3


def bratu_centre(lam, upper=False):
    """Return the centre value of Bratu's u'' + lam exp(u) = 0, and two derivatives in lam.

    With t > 0: u_max = 2 log cosh t and lam = 8 t^2 / cosh^2 t; the fold is t tanh t = 1.
    """
    fold = brentq(lambda t: t * np.tanh(t) - 1, 0.5, 2, xtol=1e-15)
    bracket = (fold, 20.0) if upper else (1e-9, fold)
    t = brentq(lambda t: 8 * (t / np.cosh(t)) ** 2 - lam, *bracket, xtol=1e-15)
    tanh, sech2 = np.tanh(t), 1 / np.cosh(t) ** 2
    u1, u2 = 2 * tanh, 2 * sech2
    lam1 = 16 * t * (1 - t * tanh) * sech2
    lam2 = sech2 * (16 * (1 - 2 * t * tanh - t**2 * sech2) - 32 * t * tanh * (1 - t * tanh))
    return 2 * np.log(np.cosh(t)), u1 / lam1, (u2 * lam1 - u1 * lam2) / lam1**3


def chebyshev_laplacian(n):
    """Return minus the second derivative on (0, 1) with zero ends, at n - 1 Chebyshev points."""
    x = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.r_[2.0, np.ones(n - 1), 2.0] * (-1.0) ** np.arange(n + 1)
    D = np.outer(c, 1 / c) / (x[:, None] - x[None, :] + np.eye(n + 1))
    D -= np.diag(D.sum(axis=1))
    return -4 * (D @ D)[1:-1, 1:-1]  # 4: from (-1, 1) to (0, 1)


def five_point_laplacian(n):
    """Return minus the five-point Laplacian on the n x n inner points of the unit square."""
    line = (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) * (n + 1) ** 2
    return np.kron(line, np.eye(n)) + np.kron(np.eye(n), line)
