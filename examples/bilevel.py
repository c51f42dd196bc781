"""One regularizer for each of 64 pixels, by Newton's method on the validation loss.

    w(θ) = argmin over w of  mean log(1 + exp(−y (x'w + b))) + ½ Σ exp(θ_j) w_j²

A logistic regression tells odd from even digits on scikit-learn's 8 × 8 images. Each pixel has a
regularizer of its own, and the 64 logarithms θ minimize the loss on other images, those for
validation. The inner minimum is a node (`mfdeq.to_jax`) in a program of JAX, so that the outer
gradient and the exact outer Hessian, of a function with an argmin inside, are those of any JAX
function. Newton's method with that Hessian is compared with gradient descent and L-BFGS, and the
result with the best common regularizer.

    python examples/bilevel.py                # 400 images to fit, a minute
    python examples/bilevel.py --size small   # 100 images, seconds
"""

from __future__ import annotations

import argparse
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import mfdeq

jax.config.update("jax_enable_x64", True)
jnp = jax.numpy


class Size(NamedTuple):
    """The numbers of images, and of steps of gradient descent."""

    fitted: int
    validation: int
    descent: int


SIZES = {"small": Size(100, 300, 60), "full": Size(400, 700, 300)}
START = np.log(0.01)  # of all θ
SPREAD = 4.0  # standard deviation of θ around the start in the outer prior
PRIOR = 0.05  # the weight of that prior beside the validation loss, shared by the 64 regularizers
RATES = (10.0, 30.0, 100.0)  # of gradient descent, of which the best is shown
COMMON = np.linspace(-8.0, 0.0, 17)  # logarithms of a common regularizer


# --- the problem ---------------------------------------------------------------------------------


def misfit(w, x, y):
    """Return the mean logistic loss of weights w, the last of which is the intercept."""
    return jnp.mean(jnp.logaddexp(0.0, -y * (x @ w[:-1] + w[-1])))


class Bilevel:
    """The validation loss as a function of the logarithms of the regularizers."""

    def __init__(self, size: Size):
        from sklearn import datasets

        images, digits = datasets.load_digits(return_X_y=True)
        x, y = images / 16.0, np.where(digits % 2 == 1, 1.0, -1.0)
        order = np.random.default_rng(0).permutation(len(x))
        parts = np.split(order, [size.fitted, size.fitted + size.validation])
        self.fitted, self.validation, self.unseen = ((x[i], y[i]) for i in parts)
        pixels = x.shape[1]

        def objective(w, theta):
            return misfit(w, *self.fitted) + 0.5 * jnp.sum(jnp.exp(theta) * w[:-1] ** 2)

        self.start = np.full(pixels, START)
        model = mfdeq.from_jax(objective, np.zeros(pixels + 1), self.start, "argmin")
        self.weights = mfdeq.to_jax(model)

    def loss(self, theta):
        """Return the validation loss and the prior, which keeps pixels without ink in place."""
        prior = jnp.mean((theta - START) ** 2) / SPREAD**2
        return misfit(self.weights(theta), *self.validation) + 0.5 * PRIOR * prior

    def loss_and_share_right(self, theta) -> tuple[float, float]:
        """Return the loss and the share of images classified correctly among those never used."""
        x, y = self.unseen
        w = np.asarray(self.weights(theta))
        right = (x @ w[:-1] + w[-1]) * y > 0.0
        return float(misfit(w, x, y)), float(right.mean())


# --- the methods ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """The progress of a method."""

    work: int  # losses, gradients and Hessian products
    seconds: float  # of processor time
    loss: float


def by_minimize(problem: Bilevel, method: str) -> tuple[np.ndarray, list[Row], mfdeq.Minimum]:
    """Minimize by `mfdeq.minimize`, whose Newton steps use the exact Hessian of the program."""
    H = mfdeq.hessian_of(problem.loss, problem.start)
    F, v = H.functional, np.ones(len(problem.start))
    _ = F.evaluate_gradient(problem.start), H @ v, H.value()  # compiles
    begin, before, products = time.process_time(), F.solves, 0
    rows = [Row(1, 0.0, H.value())]

    def record(theta, step):
        nonlocal products
        products += step.inner
        rows.append(Row(F.solves - before + products, time.process_time() - begin, step.value))

    try:
        found = mfdeq.minimize(F, problem.start, method, gtol=1e-5, callback=record)
    except mfdeq.ConvergenceError as error:
        found = error.best
    return found.params, rows, found


def by_descent(problem: Bilevel, steps: int, rate: float) -> list[Row]:
    """Take steps of gradient descent of one length."""
    derivative = jax.jit(jax.value_and_grad(problem.loss))
    theta = problem.start
    derivative(theta)
    begin, rows = time.process_time(), []
    for step in range(steps + 1):
        value, slope = derivative(theta)
        rows.append(Row(2 * step + 1, time.process_time() - begin, float(value)))
        theta = theta - rate * np.asarray(slope)
    return rows


