"""Every quantity of the mathematics as a dense float64 array: the truth of the test cases.

Written from the formulas with loops and einsum and without the package, so that an operator and its
truth cannot share a mistake. Index letters: i a component of f, j and m state
components, k and n parameter components.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from support.case_models import Blocks


@dataclass(frozen=True)
class MapData:
    """Derivatives of the map f at the equilibrium: of f = h - R where a residual R was given.

    J (N, N), B (N, P), f_hh[i, j, m] (N, N, N), f_ht[i, j, n] = d2f_i/dh_j dtheta_n (N, N, P),
    f_tt[i, k, n] (N, P, P).
    """

    J: np.ndarray
    B: np.ndarray
    f_hh: np.ndarray
    f_ht: np.ndarray
    f_tt: np.ndarray


@dataclass(frozen=True)
class LossData:
    """The loss and its derivatives: L_h (N,), L_t (P,), L_hh (N, N), L_ht (N, P), L_tt (P, P)."""

    value: float
    L_h: np.ndarray
    L_t: np.ndarray
    L_hh: np.ndarray
    L_ht: np.ndarray
    L_tt: np.ndarray


class DenseTruth:
    """The dense matrix of each operator, for one equilibrium (state, params)."""

    def __init__(self, state, params, f: MapData, loss: LossData):
        self.state, self.params, self.f, self.loss = state, params, f, loss
        self.N, self.P = f.B.shape

    # first order

    @cached_property
    def A(self):
        return np.eye(self.N) - self.f.J

    @cached_property
    def A_inverse(self):
        return np.linalg.inv(self.A)

    @cached_property
    def B(self):
        return self.f.B

    @cached_property
    def Z(self):
        return np.linalg.solve(self.A, self.f.B)

    @cached_property
    def T(self):
        return np.vstack([np.eye(self.P), self.Z])

    @cached_property
    def adjoint_state(self):
        return np.linalg.solve(self.A.T, self.loss.L_h)

    @cached_property
    def gradient(self):
        return self.loss.L_t + self.Z.T @ self.loss.L_h

    @cached_property
    def condition(self):
        """The 2-norm condition number of A."""
        return float(np.linalg.cond(self.A))

    # second order of the state

    @cached_property
    def total_curvature_tensor(self):
        """f''[(e_k, Z e_k), (e_n, Z e_n)] for each component, (N, P, P)."""
        Z, f, tensor = self.Z, self.f, np.empty((self.N, self.P, self.P))
        for i, k, n in np.ndindex(tensor.shape):
            tensor[i, k, n] = (
                f.f_tt[i, k, n]
                + f.f_ht[i, :, n] @ Z[:, k]
                + f.f_ht[i, :, k] @ Z[:, n]
                + Z[:, k] @ f.f_hh[i] @ Z[:, n]
            )
        return tensor

    @cached_property
    def second_order_tensor(self):
        """h''_rkn, (N, P, P)."""
        return np.einsum("ri,ikn->rkn", self.A_inverse, self.total_curvature_tensor)

    def total_curvature(self, u, v):
        return np.einsum("ikn,k,n->i", self.total_curvature_tensor, u, v)

    def second_order(self, u, v):
        return np.einsum("rkn,k,n->r", self.second_order_tensor, u, v)

    def second_order_slice(self, v):
        """Return the matrix of u -> h''[u, v], (N, P)."""
        return np.einsum("rkn,n->rk", self.second_order_tensor, v)

    def component_hessian(self, w):
        """Return the Hessian of w'h* (of h*_w for an integer w), (P, P)."""
        if isinstance(w, int):
            return self.second_order_tensor[w]
        return np.einsum("r,rkn->kn", w, self.second_order_tensor)

    # the Hessian of w'f and of the Lagrangian

    def curvature_blocks(self, w):
        """Return the blocks params_params, state_params and state_state of the Hessian of w'f."""
        return tuple(np.tensordot(w, t, 1) for t in (self.f.f_tt, self.f.f_ht, self.f.f_hh))

    def curvature(self, w):
        return stacked(*self.curvature_blocks(w))

    @cached_property
    def K(self):
        """The Hessian of the Lagrangian, (P+N, P+N)."""
        loss = stacked(self.loss.L_tt, self.loss.L_ht, self.loss.L_hh)
        return loss + self.curvature(self.adjoint_state)

    @cached_property
    def H(self):
        """d2L/dtheta2 by the chain rule on L(h*(theta), theta), without the adjoint state."""
        Z, L = self.Z, self.loss
        mixed = L.L_ht.T @ Z
        return (
            Z.T @ L.L_hh @ Z
            + mixed
            + mixed.T
            + L.L_tt
            + np.einsum("r,rkn->kn", L.L_h, self.second_order_tensor)
        )

    @cached_property
    def terms(self):
        """The terms of H, keyed as H.terms, (P, P) each."""
        Z, L = self.Z, self.loss
        pp, sp, ss = self.curvature_blocks(self.adjoint_state)
        return {
            "loss_state": Z.T @ L.L_hh @ Z,
            "loss_mixed": L.L_ht.T @ Z,
            "loss_mixed_adjoint": Z.T @ L.L_ht,
            "loss_params": L.L_tt,
            "dynamics_params": pp,
            "dynamics_mixed": sp.T @ Z,
            "dynamics_mixed_adjoint": Z.T @ sp,
            "dynamics_state": Z.T @ ss @ Z,
        }

    @cached_property
    def gauss_newton(self):
        return sum(term for name, term in self.terms.items() if name.startswith("loss"))

    @cached_property
    def dynamics(self):
        return np.tensordot(self.adjoint_state, self.total_curvature_tensor, 1)


