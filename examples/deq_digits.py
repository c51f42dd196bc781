"""A deep-equilibrium layer on handwritten digits, trained with its exact Hessian.

    h = tanh(W h + U x + b),    logits C h + c

The state is the layer's output for a whole batch, the parameters are all weights; map and loss are
JAX functions, and every derivative comes from those. Newton's method with conjugate gradients on
exact Hessian products, through `mfdeq.ReducedFunctional` and scipy, beside Adam from the same
start: loss against gradients and products, and against seconds; eigenvalues at both ends of the
Hessian along the way. The digits are scikit-learn's.

    python examples/deq_digits.py                # 24 units, 1,000 digits, minutes
    python examples/deq_digits.py --size small   # 8 units, 120 digits, seconds
"""

from __future__ import annotations

import argparse
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import scipy.optimize

import mfdeq

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy


class Size(NamedTuple):
    """How large a job is."""

    units: int
    digits: int
    newton: int  # iterations
    adam: int
    looks: int  # at the spectrum


SIZES = {"small": Size(8, 120, 6, 60, 3), "full": Size(24, 1000, 25, 600, 6)}
DECAY = 1e-3  # weight of the squared weights
ACCURACY = 1e-4  # of gradients and products
RATE = 0.005  # of Adam
EIGENVALUES = 3  # at each end


# --- the layer ----------------------------------------------------------------------------------


