"""Sign conventions and validation of models.

Whether the user wrote a map or a residual, and whatever the source of its derivatives, the rest of
the library sees only R = h − f, its derivatives A = I − ∂f/∂h and B = ∂f/∂θ, the curvature of wᵀf
and f''[a, b]. Everything that a user's model returns is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

from ..arguments import count
from ..arrays.backend import Array, Backend, is_sparse, native
from ..errors import ArgumentError, ModelError, is_evaluation_failure
from ..locks import cached_property, lock_of, state_to_pickle
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .bounds import check_bound_order, checked_bound
from .curvature import CurvatureOperator, as_curvature
from .linearization import DeferredLinearization, Linearization
from .model import FixedPointModel, Model, ResidualModel
from .vectors import flatten_params, flatten_state

KEPT_EVALUATIONS = 2  # the state of the equilibrium, and one near it
MAX_BOUND_APPROACH = 0.9  # the share of the distance to a bound that one step may take


class Problem:
    """A model at fixed parameters, with its checked residual R = h − f and linearizations.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
    theta : (P,) array
        The parameters, which are copied. They determine the array library and the dtype.
    h0 : (N,) array, optional
        A state, which must be of the same array library.
    state_name : str, optional
        The name of `h0` in error messages.
    lower, upper : float or (N,) array, optional
        Bounds of the unknowns, which no step may cross.
    fixes_gauges : bool, optional
        Whether a regular operator takes the place of an A whose null space is declared.

    Attributes
    ----------
    evaluations : int
        The number of evaluations of the model's map or residual.
    failures : int
        The number of trial states at which the model had no value.
    last_failure : str
        The message of the last of them.
    like : CheckedLinearization or None
        That of another model of the same class at the same parameters. If A has the same entries,
        it is that operator, so that it is in memory once; operators and curvatures, which have
        passed their tests there, are not tested again.
    """

    def __init__(
        self,
        model: Model,
        theta: Array,
        h0: Array | None = None,
        state_name: str = "h0",
        lower: Any = None,
        upper: Any = None,
        fixes_gauges: bool = True,
    ) -> None:
        if not isinstance(model, (FixedPointModel, ResidualModel)):
            raise ModelError(
                "the model: expected an mfdeq.FixedPointModel or an mfdeq.ResidualModel, got "
                f"{_kind_of(model)}"
            )
        self.model: Model = model
        self.fixes_gauges = fixes_gauges
        self.name = model.display_name
        theta, h0 = flatten_params(model, theta), flatten_state(model, h0, state_name)
        arrays = {"params": theta} if h0 is None else {"params": theta, state_name: h0}
        self.backend = Backend.of(*arrays.values(), name=" and ".join(arrays), dtype_of=1)
        self.state_size = self._size("state_size")
        self.param_size = self._size("param_size")
        if getattr(theta, "shape", None) == (self.state_size,) != (self.param_size,):
            raise ModelError(
                f"params: expected an array of shape ({self.param_size},), got shape "
                f"({self.state_size},), that of a state: are state_size and param_size of "
                f"{self.name} in the wrong order?"
            )
        self.theta = self.backend.vector(theta, self.param_size, "params")
        self.like: CheckedLinearization | None = None
        self.evaluations = 0
        self.failures = 0
        self.last_failure = ""
        size = self.state_size
        self.lower = checked_bound(self.backend, lower, size, "lower")
        self.upper = checked_bound(self.backend, upper, size, "upper")
        check_bound_order(self.backend, self.lower, self.upper, self.unknown_name)
        self.is_map = isinstance(model, FixedPointModel)  # or a `ResidualModel`
        self._has_residual_scale = model._defines("residual_scale")
        self._has_state_scale = model._defines("state_scale")
        self._calling = (
            f"{self.name}.{model.function_name}(h, theta), of shapes ({size},), "
            f"({self.param_size},) by its state_size and param_size"
        )
        self._latest: tuple[Array, CheckedLinearization] | None = None
        # The latest evaluations: h, a copy of it, and R(h).
        self._evaluated: tuple[tuple[Array, Array, Array], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the linearization, which may consist of functions."""
        return {**state_to_pickle(self), "_latest": None, "_evaluated": (), "like": None}

    def replace_model(self, model: FixedPointModel | ResidualModel) -> None:
        """Continue with another model of the same sizes, such as a batch without some samples."""
        self.model, self._latest, self._evaluated = model, None, ()

    def _size(self, name: str) -> int:
        # The user may have forgotten to set the attribute.
        size: Any = self.backend.global_size(getattr(self.model, name, None))
        if isinstance(size, tuple):
            raise ModelError(
                f"{self.name}.{name} is {size}, a pair of local and global sizes, which only "
                "models for PETSc have: pass theta as a Vec"
            )
        try:
            number = count(size, f"{self.name}.{name}")
        except ArgumentError as error:
            raise ModelError(f"{error}; set it on the class or in __init__") from None
        return size if isinstance(size, int) else number  # an int of PETSc holds its layout

    def inside(self, h: Array) -> Array:
        """Return where a state is within the bounds, (N,)."""
        inside = h == h
        if self.lower is not None:
            inside = inside & (h >= self.lower)
        if self.upper is not None:
            inside = inside & (h <= self.upper)
        return inside

    def limited(self, h: Array, trial: Array) -> Array:
        """Return a trial state, stopped short of the bounds in the unknowns that would cross them.

        Parameters
        ----------
        h : (N,) array
            The state that the step begins at.
        trial : (N,) array
        """
        xp = self.backend.xp
        if self.lower is not None:
            trial = xp.maximum(trial, h + MAX_BOUND_APPROACH * (self.lower - h))
        if self.upper is not None:
            trial = xp.minimum(trial, h + MAX_BOUND_APPROACH * (self.upper - h))
        return trial

    def initial_state(self, h0: Array | None = None) -> Array:
        """Return `h0` after checking it, or the model's default initial state if it is None."""
        start = self._initial_state(h0)
        inside = self.inside(start)
        if not bool(self.backend.xp.all(inside)):
            i = int(self.backend.xp.argmin(self.backend.xp.astype(inside, self.backend.xp.int64)))
            raise ArgumentError(
                f"the start: expected a state within lower and upper, got {self.unknown_name(i)} "
                f"= {float(start[i]):.6g}; pass another h0"
            )
        return start

    def _initial_state(self, h0: Array | None) -> Array:
        if h0 is not None:
            return self.checked_state(h0, "h0")
        name = f"{self.name}.initial_state"
        with self.backend.user_call(f"{name}(theta)"):
            default = self.model.initial_state(self.backend.to_user(self.theta))
            default = self.backend.from_user(default, self.state_size)
        if default is None:
            return self.backend.zeros(self.state_size)
        if isinstance(default, Number) or getattr(default, "ndim", 1) == 0:  # for all unknowns
            number = self.backend.check_array(default, (), name, convert=True)
            default = float(number) + self.backend.zeros(self.state_size)
        return self.backend.vector(default, self.state_size, name, convert=True)

    def checked_state(self, h: Any, name: str) -> Array:
        """Return a state of the user's, in any form and precision, as an (N,) array."""
        h = flatten_state(self.model, h, name)
        return self.backend.vector(h, self.state_size, name, convert=True)

    def residual_scale(self, h: Array) -> Array | None:
        """Return the model's sizes of equations as an (N,) array, after checking them, or None."""
        if not self._has_residual_scale:
            return None
        name = f"{self.name}.residual_scale"
        with self.backend.user_call(f"{name}(h, theta)"):
            value = self.model.residual_scale(*map(self.backend.to_user, (h, self.theta)))
            value = self.backend.from_user(value, self.state_size)
        return self._sizes(value, name)

    def state_scale(self) -> Array | None:
        """Return the model's sizes of unknowns as an (N,) array, after checking them, or None."""
        if not self._has_state_scale:
            return None
        name = f"{self.name}.state_scale"
        with self.backend.user_call(f"{name}(theta)"):
            value = self.model.state_scale(self.backend.to_user(self.theta))
            value = self.backend.from_user(value, self.state_size)
        return self._sizes(value, name)

    def _sizes(self, value: Any, name: str) -> Array | None:
        if value is None:
            return None
        xp, N = self.backend.xp, self.state_size
        if getattr(native(value), "ndim", 0) == 0 and not isinstance(value, (list, tuple)):
            number = float(self.backend.check_array(value, (), name, convert=True))
            value = number + self.backend.zeros(N)
        sizes = self.backend.vector(value, N, name, convert=True)
        if not bool(xp.all(sizes >= 0)):
            raise ModelError(f"{name}: expected a number >= 0, got {float(xp.min(sizes))}")
        return sizes

    def unknown_name(self, i: int) -> str:
        """Return the user's name of an unknown, or "unknown i"."""
        return self._entry_name(self.model.state_names, i, "unknown", "state_names")

    def equation_name(self, i: int) -> str:
        """Return the user's name of an equation, or "equation i"."""
        return self._entry_name(self.model.equation_names, i, "equation", "equation_names")

    def _entry_name(self, names: Sequence[str] | None, i: int, default: str, field: str) -> str:
        if names is None:
            return f"{default} {i}"
        if len(names) != self.state_size:
            raise ModelError(
                f"{self.name}.{field}: expected {self.state_size} names, got {len(names)}"
            )
        return str(names[i])

    def residual(self, h: Array) -> Array:
        """Return R = h − f(h, theta); raise `ModelError` if an entry is NaN or infinite."""
        known = self._known_residual(h)
        return self._keep_residual(h, self._residual(h)) if known is None else known

    def _known_residual(self, h: Array) -> Array | None:
        """Return R at the state of one of the last evaluations, if h is that."""
        for state, copy, residual in self._evaluated:  # which another thread may replace
            if state is h and self.backend.all(copy == h):
                return residual
        return None

    def _keep_residual(self, h: Array, residual: Array) -> Array:
        copy = self.backend.copied(h)
        self._evaluated = ((h, copy, residual), *self._evaluated)[:KEPT_EVALUATIONS]
        return residual

    def trial_residual(self, h: Array) -> tuple[Array | None, float]:
        """Return R and its norm at a trial state, or (None, inf) where the model has no value.

        The model has no value where its function raises an exception (other than one that is a
        mistake) or returns NaN or infinity. The messages are counted and the last one is kept.
        """
        xp, norm = self.backend.xp, self.backend.norm
        if (known := self._known_residual(h)) is not None:
            return known, norm(known)
        with self.backend.ignore_overflow():
            if (self.lower is not None or self.upper is not None) and not bool(
                xp.all(self.inside(h))
            ):
                self.record_failure("a bound was crossed")
                return None, float("inf")
            try:
                residual = self._residual(h, finite=False)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                self.record_failure(f"{type(error).__name__}: {error}")
                return None, float("inf")
            size = norm(residual)
            if size < math.inf:  # all entries are finite
                return self._keep_residual(h, residual), size
            finite = xp.isfinite(residual)
            if not self.backend.all(finite):
                i = int(xp.argmin(xp.astype(finite, xp.int64)))
                self.record_failure(f"NaN or infinity in {self.equation_name(i)}")
                return None, float("inf")
            return self._keep_residual(h, residual), size

    def record_failure(self, message: str) -> None:
        """Record that the model had no value at a trial state."""
        with lock_of(self):
            self.failures += 1
            self.last_failure = message

    def _residual(self, h: Array, finite: bool = True) -> Array:
        with lock_of(self):
            self.evaluations += 1
        backend, to_user = self.backend, self.backend.to_user
        with backend.user_call(self._calling):
            value = self.model.map_or_residual(to_user(h), to_user(self.theta))
            value = backend.from_user(value, self.state_size)
        name = f"{self.name}.{self.model.function_name}"
        value = backend.check_array(value, (self.state_size,), name, finite=finite)
        return h - value if self.is_map else value

    def linearize(self, h: Array) -> CheckedLinearization:
        """Linearize at h, or return the latest linearization if it is at the same h."""
        latest = self._latest  # which another thread may replace
        if latest is None or not self.backend.all(latest[0] == h):
            state = self.backend.copied(h)
            latest = self._latest = (state, self._linearize_with(self.model.linearize, h))
        return latest[1]

    def keep_linearization(self, h: Array, linearized: CheckedLinearization) -> None:
        """Keep a linearization at h as the latest one."""
        self._latest = (self.backend.copied(h), linearized)

    @property
    def linearized_state(self) -> Array | None:
        """The state of the latest linearization of `linearize`, if there is one."""
        latest = self._latest
        return None if latest is None else latest[0]

    def linearize_trial(self, h: Array) -> CheckedLinearization | None:
        """Linearize at a nearby state, or return None if the model has no value there.

        The latest linearization of `linearize` is kept.
        """
        with self.backend.ignore_overflow():
            try:
                return self._linearize_with(self.model.linearize, h)
            except Exception as error:
                if not is_evaluation_failure(error):
                    raise
                self.record_failure(f"{type(error).__name__}: {error}")
                return None

    def linearize_for_comparison(self, h: Array) -> CheckedLinearization:
        """Linearize with independent truncation errors, to estimate the accuracy of derivatives.

        Derivatives that are exact to rounding are the same as those of `linearize`.
        """
        return self._linearize_with(self.model.linearize_for_comparison, h)

    def _linearize_with(
        self, linearize: Callable[[Array, Array], Linearization], h: Array
    ) -> CheckedLinearization:
        with self.backend.user_call(f"{self.name}.linearize(h, theta)"):
            to_user = self.backend.to_user
            linearization = linearize(to_user(h), to_user(self.theta))
            linearization = self.backend.from_user(linearization)
        checked = CheckedLinearization(self, linearization)
        checked.A.scales = self._scales(h)
        return checked

    def _scales(self, h: Array) -> tuple[Array | None, Array | None] | None:
        """Return the sizes of equations and unknowns for linear solvers, which take no zeros."""
        if not (self._has_residual_scale or self._has_state_scale):
            return None
        xp = self.backend.xp
        sizes = self.residual_scale(h), self.state_scale()
        if sizes[0] is None and sizes[1] is None:
            return None
        equations, unknowns = (None if x is None or bool(xp.any(x == 0)) else x for x in sizes)
        if self.is_map:  # h - f(h) has the units of h
            known = equations if unknowns is None else unknowns
            equations = unknowns = known
        return None if equations is None and unknowns is None else (equations, unknowns)


