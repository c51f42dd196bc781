"""Checks of the arguments of `mfdeq.SumFunctional`."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Sequence
from concurrent import futures
from numbers import Real
from typing import Any

from ..arguments import count as positive_count
from ..arrays.backend import host
from ..errors import ArgumentError, short_repr
from ..models.losses import LossBase
from ..models.model import Model
from ..models.quadratic_losses import QuadraticPrior


def checked_functionals(functionals: Any, kind: type) -> list[Any]:
    """Return the functionals as a list, after checking their type."""
    given = list(functionals) if isinstance(functionals, Iterable) else [functionals]
    if not given:
        raise ArgumentError("functionals: expected at least one mfdeq.ReducedFunctional, got none")
    for i, F in enumerate(given):
        if not isinstance(F, kind):
            raise ArgumentError(
                f"functionals: expected instances of mfdeq.ReducedFunctional, got {short_repr(F)} "
                f"as number {i}; pass mfdeq.ReducedFunctional(model, loss)"
            )
    return given


def checked_weights(weights: Any, size: int) -> list[float]:
    """Return the weights as floats, by default ones."""
    if weights is None:
        return [1.0] * size
    given = list(weights) if isinstance(weights, Iterable) else [weights]
    if len(given) != size:
        raise ArgumentError(
            f"weights: expected {size} numbers, one for each functional, got {len(given)}"
        )
    for i, weight in enumerate(given):
        number = isinstance(weight, Real) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight):
            raise ArgumentError(
                f"weights: expected finite numbers, got {short_repr(weight)} as number {i}"
            )
    return [float(weight) for weight in given]


def without_sums(
    functionals: Sequence[Any],
    weights: Sequence[float],
    names: Sequence[str] | None,
    prior: LossBase | None,
) -> tuple[list[Any], list[float], list[str], LossBase | None]:
    """Return functionals with sums split into their parts, and with the priors of sums added.

    Parameters
    ----------
    functionals, weights
        As returned by `checked_functionals` and `checked_weights`.
    names : sequence of str or None
        One for each functional, by default those that they have.
    prior : QuadraticPrior or None

    Returns
    -------
    functionals, weights, names : lists
    prior : LossBase or None
    """
    if names is not None and len(names) != len(functionals):
        raise ArgumentError(f"names: expected {len(functionals)} names, got {len(names)}")
    parts: list[tuple[Any, float, str]] = []
    for i, (factor, F) in enumerate(zip(weights, functionals, strict=True)):
        labels = F.names if names is None else [str(names[i])] * len(F.summands)
        for (weight, part), label in zip(F.summands, labels, strict=True):
            parts.append((part, factor * weight, label))
        if F.prior is not None:
            own = factor * F.prior
            prior = own if prior is None else prior + own
    found, factors, labels = map(list, zip(*parts, strict=True))
    return found, factors, labels, None if prior is None else checked_prior(prior)


def check_param_sizes(functionals: Sequence[Any]) -> None:
    """Raise an `ArgumentError` unless all models have the same number of parameters."""
    first = functionals[0].model.param_size
    for i, F in enumerate(functionals):
        if F.model.param_size != first:
            raise ArgumentError(
                f"functionals: expected one number of parameters for all, got {first} of "
                f"{functionals[0].name} and {F.model.param_size} of {F.name}, number {i}"
            )


def drawn(rng: Any, count: Any, size: int) -> tuple[list[int], float]:
    """Draw experiments without replacement, and return the factor of their weights as well.

    Parameters
    ----------
    rng : numpy.random.Generator or int
    count : int
        How many are drawn.
    size : int
        How many there are.
    """
    if positive_count(count, "count") > size:
        raise ArgumentError(f"count: expected at most {size} experiments, got {count}")
    chosen = host.random.default_rng(rng).choice(size, count, replace=False)
    return sorted(map(int, chosen)), size / count


def checked_prior(prior: Any) -> LossBase:
    """Return a prior, after checking that it does not depend on the state."""
    terms = prior.terms if isinstance(prior, LossBase) else [prior]
    for term in terms:
        if not isinstance(term, QuadraticPrior):
            raise ArgumentError(
                "prior: expected an mfdeq.QuadraticPrior or a linear combination of them, got a "
                f"{type(term).__name__}. Add a loss of the state to that of an experiment"
            )
    return prior


def prior_for(model: Any, prior: LossBase | None) -> LossBase | None:
    """Return a prior for parameters as a model takes them, such as Vecs."""
    if prior is None or not isinstance(model, Model):
        return prior
    terms = [(factor, model.prior_of_params(term)) for factor, term in prior.weighted_terms]
    scaled = [term if factor == 1.0 else factor * term for factor, term in terms]
    return functools.reduce(operator.add, scaled)


def checked_executor(executor: Any) -> futures.Executor | None:
    """Return an executor, after checking that it has a method ``submit``."""
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ArgumentError(
            f"executor: expected a concurrent.futures.Executor, got {short_repr(executor)}"
        )
    return executor


def total_size(size: Any) -> int:
    """Return the number of entries of a vector from a number, or PETSc's pair (of this, of all)."""
    return int(size[1] if isinstance(size, tuple) else size)
