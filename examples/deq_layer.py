"""A convolutional deep-equilibrium network on handwritten digits, in PyTorch.

    h = tanh(W * h + V * x),    logits C h + c

An encoder, an implicit layer (`mfdeq.torch_layer`) and a decoder are a network like any other. It
is trained by Adam on minibatches, and then by Newton's method with conjugate gradients on exact
Hessian-vector products (`mfdeq.hessian_of`, `mfdeq.minimize`), which go through the equilibria of
all digits. Both ends of the Hessian's spectrum of all parameters are computed on the way, and at
the end all of it. An explicit network, which applies the same convolution three times instead of
solving for the equilibrium, is trained beside it. The digits are scikit-learn's.

    python examples/deq_layer.py                # 8 channels, 500 digits, ten minutes
    python examples/deq_layer.py --size small   # 3 channels, 60 digits, seconds
"""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mfdeq

HAS_TORCH = find_spec("torch") is not None
if HAS_TORCH:
    import torch


class Size(NamedTuple):
    """The size of a run."""

    channels: int
    digits: int
    batch: int
    epochs: int  # of Adam
    newton: int  # iterations


SIZES = {"small": Size(3, 60, 20, 15, 8), "full": Size(8, 500, 50, 40, 25)}
DECAY = 1e-3  # the weight of half the squared parameters
LEARNING_RATE = 0.02  # of Adam
GAIN = 0.9  # bound on the contraction of the layer
UNROLLED = 3  # applications of the cell in the explicit network
EIGENVALUES = 3  # at each end of the spectrum


# --- the networks --------------------------------------------------------------------------------


def networks(channels: int):
    """Return the implicit network and the explicit one, with equal parameters."""

    class Cell(torch.nn.Module):
        """h = tanh(W * h + x), a contraction in the largest norm by at least `GAIN`.

        The kernel is divided by a smooth bound on the sum of the absolute values of its rows, so
        that every input has one equilibrium, whatever the parameters.
        """

        def __init__(self):
            super().__init__()
            kernel = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
            self.kernel = torch.nn.Parameter(kernel)

        def forward(self, h, x):
            square = self.kernel.pow(2).sum((1, 2, 3), keepdim=True)
            bound = torch.sqrt(1.0 + 9 * channels * square)  # Cauchy and Schwarz
            W = GAIN * self.kernel / bound
            return torch.tanh(torch.nn.functional.conv2d(h, W, padding=1) + x)

    class Unrolled(torch.nn.Module):
        """A few applications of the cell."""

        def __init__(self, cell):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            h = torch.zeros_like(x)
            for _ in range(UNROLLED):
                h = self.cell(h, x)
            return h

    def network(layer):
        torch.manual_seed(0)
        cell = Cell()
        return torch.nn.Sequential(
            torch.nn.Conv2d(1, channels, 3, stride=2, padding=1),
            layer(cell),
            torch.nn.Flatten(),
            torch.nn.Linear(16 * channels, 10),
        ).double()

    return {
        "equilibrium": network(mfdeq.torch_layer),
        f"{UNROLLED} applications": network(Unrolled),
    }


class Task:
    """A network with its digits and its loss."""

    def __init__(self, network, data, unseen, batch: int):
        self.network, self.data, self.unseen, self.batch = network, data, unseen, batch
        self.parameters = list(network.parameters())
        self.hessian = mfdeq.hessian_of(self.loss, self.parameters, [data])
        self.losses = [self.hessian.value()]
        self.spectra: dict[str, np.ndarray] = {}  # both ends

    def loss(self, x, y):
        """Return the mean cross-entropy and the weight decay."""
        squares = sum(p.pow(2).sum() for p in self.parameters)
        return torch.nn.functional.cross_entropy(self.network(x), y) + 0.5 * DECAY * squares

    def adam(self, epochs: int) -> None:
        """Train on minibatches, with a rate that falls to zero."""
        optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs)
        dataset = torch.utils.data.TensorDataset(*self.data)
        shuffled = torch.Generator().manual_seed(0)
        batches = torch.utils.data.DataLoader(dataset, self.batch, shuffle=True, generator=shuffled)
        for _ in range(epochs):
            for x, y in batches:
                optimizer.zero_grad()
                self.loss(x, y).backward()
                optimizer.step()
            schedule.step()
            self.losses.append(self.hessian.value())

    def newton(self, iterations: int) -> mfdeq.Minimum:
        """Continue by Newton's method over all digits."""
        H = self.hessian
        try:
            found = mfdeq.minimize(
                H.functional,
                H.flat_params(),
                gtol=1e-6,
                max_iterations=iterations,
                callback=lambda theta, step: self.losses.append(step.value),
            )
        except mfdeq.ConvergenceError as error:  # the iterations are used up
            found = error.best
        H.set_params(found.params)
        return found

    def record_spectrum(self, name: str) -> float:
        """Compute both ends of the spectrum, and return the error bound of the eigenvalues."""
        pairs = mfdeq.eigsh(self.hessian, k=2 * EIGENVALUES, which="BE", rtol=1e-3, complete=False)
        self.spectra[name] = pairs.values
        return float(max(pairs.error_bounds))

    def all_eigenvalues(self) -> np.ndarray:
        """Return all eigenvalues: one block of products shares the equilibria and the gradient."""
        matrix = self.hessian @ np.eye(self.hessian.shape[0])
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        self.spectra["Newton"] = values[[*range(EIGENVALUES), *range(-EIGENVALUES, 0)]]
        return values

    def share_right(self) -> float:
        """Return the share of other digits that are classified correctly."""
        x, y = self.unseen
        self.network.eval()
        with torch.no_grad():
            right = self.network(x).argmax(1) == y
        self.network.train()
        return float(right.double().mean())


