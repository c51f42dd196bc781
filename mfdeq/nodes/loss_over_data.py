"""The loss of a program in JAX or PyTorch over all batches of its data."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..arrays.backend import Array, host
from ..errors import ArgumentError, ModelError, short_repr
from .program import CALLER, Program

REPEATED_RTOL = 1e-3  # of a product that is repeated, far above the tolerance of equilibria


class LossOverData:
    """The loss of a program over all batches, and its derivatives.

    Parameters
    ----------
    program : Program
    data : iterable of batches or None
    reduction : {"mean", "sum"}
    """

    def __init__(self, program: Program, data: Any, reduction: str) -> None:
        self.program, self.data, self.reduction = program, data, reduction
        self._is_repeatable = False

    @contextlib.contextmanager
    def at(self, theta: Array | None) -> Iterator[None]:
        """Give the program other parameters for a while, unless theta is None."""
        if theta is None:
            yield
            return
        own = self.program.flat_params()
        self.program.set_params(theta)
        try:
            yield
        finally:
            self.program.set_params(own)

    def value(self) -> float:
        """Return the loss."""
        return self._accumulate(self.program.value)

    def gradient(self) -> Array:
        """Return the gradient, (P,)."""
        return self._accumulate(self.program.gradient, "gradient")

    def products(self, V: Array) -> Array:
        """Return the products with the Hessian, (P, k); the first call checks that they repeat."""
        if not self._is_repeatable:
            self._check_repeated_product()
        return self._products(V)

    def _products(self, V: Array) -> Array:
        return self._accumulate(lambda batch: self.program.products(batch, V), "Hessian's product")

    def _check_repeated_product(self) -> None:
        """Raise `ModelError` if the product with a random vector differs when it is repeated."""
        v = host.random.default_rng(0).standard_normal((self.program.size, 1))
        v = v.astype(self.program.backend.dtype)
        first, second = self._products(v), self._products(v)
        change, size = host.linalg.norm(second - first), host.linalg.norm(first)
        if change > REPEATED_RTOL * size:
            raise ModelError(
                f"loss of {CALLER}: expected the same Hessian each time, got products with one "
                f"vector that differ by {change / size:.1e} of their size. Put the network into "
                "evaluation mode if it has dropout or BatchNorm (network.eval()), draw no random "
                "numbers in the loss, and pass data that are the same samples in each iteration: "
                "no DataLoader with shuffle=True and drop_last=True, and no random augmentation"
            )
        self._is_repeatable = True

    def _accumulate(self, of_batch: Callable[[tuple[Any, ...]], Any], derivative: str = "") -> Any:
        """Return the sum of a function of the batches, or its mean over the samples.

        Derivatives, whose name is passed, have to be finite.
        """
        if self.data is None:
            self._check_batch(())
            found = of_batch(())
            return check_finite(found, derivative) if derivative else found
        total: Any = None
        samples = 0
        for number, batch in enumerate(self.data):
            arrays = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            self._check_batch(arrays)
            size = number_of_samples(arrays) if self.reduction == "mean" else 1
            part = size * of_batch(arrays)
            if derivative:
                check_finite(part, f"{derivative} for batch {number}")
            total, samples = part if total is None else total + part, samples + size
        if total is None:
            raise ArgumentError(f"data of {CALLER}: expected at least one batch, got none")
        return total / samples if self.reduction == "mean" else total

    def _check_batch(self, arrays: tuple[Any, ...]) -> None:
        """Raise `ArgumentError` if the loss does not take the arrays of a batch."""
        try:
            signature = inspect.signature(self.program.loss)
        except (TypeError, ValueError):  # of a function that does not tell
            return
        before = (None,) if self.program.takes_params else ()
        try:
            signature.bind(*before, *arrays)
        except TypeError:
            wanted = ", ".join([str(p) for p in signature.parameters.values()][len(before) :])
            got = f"a batch of {' and '.join(map(short_repr, arrays))}" if arrays else "no data"
            raise ArgumentError(
                f"data of {CALLER}: expected a list of batches, each a tuple of what the loss "
                f"takes ({wanted or 'nothing'}), got {got}. For one batch of x and y pass [(x, y)]"
            ) from None


def check_data(data: Any) -> None:
    """Raise `ArgumentError` if data are not batches that can be iterated several times."""
    name = f"data of {CALLER}"
    iterator = None
    if not isinstance(data, Mapping) and not hasattr(data, "shape"):
        with contextlib.suppress(TypeError):
            iterator = iter(data)
    if iterator is None:
        raise ArgumentError(
            f"{name}: expected a list or a DataLoader of batches, got {short_repr(data)}. For one "
            "batch pass [x], or [(x, y)] for a loss of x and y"
        )
    if iterator is data:
        raise ArgumentError(
            f"{name}: expected a list or a DataLoader, which can be iterated for each product, "
            f"got a {type(data).__name__}, which can be iterated once"
        )


def check_finite(derivative: Array, name: str) -> Array:
    """Return a derivative, or raise a `ModelError` that names its first entry without a value."""
    wrong = ~host.isfinite(derivative).reshape(derivative.shape[0], -1).all(axis=1)
    if wrong.any():
        raise ModelError(
            f"loss of {CALLER}: its {name} holds NaN or infinity for {int(wrong.sum())} of "
            f"{len(wrong)} parameters, the first of them entry {int(wrong.argmax())}. The loss or "
            "its derivative has no value there: see H.value(), and avoid roots, norms and "
            "logarithms of zero",
            non_finite=True,
        )
    return derivative


def number_of_samples(batch: Any) -> int:
    """Return the length of the first axis of the first array of a batch, which may be nested."""
    for array in _arrays(batch):
        if len(array.shape):
            return int(array.shape[0])
    parts = ", ".join(type(part).__name__ for part in batch)
    raise ArgumentError(
        f"data of {CALLER}: expected batches with an array whose first axis is that of the "
        f'samples, got a batch of {parts}: pass reduction="sum" for a loss that is a sum, or '
        "tuples or dicts of arrays"
    )


def _arrays(tree: Any) -> Iterator[Any]:
    """Iterate over the arrays of nested tuples, lists and mappings."""
    if hasattr(tree, "shape"):
        yield tree
    elif isinstance(tree, (tuple, list, Mapping)):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _arrays(part)
