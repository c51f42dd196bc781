"""An Aiyagari economy in continuous time: households that save, firms, and the capital market.

Y. Achdou, J. Han, J.-M. Lasry, P.-L. Lions and B. Moll, Income and wealth distribution in
macroeconomics: a continuous-time approach, Rev. Econ. Stud. 89 (2022). The parameters, the grid and
the published equilibrium are those of an example in the README of the package puremacro 5.7.1.
"""

from __future__ import annotations

import numpy as np

import mfdeq

PARAMS = np.array([0.05, 2.0, 0.33, 0.05])  # discount rate ρ, risk aversion γ, share α, decay δ
PRODUCTIVITY = np.array([[0.2], [1.0]])
SWITCHING = 0.1  # the rate from each productivity to the other
LABOUR = float(PRODUCTIVITY.mean())
WEALTH = np.linspace(0.0, 20.0, 120)
STEP = WEALTH[1] - WEALTH[0]
SIZE = 2 * WEALTH.size
CAPITAL = 2 * SIZE  # its index in the state


def prices(capital, params):
    """Return the interest rate and the wage that firms with a Cobb-Douglas technology pay."""
    _, _, alpha, delta = params
    ratio = capital / LABOUR
    return alpha * ratio ** (alpha - 1.0) - delta, (1.0 - alpha) * ratio**alpha


def income(capital, params):
    interest, wage = prices(capital, params)
    return wage * PRODUCTIVITY + interest * WEALTH


def residual(state, params):
    """Return the residual of the values, the masses and the capital.

    The values v of households satisfy ρ v = u(c) + A v, where A generates wealth and productivity
    under the best consumption c, by upwind differences. The masses m satisfy Aᵀ m = 0, and the
    capital is the wealth of all. Households with the lower productivity come first.
    """
    import jax.numpy as jnp

    values, masses = state[:CAPITAL].reshape(2, 2, -1)
    rho, gamma, _, _ = params
    earned = income(state[CAPITAL], params)
    slope = jnp.diff(values, axis=1) / STEP
    wanted = slope ** (-1.0 / gamma)
    gain = jnp.maximum(earned[:, :-1] - wanted, 0.0)
    loss = jnp.minimum(earned[:, 1:] - wanted, 0.0)

    def at_points(lower, upper):
        """Return the sum, at the points, of what cells have at their lower and upper ends."""
        return jnp.pad(lower, ((0, 0), (0, 1))) + jnp.pad(upper, ((0, 0), (1, 0)))

    consumption = earned - at_points(gain, loss)
    utility = consumption ** (1.0 - gamma) / (1.0 - gamma)
    change = at_points(gain * slope, loss * slope) + SWITCHING * (values[::-1] - values)
    flow = (gain * masses[:, :-1] + loss * masses[:, 1:]) / STEP
    inflow = at_points(-flow, flow) + SWITCHING * (masses[::-1] - masses)
    excess = jnp.sum(WEALTH * masses) - state[CAPITAL]
    return jnp.concatenate(
        [(rho * values - utility - change).ravel(), inflow.ravel(), excess[None]]
    )


def start(params, capital=5.0):
    """Return the values of households that consume their income, equal masses, and a capital."""
    rho, gamma, _, _ = params
    values = income(capital, params) ** (1.0 - gamma) / ((1.0 - gamma) * rho)
    return np.concatenate([values.ravel(), np.full(SIZE, 1.0 / SIZE), [capital]])


def economy():
    """Return the model of 2 · SIZE + 1 unknowns, whose masses sum to one."""
    example = np.zeros(2 * SIZE + 1), PARAMS
    model = mfdeq.from_jax(residual, *example, "residual", initial_state=start)
    total = np.zeros((1, model.state_size))
    total[0, SIZE:CAPITAL] = 1.0  # the masses sum to one, and their equations to zero
    return mfdeq.constrain(model, mfdeq.LinearConstraint(total, 1.0), redundant=total.T)