def load_digits(count: int):
    """Load the 8 × 8 images and their labels: `count` of them, and 500 others."""
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order] / 16.0).view(-1, 1, 8, 8)
    y = torch.tensor(labels[order])
    return (x[:count], y[:count]), (x[count : count + 500], y[count : count + 500])


# --- figure --------------------------------------------------------------------------------------


def draw(path: Path, tasks: dict[str, Task], values: dict[str, np.ndarray], epochs: int) -> None:
    """Save the figure: the loss, the ends of the spectrum on the way, all of it at the end."""
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.titlesize": 11, "axes.titleweight": "bold"})
    fig, (loss, ends, whole) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    styles = ({"color": "C0", "ls": "-"}, {"color": "C1", "ls": "--"})  # they lie on each other
    for (name, task), style in zip(tasks.items(), styles, strict=True):
        loss.semilogy(task.losses, lw=1.3, label=name, **style)
        for line in np.transpose(list(task.spectra.values())):
            ends.plot(list(task.spectra), line, marker="o", ms=4, lw=0.7, **style)
        whole.plot(np.sort(values[name])[::-1], lw=1.3, label=name, **style)
    loss.axvline(epochs, color="0.6", lw=1, ls=":")
    loss.text(epochs, 1.0, " Newton", transform=loss.get_xaxis_transform(), va="top")
    loss.set_title("Loss of all digits", loc="left")
    loss.set(xlabel="epochs of Adam, then iterations of Newton-CG")
    ends.axhline(DECAY, color="0.4", lw=1, ls=":")
    ends.set_yscale("symlog", linthresh=DECAY)
    ends.set_title(f"The {EIGENVALUES} largest and smallest eigenvalues", loc="left")
    whole.axhline(DECAY, color="0.4", lw=1, ls=":", label="weight decay")
    whole.set_yscale("symlog", linthresh=DECAY)
    whole.set_title("All eigenvalues at the end", loc="left")
    whole.set(xlabel="number")
    for ax in (loss, whole):
        ax.legend(frameon=False)
        ax.grid(color="0.92")
    fig.savefig(path, dpi=120)
    plt.close(fig)


# --- main program --------------------------------------------------------------------------------


def say(topic: str, *lines: str) -> None:
    """Print a topic and the lines that belong to it."""
    for head, line in zip_longest([topic], lines, fillvalue=""):
        print(f"{head:<16}{line}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the example and print every number with its cost or its error bound."""
    options = parse(arguments)
    if not HAS_TORCH:
        print("LEFT OUT: this example needs PyTorch, the extra torch")
        return
    size, begin = SIZES[options.size], time.perf_counter()
    data, unseen = load_digits(size.digits)
    tasks, values = {}, {}
    for name, network in networks(size.channels).items():
        task = tasks[name] = Task(network, data, unseen, size.batch)
        say(
            name.capitalize(),
            f"{size.digits} digits, {16 * size.channels} numbers a state, "
            f"{task.hessian.shape[0]} parameters",
        )
        bound = task.record_spectrum("start")
        task.adam(size.epochs)
        bound = max(bound, task.record_spectrum("Adam"))
        after = f"{task.losses[0]:.4f} to {task.losses[-1]:.5f}"
        say(
            "  Adam",
            f"{size.epochs} epochs, loss {after}; {task.share_right():.1%} of other digits right",
        )
        found = task.newton(size.newton)
        values[name] = task.all_eigenvalues()
        say(
            "  Newton-CG",
            f"{len(found.report.steps) - 1} iterations, {found.report.products} products, loss "
            f"{found.value:.5f}, norm of the gradient {np.linalg.norm(found.gradient):.1e}; "
            f"{task.share_right():.1%} of other digits right",
        )
        for stage, ends in task.spectra.items():
            low, high = ends[:EIGENVALUES], ends[EIGENVALUES:]
            parts = (", ".join(f"{value:.2g}" for value in part) for part in (low, high))
            say(f"  {stage}", " ... ".join(parts) + f"  (± {bound:.0e})")
        say("  Directions", meaning(values[name]))
    if options.figure:
        draw(options.output, tasks, values, size.epochs)
        say("Figure", str(options.output))
    say("Time", f"{time.perf_counter() - begin:.0f} s in all")


def meaning(values: np.ndarray) -> str:
    """Say how many directions the digits determine, and whether there is negative curvature."""
    curved, negative = np.sum(values > 2 * DECAY), np.sum(values < 0.0)
    return (
        f"{curved} of {len(values)} are curved more by the digits than by the weight decay, "
        f"{negative} are curved downwards; sharpness {values.max():.3g}"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full", help="(default: full)")
    parser.add_argument("--output", type=Path, default="deq_layer.png", help="file of the figure")
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="numbers only")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
