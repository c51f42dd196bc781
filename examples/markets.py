"""Random-coefficient logit demand in many markets: exact derivatives of the GMM objective.

In each market the observed market shares determine the mean utilities of its products, as the fixed
point of Berry's contraction (Berry, Levinsohn and Pakes, 1995):

    δ = δ + log s_observed − log s(δ, σ)

The standard deviations σ of the consumers' tastes are the same in all markets: a sum of
functionals. The objective of the generalized method of moments is not a sum over markets, but

    ½ m' W m = max over η of η' m − ½ η' W⁻¹ η,   m = Σ_t Z_t' (δ_t − X_t β) / n,

is the extremum over (β, η) of one. The Hessian in σ is then a Schur complement of the Hessian of
the sum in (σ, β, η), exact, with the second derivatives of all 50 equilibria in it. Standard errors
follow by the sandwich formula from the sensitivities of the equilibria.

What identifies σ are instruments that say how close a product's rivals are: sums over them of
squares and products of differences in quality and in expected price, the price that costs and
quality explain (Gandhi and Houde, 2019). Where prices differ little, or rivals are everywhere the
same, the standard errors say so.

    python examples/markets.py                # 50 markets of up to 24 products, a minute
    python examples/markets.py --size small   # 24 markets of up to 12 products, seconds
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.optimize
from matplotlib import pyplot as plt

import mfdeq

TASTES = ("constant", "quality", "price")
SIGMA = np.array([1.0, 2.0, 1.0])  # of the simulated consumers
BETA = np.array([1.0, 1.0, -2.0])  # mean tastes
START = np.array([0.6, 0.6, 0.6])
SIGNS = np.array(list(itertools.product((1.0, -1.0), repeat=3)))
NEAR = 0.5  # difference of expected prices up to which products are close rivals


class Size(NamedTuple):
    """Markets, products in each, and consumers that are drawn for each."""

    markets: int
    products: int
    consumers: int


SIZES = {"small": Size(24, 12, 48), "full": Size(50, 24, 200)}


# --- demand in one market ------------------------------------------------------------------------


class Market(mfdeq.FixedPointModel):
    """Mean utilities δ of a market's products, from their shares.

    The parameters are (σ, β, η), of which the equilibrium depends on σ only.

    Parameters
    ----------
    X : (J, 3) array
        Characteristics: a constant, quality and price.
    draws : (R, 3) array
        Standard normal tastes of the consumers.
    shares : (J,) array
        Observed shares. The rest is the share of the outside good.
    param_size : int
    """

    def __init__(self, X: np.ndarray, draws: np.ndarray, shares: np.ndarray, param_size: int):
        self.X, self.draws, self.log_shares = X, draws, np.log(shares)
        self.state_size, self.param_size = len(X), param_size
        self.V = draws[:, None, :] * X[None]  # utilities by σ, (R, J, 3)

    def choices(self, delta: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Return the probabilities of each consumer's choices, (R, J)."""
        u = delta + self.V @ sigma
        top = np.maximum(u.max(axis=1, keepdims=True), 0.0)
        e = np.exp(u - top)
        return e / (np.exp(-top) + e.sum(axis=1, keepdims=True))

    def initial_state(self, theta):
        """Return the mean utilities of the logit without random tastes."""
        return self.log_shares - np.log1p(-np.exp(self.log_shares).sum())

    def map(self, delta, theta):
        """Take one step of Berry's contraction."""
        return delta + self.log_shares - np.log(self.choices(delta, theta[:3]).mean(axis=0))

    def linearize(self, delta, theta) -> mfdeq.Linearization:
        """Differentiate log s by (σ, δ), of which utilities are linear functions."""
        J, P = self.state_size, self.param_size
        s = self.choices(delta, theta[:3])
        p = s / s.sum(axis=0)  # consumers of a product, (R, J)
        U = np.concatenate([self.V, np.broadcast_to(np.eye(J), (*s.shape, J))], axis=2)
        mean = np.einsum("rj,rjd->rd", s, U)  # with utility zero of the outside good
        E = U - mean[:, None, :]  # of log probabilities, (R, J, 3 + J)
        D = np.einsum("rj,rjd->jd", p, E)  # of log shares, (J, 3 + J)
        d_params = np.zeros((J, P))
        d_params[:, :3] = -D[:, :3]

        def curvature(lam) -> mfdeq.Curvature:
            weights = p * lam
            total = weights.sum(axis=1, keepdims=True)
            T = np.einsum("rj,rjd,rje->de", weights - total * s, E, E, optimize=True)
            outside = total[:, 0] * (1.0 - s.sum(axis=1))
            T -= (mean.T * outside) @ mean + (D.T * lam) @ D
            pp, sp = np.zeros((P, P)), np.zeros((J, P))
            pp[:3, :3], sp[:, :3] = -T[:3, :3], -T[3:, :3]
            return mfdeq.Curvature(params_params=pp, state_params=sp, state_state=-T[3:, 3:])

        return mfdeq.Linearization(np.eye(J) - D[:, 3:], d_params, curvature)


