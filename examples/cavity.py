"""Flow in a driven cavity: an incompressible flow whose pressure is fixed by its mean.

The lid of a square cavity slides, and drives a steady flow of the fluid in it. The velocities and
the pressure satisfy the Navier–Stokes equations, in which the pressure appears by its gradient
only: it is known up to a constant, and the equations of continuity sum to zero. `mfdeq.constrain`
fixes the mean of the pressure. The flow is followed in the Reynolds number, and velocities along
the two centre lines are compared with those that Ghia, Ghia and Shin have published. They agree to
one percent of the speed of the lid, except for v at Re = 1000, which differs by 0.0195 near the
wall towards which the lid moves. There the published values themselves are inaccurate: they are
those of 129 × 129 equal cells, and up to 0.019 smaller in size than the spectral results of Botella
and Peyret, which are shown as well. From these the full example differs by 0.0014. The parameters
are the logarithm of the Reynolds number and the velocities of the lid, by which the kinetic energy
of the flow is differentiated twice.

    python examples/cavity.py                # 128 × 128 cells, minutes
    python examples/cavity.py --size small   # 32 × 32, seconds

U. Ghia, K. N. Ghia and C. T. Shin, High-Re solutions for incompressible flow using the Navier–
Stokes equations and a multigrid method, J. Comput. Phys. 48 (1982).

O. Botella and R. Peyret, Benchmark spectral results on the lid-driven cavity flow, Comput. Fluids
27 (1998).

F. H. Harlow and J. E. Welch, Numerical calculation of time-dependent viscous incompressible flow of
fluid with free surface, Phys. Fluids 8 (1965).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from matplotlib import pyplot as plt

import mfdeq

CELLS = {"small": 32, "full": 128}
STRETCHING = 0.8  # of cells at the walls, which are so much narrower than equal ones
REYNOLDS = (100, 400, 1000)
SPECTRAL = 3  # the column of Botella and Peyret
EIGENVALUES = 4

# u along the vertical and v along the horizontal centre line.
PUBLISHED_U = np.array(
    [
        # y, u at Re = 100, 400 and 1000, and at 1000 by Botella and Peyret
        [0.0547, -0.03717, -0.08186, -0.18109, -0.18129],
        [0.0625, -0.04192, -0.09266, -0.20196, -0.20233],
        [0.0703, -0.04775, -0.10338, -0.22220, -0.22290],
        [0.1016, -0.06434, -0.14612, -0.29730, -0.30046],
        [0.1719, -0.10150, -0.24299, -0.38289, -0.38857],
        [0.2813, -0.15662, -0.32726, -0.27805, -0.28037],
        [0.4531, -0.21090, -0.17119, -0.10648, -0.10820],
        [0.5000, -0.20581, -0.11477, -0.06080, -0.06206],
        [0.6172, -0.13641, 0.02135, 0.05702, 0.05702],
        [0.7344, 0.00332, 0.16256, 0.18719, 0.18867],
        [0.8516, 0.23151, 0.29093, 0.33304, 0.33722],
        [0.9531, 0.68717, 0.55892, 0.46604, 0.47233],
        [0.9609, 0.73722, 0.61756, 0.51117, 0.51693],
        [0.9688, 0.78871, 0.68439, 0.57492, 0.58084],
        [0.9766, 0.84123, 0.75837, 0.65928, 0.66442],
    ]
)
PUBLISHED_V = np.array(
    [
        # x, v at Re = 100, 400 and 1000, and at 1000 by Botella and Peyret
        [0.0625, 0.09233, 0.18360, 0.27485, 0.28071],
        [0.0703, 0.10091, 0.19713, 0.29012, 0.29627],
        [0.0781, 0.10890, 0.20920, 0.30353, 0.30991],
        [0.0938, 0.12317, 0.22965, 0.32627, 0.33304],
        [0.1563, 0.16077, 0.28124, 0.37095, 0.37692],
        [0.2266, 0.17507, 0.30203, 0.33075, 0.33399],
        [0.2344, 0.17527, 0.30174, 0.32235, 0.32536],
        [0.5000, 0.05454, 0.05186, 0.02526, 0.02580],
        [0.8047, -0.24533, -0.38598, -0.31966, -0.32021],
        [0.8594, -0.22445, -0.44993, -0.42665, -0.42645],
        # Printed as -0.23827 at Re = 400, which does not lie on a smooth curve: a misprint.
        [0.9063, -0.16914, np.nan, -0.51550, -0.52644],
        [0.9453, -0.10313, -0.22847, -0.39188, -0.41038],
        [0.9531, -0.08864, -0.19254, -0.33714, -0.35532],
        [0.9609, -0.07391, -0.15663, -0.27669, -0.29369],
        [0.9688, -0.05906, -0.12146, -0.21388, -0.22792],
    ]
)


# --- the model -----------------------------------------------------------------------------------


class Side:
    """The n cells along a side of the cavity, finer at the walls.

    Attributes
    ----------
    edges, centres : (n + 1,) and (n,) arrays
    widths : sparse matrix, (n, n)
        The widths of the cells, on the diagonal.
    jumps : sparse matrix, (n, n - 1)
        Differences between the inner edges of each cell, with zero at the walls.
    means : sparse matrix, (n, n - 1)
        Averages of them.
    between : sparse matrix, (n - 1, n)
        The values of cells, interpolated to the inner edges.
    stiffness : sparse matrix, (n, n)
        Of fluxes between the centres of cells, and to the walls.
    stiffness_of_edges : sparse matrix, (n - 1, n - 1)
        Of fluxes between inner edges, and to the walls.
    """

    def __init__(self, n: int):
        x = np.linspace(0.0, 1.0, n + 1)
        self.edges = x - STRETCHING * np.sin(2.0 * np.pi * x) / (2.0 * np.pi)
        self.centres = 0.5 * (self.edges[1:] + self.edges[:-1])
        width, distance = np.diff(self.edges), np.diff(np.r_[0.0, self.centres, 1.0])
        self.widths = sp.diags(width)
        self.distances = sp.diags(distance[1:-1])  # between centres
        ones = np.ones(n - 1)
        self.jumps = sp.diags([ones, -ones], [0, -1], shape=(n, n - 1)).tocsr()
        self.means = 0.5 * abs(self.jumps)
        share = (self.edges[1:-1] - self.centres[:-1]) / distance[1:-1]
        self.between = sp.diags([1.0 - share, share], [0, 1], shape=(n - 1, n)).tocsr()
        faces = sp.diags([np.ones(n), -np.ones(n)], [0, -1], shape=(n + 1, n))
        self.stiffness = (faces.T @ sp.diags(1.0 / distance) @ faces).tocsr()
        self.to_wall = 1.0 / distance[-1]
        self.stiffness_of_edges = (self.jumps.T @ sp.diags(1.0 / width) @ self.jumps).tocsr()


class Cavity(mfdeq.ResidualModel):
    """The steady Navier–Stokes equations by finite volumes on a staggered grid.

    The state has u on the vertical edges of the cells, v on the horizontal ones, and the pressure
    in their centres. The parameters are the logarithm of the Reynolds number, and u of the lid.
    With the fluxes of momentum (P h) (Q h), from both sides of edges D, the viscous stresses K, the
    forces E of the lid, and G of pressure and continuity,

        R(h, theta) = D (P h) (Q h) + (K h - E lid) / Re + G h.

    Parameters
    ----------
    n : int
        The number of cells along a side.
    """

    def __init__(self, n: int):
        self.n, self.side = n, Side(n)
        s, one = self.side, sp.identity(n)
        edge = sp.identity(n - 1)
        inner = n * (n - 1)
        self.sizes = inner, inner, n * n
        self.state_size, self.param_size = sum(self.sizes), n
        # Both fields have x along rows: u is (n - 1, n), v is (n, n - 1).
        zero_u, zero_v = sp.csr_matrix((n * n, inner)), sp.csr_matrix((n * n, inner))
        corner_u, corner_v = sp.kron(edge, s.between), sp.kron(s.between, edge)
        no_corner = sp.csr_matrix(((n - 1) ** 2, inner))
        centre_u, centre_v = sp.kron(s.means, one), sp.kron(one, s.means)
        no_p = sp.csr_matrix((2 * n * n + 2 * (n - 1) ** 2, n * n))
        # The fluxes u u in the centres, v u at the corners, u v at the corners, v v in the centres.
        carried = [[centre_u, zero_v], [corner_u, no_corner]]
        carried += [[no_corner, corner_v], [zero_u, centre_v]]
        carrying = [[centre_u, zero_v], [no_corner, corner_v]]
        carrying += [[corner_u, no_corner], [zero_u, centre_v]]
        self.P = sp.hstack([sp.bmat(carried), no_p], format="csr")
        self.Q = sp.hstack([sp.bmat(carrying), no_p], format="csr")
        D_u = sp.hstack([-sp.kron(s.jumps.T, s.widths), sp.kron(s.distances, s.jumps)])
        D_v = sp.hstack([sp.kron(s.jumps, s.distances), -sp.kron(s.widths, s.jumps.T)])
        below = sp.csr_matrix((n * n, D_u.shape[1] + D_v.shape[1]))
        self.D = sp.vstack([sp.block_diag([D_u, D_v]), below], format="csr")
        K_u = sp.kron(s.stiffness_of_edges, s.widths) + sp.kron(s.distances, s.stiffness)
        K_v = sp.kron(s.stiffness, s.distances) + sp.kron(s.widths, s.stiffness_of_edges)
        self.K = sp.block_diag([K_u, K_v, sp.csr_matrix((n * n, n * n))], format="csr")
        last = sp.csr_matrix(([s.to_wall], ([n - 1], [0])), shape=(n, 1))
        E = sp.kron(s.distances, last)
        self.E = sp.vstack([E, sp.csr_matrix((inner + n * n, n - 1))], format="csr")
        C = -sp.hstack([sp.kron(s.jumps, s.widths), sp.kron(s.widths, s.jumps)])
        self.G = sp.bmat([[None, C.T], [C, None]], format="csr")
        self.volumes = sp.kron(s.widths, s.widths).diagonal()

    def initial_state(self, theta):
        """Return the fluid at rest."""
        return np.zeros(self.state_size)

    def viscous(self, h, lid):
        """Return the viscous forces at Re = 1."""
        return self.K @ h - self.E @ lid

    def residual(self, h, theta):
        """Return the balances of momentum and of mass."""
        convection = self.D @ ((self.P @ h) * (self.Q @ h))
        return convection + np.exp(-theta[0]) * self.viscous(h, theta[1:]) + self.G @ h

    def linearize(self, h, theta) -> mfdeq.Linearization:
        """Return the derivatives; R is quadratic in h."""
        P, Q, D, K, E = self.P, self.Q, self.D, self.K, self.E
        viscosity, forces = np.exp(-theta[0]), self.viscous(h, theta[1:])
        fluxes = sp.diags(Q @ h) @ P + sp.diags(P @ h) @ Q
        d_params = sp.hstack([sp.csr_matrix(-viscosity * forces[:, None]), -viscosity * E])

        def curvature(lam) -> mfdeq.Curvature:
            one_side = P.T @ sp.diags(D.T @ lam) @ Q
            n = self.param_size
            by_viscosity = sp.csr_matrix(([1.0], ([0], [0])), shape=(1, n))
            column = sp.csr_matrix(-viscosity * (K.T @ lam)[:, None])
            params = np.zeros((n, n))
            params[0, 0] = viscosity * (lam @ forces)
            params[0, 1:] = params[1:, 0] = viscosity * (E.T @ lam)
            return mfdeq.Curvature(
                params_params=params,
                state_params=(column @ by_viscosity).tocsr(),
                state_state=(one_side + one_side.T).tocsr(),
            )

        def second(a, b):
            (u, x), (v, y) = a, b
            convection = D @ ((P @ x) * (Q @ y) + (P @ y) * (Q @ x))
            viscous = u[0] * self.viscous(y, v[1:]) + v[0] * self.viscous(x, u[1:])
            return convection - viscosity * (viscous - u[0] * v[0] * forces)

        A = D @ fluxes + viscosity * K + self.G
        return mfdeq.Linearization(A.tocsr(), d_params.tocsr(), curvature, second)

    def constrained(self) -> mfdeq.ResidualModel:
        """Return the model with a pressure of mean zero."""
        pressure = np.zeros(self.state_size)
        pressure[-self.sizes[2] :] = 1.0
        mean = np.zeros(self.state_size)
        mean[-self.sizes[2] :] = self.volumes
        # The equations of continuity sum to zero.
        return mfdeq.constrain(self, mfdeq.LinearConstraint(mean), redundant=pressure)

    def energy(self) -> mfdeq.Loss:
        """Return the kinetic energy of the flow."""
        s = self.side
        mass = np.r_[
            sp.kron(s.distances, s.widths).diagonal(),
            sp.kron(s.widths, s.distances).diagonal(),
            np.zeros(self.sizes[2]),
        ]
        return mfdeq.Loss(
            lambda h, theta: 0.5 * float(mass @ h**2),
            d_state=lambda h, theta: mass * h,
            curvature=lambda h, theta: mfdeq.Curvature(state_state=sp.diags(mass, format="csr")),
        )

    # Pictures and tables.

    def fields(self, h):
        """Return u, v and the pressure as arrays of two dimensions, x along the first."""
        n = self.n
        u, v, p = np.split(h, np.cumsum(self.sizes)[:2])
        return u.reshape(n - 1, n), v.reshape(n, n - 1), p.reshape(n, n)

    def along_centre_lines(self, h, lid):
        """Return y and u on the vertical centre line, x and v on the horizontal one."""
        u, v, _ = self.fields(h)
        s, middle = self.side, self.n // 2 - 1  # an edge
        walls = np.r_[0.0, s.centres, 1.0]
        return (walls, np.r_[0.0, u[middle], lid[middle]]), (walls, np.r_[0.0, v[:, middle], 0.0])

    def differences(self, h, theta, column):
        """Return the largest differences from the published u and v, in speeds of the lid."""
        from scipy.interpolate import CubicSpline

        found = []
        lines = self.along_centre_lines(h, theta[1:])
        for (at, values), table in zip(lines, (PUBLISHED_U, PUBLISHED_V), strict=True):
            interpolated = CubicSpline(at, values)(table[:, 0])
            found.append(float(np.nanmax(abs(interpolated - table[:, 1 + column]))))
        return found

    def stream(self, h):
        """Return the stream function at the inner corners."""
        u, _, _ = self.fields(h)
        return np.cumsum(u * np.diff(self.side.edges), axis=1)[:, :-1]


def parameters(n: int, reynolds: float, lid=1.0):
    """Return the parameters."""
    return np.r_[np.log(reynolds), np.full(n - 1, lid)]


def flows(cavity: Cavity, model: mfdeq.ResidualModel):
    """Follow the flow in the Reynolds number, and return the branch and the equilibria."""
    theta = parameters(cavity.n, REYNOLDS[0])
    branch = mfdeq.follow(model, theta, 0, span=(0.0, np.log(REYNOLDS[-1] / REYNOLDS[0])))
    found = []
    for reynolds in REYNOLDS:
        t = np.log(reynolds / REYNOLDS[0])
        near = min(branch.points, key=lambda point: abs(point.t - t))
        found.append(mfdeq.solve(model, parameters(cavity.n, reynolds), near.state))
    return branch, found


def errors_of_derivatives(model, eq, loss, step=1e-4):
    """Return the relative errors of the gradient and of a Hessian product, by differences."""
    rng, theta = np.random.default_rng(0), eq.params
    v = np.r_[0.0, rng.standard_normal(theta.size - 1)]
    v /= np.linalg.norm(v)
    sides = [mfdeq.solve(model, theta + s * step * v, eq.state) for s in (1.0, -1.0)]
    values = [loss.value(side.state, side.params) for side in sides]
    gradients = [side.gradient(loss) for side in sides]
    slope, change = (np.subtract(*pair) / (2.0 * step) for pair in (values, gradients))
    g, product = eq.gradient(loss) @ v, eq.hessian(loss) @ v
    return abs(g - slope) / abs(slope), np.linalg.norm(product - change) / np.linalg.norm(change)


# --- the figure ----------------------------------------------------------------------------------


def draw(path: Path, cavity: Cavity, found, gradients) -> None:
    """Save the figure: stream lines, velocities along the centre lines, and gradients."""
    s = cavity.side
    fig, axes = plt.subplots(2, 3, figsize=(14, 9), layout="constrained")
    for ax, eq, reynolds in zip(axes[0], found, REYNOLDS, strict=True):
        psi = cavity.stream(eq.state)
        levels = np.r_[np.linspace(psi.min(), 0.0, 12), np.geomspace(1e-6, max(psi.max(), 2e-6), 4)]
        inner = s.edges[1:-1]
        u = cavity.fields(eq.state)[0]
        corners = 0.5 * (u[:, 1:] + u[:, :-1]).T
        mesh = ax.pcolormesh(inner, inner, corners, cmap="RdBu_r", vmin=-1, vmax=1)
        ax.contour(inner, inner, psi.T, levels=np.unique(levels), colors="k", linewidths=0.7)
        ax.set(title=f"Re = {reynolds}", aspect="equal", xlabel="x", ylabel="y")
    fig.colorbar(mesh, ax=axes[0], label="u", shrink=0.8)
    for k, (eq, reynolds) in enumerate(zip(found, REYNOLDS, strict=True)):
        for ax, (at, values), table in zip(
            axes[1],
            cavity.along_centre_lines(eq.state, eq.params[1:]),
            (PUBLISHED_U, PUBLISHED_V),
            strict=False,
        ):
            ax.plot(at, values, color=f"C{k}", label=f"Re = {reynolds}")
            ax.plot(table[:, 0], table[:, 1 + k], "o", color=f"C{k}", ms=4)
    axes[1, 0].set(title="u along x = 1/2, published as dots", xlabel="y")
    axes[1, 1].set(title="v along y = 1/2", xlabel="x")
    axes[1, 0].legend()
    width = np.diff(s.centres)
    for gradient, reynolds in zip(gradients, REYNOLDS, strict=True):
        axes[1, 2].plot(s.edges[1:-1], gradient[1:] / width, label=f"Re = {reynolds}")
    axes[1, 2].set(title="gradient of the energy", xlabel="x of the lid", ylim=(0.0, None))
    fig.savefig(path, dpi=120)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Follow the flow, compare it with published velocities, and differentiate its energy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=CELLS, default="full")
    cavity = Cavity(CELLS[parser.parse_args(arguments).size])
    model = cavity.constrained()
    unknowns = f"{cavity.state_size} unknowns, {cavity.param_size} parameters"
    print(f"{cavity.n} x {cavity.n} cells, {unknowns}")

    branch, found = flows(cavity, model)
    print(f"followed from Re = {REYNOLDS[0]} to {REYNOLDS[-1]}: {len(branch.points)} points")
    print("largest differences from the published velocities, in speeds of the lid")
    for k, (eq, reynolds) in enumerate(zip(found, REYNOLDS, strict=True)):
        u, v = cavity.differences(eq.state, eq.params, k)
        p = cavity.fields(eq.state)[2].ravel()
        print(
            f"  Re = {reynolds:<5} u {u:.4f}, v {v:.4f}; mean pressure {p @ cavity.volumes:.0e}, "
            f"imbalance {abs(eq.imbalance[0]):.0e}"
        )

    u, v = cavity.differences(eq.state, eq.params, SPECTRAL)
    print(f"  the same, spectral: u {u:.4f}, v {v:.4f}")

    energy = cavity.energy()
    gradients = [flow.gradient(energy) for flow in found]
    gradient, H = gradients[-1], eq.hessian(energy)
    print(f"kinetic energy at Re = {REYNOLDS[-1]}: {energy.value(eq.state, eq.params):.6f}")
    print(f"its derivative by log Re:               {gradient[0]:.6f}")
    print(f"and by the speed of the whole lid:      {gradient[1:].sum():.6f}")
    whole = np.r_[0.0, np.ones(cavity.param_size - 1)]
    print(f"its second derivative by this speed:    {whole @ (H @ whole):.6f}")
    errors = errors_of_derivatives(model, eq, energy)
    print(f"errors beside differences: gradient {errors[0]:.0e}, Hessian product {errors[1]:.0e}")
    pairs = mfdeq.eigsh(H, k=EIGENVALUES)
    print("largest eigenvalues of the Hessian:", " ".join(f"{x:.3e}" for x in pairs.values))
    draw(Path("cavity.png"), cavity, found, gradients)
    print("figure: cavity.png")


if __name__ == "__main__":
    main()
