"""Problems with published solutions: a boundary layer, patterns, a power grid, a membrane."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

import mfdeq


class BoundaryLayer(mfdeq.ResidualModel):
    """The Falkner-Skan equation f''' + f f'' + β (1 - f'²) = 0 by collocation at Chebyshev points.

    f(0) = f'(0) = 0 and f' = 1 far from the wall. The state is u = f' at the points, from the wall
    outwards, and f is its integral. The parameter is β.

    Attributes
    ----------
    derivative : (N, N) array
        The derivative of polynomials at the points.
    """

    param_size = 1

    def __init__(self, points=48, thickness=9.0):
        self.state_size = points
        x, D = chebyshev(points)
        self.eta, self.derivative = 0.5 * thickness * (x + 1.0), 2.0 / thickness * D
        self.second_derivative = self.derivative @ self.derivative
        self.integral = np.zeros((points, points))
        self.integral[1:, 1:] = np.linalg.inv(self.derivative[1:, 1:])

    def initial_state(self, theta):
        return np.tanh(self.eta)

    def residual(self, u, theta):
        D, f = self.derivative, self.integral @ u
        R = self.second_derivative @ u + f * (D @ u) + theta[0] * (1.0 - u**2)
        R[0], R[-1] = u[0], u[-1] - 1.0
        return R

    def linearize(self, u, theta):
        D, Q, beta = self.derivative, self.integral, theta[0]
        A = self.second_derivative + (Q @ u)[:, None] * D + (D @ u)[:, None] * Q
        A -= np.diag(2.0 * beta * u)
        B = (1.0 - u**2)[:, None]
        A[[0, -1]], B[[0, -1]] = np.eye(u.size)[[0, -1]], 0.0

        def curvature(lam):
            inner = np.where(np.arange(u.size) % (u.size - 1), lam, 0.0)
            product = Q.T @ (inner[:, None] * D)
            return mfdeq.Curvature(
                state_params=(-2.0 * inner * u)[:, None],
                state_state=product + product.T - np.diag(2.0 * beta * inner),
            )

        return mfdeq.Linearization(d_state=A, d_params=B, curvature=curvature)

    def wall_shear(self, eq):
        """Return f''(0)."""
        return float(self.derivative[0] @ eq.state)


def chebyshev(points):
    """Return Chebyshev points in ascending order, and the derivative of polynomials there."""
    k = np.arange(points)
    x = -np.cos(np.pi * k / (points - 1))
    c = (-1.0) ** k * np.where((k == 0) | (k == points - 1), 2.0, 1.0)
    D = np.outer(c, 1.0 / c) / (x[:, None] - x[None, :] + np.eye(points))
    return x, D - np.diag(D.sum(axis=1))


class Patterns(mfdeq.ResidualModel):
    """Steady and travelling states of the Kuramoto-Sivashinsky equation in a frame of speed c.

    u_t = c u_x - u u_x - u_xx - u_xxxx, where u has the period L, which is the parameter. u is
    known at equidistant points and derivatives are those of trigonometric polynomials. The state is
    (u, c). The equations of u sum to zero, and the one of c is empty: u is known up to a constant
    and a translation, which `constrained` fixes.
    """

    param_size = 1

    def __init__(self, points=64):
        self.points, self.state_size = points, points + 1
        self.x = 2.0 * np.pi * np.arange(points) / points
        k = np.fft.fftfreq(points, 1.0 / points)
        k[points // 2] = 0.0  # the highest wave has no odd derivatives
        waves = np.fft.fft(np.eye(points), axis=0)
        self.D1, self.D2, self.D4 = (
            np.fft.ifft((1j * k[:, None]) ** order * waves, axis=0).real for order in (1, 2, 4)
        )

    def residual(self, h, theta):
        u, q = h[:-1], 2.0 * np.pi / theta[0]
        transport = q * (u - h[-1]) * (self.D1 @ u)
        return np.append(transport + q**2 * (self.D2 @ u) + q**4 * (self.D4 @ u), 0.0)

    def linearize(self, h, theta):
        u, c, L = h[:-1], h[-1], theta[0]
        q, dq, ddq = 2.0 * np.pi / L, -2.0 * np.pi / L**2, 4.0 * np.pi / L**3
        D1, D2, D4 = self.D1, self.D2, self.D4
        slope = D1 @ u
        transport = np.column_stack([np.diag(slope) + (u - c)[:, None] * D1, -slope])
        wide2, wide4 = (np.column_stack([D, np.zeros(u.size)]) for D in (D2, D4))
        by_q = (u - c) * slope + 2.0 * q * (D2 @ u) + 4.0 * q**3 * (D4 @ u)
        twice_by_q = 2.0 * (D2 @ u) + 12.0 * q**2 * (D4 @ u)
        empty = np.zeros((1, h.size))

        def curvature(lam):
            lam = lam[:-1]
            shear = q * lam[:, None] * D1
            product = np.block([[shear + shear.T, -q * (D1.T @ lam)[:, None]], [empty]])
            product[-1, :-1] = product[:-1, -1]
            mixed = (transport + 2.0 * q * wide2 + 4.0 * q**3 * wide4).T @ lam * dq
            second = lam @ (twice_by_q * dq**2 + by_q * ddq)
            return mfdeq.Curvature(np.array([[second]]), mixed[:, None], product)

        A = np.vstack([q * transport + q**2 * wide2 + q**4 * wide4, empty])
        return mfdeq.Linearization(A, np.append(by_q * dq, 0.0)[:, None], curvature)

    def constrained(self, waves):
        """Return the model with mean zero and with a wave that vanishes at x = 0."""
        total, phase = np.ones(self.state_size), np.append(np.cos(waves * self.x), 0.0)
        total[-1] = 0.0
        redundant = np.stack([total, np.eye(self.state_size)[-1]], axis=1)
        constraint = mfdeq.LinearConstraint(np.stack([total, phase]), np.zeros(2))
        return mfdeq.constrain(self, constraint, redundant=redundant)

    @staticmethod
    def energy(eq):
        """Return the mean of u² / 2."""
        return float(np.mean(eq.state[:-1] ** 2) / 2.0)


# Nine buses and three generators, a case of MATPOWER (t_case9_pfv2) after P. M. Anderson and A. A.
# Fouad, "Power System Control and Stability", 1980.
BUSES = (1, 2, 30, 4, 5, 6, 7, 8, 9)
LOADS = {5: (90.0, 30.0), 7: (100.0, 35.0), 9: (125.0, 50.0)}  # MW, Mvar
GENERATION = {2: 163.0, 30: 85.0}  # MW; bus 1 balances
BASE = 100.0  # MVA
BRANCHES = np.array(
    [  # from, to, r, x, b
        [1, 4, 0.0, 0.0576, 0.0],
        [4, 5, 0.017, 0.092, 0.158],
        [5, 6, 0.039, 0.17, 0.358],
        [30, 6, 0.0, 0.0586, 0.0],
        [6, 7, 0.0119, 0.1008, 0.209],
        [7, 8, 0.0085, 0.072, 0.149],
        [8, 2, 0.0, 0.0625, 0.0],
        [8, 9, 0.032, 0.161, 0.306],
        [9, 4, 0.01, 0.085, 0.176],
    ]
)


def nine_buses():
    """Return the load flow of the case as a model, and its injections.

    The state has the angles at all buses but the first, then the voltages at those without a
    generator; the parameters are the active and the reactive power injected there, relative to
    the base.
    """
    n = len(BUSES)
    Y = np.zeros((n, n), dtype=complex)
    for start, end, r, x, b in BRANCHES:
        i, j, y = BUSES.index(start), BUSES.index(end), 1.0 / (r + 1j * x)
        Y[[i, j], [i, j]] += y + 0.5j * b
        Y[i, j] -= y
        Y[j, i] -= y
    G, B = Y.real, Y.imag
    generators = 3

    def residual(h, theta):
        angles = np.concatenate([np.zeros(1), h[: n - 1]])
        voltages = np.concatenate([np.ones(generators), h[n - 1 :]])
        difference = angles[:, None] - angles[None, :]
        cos, sin = np.cos(difference), np.sin(difference)
        P = voltages * ((G * cos + B * sin) @ voltages)
        Q = voltages * ((G * sin - B * cos) @ voltages)
        return np.concatenate([P[1:], Q[generators:]]) - theta

    active = [(GENERATION.get(k, 0.0) - LOADS.get(k, (0.0, 0.0))[0]) / BASE for k in BUSES[1:]]
    reactive = [-LOADS.get(k, (0.0, 0.0))[1] / BASE for k in BUSES[generators:]]
    injections = np.array(active + reactive)
    size = injections.size
    start = np.concatenate([np.zeros(n - 1), np.ones(n - generators)])
    model = mfdeq.from_function(residual, size, size, "residual", initial_state=start)
    return model, injections


# The published measurements z at (i, j) / 14, which are symmetric in i and j: the upper triangle by
# rows. D. Aristoff and W. Bangerth, "A benchmark for the Bayesian inversion of coefficients in
# partial differential equations", SIAM Review 65 (2023).
MEASUREMENTS = (
    0.06076511762259, 0.09601910120848, 0.1238852517839, 0.1495184117375, 0.184159612755,
    0.2174525028261, 0.2250996160899, 0.2197954769003, 0.2074695698371, 0.1889996477663,
    0.1632722532154, 0.1276782480038, 0.07711845915789, 0.2000589533368, 0.3385592591952,
    0.3934300024648, 0.4040223892462, 0.4122329537843, 0.4100480091546, 0.394915163719,
    0.3697873264791, 0.3340182623592, 0.2850397806663, 0.2184260032479, 0.1271121156351,
    0.7119285162766, 0.8175712861756, 0.6836254116578, 0.5779452419831, 0.5555615956137,
    0.5285181561737, 0.4914397028492, 0.4409367494853, 0.3730060082061, 0.2821694983395,
    0.1610176733858, 0.9439154625528, 0.8015904115095, 0.6859683749254, 0.6561235366961,
    0.6213197201867, 0.5753611315, 0.5140091754527, 0.4325325506354, 0.3248315148915,
    0.183460041273, 0.7870119561145, 0.7373108331396, 0.711655887807, 0.6745179049094,
    0.6235300574157, 0.5559332704046, 0.4670304994474, 0.3499809143811, 0.1968826374629,
    0.7458811983178, 0.7278968022407, 0.6904793535358, 0.636917645271, 0.5677443693743,
    0.4784738764866, 0.3602190632823, 0.2031792054737, 0.712192867867, 0.6712187391429,
    0.6139157775591, 0.5478251665295, 0.4677122687599, 0.3587654911001, 0.2050734291676,
    0.617840828936, 0.5453605027238, 0.4895759664909, 0.4341716881061, 0.3534389974779,
    0.2083227496961, 0.4336604929613, 0.4109641743019, 0.3881864790111, 0.3642640090183,
    0.217959990928, 0.3957272602843, 0.3778949322005, 0.3596268271857, 0.2191250268949,
    0.3633363567187, 0.3464457261905, 0.2096362321366, 0.3260728953425, 0.1806705953554,
    0.106796555001,
)  # fmt: skip


class Membrane(mfdeq.ResidualModel):
    """-div(θ grad u) = 10 on the unit square with u = 0 at its boundary, by bilinear elements.

    θ is constant on each of 8 × 8 squares, which are the parameters.

    Attributes
    ----------
    observe : (169, N) csr_array
        Evaluates u at the points (i, j) / 14.
    """

    param_size = 64

    def __init__(self, cells=32):
        nodes = cells + 1
        i, j = (x.ravel() for x in np.meshgrid(np.arange(cells), np.arange(cells)))
        corners = np.stack(
            [(j + b) * nodes + i + a for a, b in ((0, 0), (0, 1), (1, 1), (1, 0))], 1
        )
        local = np.array([[4, -1, -2, -1], [-1, 4, -1, -2], [-2, -1, 4, -1], [-1, -2, -1, 4]]) / 6.0
        x, y = (t.ravel() for t in np.meshgrid(np.arange(nodes), np.arange(nodes)))
        inside = np.flatnonzero((x % cells != 0) & (y % cells != 0))
        self.state_size, self.load = inside.size, 10.0 / cells**2
        rows, columns = np.repeat(corners, 4, axis=1).ravel(), np.tile(corners, 4).ravel()
        square = (i * 8 // cells) + 8 * (j * 8 // cells)
        self.stiffness = []
        for k in range(64):
            entries = np.where(np.repeat(square == k, 16), np.tile(local.ravel(), square.size), 0.0)
            whole = sp.csr_array((entries, (rows, columns)), shape=(nodes**2, nodes**2))
            self.stiffness.append(sp.csr_array(whole[inside, :][:, inside]))
        points = np.arange(1, 14) / 14
        tents = np.maximum(0.0, 1.0 - abs(cells * points[:, None] - np.arange(nodes)))
        self.observe = sp.csr_array(sp.csr_array(sp.kron(tents, tents))[:, inside])

    def residual(self, u, theta):
        return self._matrix(theta) @ u - self.load

    def _matrix(self, theta):
        return sum(t * K for t, K in zip(theta, self.stiffness, strict=True))

    def linearize(self, u, theta):
        B = sp.csr_array(np.stack([K @ u for K in self.stiffness], axis=1))

        def curvature(lam):
            mixed = np.stack([K.T @ lam for K in self.stiffness], axis=1)
            return mfdeq.Curvature(state_params=sp.csr_array(mixed))

        return mfdeq.Linearization(self._matrix(theta), B, curvature)

    def loss(self, deviation=0.05):
        """Return the negative log-likelihood of the measurements, without its constant."""
        z = np.zeros((13, 13))
        upper = np.triu_indices(13)
        z[upper] = z.T[upper] = MEASUREMENTS
        return mfdeq.LeastSquares(self.observe, z.ravel(), 1.0 / deviation**2)


class LogMembrane(Membrane):
    """The membrane with the logarithms of its coefficients as parameters."""

    def residual(self, u, m):
        return super().residual(u, np.exp(m))

    def linearize(self, u, m):
        theta = np.exp(m)
        found = super().linearize(u, theta)
        by_m = sp.csr_array(found.d_params * theta[None, :])

        def curvature(lam):
            mixed = found.curvature(lam).state_params
            return mfdeq.Curvature(
                params_params=sp.diags_array(by_m.T @ lam).tocsr(),
                state_params=sp.csr_array(mixed * theta[None, :]),
            )

        return mfdeq.Linearization(found.d_state, by_m, curvature)

    def posterior(self, deviation=2.0):
        """Return the negative log-posterior of the logarithms as a functional."""
        prior = mfdeq.QuadraticPrior(np.eye(64) / deviation**2)
        return mfdeq.ReducedFunctional(self, self.loss() + prior)


def true_coefficients():
    """Return the coefficients from which the measurements of the membrane were computed."""
    theta = np.ones(64)
    theta[[9, 10, 17, 18]], theta[[45, 46, 53, 54]] = 0.1, 10.0
    return theta
