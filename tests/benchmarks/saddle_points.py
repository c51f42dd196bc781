"""Saddle points by finite elements: Stokes by Taylor-Hood, Darcy by Raviart-Thomas.

The unit square is divided into n x n squares of two triangles each. Unknowns on the boundary that
are prescribed are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

# Quadrature of degree 5 on the triangle with corners (0, 0), (1, 0), (0, 1), of area 1/2.
_A, _B = (6 - np.sqrt(15)) / 21, (6 + np.sqrt(15)) / 21
POINTS = np.array(
    [[1 / 3, 1 / 3]]
    + [[a, a] for a in (_A, _B)]
    + [[1 - 2 * a, a] for a in (_A, _B)]
    + [[a, 1 - 2 * a] for a in (_A, _B)]
)
WEIGHTS = np.array([9 / 80] + 3 * [(155 - np.sqrt(15)) / 2400, (155 + np.sqrt(15)) / 2400])
CORNER_GRADIENTS = np.array([[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]])


@dataclass(frozen=True)
class SaddlePoint:
    """A system of two fields, the second of which has a zero diagonal block.

    Attributes
    ----------
    title : str
    A : csr_array, (n + m, n + m)
        Symmetric.
    sizes : tuple of int
        n and m.
    mass : csr_array, (m, m)
        The mass matrix of the second field.
    """

    title: str
    A: sp.csr_array
    sizes: tuple[int, int]
    mass: sp.csr_array


class TaylorHood:
    """Quadratic velocities, zero on the boundary, and linear pressures, zero at one corner.

    Attributes
    ----------
    size : int
        The number of unknowns: the velocities along x, those along y, and the pressures.
    K : csr_array
        The stiffness matrix of one component of the velocity, grad u . grad v.
    M : csr_array
        Its mass matrix.
    G : csr_array
        -p div v, with a row for each velocity and a column for each pressure.
    Q : csr_array
        The mass matrix of the pressures.
    """

    def __init__(self, n: int) -> None:
        self.n, nodes = n, 2 * n + 1
        x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
        lower = np.stack([(2 * x, 2 * y), (2 * x + 2, 2 * y), (2 * x, 2 * y + 2)])
        upper = np.stack([(2 * x + 2, 2 * y + 2), (2 * x, 2 * y + 2), (2 * x + 2, 2 * y)])
        corners = np.stack([lower, upper], axis=-1).reshape(3, 2, -1).transpose(2, 0, 1)
        middles = (corners[:, [1, 2, 0]] + corners[:, [2, 0, 1]]) // 2  # opposite the corners
        six = np.concatenate([corners, middles], axis=1)
        self.triangles = six[..., 0] * nodes + six[..., 1]
        linear = corners[..., 0] // 2 * (n + 1) + corners[..., 1] // 2
        edges = (corners[:, 1:] - corners[:, :1]) / (2 * n)  # rows are the edges from corner 0
        self.weights = abs(np.linalg.det(edges))[:, None] * WEIGHTS
        values, gradients = _quadratic(POINTS)
        self.values = values
        self.gradients = np.einsum("qbr,tdr->tqbd", gradients, np.linalg.inv(edges))
        hats = _linear(POINTS)
        inner = np.full((nodes, nodes), False)
        inner[1:-1, 1:-1] = True
        self.inner = np.flatnonzero(inner)
        self.nodes = nodes**2
        dots = np.einsum("tq,tqad,tqbd->tab", self.weights, self.gradients, self.gradients)
        self.K = self.velocities(dots)
        self.M = self.velocities(np.einsum("tq,qa,qb->tab", self.weights, values, values))
        pressures = (n + 1) ** 2
        divergences = -np.einsum("tq,tqad,qb->dtab", self.weights, self.gradients, hats)
        parts = [_assembled(part, self.triangles, linear, (self.nodes, pressures))
                 for part in divergences]  # fmt: skip
        self.G_all = sp.vstack(parts, format="csr")[:, 1:]
        self.G = sp.vstack([part[self.inner] for part in parts], format="csr")[:, 1:]
        mass = np.einsum("tq,qa,qb->tab", self.weights, hats, hats)
        self.Q = _assembled(mass, linear, linear, (pressures, pressures))[1:, :][:, 1:]
        self.size = sum(self.G.shape)

    def velocities(self, elements: np.ndarray) -> sp.csr_array:
        """Assemble (t, 6, 6) matrices of elements for the velocities that are not prescribed."""
        A = _assembled(elements, self.triangles, self.triangles, (self.nodes, self.nodes))
        return A[self.inner, :][:, self.inner]

    def stokes(self) -> SaddlePoint:
        """The Stokes equations in a cavity, of unit viscosity."""
        K = sp.block_diag([self.K, self.K], format="csr")
        A = sp.block_array([[K, self.G], [self.G.T, None]], format="csr")
        title = f"Stokes in a cavity, P2-P1 on 2 x {self.n}² triangles"
        return SaddlePoint(title, A, self.G.shape, self.Q)


def darcy(n: int, contrast: float = 1e3, seed: int = 0) -> SaddlePoint:
    """Darcy's equations in mixed form, RT0-P0, with no flux through two of the four sides.

    The permeabilities of the squares are random between 1 and `contrast`, uniform in the logarithm.
    """
    x, y = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    lower = np.stack([(x, y), (x + 1, y), (x, y + 1)])
    upper = np.stack([(x + 1, y + 1), (x, y + 1), (x + 1, y)])
    corners = np.stack([lower, upper], axis=-1).reshape(3, 2, -1).transpose(2, 0, 1)
    node = corners[..., 0] * (n + 1) + corners[..., 1]
    ends = np.sort(np.stack([node[:, [1, 2, 0]], node[:, [2, 0, 1]]], axis=-1), axis=-1)
    edges, number = np.unique(ends.reshape(-1, 2), axis=0, return_inverse=True)
    number = number.reshape(-1, 3)
    sign = np.where(node[:, [1, 2, 0]] < node[:, [2, 0, 1]], 1.0, -1.0)
    permeability = contrast ** np.random.default_rng(seed).random((n, n))
    permeability = np.stack([permeability, permeability], axis=-1).ravel()
    at = corners / n
    middles = (at[:, [1, 2, 0]] + at[:, [2, 0, 1]]) / 2
    area = 0.5 / n**2
    fields = sign[:, :, None, None] * (middles[:, None] - at[:, :, None]) / (2 * area)
    masses = np.einsum("taqd,tbqd->tab", fields, fields) * area / 3 / permeability[:, None, None]
    cells, count = len(node), len(edges)
    M = _assembled(masses, number, number, (count, count))
    divergence = _assembled(-sign[:, None, :], np.arange(cells)[:, None], number, (cells, count))
    vertical = edges % (n + 1)  # y of both ends
    closed = (vertical[:, 0] == vertical[:, 1]) & np.isin(vertical[:, 0], (0, n))
    free = np.flatnonzero(~closed)
    M, divergence = M[free, :][:, free], divergence[:, free]
    A = sp.block_array([[M, divergence.T], [divergence, None]], format="csr")
    title = f"Darcy, RT0-P0 on 2 x {n}² triangles, permeabilities of ratio {contrast:g}"
    mass = sp.eye_array(cells, format="csr") * area
    return SaddlePoint(title, A, (len(free), cells), mass)


# What makes them, and the squares along a side that lead to 10^4 and 10^5 unknowns.
CASES = {"Stokes": (lambda n: TaylorHood(n).stokes(), (33, 105)), "Darcy": (darcy, (45, 141))}


def solvers(system: SaddlePoint) -> dict:
    """The solvers that the benchmark compares."""
    import mfdeq
    from mfdeq.linear import Auto

    stokes = system.title.startswith("Stokes")
    lu, jacobi = mfdeq.Direct(), mfdeq.Jacobi()
    method = "smoothed_aggregation" if stokes else "ruge_stuben"
    inner = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(method), rtol=0.01)
    schur = system.mass if stokes else "selfp"
    parts = {"LU; LU": [lu, lu], "CG + AMG to 0.01; LU": [inner, lu]}
    if not stokes:
        parts = {"Jacobi; LU": [jacobi, lu], "Jacobi; CG + AMG to 0.01": [jacobi, inner]}
    found: dict = {"auto": Auto()}
    for name, both in parts.items():
        M = mfdeq.FieldSplit(system.sizes, both, "upper", schur)
        found[f"GMRES, upper: {name}"] = mfdeq.Krylov(preconditioner=M)
        if inner not in both:
            M = mfdeq.FieldSplit(system.sizes, both, "diagonal", schur)
            found[f"MINRES, diagonal: {name}"] = mfdeq.Krylov("minres", preconditioner=M)
    return found


def _assembled(elements, rows, columns, shape) -> sp.csr_array:
    i = np.broadcast_to(rows[:, :, None], elements.shape).ravel()
    j = np.broadcast_to(columns[:, None, :], elements.shape).ravel()
    return sp.coo_array((elements.ravel(), (i, j)), shape=shape).tocsr()


def _linear(points: np.ndarray) -> np.ndarray:
    x, y = points.T
    return np.stack([1 - x - y, x, y], axis=1)


def _quadratic(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (q, 6) and gradients (q, 6, 2): of the corners, and of the middles opposite."""
    hats = _linear(points)
    one, two = hats[:, [1, 2, 0]], hats[:, [2, 0, 1]]
    g_one, g_two = CORNER_GRADIENTS[[1, 2, 0]], CORNER_GRADIENTS[[2, 0, 1]]
    values = np.concatenate([hats * (2 * hats - 1), 4 * one * two], axis=1)
    gradients = np.concatenate(
        [
            (4 * hats - 1)[:, :, None] * CORNER_GRADIENTS,
            4 * (one[:, :, None] * g_two + two[:, :, None] * g_one),
        ],
        axis=1,
    )
    return values, gradients
