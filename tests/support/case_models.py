"""The models of the test cases, with every derivative written by hand.

A model stores its data in one array namespace and dtype and computes in them, so the same class
serves numpy in either precision, cupy, and (as its own float64 twin, with complex arguments) the
truth. ``fields`` returns the derivatives as plain arrays and sparse matrices; ``linearize`` returns
them as a user would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import mfdeq


class Blocks(NamedTuple):
    """Blocks (P, P), (N, P), (N, N) of a Hessian over (theta, h); None is a zero block."""

    params_params: Any = None
    state_params: Any = None
    state_state: Any = None


class Fields(NamedTuple):
    """Derivatives of a map or residual: d_state (N, N), d_params (N, P), Hessian and f''[a, b]."""

    d_state: Any
    d_params: Any
    curvature: Callable[[Any], Blocks]
    second: Callable[[Any, Any], Any] | None


def sparse_of(xp):
    """Return the sparse package of an array namespace."""
    if "cupy" in xp.__name__:
        import cupyx.scipy.sparse as package
    else:
        import scipy.sparse as package
    return package


def linear_operator_of(xp):
    """Return the LinearOperator class of an array namespace."""
    if "cupy" in xp.__name__:
        from cupyx.scipy.sparse.linalg import LinearOperator
    else:
        from scipy.sparse.linalg import LinearOperator
    return LinearOperator


class Data:
    """The arrays of a model or loss in one namespace and dtype."""

    sparse_data: tuple[str, ...] = ()

    def __init__(self, xp=np, dtype=np.float64, **data):
        self.xp, self.dtype, self.source = xp, np.dtype(dtype), data
        self.sparse = sparse_of(xp)
        for name, value in data.items():
            value = np.asarray(value)
            array = xp.asarray(value, dtype=self.dtype if value.dtype.kind == "f" else None)
            is_sparse = name in self.sparse_data
            setattr(self, name, self.sparse.csr_matrix(array) if is_sparse else array)
        self.sizes()

    def sizes(self):
        """Set state_size and param_size of a model."""

    def twin(self):
        """Return the same object in numpy float64, with data rounded to the dtype of this one."""
        rounded = {
            name: np.asarray(v).astype(self.dtype).astype(float) if np.asarray(v).dtype.kind == "f"
            else v
            for name, v in self.source.items()
        }  # fmt: skip
        return type(self)(np, np.float64, **rounded)

    def diagonal(self, values):
        return self.sparse.diags(values).tocsr()

    def linearize(self, h, theta):
        fields = self.fields(h, theta)
        return mfdeq.Linearization(
            d_state=fields.d_state,
            d_params=fields.d_params,
            curvature=lambda lam: mfdeq.Curvature(**fields.curvature(lam)._asdict()),
            second=fields.second,
        )


class Cosine(Data, mfdeq.FixedPointModel):
    """h = cos h + theta."""

    state_size = param_size = 1

    def map(self, h, theta):
        return self.xp.cos(h) + theta

    def fields(self, h, theta):
        sin, cos = self.xp.sin(h), self.xp.cos(h)
        return Fields(
            d_state=-sin[:, None],
            d_params=self.xp.ones((1, 1), dtype=self.dtype),
            curvature=lambda lam: Blocks(state_state=(-lam * cos)[:, None]),
            second=lambda a, b: -cos * a[1] * b[1],
        )


class Affine(Data, mfdeq.FixedPointModel):
    """h = M h + C theta + c."""

    def sizes(self):
        self.state_size, self.param_size = self.C.shape

    def map(self, h, theta):
        return self.M @ h + self.C @ theta + self.c

    def fields(self, h, theta):
        return Fields(
            d_state=self.M,
            d_params=self.C,
            curvature=lambda lam: Blocks(),
            second=lambda a, b: self.xp.zeros_like(self.c),
        )


class Smooth(Data, mfdeq.FixedPointModel):
    """h = tanh(W h + U theta + b) + Q[h, h]/2 + E[h, theta] + G[theta, theta]/2, all dense."""

    def sizes(self):
        self.state_size, self.param_size = self.U.shape

    def map(self, h, theta):
        quadratic = (self.Q @ h) @ h / 2 + (self.E @ theta) @ h + (self.G @ theta) @ theta / 2
        return self.xp.tanh(self.W @ h + self.U @ theta + self.b) + quadratic

    def fields(self, h, theta):
        s = self.xp.tanh(self.W @ h + self.U @ theta + self.b)
        first, second = 1 - s**2, -2 * s * (1 - s**2)
        W, U, Q, E, G = self.W, self.U, self.Q, self.E, self.G
        einsum = self.xp.einsum

        def curvature(lam):
            c = (lam * second)[:, None]
            return Blocks(
                params_params=U.T @ (c * U) + einsum("i,ikl->kl", lam, G),
                state_params=W.T @ (c * U) + einsum("i,ijl->jl", lam, E),
                state_state=W.T @ (c * W) + einsum("i,ijm->jm", lam, Q),
            )

        def second_derivative(a, b):
            (at, ah), (bt, bh) = a, b
            outer = second * (W @ ah + U @ at) * (W @ bh + U @ bt)
            return outer + (Q @ ah) @ bh + (E @ bt) @ ah + (E @ at) @ bh + (G @ at) @ bt

        return Fields(
            d_state=first[:, None] * W + Q @ h + E @ theta,
            d_params=first[:, None] * U + einsum("ijl,j->il", E, h) + G @ theta,
            curvature=curvature,
            second=second_derivative,
        )


class Stiff(Data, mfdeq.ResidualModel):
    """R = S h + h^3 + exp(E theta) (V h) + (C theta) exp(h) - s, products elementwise."""

    def sizes(self):
        self.state_size, self.param_size = self.E.shape

    def residual(self, h, theta):
        xp = self.xp
        sources = xp.exp(self.E @ theta) * (self.V @ h) + (self.C @ theta) * xp.exp(h)
        return self.S @ h + h**3 + sources - self.s

    def fields(self, h, theta):
        xp, S, V, E, C = self.xp, self.S, self.V, self.E, self.C
        rate, transport, drive, growth = xp.exp(E @ theta), V @ h, C @ theta, xp.exp(h)

        def curvature(lam):
            return Blocks(
                params_params=E.T @ ((lam * rate * transport)[:, None] * E),
                state_params=V.T @ ((lam * rate)[:, None] * E) + (lam * growth)[:, None] * C,
                state_state=xp.diag(lam * (6 * h + drive * growth)),
            )

        def second(a, b):
            (at, ah), (bt, bh) = a, b
            mixed = rate * ((V @ ah) * (E @ bt) + (V @ bh) * (E @ at))
            mixed += growth * (ah * (C @ bt) + bh * (C @ at))
            return (
                rate * transport * (E @ at) * (E @ bt) + mixed + (6 * h + drive * growth) * ah * bh
            )

        return Fields(
            d_state=S + xp.diag(3 * h**2 + drive * growth) + rate[:, None] * V,
            d_params=(rate * transport)[:, None] * E + growth[:, None] * C,
            curvature=curvature,
            second=second,
        )


class Chandrasekhar(Data, mfdeq.FixedPointModel):
    """H_i = 1 + H_i mu_i sum_j w_j psi_j H_j / (mu_i + mu_j), theta = psi, N = P."""

    def sizes(self):
        self.state_size = self.param_size = self.mu.shape[0]
        self.kernel = self.mu[:, None] * self.w[None, :] / (self.mu[:, None] + self.mu[None, :])

    def initial_state(self, theta):
        return self.xp.ones_like(theta)

    def map(self, h, theta):
        return 1 + h * (self.kernel @ (theta * h))

    def fields(self, h, theta):
        k, diag = self.kernel, self.xp.diag

        def curvature(lam):
            weighted = lam[:, None] * k
            in_state = weighted * theta[None, :]
            return Blocks(
                state_params=weighted * h[None, :] + diag(weighted.T @ h),
                state_state=in_state + in_state.T,
            )

        def second(a, b):
            (at, ah), (bt, bh) = a, b
            inner = ah * (k @ (bt * h + theta * bh)) + bh * (k @ (at * h + theta * ah))
            return inner + h * (k @ (at * bh + bt * ah))

        return Fields(
            d_state=diag(k @ (theta * h)) + h[:, None] * k * theta[None, :],
            d_params=h[:, None] * k * h[None, :],
            curvature=curvature,
            second=second,
        )


class Diffusion(Data, mfdeq.ResidualModel):
    """R = D' exp(E theta) D h - s, D the differences across faces: A symmetric, R linear in h."""

    sparse_data = ("D", "E")

    def sizes(self):
        self.state_size, self.param_size = self.D.shape[1], self.E.shape[1]

    def residual(self, h, theta):
        return self.D.T @ (self.xp.exp(self.E @ theta) * (self.D @ h)) - self.s

    def fields(self, h, theta):
        D, E, diagonal = self.D, self.E, self.diagonal
        flow = self.xp.exp(E @ theta)
        slope = D @ h

        def second(a, b):
            (at, ah), (bt, bh) = a, b
            Ea, Eb = E @ at, E @ bt
            return D.T @ (flow * (slope * Ea * Eb + (D @ ah) * Eb + (D @ bh) * Ea))

        return Fields(
            d_state=D.T @ diagonal(flow) @ D,
            d_params=D.T @ diagonal(flow * slope) @ E,
            curvature=lambda lam: Blocks(
                params_params=E.T @ diagonal(flow * slope * (D @ lam)) @ E,
                state_params=D.T @ diagonal(flow * (D @ lam)) @ E,
            ),
            second=second,
        )


