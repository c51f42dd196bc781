"""Every model that ships with the repository, mutated: `mfdeq.verify` fails and names the field."""

from __future__ import annotations

import doctest
import functools
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.problems import Diffusion
from model_mutants import MUTATIONS, changes_anything, mutant

import mfdeq

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))


def diffusion():
    model = Diffusion(5)
    return model, model.lognormal(), None


def bratu():
    pytest.importorskip("matplotlib", reason="the example draws with it")
    from bratu import Bratu

    return Bratu(5), np.array([5.0]), None


def bratu_by_height():
    pytest.importorskip("matplotlib", reason="the example draws with it")
    from bratu import Bratu, BratuByHeight

    return BratuByHeight(Bratu(5)), np.array([1.2]), np.r_[np.zeros(25), 6.0]


def groundwater():
    pytest.importorskip("matplotlib", reason="its terrain is matplotlib's")
    from groundwater import Groundwater, load_terrain

    model = Groundwater(load_terrain(24))
    rng = np.random.default_rng(0)
    return model, np.log(1e-5) + 0.3 * rng.standard_normal(model.param_size), None


def written(text, name):
    """The class of that name in the examples of a text."""
    scope = {}
    for example in doctest.DocTestParser().get_examples(text):
        if name in scope:
            break
        exec(example.source, scope)
    return scope[name]()


def readme():
    return written((ROOT / "README.md").read_text(), "Cosine"), np.array([0.3]), None


def docstring():
    return written(mfdeq.FixedPointModel.__doc__, "Cosine"), np.array([0.3]), None


SHIPPED = {
    f.__name__: f for f in (diffusion, bratu, bratu_by_height, groundwater, readme, docstring)
}


@functools.cache
def shipped(name):
    """A model, its parameters, a start, and where it is in equilibrium."""
    model, theta, h0 = SHIPPED[name]()
    return model, theta, h0, mfdeq.solve(model, theta, h0).state


def given(mutation, model, theta, h):
    return getattr(model.linearize(h, theta), mutation.field.partition(".")[0]) is not None
