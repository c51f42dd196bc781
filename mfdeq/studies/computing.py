"""What an experiment computes in one case: the equilibrium, and what was asked for there."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..arrays.backend import host
from ..equilibrium.equilibrium import Equilibrium
from ..equilibrium.solve import solve
from ..errors import ArgumentError
from ..models.losses import LossBase
from ..models.model import Model
from ..optimization.functional import ReducedFunctional
from ..optimization.minimize import minimize
from ..spectrum.extreme import eigsh
from .experiment import named


class Computation:
    """The function of an experiment's cases.

    Parameters
    ----------
    settings : mapping
        The tables model, params, loss, solve and compute of its file.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def __call__(self, rng: Any, start: Any = None, **varied: Any) -> dict[str, Any]:
        """Outputs by their names."""
        settings = with_values(self.settings, varied)
        model = _made(settings["model"], "model", {"rng": rng}, Model)
        given = {"rng": rng, "model": model}
        params = _params(settings["params"], given)
        eq = solve(model, params, start, **settings.get("solve", {}))
        loss = None
        if "loss" in settings:
            loss = _made(settings["loss"], "loss", {**given, "params": params}, LossBase)
        outputs: dict[str, Any] = {}
        for name, options in settings["compute"].items():
            if options is not False:
                outputs |= COMPUTED[name](eq, loss, {} if options is True else options)
        return outputs | {"residual": eq.report.residual, "iterations": eq.report.iterations}


def with_values(settings: Mapping[str, Any], varied: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some of their keys, by dotted names, set to values."""
    found: dict[str, Any] = copy.deepcopy(dict(settings))
    for name, value in varied.items():
        *tables, key = name.split(".")
        table = found
        for part in tables:
            inner = table.setdefault(part, {})
            if not isinstance(inner, dict):  # compute.minimum = true, varied in an option
                inner = table[part] = {}
            table = inner
        table[key] = value
    return found


def _made(table: Mapping[str, Any], name: str, given: Mapping[str, Any], kind: type) -> Any:
    """What "from" names, called with the other keys of its table where it can be called."""
    made = _called(table, name, given)
    if not isinstance(made, kind):
        expected = "model" if kind is Model else "loss"
        raise ArgumentError(
            f"{name}.from gives a {type(made).__name__}; an mfdeq {expected}, or what makes one, "
            "was expected"
        )
    return made


def _called(table: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> Any:
    of = named(table["from"])
    options = {key: value for key, value in table.items() if key != "from"}
    if isinstance(of, (Model, LossBase)) or not callable(of):
        if options:
            raise ArgumentError(
                f"{name}.from gives a {type(of).__name__}, which takes no {', '.join(options)}"
            )
        return of
    try:
        known = set(inspect.signature(of).parameters)
    except (TypeError, ValueError):  # a builtin
        known = set()
    return of(**{key: x for key, x in given.items() if key in known}, **options)


def _params(table: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    if "values" in table:
        return host.asarray(table["values"], dtype=float)
    if "file" in table:
        return host.load(table["file"], allow_pickle=False)
    return _called(table, "params", given)


def _state(eq: Equilibrium, loss: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"state": eq.state}


def _value(eq: Equilibrium, loss: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"loss": loss.value(eq.state, eq.params)}


def _gradient(eq: Equilibrium, loss: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    gradient = eq.gradient(loss)
    return {"gradient": gradient, "gradient_norm": eq.backend.norm(gradient)}


def _eigenvalues(eq: Equilibrium, loss: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(options)
    vectors = options.pop("vectors", False)
    pairs = eigsh(eq.hessian(loss), **options)
    found = {"eigenvalues": pairs.values, "eigenvalue_bounds": pairs.error_bounds}
    return found | ({"eigenvectors": pairs.vectors} if vectors else {})


def _minimum(eq: Equilibrium, loss: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    functional = ReducedFunctional(eq.model, loss, eq.state)
    found = minimize(functional, eq.params, **options)
    report = found.report
    return {
        "minimizer": found.params,
        "minimum": found.value,
        "minimum_gradient_norm": report.steps[-1].gradient_norm,
        "minimum_iterations": len(report.steps) - 1,
        "minimum_equilibria": report.equilibria,
        "minimum_products": report.products,
    }


def _call(eq: Equilibrium, loss: Any, function: str) -> dict[str, Any]:
    return dict(named(function)(eq, loss))


COMPUTED: dict[str, Callable[[Equilibrium, Any, Any], dict[str, Any]]] = {
    "state": _state,
    "value": _value,
    "gradient": _gradient,
    "eigenvalues": _eigenvalues,
    "minimum": _minimum,
    "call": _call,
}
