"""A deep-equilibrium layer on handwritten digits, trained with its exact Hessian.

    h = tanh(W h + U x + b),    logits C h + c

The state is the output of this implicit layer for a whole batch, and the parameters are all of its
weights. The map and the loss are JAX functions of one digit, from which all derivatives come. The
layer is trained by Newton's method, with conjugate gradients on exact Hessian-vector products,
through `mfdeq.ReducedFunctional` and scipy, and by Adam from the same start, with all digits or a
minibatch of them in each step. They are compared by their losses and gradients over work and
seconds; both ends of the Hessian's spectrum are computed on the way. The digits are scikit-learn's.

    python examples/deq_digits.py                # 24 units, 1,000 digits, minutes
    python examples/deq_digits.py --size small   # 8 units, 200 digits, seconds
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
    """The size of a run."""

    units: int
    digits: int
    newton: int  # maximal number of iterations
    adam: int  # number of iterations
    spectrum_every: int  # iterations between two spectra
    batch: int = 10  # digits of a minibatch


SIZES = {"small": Size(8, 200, 120, 200, 20, 50), "full": Size(24, 1000, 200, 600, 15, 100)}
MARGIN = 0.1  # m in `recurrent`
DECAY = 1e-3  # weight decay: the weight of half the squared weights
LEARNING_RATE = 0.01  # of Adam; of 0.003, 0.01 and 0.03 the best in the end
PASSES = 1 / 2  # through all digits by minibatches, for one iteration with all of them
GRADIENT_TOLERANCE = 1e-6  # norm of the gradient at which Newton's method stops
EIGENVALUES = 4  # at each end of the spectrum


# --- the layer -----------------------------------------------------------------------------------


def recurrent(V):
    """W = (1 − m) I − L Lᵀ + K − Kᵀ, with L = I + tril V and K the rest of V.

    The eigenvalues of the symmetric part of W stay below one. Therefore I − D W is regular for
    every slope D of tanh, and the equilibrium exists and is unique (Winston and Kolter, 2020). An
    unconstrained W would soon reach values for which a digit has several equilibria, and the loss
    would jump from one to another.
    """
    identity = jnp.eye(len(V))
    L, K = identity + jnp.tril(V), jnp.triu(V, 1)
    return (1.0 - MARGIN) * identity - L @ L.T + K - K.T


def layer_of_one(h, w, x):
    """Return tanh(W h + U x + b) for one digit."""
    return jnp.tanh(recurrent(w["V"]) @ h + w["U"] @ x + w["b"])


def misfit_of_one(h, w, label):
    """Return the cross-entropy of the label of one digit."""
    return -jax.nn.log_softmax(w["C"] @ h + w["c"])[label]


class Layer:
    """A layer at its equilibrium, for a batch of images and their labels."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, units: int):
        self.x, self.labels = np.asarray(images), np.asarray(labels)
        self.state = np.zeros((len(images), units))
        pixels, classes = images.shape[1], 10
        rng = np.random.default_rng(0)
        self.weights = {
            "V": 0.3 * rng.standard_normal((units, units)) / units**0.5,
            "U": rng.standard_normal((units, pixels)) / pixels**0.5,
            "b": np.zeros(units),
            "C": 0.1 * rng.standard_normal((classes, units)) / units**0.5,
            "c": np.zeros(classes),
        }
        # The digits are independent: the Jacobian has one dense block for each of them.
        self.model, total = self.problem(len(images))
        self.loss = total / len(images) + mfdeq.QuadraticPrior(DECAY)

    def problem(self, count: int) -> tuple[mfdeq.FixedPointModel, mfdeq.Loss]:
        """Return the model of so many digits, the first ones, and the sum of their losses."""
        x, labels, h = self.x[:count], self.labels[:count], self.state[0]
        model = mfdeq.from_jax(layer_of_one, h, self.weights, "map", args=x, batched=True)
        loss = mfdeq.loss_from_jax(misfit_of_one, h, self.weights, args=labels, batched=True)
        return model, loss

    def minibatches(self, count: int, seed: int = 0):
        """Yield models and losses of random minibatches, which share what JAX compiles."""
        model, total = self.problem(count)
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.x))
            for start in range(0, len(order) - count + 1, count):
                chosen = order[start : start + count]
                loss = total.with_args(self.labels[chosen]) / count + mfdeq.QuadraticPrior(DECAY)
                yield model.with_args(self.x[chosen]), loss

    def map(self, h, w):
        """Return the map, digit by digit."""
        return jax.vmap(layer_of_one, in_axes=(0, None, 0))(h, w, self.x)

    def misfit(self, h, w):
        """Return the mean cross-entropy of the labels."""
        return jax.vmap(misfit_of_one, in_axes=(0, None, 0))(h, w, self.labels).mean()

    def share_right(self, theta: np.ndarray) -> float:
        """Return the share of digits that the weights classify correctly."""
        w, h = self.model.params_tree(theta), mfdeq.solve(self.model, theta).samples
        predicted = np.argmax(h @ np.asarray(w["C"]).T + np.asarray(w["c"]), axis=1)
        return float((predicted == self.labels).mean())