def stacked(params_params, state_params, state_state):
    """Return the symmetric matrix of three blocks in the order (theta, h)."""
    return np.block([[params_params, state_params.T], [state_params, state_state]])


def dense(matrix):
    return matrix.toarray() if hasattr(matrix, "toarray") else matrix


def dense_blocks(blocks, model):
    """Return the dense blocks of a Hessian over (theta, h), with zeros for None."""
    N, P, zeros = model.state_size, model.param_size, model.xp.zeros
    shapes = (P, P), (N, P), (N, N)
    return Blocks(
        *(
            zeros(s, model.dtype) if b is None else dense(b)
            for b, s in zip(blocks, shapes, strict=True)
        )
    )


def derivatives(model, h, theta):
    """Return dense first derivatives and third-order tensors of the model's map or residual."""
    fields = model.fields(h, theta)
    rows = [dense_blocks(fields.curvature(row), model) for row in np.eye(h.size)]
    tt, ht, hh = (np.stack(block) for block in zip(*rows, strict=True))
    return MapData(dense(fields.d_state), dense(fields.d_params), hh, ht, tt)


def map_data(model, h, theta):
    """Return the derivatives of f, which for a residual model is h - R."""
    d = derivatives(model, h, theta)
    if hasattr(model, "map"):
        return d
    return MapData(np.eye(h.size) - d.J, -d.B, -d.f_hh, -d.f_ht, -d.f_tt)


def loss_data(loss, model, h, theta):
    tt, ht, hh = dense_blocks(loss.blocks(h, theta), model)
    slopes = loss.d_state(h, theta), loss.d_params(h, theta)
    return LossData(float(loss.value(h, theta)), *slopes, hh, ht, tt)


def written_residual(model, h, theta):
    """Return R(h, theta) or h - f(h, theta) from the model's function alone."""
    if hasattr(model, "map"):
        return h - model.map(h, theta)
    return model.residual(h, theta)


def dense_newton(model, theta, h):
    """Solve for the state by dense Newton steps to rounding; h and theta may be complex."""
    last = np.inf
    for _ in range(60):
        r, J = written_residual(model, h, theta), dense(model.fields(h, theta).d_state)
        step = np.linalg.solve(np.eye(h.size) - J if hasattr(model, "map") else J, r)
        h, size = h - step, np.linalg.norm(step)
        if size <= 1e-9 * np.linalg.norm(h) and size >= last / 2:
            return h
        last = size
    raise AssertionError(f"{type(model).__name__}: no equilibrium for the truth")


def truth_of(model, loss, theta, h0):
    """Return the dense truth from the float64 twins, whose data are exactly those of the model."""
    model, loss = model.twin(), loss.twin()
    start = np.zeros(model.state_size) if h0 is None else h0
    h = dense_newton(model, theta, start)
    return DenseTruth(h, theta, map_data(model, h, theta), loss_data(loss, model, h, theta))
