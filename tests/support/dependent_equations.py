"""Random nonlinear equations that depend on each other, with the dense truth of their derivatives.

The equations are R = M g(theta, h) with N - m functions g and an (N, N - m) matrix M, so that the
m left null vectors of M are redundant combinations for every state. With m constraints c they are
bordered: F(h, mu) = (R + W mu, c). Everything here is dense, by einsum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

import mfdeq


@dataclass
class Polynomial:
    """k cubic functions of z = (theta, h) that vanish at a point."""

    linear: Any
    quadratic: Any
    cubic: Any
    offset: Any

    @classmethod
    def random(cls, rng: Any, k: int, zero: Any, curved: bool = True) -> Polynomial:
        n = zero.size
        quadratic = 0.1 * curved * rng.standard_normal((k, n, n))
        quadratic = quadratic + quadratic.transpose(0, 2, 1)
        cubic = 0.1 * curved * rng.standard_normal((k, n))
        made = cls(rng.standard_normal((k, n)), quadratic, cubic, np.zeros(k))
        made.offset = -made(zero)
        return made

    def __call__(self, z):
        return (
            self.offset
            + self.linear @ z
            + 0.5 * np.einsum("kij,i,j->k", self.quadratic, z, z)
            + self.cubic @ z**3 / 6.0
        )

    def first(self, z):
        return self.linear + np.einsum("kij,j->ki", self.quadratic, z) + self.cubic * z**2 / 2.0

    def second(self, z):
        return self.quadratic + np.einsum("ki,ij->kij", self.cubic * z, np.eye(z.size))


@dataclass
class DependentEquations:
    """The equations, their constraints, a point that satisfies both, and the dense truth there."""

    is_map: bool
    M: Any
    W: Any
    g: Polynomial
    c: Polynomial
    theta: Any
    state: Any
    form: str = "dense"

    @classmethod
    def random(
        cls, is_map: bool, m: int, N: int = 9, P: int = 4, form: str = "dense", seed: int = 0
    ) -> DependentEquations:
        rng = np.random.default_rng([seed, m, is_map])
        M = rng.standard_normal((N, N - m))
        z = rng.standard_normal(P + N)
        W = scipy.linalg.null_space(M.T)
        g, c = (Polynomial.random(rng, k, z) for k in (N - m, m))
        return cls(is_map, M, W, g, c, z[:P], z[P:], form)

    def in_units(self, rows: Any, columns: Any) -> DependentEquations:
        """Return the same equations multiplied by numbers, for h / columns."""
        P = self.theta.size
        units = np.r_[np.ones(P), columns]
        g, c = (
            Polynomial(
                *(f.linear * units, f.quadratic * units[:, None] * units),
                *(f.cubic * units**3, f.offset),
            )
            for f in (self.g, self.c)
        )
        M, W = rows[:, None] * self.M, self.W / rows[:, None]
        state = self.state / columns
        return DependentEquations(self.is_map, M, W, g, c, self.theta, state, self.form)

    @property
    def sizes(self):
        return self.state.size, self.theta.size, self.W.shape[1]

    def model(self):
        N, P, _ = self.sizes
        base = mfdeq.FixedPointModel if self.is_map else mfdeq.ResidualModel
        equations, sign = self, -1.0 if self.is_map else 1.0

        class Dependent(base):
            state_size, param_size = N, P

            def evaluate(self, h, theta):
                R = equations.M @ equations.g(np.r_[theta, h])
                return h - R if equations.is_map else R

            map = residual = evaluate

            def linearize(self, h, theta):
                z = np.r_[theta, h]
                first = sign * equations.M @ equations.g.first(z)
                second = sign * np.einsum("ik,kab->iab", equations.M, equations.g.second(z))
                J = first[:, P:] + (np.eye(N) if equations.is_map else 0.0)

                def curvature(lam):
                    K = np.einsum("i,iab->ab", lam, second)
                    return mfdeq.Curvature(K[:P, :P], K[P:, :P], K[P:, P:])

                return mfdeq.Linearization(
                    *(equations.formed(x) for x in (J, first[:, :P])),
                    curvature,
                    lambda a, b: np.einsum("iab,a,b->i", second, np.r_[tuple(a)], np.r_[tuple(b)]),
                )

        return Dependent()

    def formed(self, matrix):
        forms = {"dense": np.asarray, "sparse": sp.csr_matrix, "operator": aslinearoperator}
        return forms[self.form](matrix)

    def constraint(self, **changes):
        P = self.theta.size

        def curvature(h, theta, nu):
            K = np.einsum("k,kab->ab", nu, self.c.second(np.r_[theta, h]))
            return mfdeq.Curvature(K[:P, :P], K[P:, :P], K[P:, P:])

        parts = {
            "value": lambda h, theta: self.c(np.r_[theta, h]),
            "d_state": lambda h, theta: self.c.first(np.r_[theta, h])[:, P:],
            "d_params": lambda h, theta: self.c.first(np.r_[theta, h])[:, :P],
            "curvature": curvature,
        }
        return mfdeq.Constraint(**{**parts, **changes})

    def constrained(self, redundant="detect", **changes):
        return mfdeq.constrain(self.model(), self.constraint(**changes), redundant)

    def solve(self, redundant="detect", **options):
        start = 1.01 * self.state
        return mfdeq.solve(self.constrained(redundant), self.theta, start, **options)

    # The dense truth, of R = h - f for a map.

    def truth(self, loss) -> Truth:
        N, P, m = self.sizes
        z = np.r_[self.theta, self.state]
        R1 = self.M @ self.g.first(z)
        R2 = np.einsum("ik,kab->iab", self.M, self.g.second(z))
        c1, c2 = self.c.first(z), self.c.second(z)
        bordered = np.block([[R1[:, P:], self.W], [c1[:, P:], np.zeros((m, m))]])
        inverse = np.linalg.inv(bordered)
        second = np.concatenate([R2, c2])
        Z = -inverse @ np.r_[R1[:, :P], c1[:, :P]]
        T = np.r_[np.eye(P), Z[:N]]
        gradient, K = loss
        adjoint = inverse.T @ np.r_[gradient[P:], np.zeros(m)]
        dynamics = -np.einsum("i,iab->ab", adjoint, second)
        mu = inverse.T[:, :N]
        return Truth(
            A=R1[:, P:],
            B=-R1[:, :P],
            inverse=inverse[:N, :N],
            Z=Z[:N],
            gradient=T.T @ gradient,
            gauss_newton=T.T @ K @ T,
            hessian=T.T @ (K + dynamics) @ T,
            second=-np.einsum("ni,iab,ap,bq->npq", inverse[:N], second, T, T),
            components=-np.einsum("ij,iab,ap,bq->jpq", mu, second, T, T),
            f2=-np.einsum("iab,ap,bq->ipq", R2, T, T),
            curvature=-R2,
        )


@dataclass
class Truth:
    A: Any
    B: Any
    inverse: Any
    Z: Any
    gradient: Any
    gauss_newton: Any
    hessian: Any
    second: Any
    components: Any
    f2: Any
    curvature: Any


def random_loss(N: int, P: int, z, seed: int = 5):
    """Return a quadratic loss of (theta, h) with its gradient and Hessian at z."""
    rng = np.random.default_rng(seed)
    K = rng.standard_normal((P + N, P + N))
    K, b = K + K.T, rng.standard_normal(P + N)

    def grad(h, theta):
        return K @ np.r_[theta, h] + b

    loss = mfdeq.Loss(
        value=lambda h, theta: float(
            0.5 * np.r_[theta, h] @ K @ np.r_[theta, h] + b @ np.r_[theta, h]
        ),
        d_state=lambda h, theta: grad(h, theta)[P:],
        d_params=lambda h, theta: grad(h, theta)[:P],
        curvature=lambda h, theta: mfdeq.Curvature(K[:P, :P], K[P:, :P], K[P:, P:]),
    )
    return loss, (K @ z + b, K)


def check_every_operator(equations, redundant):
    """Compare all operators of the equilibrium with the dense bordered system."""
    N, P, m = equations.sizes
    eq = equations.solve(redundant)
    loss, at_point = random_loss(N, P, np.r_[equations.theta, equations.state])
    truth = equations.truth(at_point)

    def agree(found, expected, rtol=1e-8):
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * abs(expected).max())

    agree(eq.state, equations.state)
    agree(eq.state_operator.toarray(), truth.A)
    agree(eq.param_operator.toarray(), truth.B)
    for A in (eq.linearized.A, eq.linearized.A.H):
        if eq.linearized.A.array is not None:  # otherwise the sizes of terms are estimated
            agree(A.abs_apply(truth.A[0]), abs(A.toarray()) @ abs(truth.A[0]))
    agree(eq.inverse.toarray(), truth.inverse)
    agree(eq.inverse.H.toarray(), truth.inverse.T)
    agree(eq.sensitivity.toarray(), truth.Z)
    agree(eq.sensitivity.H.toarray(), truth.Z.T)
    agree(eq.tangent.toarray(), np.r_[np.eye(P), truth.Z])
    agree(eq.gradient(loss), truth.gradient)
    H = eq.hessian(loss)
    agree(H.toarray(), truth.hessian)
    agree(H.gauss_newton.toarray(), truth.gauss_newton)
    agree(sum(term @ np.eye(P) for term in H.terms.values()), truth.hessian)
    u, v = np.random.default_rng(1).standard_normal((2, P))
    agree(eq.second_order(u, v), truth.second @ v @ u)
    agree(eq.second_order_slice(v).toarray(), truth.second @ v)
    agree(eq.total_curvature(u, v), truth.f2 @ v @ u)
    agree(eq.component_hessian(N - 1).toarray(), truth.second[N - 1])
    w = np.random.default_rng(2).standard_normal(N)
    agree(eq.component_hessian(w).toarray(), np.einsum("n,npq->pq", w, truth.second))
    agree(eq.curvature(w).toarray(), np.einsum("i,iab->ab", w, truth.curvature))
    assert eq.multipliers.shape == eq.imbalance.shape == (m,)
    assert abs(eq.multipliers).max() < 1e-9
    assert abs(eq.imbalance).max() < 1e-9