class Bratu(Data, mfdeq.ResidualModel):
    """R = laplacian u - (spread theta) exp(u), for minus a Laplace matrix, sparse."""

    sparse_data = ("laplacian", "spread")

    def sizes(self):
        self.state_size, self.param_size = self.spread.shape

    def residual(self, h, theta):
        return self.laplacian @ h - (self.spread @ theta) * self.xp.exp(h)

    def scaled(self, values, matrix):
        return self.diagonal(values) @ matrix

    def fields(self, h, theta):
        source, heat = self.spread @ theta, self.xp.exp(h)

        def second(a, b):
            (at, ah), (bt, bh) = a, b
            mixed = ah * (self.spread @ bt) + bh * (self.spread @ at)
            return -heat * (mixed + source * ah * bh)

        return Fields(
            d_state=self.laplacian - self.diagonal(source * heat),
            d_params=self.scaled(-heat, self.spread),
            curvature=lambda lam: Blocks(
                state_params=self.scaled(-lam * heat, self.spread),
                state_state=self.diagonal(-lam * source * heat),
            ),
            second=second,
        )


class SpectralBratu(Bratu):
    """Bratu with dense matrices: Chebyshev collocation, A not symmetric."""

    sparse_data = ()

    def diagonal(self, values):
        return self.xp.diag(values)

    def scaled(self, values, matrix):
        return values[:, None] * matrix
