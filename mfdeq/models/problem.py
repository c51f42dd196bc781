"""A model at fixed parameters: its residual and its linearizations.

Whether the user wrote a map or a residual, the rest of the library sees only R = h − f. Everything
that a user's function returns is checked here; `CheckedLinearization` checks its derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from ..arrays.backend import Array
from ..errors import ModelError, is_evaluation_failure
from ..locks import cached_property, lock_of, state_to_pickle
from ..operators.operator import Operator
from .checked_linearization import CheckedLinearization
from .checked_model import CheckedModel
from .linearization import Linearization
from .model import FixedPointModel, ResidualModel

T = TypeVar("T")

KEPT_EVALUATIONS = 2  # the state of the equilibrium, and one near it


class Problem(CheckedModel):
    """A model at fixed parameters, with its checked residual R = h − f and linearizations.

    Parameters
    ----------
    model, theta, h0, state_name, lower, upper, fixes_gauges
        As of `CheckedModel`.

    Attributes
    ----------
    evaluations : int
        The number of evaluations of the model's map or residual.
    failures : int
        The number of trial states at which the model had no value.
    last_failure : str
        The message of the last of them.
    like : CheckedLinearization or None
        That of another model, with which new linearizations share what is equal (see
        `CheckedLinearization`).
    """

    like: CheckedLinearization | None = None
    evaluations = 0
    failures = 0
    last_failure = ""
    _latest: tuple[Array, CheckedLinearization] | None = None
    # The latest evaluations: h, a copy of it, and R(h).
    _evaluated: tuple[tuple[Array, Array, Array], ...] = ()

    @cached_property
    def _calling(self) -> str:
        return (
            f"{self.name}.{self.model.function_name}(h, theta), of shapes ({self.state_size},), "
            f"({self.param_size},) by its state_size and param_size"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the linearization, which may consist of functions."""
        return {**state_to_pickle(self), "_latest": None, "_evaluated": (), "like": None}

    def replace_model(self, model: FixedPointModel | ResidualModel) -> None:
        """Continue with another model of the same sizes, such as a batch without some samples."""
        self.model, self._latest, self._evaluated = model, None, ()

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

    def rounding(self, h: Array, residual: Array, A: Operator) -> Array:
        """Return the size of the rounding error of R at h, eps |A||h| entry by entry, (N,).

        Where 1 and J nearly cancel in A = I - J, that is less than the error of h - f(h, theta), in
        which f at least is rounded: for a map the error is not less than eps |f|.
        """
        terms = A.abs_apply(h)
        if self.is_map:
            terms = self.backend.xp.maximum(terms, abs(h - residual))
        return self.backend.eps * terms

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

    def evaluate_nearby(self, h: Array, evaluate: Callable[[CheckedLinearization], T]) -> T | None:
        """Return evaluate(the linearization at a nearby state), or None if there is no value.

        Derivatives that are known by products are computed with the first product, so that those
        that do not exist show in `evaluate` alone.
        """
        linearized = self.linearize_trial(h)
        try:
            return None if linearized is None else evaluate(linearized)
        except ModelError as error:
            if not error.non_finite:
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
        checked = CheckedLinearization(self, linearization, self.like)
        checked.A.scales = self.scales(h)
        return checked