class Layer:
    """A layer at its equilibrium, for a batch of images and their labels."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, units: int) -> None:
        self.x, self.labels, self.units = jnp.asarray(images), jnp.asarray(labels), units
        self.state = np.zeros((len(images), units))
        pixels, classes = images.shape[1], int(labels.max()) + 1
        rng = np.random.default_rng(0)
        self.weights = {
            "W": 0.3 * rng.standard_normal((units, units)) / units**0.5,
            "U": rng.standard_normal((units, pixels)) / pixels**0.5,
            "b": np.zeros(units),
            "C": 0.1 * rng.standard_normal((classes, units)) / units**0.5,
            "c": np.zeros(classes),
        }

    def map(self, h, w):
        """tanh(W h + U x + b), sample by sample."""
        return jnp.tanh(h @ w["W"].T + self.x @ w["U"].T + w["b"])

    def loss(self, h, w):
        """The mean cross-entropy of the labels."""
        scores = jax.nn.log_softmax(h @ w["C"].T + w["c"])
        return -jnp.take_along_axis(scores, self.labels[:, None], axis=1).mean()

    def accuracy(self, h, w) -> float:
        """The share of digits that are told right."""
        return float((jnp.argmax(h @ w["C"].T + w["c"], axis=1) == self.labels).mean())


def load_digits(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images in 0 to 1 and labels, to train with and to test with."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order] / 16.0, labels[order]
    return images[:count], labels[:count], images[count:], labels[count:]


# --- training -----------------------------------------------------------------------------------


class Log:
    """The loss along a training, against its gradients and products and its seconds."""

    def __init__(self, F: mfdeq.ReducedFunctional) -> None:
        self.F, self.work, self.begin, self.paused = F, 0, time.perf_counter(), 0.0
        self.rows: list[tuple[int, float, float]] = []
        self.spectra: list[tuple[int, mfdeq.Eigenpairs]] = []

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """The gradient, counted."""
        self.work += 1
        return self.F.gradient(theta)

    def hessp(self, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        """A product, counted."""
        self.work += 1
        return self.F.hessp(theta, v)

    def record(self, theta: np.ndarray) -> None:
        """Put down where the training is."""
        seconds = time.perf_counter() - self.begin - self.paused
        self.rows.append((self.work, seconds, self.F.value(theta)))

    def look(self, theta: np.ndarray) -> None:
        """Put down the ends of the spectrum, off the clock."""
        begin = time.perf_counter()
        H = self.F.hessian(theta)
        self.spectra.append((self.work, mfdeq.eigsh(H, k=2 * EIGENVALUES, which="BE", rtol=1e-3)))
        self.paused += time.perf_counter() - begin


def by_newton(F: mfdeq.ReducedFunctional, theta: np.ndarray, size: Size) -> tuple[np.ndarray, Log]:
    """Train by scipy's trust-region Newton method with conjugate gradients."""
    log, every = Log(F), max(1, size.newton // size.looks)

    def callback(theta: np.ndarray) -> None:
        log.record(theta)
        if len(log.rows) % every == 0:
            log.look(theta)

    log.record(theta)
    log.look(theta)
    found = scipy.optimize.minimize(
        F.value,
        theta,
        jac=log.gradient,
        hessp=log.hessp,
        method="trust-ncg",
        callback=callback,
        options={"maxiter": size.newton, "gtol": 1e-6},
    )
    return found.x, log


def by_adam(F: mfdeq.ReducedFunctional, theta: np.ndarray, size: Size) -> tuple[np.ndarray, Log]:
    """Train by Adam (Kingma and Ba 2015), the whole batch at every step."""
    log, theta = Log(F), theta.copy()
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(1, size.adam + 1):
        log.record(theta)
        g = log.gradient(theta)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        theta -= RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    log.record(theta)
    return theta, log


# --- the job ------------------------------------------------------------------------------------


def draw(path: Path, logs: dict[str, Log]) -> None:
    """Draw the loss against work and seconds, and the ends of the spectrum."""
    import matplotlib.pyplot as plt

    figure, (work, seconds, ends) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for (name, log), color in zip(logs.items(), ("#1f5a8a", "#b5541c"), strict=True):
        counts, times, losses = np.transpose(log.rows)
        work.semilogy(counts, losses, color=color, label=name)
        seconds.semilogy(times, losses, color=color, label=name)
    work.set(xlabel="gradients and Hessian products", ylabel="loss")
    seconds.set(xlabel="seconds", ylabel="loss")
    work.legend(frameon=False)
    for count, pairs in logs["Newton-CG"].spectra:
        ends.plot([count] * len(pairs.values), pairs.values, "o", color="#1f5a8a", ms=4)
    ends.set_yscale("symlog", linthresh=1e-4)
    ends.axhline(0.0, color="0.8", lw=1, zorder=0)
    ends.set(xlabel="gradients and Hessian products", ylabel="eigenvalues at both ends")
    figure.savefig(path, dpi=150)


def say(topic: str, *lines: str) -> None:
    """Print what there is to say about a topic."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Train both ways and compare."""
    options = parse(arguments)
    begin, size = time.perf_counter(), SIZES[options.size]
    images, labels, unseen, their_labels = load_digits(size.digits)
    layer = Layer(images, labels, size.units)
    model = mfdeq.from_jax(layer.map, layer.state, layer.weights, "map")
    loss = mfdeq.loss_from_jax(layer.loss, layer.state, layer.weights)
    loss = loss + mfdeq.QuadraticPrior(DECAY)
    start = model.flat_params(layer.weights)
    say(
        "Layer",
        f"{size.units} units, {size.digits:,} digits: N = {model.state_size:,} states, P = "
        f"{model.param_size:,} weights",
    )
    F = mfdeq.ReducedFunctional(model, loss, accuracy=ACCURACY)
    eq = F.equilibrium(start)
    _ = F.gradient(start), F.hessp(start, start)  # compilation
    say(
        "Equilibrium",
        f"{eq.report.iterations} iterations of {eq.report.method}; {eq.report.solver} for A; "
        f"{eq.report.digits_left:.1f} digits are left",
    )
    logs, trained = {}, {}
    for name, train in (("Newton-CG", by_newton), ("Adam", by_adam)):
        again = mfdeq.ReducedFunctional(model, loss, accuracy=ACCURACY)
        trained[name], logs[name] = train(again, start, size)
    test = Layer(unseen, their_labels, size.units)
    of_test = mfdeq.from_jax(test.map, test.state, test.weights, "map")
    for name, theta in trained.items():
        work, seconds, value = logs[name].rows[-1]
        w = model.params_tree(theta)
        h = of_test.state_tree(mfdeq.solve(of_test, theta).state)
        say(
            name,
            f"loss {logs[name].rows[0][2]:.4f} to {value:.6f} by {work:,} gradients and products "
            f"in {seconds:.1f} s; {test.accuracy(h, w):.1%} of the other digits are told right",
        )
    reached = logs["Adam"].rows[-1][2]
    first = next((row for row in logs["Newton-CG"].rows if row[2] <= reached), None)
    if first is not None:
        say("", f"Newton-CG was below Adam's last loss after {first[0]:,}, {first[1]:.1f} s")
    for count, pairs in logs["Newton-CG"].spectra:
        values = ", ".join(f"{value:.3g}" for value in np.sort(pairs.values))
        say(f"Spectrum {count:>4}", f"{values} (± {max(pairs.error_bounds):.0e})")
    if options.figure:
        draw(options.output, logs)
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.1f} s in all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="(default: full)")
    parser.add_argument("--output", type=Path, default="deq_digits.png", help="the figure")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="only the numbers")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