def load_digits(count: int, units: int) -> tuple[Layer, Layer]:
    """Load the 8 × 8 images: a layer for `count` of them, and one for the others."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    shown, unseen = order[:count], order[count:]
    return tuple(Layer(images[i] / 16.0, labels[i], units) for i in (shown, unseen))


# --- training ------------------------------------------------------------------------------------


class Row(NamedTuple):
    """The progress of a training."""

    work: float  # gradients and Hessian products of all digits, each at most two linear solves
    seconds: float  # of processor time, which other programs hardly affect
    loss: float
    gradient: float  # norm of the gradient


class Log:
    """The record of a training, which counts its derivatives."""

    def __init__(self, layer: Layer):
        self.F = mfdeq.ReducedFunctional(layer.model, layer.loss)
        self.work, self.paused = 0.0, 0.0
        self.rows: list[Row] = []
        self.spectra: list[tuple[int, mfdeq.Eigenpairs]] = []
        start = layer.model.flat_params(layer.weights)
        _ = self.F.gradient(start), self.F.hessp(start, start)  # compiles
        self.begin = time.process_time()

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        """Return the gradient."""
        self.work += 1
        return self.F.gradient(theta)

    def hessp(self, theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return H v."""
        self.work += 1
        return self.F.hessp(theta, v)

    def record(self, theta: np.ndarray) -> None:
        """Record the progress."""
        loss, gradient = self.F.value(theta), np.linalg.norm(self.F.gradient(theta))
        seconds = time.process_time() - self.begin - self.paused
        self.rows.append(Row(self.work, seconds, loss, gradient))

    def record_spectrum(self, theta: np.ndarray) -> None:
        """Record both ends of the spectrum, without counting the time."""
        begin = time.process_time()
        pairs = mfdeq.eigsh(self.F.hessian(theta), k=2 * EIGENVALUES, which="BE", rtol=3e-5)
        self.spectra.append((self.work, pairs))
        self.paused += time.process_time() - begin


def by_newton(layer: Layer, theta: np.ndarray, size: Size) -> tuple[np.ndarray, Log]:
    """Train by scipy's trust-region Newton–CG method (Steihaug, 1983)."""
    log = Log(layer)

    def callback(theta: np.ndarray) -> None:
        log.record(theta)
        if len(log.rows) % size.spectrum_every == 1:
            log.record_spectrum(theta)

    callback(theta)
    found = scipy.optimize.minimize(
        log.F.value,
        theta,
        jac=log.gradient,
        hessp=log.hessp,
        method="trust-ncg",
        callback=callback,
        options={"maxiter": size.newton, "gtol": GRADIENT_TOLERANCE},
    )
    log.record_spectrum(found.x)
    return found.x, log


def by_adam(layer: Layer, theta: np.ndarray, size: Size) -> tuple[np.ndarray, Log]:
    """Train by Adam (Kingma and Ba, 2015), with the whole batch in each step."""
    log = Log(layer)
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    log.record(theta)
    for step in range(1, size.adam + 1):
        g = log.gradient(theta)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        root = np.sqrt(square / (1 - 0.999**step))
        theta = theta - LEARNING_RATE * mean / (1 - 0.9**step) / (root + 1e-8)
        log.record(theta)
    return theta, log


