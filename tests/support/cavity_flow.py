"""A driven cavity with obstacles: the Navier-Stokes-Brinkman equations by Taylor-Hood elements."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from benchmarks.saddle_points import TaylorHood

import mfdeq


class CavityFlow(mfdeq.ResidualModel):
    """-nu Δu + (u . grad) u + exp(theta) u + grad p = 0 and div u = 0, under a moving lid.

    The parameters are logarithms of the resistances of the four quarters of the unit square.

    Attributes
    ----------
    fields : dict
        The sizes of the velocity and of the pressure.
    mass : csr_array
        The mass matrix of the pressure.
    """

    param_size = 4

    def __init__(self, n=4, viscosity=0.02):
        space = self.space = TaylorHood(n)
        self.viscosity, self.mass = viscosity, space.Q
        self.state_size = space.size
        self.velocities = len(space.inner)
        self.fields = {"velocity": space.G.shape[0], "pressure": space.G.shape[1]}
        nodes = 2 * n + 1
        x, y = np.meshgrid(np.arange(nodes) / (2 * n), np.arange(nodes) / (2 * n), indexing="ij")
        lid = np.where(y == 1.0, 16 * x**2 * (1 - x) ** 2, 0.0).ravel()
        self.boundary = np.stack([lid, 0 * lid])
        x, y = (coordinate.ravel()[space.triangles].mean(axis=1) for coordinate in (x, y))
        quarter = 2 * (x > 0.5) + (y > 0.5)
        values, weights = space.values, space.weights
        masses = np.einsum("tq,qa,qb->tab", weights, values, values)
        self.resistances = [masses * (quarter == k)[:, None, None] for k in range(4)]
        dots = np.einsum("tq,tqad,tqbd->tab", weights, space.gradients, space.gradients)
        self.stiffness = viscosity * dots

    def initial_state(self, theta):
        return np.zeros(self.state_size, theta.dtype)

    def _all(self, h):
        """Velocities (2, nodes), with those on the boundary."""
        u = self.boundary.astype(h.dtype)
        u[:, self.space.inner] = h[: 2 * self.velocities].reshape(2, -1)
        return u

    def _without_boundary(self, elements):
        """Sum (2, t, 6) contributions of elements to the equations of inner nodes."""
        total = np.zeros((2, self.space.nodes))
        for part, row in zip(elements, total, strict=True):
            np.add.at(row, self.space.triangles, part)
        return total[:, self.space.inner].ravel()

    def _linear(self, theta):
        return self.stiffness + sum(
            np.exp(t) * M for t, M in zip(theta, self.resistances, strict=True)
        )

    def residual(self, h, theta):
        space, p = self.space, h[2 * self.velocities :]
        u = self._all(h)[:, space.triangles]
        speed = np.einsum("qa,dta->tqd", space.values, u)
        slope = np.einsum("tqad,ita->itqd", space.gradients, u)
        carried = np.einsum("tq,qa,tqd,itqd->ita", space.weights, space.values, speed, slope)
        forces = self._without_boundary(carried + np.einsum("tab,itb->ita", self._linear(theta), u))
        flow = self._all(h).ravel()
        return np.concatenate([forces + space.G @ p, space.G_all.T @ flow]).astype(h.dtype)

    def _convection(self, first, second):
        """Matrices of the terms that (first . grad) second is linear in, as 2 x 2 blocks."""
        space = self.space
        carry = np.einsum(
            "tq,qa,tqd,tqbd->tab", space.weights, space.values, first, space.gradients
        )
        mixed = np.einsum("tq,qa,qb,itqj->ijtab", space.weights, space.values, space.values, second)
        return [[mixed[i, j] + (i == j) * carry for j in range(2)] for i in range(2)]

    def linearize(self, h, theta):
        space = self.space
        u = self._all(h)[:, space.triangles]
        speed = np.einsum("qa,dta->tqd", space.values, u)
        slope = np.einsum("tqad,ita->itqd", space.gradients, u)
        blocks, linear = self._convection(speed, slope), self._linear(theta)
        F = sp.block_array(
            [
                [space.velocities(blocks[i][j] + (i == j) * linear) for j in range(2)]
                for i in range(2)
            ]
        )
        drags = [
            np.exp(t) * self._without_boundary(np.einsum("tab,itb->ita", M, u))
            for t, M in zip(theta, self.resistances, strict=True)
        ]
        d_params = np.concatenate([np.stack(drags, axis=1), np.zeros((space.G.shape[1], 4))])
        return mfdeq.Linearization(
            d_state=sp.block_array([[F, space.G], [space.G.T, None]], format="csr").astype(h.dtype),
            d_params=d_params.astype(h.dtype),
            curvature=lambda lam: self._curvature(h, theta, lam),
        )

    def _curvature(self, h, theta, lam):
        space = self.space
        lam_all = np.zeros_like(self._all(h))
        lam_all[:, space.inner] = lam[: 2 * self.velocities].reshape(2, -1)
        lam_t = lam_all[:, space.triangles]
        weight = np.einsum("qa,ita->itq", space.values, lam_t)
        # lam_i u_j d_j u_i: u_j of node a, and u_i of node b.
        elements = np.einsum(
            "tq,itq,qa,tqbj->jitab", space.weights, weight, space.values, space.gradients
        )
        C = sp.block_array([[space.velocities(elements[j, i]) for i in range(2)] for j in range(2)])
        pressures = space.G.shape[1]
        state_state = sp.block_diag([C + C.T, sp.csr_array((pressures, pressures))], format="csr")
        drags = [
            np.exp(t) * self._without_boundary(np.einsum("tab,itb->ita", M, lam_t))
            for t, M in zip(theta, self.resistances, strict=True)
        ]
        state_params = np.concatenate([np.stack(drags, axis=1), np.zeros((pressures, 4))])
        u = self._all(h)[:, space.triangles]
        twice = [
            np.exp(t) * np.einsum("ita,tab,itb->", lam_t, M, u)
            for t, M in zip(theta, self.resistances, strict=True)
        ]
        return mfdeq.Curvature(
            params_params=np.diag(twice).astype(h.dtype),
            state_params=state_params.astype(h.dtype),
            state_state=state_state.astype(h.dtype),
        )

    def loss(self):
        """Half the squared speeds at every seventh velocity."""
        seen = np.arange(0, 2 * self.velocities, 7)
        return mfdeq.LeastSquares(seen, np.zeros(seen.size))
