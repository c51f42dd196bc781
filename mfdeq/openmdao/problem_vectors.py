"""The vectors of a problem of OpenMDAO as theta and h, and products with its derivatives."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from ..arrays.backend import Array, host
from ..errors import ArgumentError, short_repr
from ..locks import lock_of
from .variables import are_as_written


class _Workspace:
    """The lock of a problem, and its outputs where it was linearized last.

    All models of the problem share it, since they move the same vectors.
    """

    linearized_at: Array | None = None


_workspaces: weakref.WeakKeyDictionary[Any, _Workspace] = weakref.WeakKeyDictionary()


class ProblemVectors:
    """Residuals of a problem and products with its partial derivatives at one point or another.

    Parameters
    ----------
    problem : openmdao.api.Problem
        After ``setup()``.
    params : sequence of str
        The names of the parameters.
    caller : str
        The public function that error messages name.

    Attributes
    ----------
    names : list of str
        The names of the unknowns.
    start, theta : (N,) and (P,) arrays
        The outputs and the parameters at the time of the call.
    has_differences : bool
        Whether there are partial derivatives by finite differences.
    """

    def __init__(self, problem: Any, params: Sequence[str], caller: str) -> None:
        self._caller = caller
        try:
            problem.final_setup()
        except (RuntimeError, AttributeError) as error:  # before setup() it has no graph
            raise ArgumentError(
                f"problem of {caller}: expected a problem after problem.setup(): {error}"
            ) from error
        self._model: Any = problem.model
        self._workspace = _workspaces.setdefault(self._model, _Workspace())
        _, outputs, _ = self._model.get_nonlinear_vectors()
        meta = self._model.get_io_metadata("output", return_rel_names=False)
        self._ranges, self._shapes, first = {}, {}, 0
        for name, value in outputs._abs_item_iter(flat=False):
            self._shapes[name] = host.shape(value)
            self._ranges[name] = host.arange(first, first + host.size(value))
            first += host.size(value)
        independent = {x for x in meta if "openmdao:indep_var" in meta[x]["tags"]}
        names = [] if isinstance(params, str) or not isinstance(params, Iterable) else list(params)
        if not names or not all(isinstance(name, str) for name in names):
            raise ArgumentError(
                f"params of {caller}: expected a sequence of names, got {short_repr(params)}"
            )
        sources = [self._source(name, independent) for name in names]
        if len(set(sources)) != len(sources):
            raise ArgumentError(
                f"params of {caller}: expected the names of different independent variables, got "
                f"{names}"
            )
        self._params = host.concatenate([self._ranges[x] for x in sources])
        computed = [x for x in self._ranges if x not in independent]
        self._absolute = {meta[x]["prom_name"]: x for x in computed}
        if not computed:
            raise ArgumentError(f"problem of {caller}: expected components with outputs, got none")
        self._state = host.concatenate([self._ranges[x] for x in computed])
        self.names = [
            f"{meta[x]['prom_name']}[{i}]" for x in computed for i in range(self._ranges[x].size)
        ]
        self._values = outputs.asarray(copy=True)
        self.start, self.theta = self._values[self._state], self._values[self._params]
        systems = list(self._model.system_iter(include_self=True, recurse=True))
        for system in systems:
            if system._owns_approx_jac:
                raise ArgumentError(
                    f"problem of {caller}: expected partial derivatives of each component, got "
                    f"those of the group {system.pathname or 'at the top'} as a whole, from "
                    "approx_totals(), which are not derivatives of its residuals: call "
                    "declare_partials(..., method='fd') of its components instead"
                )
        self.has_differences = any("fd" in system._approx_schemes for system in systems)

    def _source(self, name: str, independent: set[str]) -> str:
        """Return the independent variable that a name stands for."""
        try:
            source = self._model.get_source(name)
        except (KeyError, RuntimeError) as error:
            raise ArgumentError(f"params of {self._caller}: {error.args[0]}") from error
        if source not in self._ranges:
            raise ArgumentError(
                f"params of {self._caller}: expected variables of real numbers, got {name}, which "
                "is discrete"
            )
        if source not in independent:
            raise ArgumentError(
                f"params of {self._caller}: expected independent variables, got {name}, which "
                f"{source} computes"
            )
        return str(source)

    @property
    def sizes(self) -> tuple[int, int]:
        """N and P."""
        return self._state.size, self._params.size

    def indices(self, name: str) -> Array:
        """Return the indices of a variable in the state, in its shape."""
        absolute = self._absolute.get(name, name)
        places = self._ranges.get(absolute, host.zeros(0, dtype=int))
        found = host.flatnonzero(host.isin(self._state, places))
        if not found.size:
            raise ArgumentError(
                f"name: expected one of the outputs that components compute "
                f"({', '.join(sorted(self._absolute))}), got {name!r}"
            )
        return found.reshape(self._shapes[absolute])

    def residual(self, h: Array, theta: Array) -> Array:
        """Return R(h, theta), (N,)."""
        with lock_of(self._workspace):
            self._move(self._outputs(h, theta))
            return self._model.get_nonlinear_vectors()[2].asarray(copy=True)[self._state]

    def product(self, h: Array, theta: Array, dtheta: Array, dh: Array) -> Array:
        """Return the derivative of R at (h, theta) along a direction, (N,)."""
        with lock_of(self._workspace):
            self._linearize(h, theta)
            _, d_outputs, d_residuals = self._model.get_linear_vectors()
            direction = host.zeros(len(d_outputs))
            direction[self._params], direction[self._state] = dtheta, dh
            d_outputs.set_val(direction)
            self._model.run_apply_linear("fwd")
            return d_residuals.asarray(copy=True)[self._state]

    def adjoint(self, h: Array, theta: Array, w: Array) -> tuple[Array, Array]:
        """Return the products of w with the derivatives in theta and in h, (P,) and (N,)."""
        with lock_of(self._workspace):
            self._linearize(h, theta)
            _, d_outputs, d_residuals = self._model.get_linear_vectors()
            weights = host.zeros(len(d_residuals))
            weights[self._state] = w
            d_residuals.set_val(weights)
            self._model.run_apply_linear("rev")
            found = d_outputs.asarray(copy=True)
            return found[self._params], found[self._state]

    def _outputs(self, h: Array, theta: Array) -> Array:
        """Return the outputs of the problem at a point, with all independent variables."""
        values = self._values.copy()
        values[self._state], values[self._params] = h, theta
        return values

    def _move(self, values: Array) -> None:
        """Evaluate the problem at other outputs."""
        self._workspace.linearized_at = None
        self._model.get_nonlinear_vectors()[1].set_val(values)
        self._model.run_apply_nonlinear()

    def _linearize(self, h: Array, theta: Array) -> None:
        """Linearize the problem at a point, unless it is that of the last time and still there."""
        values, last = self._outputs(h, theta), self._workspace.linearized_at
        if last is None or not host.array_equal(values, last) or self._has_moved(values):
            self._move(values)
            self._model.run_linearize(sub_do_ln=False)
            self._workspace.linearized_at = values

    def _has_moved(self, values: Array) -> bool:
        """Return whether the outputs are others, since the user has run the problem."""
        return not are_as_written(self._model.get_nonlinear_vectors()[1].asarray(), values)
