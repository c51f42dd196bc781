"""A flame goes out: a stirred reactor of Cantera, followed to extinction and beyond.

Fuel and air enter a perfectly stirred reactor at 300 K and 1 atm, react, and leave after the
residence time. The state consists of the mass fractions of all species and the temperature, the
parameters are the logarithms of the residence time and of a multiplier of each reaction's rate. As
the residence time decreases, the flame becomes colder, and goes out at a fold, beyond which the
branch is unstable. Which reactions move that fold is its exact derivative with respect to all of
them at once.

All rates are Cantera's. The derivatives with respect to the parameters are exact, those with
respect to the state are differences: `mfdeq.mixed` combines them.

    python examples/reactor.py                # methane, 53 species, 325 reactions, half a minute
    python examples/reactor.py --size small   # hydrogen, 10 species, 29 reactions, seconds
"""

from __future__ import annotations

import argparse
import time
from itertools import zip_longest
from pathlib import Path

import numpy as np

import mfdeq

FUELS = {
    "small": ("hydrogen", "h2o2.yaml", {"H2": 1.0, "O2": 1.0, "N2": 3.76}, 0),
    "full": ("methane", "gri30.yaml", {"CH4": 1.0, "O2": 2.0, "N2": 7.52}, 60),
}
FEED_TEMPERATURE = 300.0  # K
RESIDENCE_TIME = 1e-2  # s, at the start
SPAN = (-9.0, 0.1)  # of the logarithm of the residence time, from there
EIGENVALUES = 3
SHOWN = 10  # reactions
SHIFT = 0.02  # of the logarithm of a rate, in a check of the fold's derivative


# --- the reactor ---------------------------------------------------------------------------------


class Reactor(mfdeq.ResidualModel):
    """Mass fractions and temperature of a perfectly stirred reactor at 1 atm.

    With the residence time t, the mass fractions Y, their rates of production w, the enthalpies e
    of the species and the heat capacity c, the changes of Y and of the temperature in time are

        (Y_feed − Y) / t + w,      (Y_feed · (e_feed − e) / t − e · w) / c.

    Parameters
    ----------
    mechanism : str
        A file of reactions that comes with Cantera.
    mixture : dict of str to float
        The moles of fuel and air.
    """

    time_sign = 1

    def __init__(self, mechanism, mixture):
        import cantera

        self.mechanism, self.mixture, self.cantera = mechanism, mixture, cantera
        self.gas = self._feed()
        self.feed = self.gas.Y.copy()
        self.weights = self.gas.molecular_weights
        self.feed_enthalpies = self.gas.partial_molar_enthalpies / self.weights
        self.species, self.reactions = self.gas.n_species, self.gas.n_reactions
        self.state_size, self.param_size = self.species + 1, self.reactions + 1
        self.state_names = [*self.gas.species_names, "the temperature"]
        burnt = self._feed()
        burnt.equilibrate("HP")
        self.ignited = np.append(burnt.Y, burnt.T)
        self.theta = np.zeros(self.param_size)
        self.theta[0] = np.log(RESIDENCE_TIME)
        self._multipliers = np.ones(self.reactions)

    def _feed(self):
        gas = self.cantera.Solution(self.mechanism)
        gas.TPX = FEED_TEMPERATURE, self.cantera.one_atm, self.mixture
        return gas

    def initial_state(self, theta):
        """Return the burnt gas in equilibrium."""
        return self.ignited

    def residual(self, h, theta):
        """Return the changes of the mass fractions and of the temperature in time."""
        gas, feed = self.gas, self.feed
        self._set_state(h, theta)
        rate = gas.net_production_rates * self.weights / gas.density
        enthalpies = gas.partial_molar_enthalpies / self.weights
        heat = feed @ (self.feed_enthalpies - enthalpies)
        time = np.exp(theta[0])
        warming = (heat / time - enthalpies @ rate) / gas.cp_mass
        return np.append((feed - h[:-1]) / time + rate, warming)

    def _set_state(self, h, theta):
        multipliers = np.exp(theta[1:])
        for i in np.flatnonzero(multipliers != self._multipliers):
            self.gas.set_multiplier(multipliers[i], int(i))
        self._multipliers = multipliers
        self.gas.set_unnormalized_mass_fractions(h[:-1])
        self.gas.TP = h[-1], self.cantera.one_atm

    def linearize(self, h, theta):
        """Return the exact derivatives with respect to the parameters alone."""
        self._set_state(h, theta)
        gas, time = self.gas, np.exp(theta[0])
        enthalpies = gas.partial_molar_enthalpies / self.weights
        stoichiometry = gas.product_stoich_coeffs - gas.reactant_stoich_coeffs
        rates = stoichiometry * gas.net_rates_of_progress * self.weights[:, None] / gas.density
        by_reactions = np.vstack([rates, -enthalpies @ rates / gas.cp_mass])
        heat = self.feed @ (self.feed_enthalpies - enthalpies)
        by_time = -np.append(self.feed - h[:-1], heat / gas.cp_mass) / time
        return mfdeq.Linearization(None, np.column_stack([by_time, by_reactions]))

    def equations(self) -> list[str]:
        """Return the equations of the reactions."""
        return [reaction.equation for reaction in self.gas.reactions()]


