"""Random models with kinks close to an equilibrium, some of whose derivatives may be wrong.

R = D (g + 0.1 sin g − φ(W g + V q + b) − c) for g = h / H, q = theta / Q and units D, H, Q, where
some arguments of φ are at distances of 1e-11 to 1e-2 from its kink at zero.
"""

from __future__ import annotations

import numpy as np

import mfdeq


def _logistic(z, width):
    s = 0.5 * (1 + np.tanh(0.5 * z / width))
    return width * np.logaddexp(0.0, z / width), s, s * (1 - s) / width


def _root(z, width):
    root = np.sqrt(z**2 + width**2)
    return root, z / root, width**2 / root**3


def _upwind(z, width):
    return (
        np.where(z > 0, 1.5 * z, 0.2 * z * (1 + z**2)),
        np.where(z > 0, 1.5, 0.2 * (1 + 3 * z**2)),
        np.where(z > 0, 0.0, 1.2 * z),
    )


# Each returns the value and the first two derivatives.
KINKS = {
    "maximum with zero": lambda z, width: (np.maximum(z, 0), 1.0 * (z > 0), 0 * z),
    "absolute value": lambda z, width: (np.abs(z), np.sign(z), 0 * z),
    "maximum of two": lambda z, width: (np.maximum(z, 0.3 * z), np.where(z > 0, 1.0, 0.3), 0 * z),
    "clip": lambda z, width: (np.clip(z, 0, 1), 1.0 * ((z > 0) & (z < 1)), 0 * z),
    "upwind": _upwind,
    "square": lambda z, width: (np.maximum(z, 0) ** 2, 2 * np.maximum(z, 0), 2.0 * (z > 0)),
    "smoothed absolute value": _root,
    "smoothed maximum": _logistic,
}


class Kinked(mfdeq.ResidualModel):
    """A model with a known equilibrium.

    Parameters
    ----------
    kind : str
        A name in `KINKS`.
    seed : int

    Attributes
    ----------
    h, theta : arrays
        The equilibrium.
    factors : tuple of two floats
        The slope of φ in d_state and in d_params is multiplied by these.
    """

    def __init__(self, kind, seed):
        rng = np.random.default_rng(seed)
        n = self.state_size = int(rng.choice([1, 2, 4, 9, 20]))
        p = self.param_size = int(rng.choice([n, 1, 3]))
        self.kink, self.width = KINKS[kind], 10.0 ** rng.uniform(-9, -2)
        self.W = 0.8 * rng.standard_normal((n, n)) / n**0.5
        self.V = np.eye(n) if p == n and rng.random() < 0.5 else rng.standard_normal((n, p))
        powers = rng.choice([0.0, 4.0])
        self.D, self.H, self.Q = (10.0 ** rng.uniform(-powers, powers, k) for k in (n, n, p))
        self.second_order, self.factors = rng.random() < 0.5, (1.0, 1.0)
        z, q, g = rng.standard_normal(n), rng.standard_normal(p), rng.standard_normal(n)
        near = rng.permutation(n)[: rng.integers(1, max(2, n // 2 + 1))]
        z[near] = rng.choice([-1, 1], near.size) * 10.0 ** rng.uniform(-11, -2, near.size)
        value = self.kink(z, self.width)[0]
        if rng.random() < 0.5 and kind != "smoothed maximum":
            # Without c, so that unknowns are as small as the value of the kink.
            g = value / 1.1
            for _ in range(30):
                g = g - (g + 0.1 * np.sin(g) - value) / (1 + 0.1 * np.cos(g))
        self.c = g + 0.1 * np.sin(g) - value
        self.b = z - self.W @ g - self.V @ q
        self.h, self.theta = self.H * g, self.Q * q

    def argument(self, h, theta):
        return self.W @ (h / self.H) + self.V @ (theta / self.Q) + self.b

    def residual(self, h, theta):
        g, value = h / self.H, self.kink(self.argument(h, theta), self.width)[0]
        return self.D * (g + 0.1 * np.sin(g) - value - self.c)

    def linearize(self, h, theta):
        g, W, V = h / self.H, self.W / self.H, self.V / self.Q
        _, slope, bend = self.kink(self.argument(h, theta), self.width)
        by_h, by_theta = (self.D * factor * slope for factor in self.factors)

        def curvature(lam):
            weights = -self.D * lam * bend
            own = np.diag(-0.1 * self.D * lam * np.sin(g) / self.H**2)
            return mfdeq.Curvature(
                params_params=V.T @ (weights[:, None] * V),
                state_params=W.T @ (weights[:, None] * V),
                state_state=own + W.T @ (weights[:, None] * W),
            )

        return mfdeq.Linearization(
            np.diag(self.D * (1 + 0.1 * np.cos(g)) / self.H) - by_h[:, None] * W,
            -by_theta[:, None] * V,
            curvature if self.second_order else None,
        )
