"""The losses of the test cases: values, gradients and Hessian blocks, functions of (h, theta)."""

from __future__ import annotations

from support.case_models import Blocks, Data, linear_operator_of

import mfdeq


class CaseLoss(Data):
    def d_params(self, h, theta):
        return self.xp.zeros_like(theta)

    def blocks(self, h, theta):
        return Blocks()

    def given(self):
        """Return an mfdeq.Loss, without d_params or curvature if they are zero."""
        return mfdeq.Loss(
            self.value,
            d_state=self.d_state,
            d_params=self.d_params if "d_params" in vars(type(self)) else None,
            curvature=(
                (lambda h, theta: mfdeq.Curvature(**self.blocks(h, theta)._asdict()))
                if "blocks" in vars(type(self))
                else None
            ),
        )


class MixedLoss(CaseLoss):
    """|h - d|^2/2 + exp(q'h + p'theta) + theta'G theta/2: every block, reads theta."""

    def value(self, h, theta):
        growth = self.xp.exp(self.q @ h + self.p @ theta)
        return ((h - self.d) @ (h - self.d) + (self.G @ theta) @ theta) / 2 + growth

    def d_state(self, h, theta):
        return h - self.d + self.xp.exp(self.q @ h + self.p @ theta) * self.q

    def d_params(self, h, theta):
        return self.G @ theta + self.xp.exp(self.q @ h + self.p @ theta) * self.p

    def blocks(self, h, theta):
        p, q, growth = self.p, self.q, self.xp.exp(self.q @ h + self.p @ theta)
        return Blocks(
            params_params=self.G + growth * (p[:, None] * p[None, :]),
            state_params=growth * (q[:, None] * p[None, :]),
            state_state=self.xp.eye(h.shape[0], dtype=self.dtype)
            + growth * (q[:, None] * q[None, :]),
        )


class StateLoss(CaseLoss):
    """sum weights (h - d)^2/2 + h^4/4: does not read theta."""

    def value(self, h, theta):
        return (self.weights * (h - self.d) ** 2 / 2 + h**4 / 4).sum()

    def d_state(self, h, theta):
        return self.weights * (h - self.d) + h**3

    def blocks(self, h, theta):
        return Blocks(state_state=self.diagonal(self.weights + 3 * h**2))


class LinearLoss(CaseLoss):
    """c'h: no curvature at all."""

    def value(self, h, theta):
        return self.c @ h

    def d_state(self, h, theta):
        return 1 * self.c


class ProductLoss(CaseLoss):
    """sum w theta h, N = P: reads theta, and only its mixed block is not zero."""

    def value(self, h, theta):
        return (self.w * theta * h).sum()

    def d_state(self, h, theta):
        return self.w * theta

    def d_params(self, h, theta):
        return self.w * h

    def blocks(self, h, theta):
        return Blocks(state_params=self.diagonal(self.w))


class MisfitLoss(CaseLoss):
    """sum weights (O h - data)^2/2 + (theta - mean)' precision (theta - mean)/2.

    Given as the package's LeastSquares + QuadraticPrior, with O an index array, a sparse matrix
    or an operator.
    """

    def value(self, h, theta):
        miss, shift = self.O @ h - self.data, theta - self.mean
        return ((self.weights * miss) @ miss + (self.precision @ shift) @ shift) / 2

    def d_state(self, h, theta):
        return self.O.T @ (self.weights * (self.O @ h - self.data))

    def d_params(self, h, theta):
        return self.precision @ (theta - self.mean)

    def blocks(self, h, theta):
        return Blocks(
            params_params=self.precision,
            state_state=self.O.T @ (self.weights[:, None] * self.O),
        )

    def observe(self):
        return self.sparse.csr_matrix(self.O)

    def given(self):
        misfit = mfdeq.LeastSquares(self.observe(), self.data, weights=self.weights)
        prior = mfdeq.QuadraticPrior(self.sparse.csr_matrix(self.precision), self.mean)
        return misfit + prior


class IndexedMisfit(MisfitLoss):
    def observe(self):
        return self.O.argmax(axis=1)


class OperatorMisfit(MisfitLoss):
    def observe(self):
        return linear_operator_of(self.xp)(
            self.O.shape,
            matvec=lambda x: self.O @ x,
            rmatvec=lambda y: self.O.T @ y,
            dtype=self.dtype,
        )