def extinction(model, theta, branch, i: int, shift: float) -> float:
    """Follow the branch near its fold with another rate, and return the fold's parameter."""
    moved = theta.copy()
    moved[1 + i] += shift
    fold = branch.folds[0]
    near = max((p for p in branch.points if p.state[-1] > fold.state[-1]), key=lambda p: -p.t)
    moved[0] += near.t + 0.1
    start = mfdeq.solve(model, moved, near.state)
    again = mfdeq.follow(model, moved, 0, span=(-0.5, 0.15), start=start.state, towards=-1.0)
    return near.t + 0.1 + again.folds[0].t


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, fuel: str, branch, theta, equations, slopes) -> None:
    """Save the figure: the branch around the extinction, and what moves it."""
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    t = np.array([p.t for p in branch.points])
    seconds, kelvin = np.exp(theta[0] + t), np.array([p.state[-1] for p in branch.points])
    unstable = np.array([p.unstable for p in branch.points])
    fold = branch.folds[0]
    at_fold = np.exp(theta[0] + fold.t), fold.state[-1]

    ax = axes[0]
    for chosen, style, colour, label in (
        (unstable == 0, "-", "C0", "burning"),
        (unstable > 0, "--", "0.6", "unstable"),
    ):
        joined = chosen | np.roll(chosen, 1)  # to the next point, so that no gap is left
        joined[0] = chosen[0]
        ax.semilogx(
            np.where(joined, seconds, np.nan), kelvin, style, color=colour, lw=2, label=label
        )
    ax.plot(*at_fold, "o", color="C3", label="extinction")
    ax.annotate(
        f"{1e6 * at_fold[0]:.1f} µs, {at_fold[1]:.0f} K",
        at_fold,
        (10, -3),
        textcoords="offset points",
    )
    ax.set_title(f"A flame of {fuel}", loc="left")
    ax.set(xlabel="residence time, s", ylabel="temperature, K")
    ax.legend(frameon=False)

    ax = axes[1]
    order = np.argsort(-np.abs(slopes))[:SHOWN][::-1]
    colours = np.where(slopes[order] < 0, "C0", "C1")
    ax.barh(range(len(order)), slopes[order], color=colours)
    ax.set_yticks(range(len(order)), [equations[i].replace("<=>", "⇌") for i in order])
    ax.axvline(0.0, color="0.3", lw=0.8)
    ax.set_title("Reactions that hold the flame (left) or put it out", loc="left")
    ax.set(xlabel="change of the log residence time at extinction with the log rate")
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Follow the flame to its extinction, and differentiate that."""
    options = parse(arguments)
    begin = time.perf_counter()
    fuel, mechanism, mixture, limit = FUELS[options.size]
    reactor = Reactor(mechanism, mixture)
    model, theta = mfdeq.mixed(reactor), reactor.theta
    eq = mfdeq.solve(model, theta)
    say(
        "Reactor",
        f"{fuel} in air by {mechanism}: N = {model.state_size}, {reactor.species} species and "
        f"the temperature; P = {model.param_size}, {reactor.reactions} reactions and the residence "
        "time",
        f"burns at {eq.state[-1]:.1f} K after {1e3 * RESIDENCE_TIME:.0f} ms; "
        f"{eq.report.iterations} iterations of {eq.report.method} from burnt gas",
    )

    start = time.perf_counter()
    branch = mfdeq.follow(
        model,
        theta,
        0,
        span=SPAN,
        start=eq.state,
        towards=-1.0,
        eigenvalues=EIGENVALUES,
        max_points=limit or 500,
    )
    fold = branch.folds[0]
    extinct = np.exp(theta[0] + fold.t)
    hotter = [point for point in branch.points if point.state[-1] > fold.state[-1]]
    stable = sum(point.unstable == 0 for point in hotter)
    say(
        "Branch",
        f"{len(branch.points)} points, {time.perf_counter() - start:.1f} s",
        f"extinction at {1e6 * extinct:.3f} µs and {fold.state[-1]:.1f} K",
        f"stable at {stable} of {len(hotter)} points that are hotter",
    )

    slopes, equations = fold.derivative()[1:], reactor.equations()
    order = np.argsort(-np.abs(slopes))
    ends = [extinction(model, theta, branch, order[0], s) for s in (SHIFT, -SHIFT)]
    say(
        "Derivative",
        "of the logarithm of the residence time at extinction by that of each rate",
        *(f"{slopes[i]:+8.4f}  {equations[i]}" for i in order[:5]),
        f"all rates doubled halve the time, so that the sum is −1: {slopes.sum():.9f}",
        f"the first one by following two branches: {(ends[0] - ends[1]) / (2.0 * SHIFT):+.4f}",
    )
    draw(options.output, fuel, branch, theta, equations, slopes)
    say("Figure", f"{options.output}; {time.perf_counter() - begin:.0f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=FUELS, default="full", help="the fuel")
    parser.add_argument("--output", type=Path, default="reactor.png", help="figure file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