class CheckedLinearization:
    """The checked derivatives of a model at one (h, theta), as derivatives of the map f.

    Parameters
    ----------
    problem : Problem
        The model at theta.
    linearization : Linearization
        The result of the model's ``linearize``.

    Attributes
    ----------
    A : Operator, (N, N)
        The state operator I − ∂f/∂h = ∂R/∂h; a regular one in its place if it has a `gauge`.
    gauge : Gauge or None
        What is known of the null space of A, if the user's matrix declares one.
    is_map : bool
        Whether the model is a map.
    stable_sign : int
        The sign of the real part of an eigenvalue of A that is stable.

    Notes
    -----
    All derivatives are checked at once, but for `B` of a `DeferredLinearization`, which is computed
    and checked when it is first used.
    """

    A: Operator
    gauge: Any

    def __init__(self, problem: Problem, linearization: Any) -> None:
        self.name = f"{problem.name}.linearize"
        if not isinstance(linearization, Linearization):
            raise ModelError(
                f"{self.name}: expected it to return an mfdeq.Linearization, got "
                f"{type(linearization).__name__}"
            )
        self.linearization = linearization
        self._advice_for_curvature = problem.model.advice_for_curvature
        self.backend = problem.backend
        self.state_size, self.param_size = N, _ = problem.state_size, problem.param_size
        self.is_map, self.stable_sign = problem.is_map, problem.model.stable_sign
        # Second derivatives are those of f = h - R, so those of R change sign.
        self._sign = 1.0 if problem.is_map else -1.0
        self.like = like = problem.like
        if like is not None and not self.is_map and holds_entries(like.A, linearization.d_state):
            self.A, self.gauge = like.A, like.gauge
        else:
            d_state = self._operator(linearization.d_state, (N, N), "d_state")
            own = d_state is not linearization.d_state  # a copy
            self.A = d_state.identity_minus(own) if problem.is_map else d_state
            self.gauge = self.A.gauge() if problem.fixes_gauges else None
            if self.gauge is not None:
                self.A = self.gauge.A
        if not isinstance(linearization, DeferredLinearization):
            self.B = self._param_operator(linearization.d_params)

    @cached_property
    def B(self) -> Operator:
        """The parameter operator ∂f/∂θ = −∂R/∂θ, (N, P)."""
        with self.backend.user_call(f"d_params of {self.name}(h, theta)"):
            d_params = self.backend.from_user(self.linearization.d_params)
        return self._param_operator(d_params)

    def _param_operator(self, d_params: Any) -> Operator:
        operator = self._operator(d_params, (self.state_size, self.param_size), "d_params")
        if self.gauge is not None:
            accuracy = self.linearization.accuracy[0]
            self.gauge.check_params(operator, self.name, accuracy)
        return operator if self.is_map else -operator

    def _operator(self, derivative: Any, shape: tuple[int, int], field: str) -> Operator:
        name, tested = f"{field} of {self.name}", self.like is not None
        return as_operator(self.backend, derivative, shape, name, test_adjoint=not tested)

    def _order_hint(self) -> str:
        computed = self.linearization.sources.get("d_state")
        return "create the model with order=2 (the default), or " if computed else ""

    @property
    def has_curvature(self) -> bool:
        """Whether the model gave its second derivatives."""
        return self.linearization.curvature is not None

    def curvature(self, w: Array, check_symmetry: bool = True) -> CurvatureOperator:
        """Return the (P+N, P+N) Hessian ∇²_(θ,h) (wᵀf)."""
        if self.linearization.curvature is None:
            raise ModelError(
                f"{self.name} returned no curvature, which second derivatives require: "
                f"{self._order_hint()}{self._advice_for_curvature}"
            )
        name = f"curvature of {self.name}"
        with self.backend.user_call(f"{name}, of lam of shape {w.shape}"):
            curvature = self.linearization.curvature(self.backend.to_user(self._sign * w))
            curvature = self.backend.from_user(curvature)
        return as_curvature(
            self.backend,
            curvature,
            self.param_size,
            self.state_size,
            name,
            accuracy=lambda: self.linearization.accuracy[1],
            check_symmetry=check_symmetry and self.like is None,
        )

    def second(self, a: Array, b: Array) -> Array:
        """Return the (N,) second derivative f''[a, b] along stacked (P+N,) directions a and b."""
        if self.linearization.second is None:
            raise ModelError(
                f"{self.name} returned no second, which second-order sensitivities of the state "
                f"require: {self._order_hint()}pass Linearization(second=lambda a, b: ...), which "
                "returns the (N,) second derivative along a = (dtheta, dh) and b. Component "
                "Hessians and the adjoint of a slice require only curvature"
            )
        P, to_user = self.param_size, self.backend.to_user
        a, b = ((to_user(x[:P, ...]), to_user(x[P:, ...])) for x in (a, b))
        name = f"second of {self.name}"
        with self.backend.user_call(
            f"{name}, of a = (dtheta, dh) and b of sizes ({P}, {self.state_size})"
        ):
            value = self.backend.from_user(self.linearization.second(a, b), self.state_size)
        return self._sign * self.backend.vector(value, self.state_size, name)


def holds_entries(A: Operator, given: Any) -> bool:
    """Return whether a user's sparse matrix has the entries of A, in the same format."""
    array = A.array
    if type(given) is not type(array) or not is_sparse(given):
        return False
    same = given.format == array.format in ("csr", "csc") and given.shape == array.shape
    if not same or given.dtype != array.dtype or given.nnz != array.nnz:
        return False
    return all(
        A.backend.all(getattr(given, name) == getattr(array, name))
        for name in ("data", "indptr", "indices")
    )


def _kind_of(model: Any) -> str:
    if isinstance(model, type) and issubclass(model, Model):
        return f"the class {model.__name__} itself: pass an instance, {model.__name__}(...)"
    return type(model).__name__