def best_common(problem: Bilevel) -> tuple[np.ndarray, list[float]]:
    """Return the best common regularizer on a grid, as θ, and the validation loss of each."""
    candidates = [np.full(len(problem.start), value) for value in COMMON]
    losses = [float(misfit(problem.weights(t), *problem.validation)) for t in candidates]
    return candidates[int(np.argmin(losses))], losses


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, runs: dict[str, list[Row]], theta, values) -> None:
    """Save the figure: the loss over work and time, the regularizers, the outer spectrum."""
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    (by_work, by_seconds), (image, spectrum) = axes
    best = min(row.loss for rows in runs.values() for row in rows)
    for (name, rows), color in zip(runs.items(), ("C0", "C2", "C1"), strict=True):
        work, seconds, loss = np.transpose(rows)
        above = np.where(loss > best, loss - best, np.nan)
        by_work.loglog(work, above, color=color, lw=1.3, label=name)
        by_seconds.loglog(seconds[1:], above[1:], color=color, lw=1.3, label=name)
    by_work.set_title("Outer loss above the lowest one reached", loc="left")
    by_work.set(xlabel="losses, gradients and Hessian products")
    by_seconds.set_title("The same over time", loc="left")
    by_seconds.set(xlabel="seconds of processor time")
    for ax in (by_work, by_seconds):
        ax.legend(frameon=False, loc="lower left")
        ax.grid(color="0.92")
    shown = image.imshow(theta.reshape(8, 8) / np.log(10.0), cmap="viridis")
    fig.colorbar(shown, ax=image, label="log10 of the regularizer")
    image.set_title("The regularizers of the 64 pixels", loc="left")
    image.set(xticks=[], yticks=[])
    spectrum.semilogy(np.arange(1, len(values) + 1), np.sort(values)[::-1], "o", ms=3, color="C0")
    flat = PRIOR / SPREAD**2 / len(values)
    spectrum.axhline(flat, color="0.4", lw=1, ls=":", label="the prior alone")
    spectrum.set_title("Eigenvalues of the outer Hessian at the minimum", loc="left")
    spectrum.set(xlabel="number")
    spectrum.legend(frameon=False)
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<18}{line}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the example and print every number with its cost or its error."""
    options = parse(arguments)
    size, begin = SIZES[options.size], time.perf_counter()
    problem = Bilevel(size)
    pixels = len(problem.start)
    say(
        "Problem",
        f"{size.fitted} images to fit, {size.validation} for validation; {pixels + 1} weights and "
        f"{pixels} regularizers",
    )
    theta, rows, found = by_minimize(problem, "newton-cg")
    runs = {"Newton-CG": rows}
    _, runs["L-BFGS"], _ = by_minimize(problem, "l-bfgs")
    descents = {rate: by_descent(problem, size.descent, rate) for rate in RATES}
    rate = min(descents, key=lambda rate: descents[rate][-1].loss)
    runs[f"gradient descent, rate {rate:g}"] = descents[rate]
    for name, steps in runs.items():
        last = steps[-1]
        say(
            name.split(",")[0],
            f"outer loss {steps[0].loss:.5f} to {last.loss:.7f}; {last.work:,} losses, gradients "
            f"and products, {last.seconds:.1f} s of processor time",
        )
    say("Newton's minimum", found.reason)

    H = mfdeq.hessian_of(problem.loss, theta)
    v = np.random.default_rng(1).standard_normal(pixels)
    step = 1e-4 * v / np.linalg.norm(v)
    slopes = [mfdeq.hessian_of(problem.loss, theta + t * step).gradient() for t in (1.0, -1.0)]
    product = H @ step
    error = np.linalg.norm(product - (slopes[0] - slopes[1]) / 2) / np.linalg.norm(product)
    say("Hessian product", f"differs from differences of gradients by {error:.0e}")
    pairs = mfdeq.eigsh(H, k=pixels)
    flat = PRIOR / SPREAD**2 / pixels
    say(
        "Outer spectrum",
        f"{pairs.values.min():.2e} to {pairs.values.max():.2e} (± {pairs.error_bounds.max():.0e}); "
        f"{np.sum(pairs.values > 2 * flat)} of {pixels} directions are curved more by the "
        "validation loss than by the prior",
    )
    common, _ = best_common(problem)
    for name, t in (("best common one", common), ("one a pixel", theta)):
        on_validation = float(misfit(problem.weights(t), *problem.validation))
        loss, right = problem.loss_and_share_right(t)
        say(
            name.capitalize(),
            f"validation loss {on_validation:.4f}; on {len(problem.unseen[1])} images never used: "
            f"loss {loss:.4f}, {right:.1%} right",
        )
    if options.figure:
        draw(options.output, runs, theta, pairs.values)
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.0f} s in all, with compilation")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="(default: full)")
    parser.add_argument("--output", type=Path, default="bilevel.png", help="file of the figure")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="numbers only")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