def moments_of(X: np.ndarray, Z: np.ndarray) -> mfdeq.Loss:
    """Return the loss η' Z' (δ − X β) of one market."""
    K, L = X.shape[1], Z.shape[1]
    beta, eta = slice(3, 3 + K), slice(3 + K, 3 + K + L)

    def d_params(delta, theta):
        out = np.zeros_like(theta)
        out[beta] = -X.T @ (Z @ theta[eta])
        out[eta] = Z.T @ (delta - X @ theta[beta])
        return out

    def curvature(delta, theta):
        pp, sp = np.zeros((theta.size, theta.size)), np.zeros((delta.size, theta.size))
        pp[beta, eta] = -X.T @ Z
        pp[eta, beta] = -Z.T @ X
        sp[:, eta] = Z
        return mfdeq.Curvature(params_params=pp, state_params=sp)

    return mfdeq.Loss(
        lambda delta, theta: float(theta[eta] @ (Z.T @ (delta - X @ theta[beta]))),
        d_state=lambda delta, theta: Z @ theta[eta],
        d_params=d_params,
        curvature=curvature,
    )


# --- the data ------------------------------------------------------------------------------------


class Data(NamedTuple):
    """Characteristics, instruments and models of all markets."""

    X: list[np.ndarray]
    Z: list[np.ndarray]
    models: list[Market]


