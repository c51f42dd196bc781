"""Demand for cereals with random coefficients: A. Nevo's data, as the package pyblp has them.

S. Berry, J. Levinsohn and A. Pakes, Automobile prices in market equilibrium, Econometrica 63
(1995). A. Nevo, A practitioner's guide to estimation of random-coefficients logit models of demand,
J. Econ. Manag. Strategy 9 (2000).
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np

import mfdeq

MARKETS, PRODUCTS, AGENTS, INSTRUMENTS = 94, 24, 20, 20
DEMOGRAPHICS = ("income", "income_squared", "age", "child")
# Of the coefficients of 1, price, sugar and mushiness: the starts of pyblp's tutorial.
SIGMA = (0.3302, 2.4526, 0.0163, 0.2441)
INTERACTIONS = {  # (characteristic, demographic)
    (0, 0): 5.4819,
    (0, 2): 0.2037,
    (1, 0): 15.8935,
    (1, 1): -1.2000,
    (1, 3): 2.6342,
    (2, 0): -0.2506,
    (2, 2): 0.0511,
    (3, 0): 1.2650,
    (3, 2): -0.8091,
}
START = np.array([*SIGMA, *INTERACTIONS.values()])


def read_table(name):
    """Return the rows of one of pyblp's files without importing pyblp."""
    spec = importlib.util.find_spec("pyblp")
    with (Path(spec.origin).parent / "data" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def columns(rows, *names):
    return np.array([[float(row[name]) for name in names] for row in rows])


def nevo_functional():
    """Return the GMM objective of Nevo's problem as a functional of the nonlinear parameters.

    The state has the mean utilities of all products in all markets, for which the shares of the
    model are those observed. Fixed effects of products are absorbed, and the coefficient of the
    price is concentrated out.
    """
    import jax.numpy as jnp

    products, agents = read_table("nevo_products.csv"), read_table("nevo_agents.csv")
    prices, shares = columns(products, "prices"), columns(products, "shares")[:, 0]
    taste = np.column_stack([np.ones(len(products)), prices, columns(products, "sugar", "mushy")])
    draws = columns(agents, *(f"nodes{i}" for i in range(4)))
    data = {
        "shares": shares.reshape(MARKETS, PRODUCTS),
        "taste": taste.reshape(MARKETS, PRODUCTS, 4),
        "draws": draws.reshape(MARKETS, AGENTS, 4),
        "demographics": columns(agents, *DEMOGRAPHICS).reshape(MARKETS, AGENTS, 4),
    }
    rows, cells = np.array([*INTERACTIONS]).T

    def residual(delta, theta, market):
        pi = jnp.zeros((4, 4)).at[rows, cells].set(theta[4:])
        coefficients = market["draws"] * theta[:4] + market["demographics"] @ pi.T
        utility = delta[:, None] + market["taste"] @ coefficients.T
        # The share of no purchase has utility zero.
        largest = jnp.maximum(utility.max(axis=0), 0.0)
        weights = jnp.exp(utility - largest)
        chosen = weights / (jnp.exp(-largest) + weights.sum(axis=0))
        return jnp.log(chosen.mean(axis=1)) - jnp.log(market["shares"])

    outside = 1.0 - data["shares"].sum(axis=1, keepdims=True)
    model = mfdeq.from_jax(residual, np.zeros(PRODUCTS), START, "residual", args=data, batched=True)
    names = [row["product_ids"] for row in products]
    Z = columns(products, *(f"demand_instruments{i}" for i in range(INSTRUMENTS)))
    U = np.linalg.qr(without_means(Z, names))[0]
    price = U.T @ without_means(prices, names)
    moments = U.T - price @ (price.T @ U.T) / (price.T @ price)
    loss = mfdeq.LeastSquares(moments, np.zeros(INSTRUMENTS), 2.0)
    logit = np.log(data["shares"] / outside).ravel()
    return mfdeq.ReducedFunctional(model, loss, logit)


def without_means(x, groups):
    """Return columns without the mean of each group."""
    index = np.unique(groups, return_inverse=True)[1]
    means = np.stack([np.bincount(index, column) for column in x.T], axis=1)
    return x - (means / np.bincount(index)[:, None])[index]
