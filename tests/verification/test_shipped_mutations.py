"""Verify finds every wrong derivative in the models of the repository."""

from __future__ import annotations

import doctest
import functools
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from benchmarks.problems import Diffusion
from support.fuzzing import CASE_FACTOR
from support.model_mutants import MUTATIONS, changes_anything, mutant

import mfdeq

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))


def diffusion():
    model = Diffusion(5)
    return model, model.lognormal(), None


def bratu():
    pytest.importorskip("matplotlib", reason="the example draws with it")
    from bratu import Bratu

    return Bratu(5), np.array([5.0]), None


def groundwater():
    pytest.importorskip("matplotlib", reason="its terrain is matplotlib's")
    from groundwater import Groundwater, load_terrain

    model = Groundwater(load_terrain(24))
    rng = np.random.default_rng(0)
    return model, np.log(1e-5) + 0.3 * rng.standard_normal(model.param_size), None


def power_grid():
    for package in ("jax", "pandapower"):
        pytest.importorskip(package, reason="the example needs the extra examples")
    import power_grid

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, by pandapower
        flow = power_grid.PowerFlow(power_grid.load_grid("case9"))
    return flow.model, flow.params(), flow.flat()


def deq_digits():
    for package in ("jax", "sklearn"):
        pytest.importorskip(package, reason="the example needs the extra examples")
    import deq_digits

    layer, _ = deq_digits.load_digits(3, 2)
    return layer.model, layer.model.flat_params(layer.weights), None


def class_in_examples(text, name):
    """An instance of the class of that name in the doctests of a text."""
    scope = {}
    for example in doctest.DocTestParser().get_examples(text):
        if name in scope:
            break
        exec(example.source, scope)
    return scope[name]()


def docstring():
    return class_in_examples(mfdeq.FixedPointModel.__doc__, "Cosine"), np.array([0.3]), None


BY_HAND = (diffusion, bratu, groundwater, docstring)
BY_JAX = (power_grid, deq_digits)  # slow, since every mutant is compiled
SHIPPED = {f.__name__: f for f in (*BY_HAND, *BY_JAX)}


@functools.cache
def shipped(name):
    """A model, its parameters, a start, and its equilibrium state."""
    model, theta, h0 = SHIPPED[name]()
    return model, theta, h0, mfdeq.solve(model, theta, h0).state


def has_field(mutation, model, theta, h):
    return getattr(model.linearize(h, theta), mutation.field.partition(".")[0]) is not None


def mutants(name):
    """The mutations that change a model, and the number of those for fields that it has."""
    model, theta, _, h = shipped(name)
    fits = [m for m in MUTATIONS if has_field(m, model, theta, h)]
    return [m for m in fits if changes_anything(model, m, h, theta)], len(fits)


def survivors(name, mutations):
    """The mutations that verify does not find, or whose field it does not name first."""
    model, theta, h0, _ = shipped(name)
    for mutation in mutations:
        found = mfdeq.verify(mutant(model, mutation), theta, h0=h0)
        failed = [check.name for check in found if check.verdict == "FAIL"]
        if not (failed and failed[0].startswith(mutation.field)):
            yield f"{mutation}: {failed[:1] or found.verdict}"


STEPS = {"bratu": 3, "diffusion": 3, "groundwater": 6, "power_grid": 8, "deq_digits": 8}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_wrong_derivatives_are_found_and_named(name):
    """One in so many; MFDEQ_MORE_CASES=8 takes all of them."""
    mutations, fitting = mutants(name)
    assert len(mutations) >= (fitting / 3 if name == "docstring" else 0.75 * fitting)
    step = max(1, STEPS.get(name, 1) // CASE_FACTOR)
    assert list(survivors(name, mutations[::step])) == []


@pytest.mark.parametrize(
    "name",
    [
        *(f.__name__ for f in BY_HAND),
        *(pytest.param(f.__name__, marks=pytest.mark.slow) for f in BY_JAX),
    ],
)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
)
def test_correct_derivatives_pass(name, seed):
    model, theta, h0, _ = shipped(name)
    found = mfdeq.verify(model, theta, h0=h0, seed=seed)
    assert found.verdict == "PASS", str(found)