def by_minibatches(layer: Layer, theta: np.ndarray, size: Size) -> tuple[np.ndarray, Log]:
    """Train by Adam with a minibatch in each step, and a rate that falls to zero."""
    log = Log(layer)
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    each = max(1, len(layer.x) // size.batch)
    steps = each * max(1, round(PASSES * size.adam))
    batches = layer.minibatches(size.batch)
    model, loss = next(batches)
    mfdeq.solve(model, theta).gradient(loss)  # compiles
    log.begin = time.process_time()
    log.record(theta)
    for step in range(1, steps + 1):
        model, loss = next(batches)
        g = mfdeq.solve(model, theta, error_estimates=False).gradient(loss)
        log.work += size.batch / len(layer.x)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        root = np.sqrt(square / (1 - 0.999**step))
        rate = LEARNING_RATE * (1.0 - (step - 1) / steps)
        theta = theta - rate * mean / (1 - 0.9**step) / (root + 1e-8)
        if step % each == 0:
            begin = time.process_time()
            log.record(theta)
            log.paused += time.process_time() - begin
    return theta, log


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, logs: dict[str, Log]) -> None:
    """Save the figure: loss over work and seconds, gradient, ends of the spectrum."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullFormatter

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    (by_work, by_seconds), (slope, ends) = axes
    products = "gradients and Hessian products"
    best = min(row.loss for log in logs.values() for row in log.rows)
    for (name, log), color in zip(logs.items(), ("C0", "C1", "C2"), strict=True):
        work, seconds, loss, gradient = np.transpose(log.rows)
        line = {"color": color, "lw": 1.3, "label": name}
        above = np.where(loss > best, loss - best, np.nan)
        by_work.loglog(work + 1, above, **line)
        by_seconds.loglog(seconds, above, **line)
        slope.loglog(work + 1, gradient, **line)
    by_work.set_title("Loss above the lowest one reached", loc="left")
    by_work.set(xlabel=products)
    by_seconds.set_title("The same over time", loc="left")
    by_seconds.set(xlabel="seconds of processor time", xlim=(0.1, None))
    by_seconds.xaxis.set_minor_formatter(NullFormatter())
    slope.set_title("Norm of the gradient", loc="left")
    slope.set(xlabel=products)
    for ax in (by_work, by_seconds, slope):
        ax.legend(frameon=False, loc="lower left")
        ax.grid(color="0.92")

    (_, log) = next(iter(logs.items()))
    work = [1 + count for count, _ in log.spectra]
    values = np.array([pairs.values for _, pairs in log.spectra])
    ends.plot(work, values[:, EIGENVALUES:], "o-", color="C3", ms=4, lw=0.7)
    ends.plot(work, values[:, :EIGENVALUES], "o-", color="C0", ms=4, lw=0.7)
    ends.axhline(DECAY, color="0.4", lw=1, ls=":", label="weight decay")
    ends.axhline(0.0, color="0.4", lw=1)
    ends.set_xscale("log")
    ends.set_yscale("symlog", linthresh=DECAY)
    ends.set_title(f"The {EIGENVALUES} largest and smallest eigenvalues of H", loc="left")
    ends.set(xlabel=f"{products}, Newton-CG")
    ends.legend(frameon=False, loc="center right")
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<14}{line}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the example and print every number with its cost or its error bound."""
    options = parse(arguments)
    begin, size = time.perf_counter(), SIZES[options.size]
    layer, unseen = load_digits(size.digits, size.units)
    model, start = layer.model, layer.model.flat_params(layer.weights)
    eq = mfdeq.solve(model, start)
    _, error = eq.gradient_with_error(layer.loss)
    say(
        "Layer",
        f"{size.units} units, {size.digits:,} digits: N = {model.state_size:,} states, P = "
        f"{model.param_size:,} weights",
    )
    say(
        "Equilibrium",
        f"{eq.report.iterations} iterations of {eq.report.method} at the start; {eq.report.reason}",
        f"{eq.report.solver} for A, {eq.report.digits_left:.1f} digits are left; estimated error "
        f"of the gradient {np.linalg.norm(error):.0e}",
    )

    logs, trained = {}, {}
    trainings = {"Newton-CG": by_newton, "Adam": by_adam, "Adam, minibatches": by_minibatches}
    for name, train in trainings.items():
        trained[name], logs[name] = train(layer, start, size)
        first, last = logs[name].rows[0], logs[name].rows[-1]
        say(
            name,
            f"loss {first.loss:.4f} to {last.loss:.6f}, norm of the gradient {last.gradient:.1e}; "
            f"{last.work:,.0f} gradients and products, {last.seconds:.1f} s of processor time",
            f"{unseen.share_right(trained[name]):.1%} of {len(unseen.labels)} other digits are "
            "classified correctly",
        )
    say("Down to loss", *race(logs))

    for count, pairs in logs["Newton-CG"].spectra:
        low, high = (", ".join(f"{value:.2g}" for value in part) for part in ends_of(pairs))
        say(f"After {count:,.0f}", f"{low} ... {high}  (± {max(pairs.error_bounds):.0e})")
    say("", meaning(logs["Newton-CG"].spectra[-1][1]))
    if options.figure:
        draw(options.output, logs)
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.0f} s in all, with compilation and the spectra")


def race(logs: dict[str, Log]) -> list[str]:
    """Return the work and the time of each training to reach the same losses."""
    lines = [" " * 5 + "".join(f"{name:>18}" for name in logs)]
    for loss in (1.0, 0.3, 0.1, 0.07, 0.065, 0.06):
        firsts = [
            next((row for row in log.rows if row.loss <= loss), None) for log in logs.values()
        ]
        if any(firsts):
            took = (f"{row.work:5,.0f}, {row.seconds:5.1f} s" if row else "never" for row in firsts)
            lines.append(f"{loss:5}" + "".join(f"{text:>18}" for text in took))
    return lines


def ends_of(pairs: mfdeq.Eigenpairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest eigenvalues."""
    return pairs.values[:EIGENVALUES], pairs.values[EIGENVALUES:]


def meaning(pairs: mfdeq.Eigenpairs) -> str:
    """Explain the smallest eigenvalue at the end."""
    smallest, bound = pairs.values[0], pairs.error_bounds[0]
    if smallest > bound:
        return "all eigenvalues found are positive: this indicates a minimum"
    if smallest < -bound:
        return "the smallest is negative: not a minimum yet, and its vector is a way down"
    return "the smallest is zero within its bound: this does not show whether there is a minimum"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="(default: full)")
    parser.add_argument("--output", type=Path, default="deq_digits.png", help="file of the figure")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="numbers only")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