def simulate(size: Size, seed: int = 0) -> Data:
    """Return markets of which tastes are known, with prices that depend on unobserved quality.

    Each draw of tastes comes with all signs, so that the shares do not depend on those of σ.
    """
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((size.consumers // len(SIGNS), 1, 3)) * SIGNS
    draws = draws.reshape(-1, 3)
    products = []  # of each market: exogenous characteristics, unobserved quality and price
    for _ in range(size.markets):
        J = int(rng.integers(size.products // 3, size.products + 1))
        quality, cost = 2.0 * rng.random(J), rng.random((J, 2))
        xi = 0.3 * rng.standard_normal(J)
        price = 0.5 + 0.5 * quality + cost @ [2.0, 1.5] + 0.5 * xi
        products.append((np.column_stack([np.ones(J), quality, cost]), xi, price))
    exogenous, _, prices = map(np.concatenate, zip(*products, strict=True))
    explained = np.linalg.lstsq(exogenous, prices, rcond=None)[0]
    Xs, Zs, models = [], [], []
    for given, xi, price in products:
        X = np.column_stack([given[:, :2], price])
        Z = instruments(given, given @ explained, size.products)
        P = 3 + X.shape[1] + Z.shape[1]
        market = Market(X, draws, np.full(len(X), 1.0 / (len(X) + 1)), P)
        shares = market.choices(X @ BETA + xi, SIGMA).mean(axis=0)
        Xs.append(X)
        Zs.append(Z)
        models.append(Market(X, draws, shares, P))
    return Data(Xs, Zs, models)


def instruments(exogenous: np.ndarray, expected: np.ndarray, products: int) -> np.ndarray:
    """Return the instruments of a market's products, (J, 12).

    Parameters
    ----------
    exogenous : (J, 4) array
        A constant, quality and two costs.
    expected : (J,) array
        The price that these explain.
    products : int
        The largest number of products in a market.
    """
    J, quality = len(expected), exogenous[:, 1]
    dq, dp = (x - x[:, None] for x in (quality, expected))
    own = [*exogenous[:, :3].T, expected, expected**2, quality * expected]
    rivals = [x.mean(axis=1) for x in (dq**2, dp**2, dq * dp, np.abs(dp) < NEAR, dp)]
    return np.column_stack([*own, *rivals, np.full(J, J / products)])


# --- the objective of all markets ----------------------------------------------------------------


class Objective:
    """The GMM objective Q(σ) with its exact gradient and Hessian.

    Parameters
    ----------
    data : Data
    """

    def __init__(self, data: Data) -> None:
        self.data, self.n = data, sum(len(X) for X in data.X)
        self.K, self.L = data.X[0].shape[1], data.Z[0].shape[1]
        losses = [moments_of(X, Z) / self.n for X, Z in zip(data.X, data.Z, strict=True)]
        self.F = mfdeq.SumFunctional(
            [
                mfdeq.ReducedFunctional(model, loss)
                for model, loss in zip(data.models, losses, strict=True)
            ],
            names=[f"market {t}" for t in range(len(losses))],
        )
        Z = np.concatenate(data.Z)
        self.W_inverse = Z.T @ Z / self.n
        self.W = np.linalg.inv(self.W_inverse)
        self.ZX = Z.T @ np.concatenate(data.X) / self.n
        self.Z = Z

    def delta(self, sigma: np.ndarray) -> np.ndarray:
        """Return the mean utilities in all markets."""
        theta = np.concatenate([sigma, np.zeros(self.K + self.L)])
        return self.F.equilibrium(theta).state

    def extremum(self, sigma: np.ndarray) -> np.ndarray:
        """Return (σ, β, η) with the β and η of the extremum, by two-stage least squares."""
        Zd = self.Z.T @ self.delta(sigma) / self.n
        beta = np.linalg.solve(self.ZX.T @ self.W @ self.ZX, self.ZX.T @ self.W @ Zd)
        return np.concatenate([sigma, beta, self.W @ (Zd - self.ZX @ beta)])

    def value(self, sigma: np.ndarray) -> float:
        """Return n Q(σ) = n/2 m' W m."""
        eta = self.extremum(sigma)[3 + self.K :]
        return 0.5 * self.n * float(eta @ self.W_inverse @ eta)

    def gradient(self, sigma: np.ndarray) -> np.ndarray:
        """Return the derivative of n Q, that of the sum with β and η fixed."""
        return self.n * self.F.gradient(self.extremum(sigma))[:3]

    def hessian(self, sigma: np.ndarray) -> np.ndarray:
        """Return the second derivative of n Q, a Schur complement, (3, 3)."""
        H = self.F.hessian(self.extremum(sigma)).toarray()
        H[3 + self.K :, 3 + self.K :] -= self.W_inverse
        inner, mixed = H[3:, 3:], H[3:, :3]
        return self.n * (H[:3, :3] - mixed.T @ np.linalg.solve(inner, mixed))

    def covariance(self, sigma: np.ndarray) -> np.ndarray:
        """Return the covariance of the estimates of (σ, β), by the sandwich formula."""
        theta = self.extremum(sigma)
        parts = self.F.equilibrium(theta).parts
        unit = np.eye(theta.size)[:, :3]
        d_sigma = np.concatenate([eq.sensitivity @ unit for eq in parts])
        G = np.concatenate([self.Z.T @ d_sigma / self.n, -self.ZX], axis=1)
        xi = self.delta(sigma) - np.concatenate(self.data.X) @ theta[3 : 3 + self.K]
        Omega = (self.Z * xi[:, None] ** 2).T @ self.Z / self.n
        bread = np.linalg.inv(G.T @ self.W @ G)
        return bread @ G.T @ self.W @ Omega @ self.W @ G @ bread / self.n


# --- main program --------------------------------------------------------------------------------


def draw(path: Path, objective: Objective, path_of_sigma, estimate, errors, elasticities) -> None:
    """Save the figure: the objective around its minimum, the estimates, and elasticities."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(1, 3, figsize=(13.0, 4.0), layout="constrained")
    sigma, steps = estimate[:3], np.array(path_of_sigma)
    H = objective.hessian(sigma)
    low, high = (
        np.minimum(steps.min(axis=0), sigma - 0.3),
        np.maximum(steps.max(axis=0), sigma + 0.3),
    )
    a, b = np.linspace(low[1], high[1], 60), np.linspace(low[2], high[2], 60)
    A, B = np.meshgrid(a - sigma[1], b - sigma[2])
    model = 0.5 * (H[1, 1] * A**2 + 2 * H[1, 2] * A * B + H[2, 2] * B**2)
    axes[0].contour(a, b, model, 15, cmap="viridis", linewidths=0.8)
    axes[0].plot(steps[:, 1], steps[:, 2], "o-", color="crimson", ms=3, label="iterates")
    axes[0].set(xlabel="σ of quality", ylabel="σ of price")
    axes[0].set_title("Quadratic model at the minimum", loc="left")
    axes[0].legend(frameon=False)
    names = [f"σ {name}" for name in TASTES] + [f"β {name}" for name in TASTES]
    where, truth = np.arange(6), np.concatenate([SIGMA, BETA])
    axes[1].errorbar(where, estimate[:6], 2 * errors[:6], fmt="o", capsize=3, label="± 2 errors")
    axes[1].plot(where, truth, "x", color="crimson", label="truth")
    axes[1].set_xticks(where, names, rotation=35, ha="right")
    axes[1].set_title("Estimates", loc="left")
    axes[1].legend(frameon=False)
    axes[2].hist(elasticities, 30, color="C0")
    axes[2].set(xlabel="own-price elasticity", ylabel="products")
    axes[2].set_title("Elasticities", loc="left")
    fig.savefig(path, dpi=120)
    plt.close(fig)


def own_price_elasticities(objective: Objective, estimate: np.ndarray) -> np.ndarray:
    """Return the elasticity of each product's share with respect to its price."""
    out = []
    delta, first = objective.delta(estimate[:3]), 0
    for X, market in zip(objective.data.X, objective.data.models, strict=True):
        s = market.choices(delta[first : first + len(X)], estimate[:3])
        first += len(X)
        taste = estimate[5] + estimate[2] * market.draws[:, 2]  # of price, for each consumer
        out.append(X[:, 2] * (taste[:, None] * s * (1 - s)).mean(axis=0) / s.mean(axis=0))
    return np.concatenate(out)


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    options = parse(arguments)
    size, begin = SIZES[options.size], time.perf_counter()
    objective = Objective(simulate(size))
    print(f"{size.markets} markets of up to {size.products} products, {size.consumers} consumers")
    iterates = [START]
    found = scipy.optimize.minimize(
        objective.value,
        START,
        jac=objective.gradient,
        hess=objective.hessian,
        method="trust-exact",
        callback=lambda x: iterates.append(x.copy()),
        options={"gtol": 1e-6},
    )
    H = objective.hessian(found.x)
    print(
        f"{found.nit} iterations, {objective.F.solves} equilibria; n Q = {found.fun:.4f}, "
        f"|gradient| {np.linalg.norm(found.jac):.1e}, eigenvalues of the Hessian "
        f"{', '.join(f'{value:.3g}' for value in np.linalg.eigvalsh(H))}"
    )
    estimate = objective.extremum(found.x)
    errors = np.sqrt(np.diag(objective.covariance(found.x)))
    truth = np.concatenate([SIGMA, BETA])
    names = [f"σ of {name}" for name in TASTES] + [f"β of {name}" for name in TASTES]
    print(f"{'':14}{'estimate':>10}{'error':>8}{'truth':>8}")
    for name, value, error, exact in zip(names, estimate, errors, truth, strict=False):
        print(f"{name:14}{value:10.3f}{error:8.3f}{exact:8.1f}")
    elasticities = own_price_elasticities(objective, estimate)
    print(f"median own-price elasticity {np.median(elasticities):.2f}")
    draw(options.output, objective, iterates, estimate, errors, elasticities)
    print(f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="(default: full)")
    parser.add_argument("--output", type=Path, default="markets.png", help="the figure's file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
