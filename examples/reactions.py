"""Conserved totals: a closed reaction network and a queue, compared with closed forms.

In a closed network what one species loses another gains, so that the equations depend on each other
and conserved totals fix the amounts. Here a drug and a receptor form a complex; their totals are
parameters, along which the amounts are followed. The lengths of a queue are a Markov chain, whose
probabilities sum to one. Both have closed forms, with which amounts, probabilities and their
derivatives are compared.

    python examples/reactions.py                # a queue of up to 20,000 customers, seconds
    python examples/reactions.py --size small   # of up to 200
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from matplotlib import pyplot as plt

import mfdeq

PLACES = {"small": 200, "full": 20_000}
SPECIES = ("drug", "receptor", "complex")
RATES = np.array([4.0, 1.0])  # of binding and of dissociation
TOTALS = np.array([1.0, 0.5])  # of the drug and of the receptor, bound and free
DECAY = 8.0  # logarithm of the ratio of the probabilities of an empty and of a full queue


# --- a drug and its receptor ---------------------------------------------------------------------


def binding(h, theta):
    """Return the net rates of drug + receptor <-> complex."""
    rate = theta[0] * h[0] * h[1] - theta[1] * h[2]
    return np.array([rate, rate, -rate])


def network() -> mfdeq.ResidualModel:
    """Return the network, whose totals are the last two of the four parameters."""
    model = mfdeq.from_function(
        binding,
        *(3, 4, "residual"),
        state_names=SPECIES,
        equation_names=[f"balance of the {name}" for name in SPECIES],
    )
    totals = mfdeq.LinearConstraint(
        np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]),
        total=lambda theta: theta[2:],
        d_total=lambda theta: np.eye(4)[2:],
    )
    return mfdeq.constrain(model, totals)


def bound(theta):
    """Return the amount of the complex, the smaller root of a quadratic equation."""
    total = theta[2] + theta[3] + theta[1] / theta[0]
    return 0.5 * (total - np.sqrt(total * total - 4.0 * theta[2] * theta[3]))


def derivative_of_bound(theta):
    """Return its derivatives, by the complex step."""
    return np.array([np.imag(bound(theta + 1e-200j * e)) * 1e200 for e in np.eye(4)])


# --- a queue -------------------------------------------------------------------------------------


class Queue(mfdeq.ResidualModel):
    """The lengths of a queue with a limited number of places, as a Markov chain in steady state.

    Customers arrive at the rate theta[0] and are served at the rate theta[1]. R(h, theta) is the
    flow of probability out of each length.

    Parameters
    ----------
    places : int
        The longest queue.
    """

    param_size = 2

    def __init__(self, places: int):
        self.state_size = n = places + 1
        up = sp.diags([np.r_[np.ones(places), 0.0], -np.ones(places)], [0, -1], shape=(n, n))
        down = sp.diags([np.r_[0.0, np.ones(places)], -np.ones(places)], [0, 1], shape=(n, n))
        self.flows = up.tocsr(), down.tocsr()

    def initial_state(self, theta):
        """Return equal probabilities."""
        return np.full(self.state_size, 1.0 / self.state_size)

    def residual(self, h, theta):
        """Return the flow out of each length."""
        up, down = self.flows
        return theta[0] * (up @ h) + theta[1] * (down @ h)

    def linearize(self, h, theta) -> mfdeq.Linearization:
        """Return the derivatives; R is linear in h and in theta."""
        up, down = self.flows

        def curvature(lam) -> mfdeq.Curvature:
            return mfdeq.Curvature(state_params=np.stack([x.T @ lam for x in self.flows], axis=1))

        def second(a, b):
            return sum(
                a[0][k] * (x @ b[1]) + b[0][k] * (x @ a[1]) for k, x in enumerate(self.flows)
            )

        d_params = np.stack([up @ h, down @ h], axis=1)
        return mfdeq.Linearization(theta[0] * up + theta[1] * down, d_params, curvature, second)


def queue(places: int) -> mfdeq.ResidualModel:
    """Return the queue with probabilities that sum to one."""
    return mfdeq.constrain(Queue(places), mfdeq.LinearConstraint(np.ones(places + 1), total=1.0))


def geometric(places: int, theta):
    """Return the probabilities of all lengths, and their derivatives by the load."""
    length, load = np.arange(places + 1), theta[0] / theta[1]
    weights = load**length
    p = weights / weights.sum()
    return p, p * (length - p @ length) / load


# --- both ----------------------------------------------------------------------------------------


def largest_error(found, expected) -> float:
    """Return the largest difference, relative to the largest number."""
    return float(abs(found - expected).max() / abs(expected).max())


def draw(path: Path, branch: mfdeq.Branch, eq: mfdeq.Equilibrium) -> None:
    """Save the figure: the amounts along the total of the drug, and the queue."""
    fig, axes = plt.subplots(1, 3, figsize=(14, 3.9), layout="constrained")
    totals = TOTALS[0] + np.array([point.t for point in branch.points])
    amounts = np.stack([point.state for point in branch.points])
    for j, name in enumerate(SPECIES):
        axes[0].plot(totals, amounts[:, j], label=name)
    axes[0].set(xlabel="total of the drug", ylabel="amount")
    axes[0].legend()
    axes[1].plot(eq.state)
    axes[1].set(xlabel="customers in the queue", ylabel="probability")
    axes[2].plot(eq.sensitivity @ np.array([1.0, 0.0]))
    axes[2].set(xlabel="customers in the queue", ylabel="derivative by the rate of arrival")
    fig.savefig(path, dpi=120)
    plt.close(fig)


def main(arguments: list[str] | None = None) -> None:
    """Solve both, and compare them with closed forms."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=PLACES, default="full")
    places = PLACES[parser.parse_args(arguments).size]

    theta = np.concatenate([RATES, TOTALS])
    model = network()
    eq = mfdeq.solve(model, theta)
    print(eq.report.choices[0])
    print("amounts", dict(zip(SPECIES, eq.state.round(4).tolist(), strict=True)))
    print(f"error of the complex              {largest_error(eq.state[2:], bound(theta)):.1e}")
    found, expected = eq.sensitivity.H @ np.eye(3)[2], derivative_of_bound(theta)
    print(f"error of its derivatives          {largest_error(found, expected):.1e}")
    branch = mfdeq.follow(model, theta, 2, span=(-0.9, 2.0))
    print(f"followed in the total of the drug: {len(branch.points)} points, {branch.reason}")

    rates = np.array([1.0 - DECAY / places, 1.0])
    waiting = mfdeq.solve(queue(places), rates)
    p, by_load = geometric(places, rates)
    print(f"queue of up to {places} customers: mean length of {p @ np.arange(places + 1):.1f}")
    print(f"error of the probabilities        {largest_error(waiting.state, p):.1e}")
    slope = waiting.sensitivity @ np.array([1.0, 0.0])
    print(f"error of their derivatives        {largest_error(slope, by_load / rates[1]):.1e}")
    length = mfdeq.Loss(
        lambda h, theta: float(np.arange(places + 1) @ h),
        d_state=lambda h, theta: np.arange(places + 1.0),
    )
    mean = np.array(length.value(waiting.state, rates))
    g, H = waiting.gradient(length), waiting.hessian(length).toarray()
    print(f"error of the mean length          {largest_error(mean, p @ np.arange(places + 1)):.1e}")
    # The mean depends on the ratio of the rates alone (Euler's theorem).
    print(f"rates in proportion change it by  {abs(g @ rates) / abs(g).max():.1e}")
    print(f"and its gradient by its own size  {largest_error(H @ rates, -g):.1e}")
    draw(Path("reactions.png"), branch, waiting)
    print("figure: reactions.png")


if __name__ == "__main__":
    main()
