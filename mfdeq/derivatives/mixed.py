"""A model whose derivatives are from several sources, each field from the first that gives it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ArgumentError, ModelError
from ..models.curvature import Curvature
from ..models.model import Derived, FixedPointModel, Linearization, Model, ResidualModel
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .differences import INEXACT
from .function import AGAIN, from_function
from .sparsity import typical_sizes

FIRST, SECOND = ("d_state", "d_params"), ("curvature", "second")


def mixed(*models: Model) -> Model:
    """A model with each derivative from the first of several models that gives it.

    Parameters
    ----------
    *models : FixedPointModel or ResidualModel
        All of one kind and size. The first is what is solved; a field of its `Linearization`
        that is None is taken from the next, and so on. What none gives is differences: first
        derivatives as by `from_function` (up to its size), second ones of the first, two
        linearizations a product.

    Returns
    -------
    FixedPointModel or ResidualModel

    Notes
    -----
    ``report.derivatives`` says where each field is from. Whether the sources are derivatives of
    the same function, `mfdeq.verify` tells.

    Examples
    --------
    A sparse Jacobian by hand, second derivatives by JAX::

        model = mfdeq.mixed(Mine(), mfdeq.from_jax(f, state, params, "residual"))
    """
    for kind in (FixedPointModel, ResidualModel):
        if models and all(isinstance(model, kind) for model in models):
            break
    else:
        raise ArgumentError(
            f"mfdeq.mixed was given {', '.join(type(m).__name__ for m in models) or 'nothing'}; "
            "FixedPointModels or ResidualModels, all of one of the two, were expected"
        )
    sizes = {(model.state_size, model.param_size) for model in models}
    if len(sizes) != 1:
        raise ArgumentError(f"the models of mfdeq.mixed have sizes (N, P) of {sorted(sizes)}")
    return (_MixedMap if kind is FixedPointModel else _MixedResidual)(models)


class _Mixed(Model):
    """What mixed maps and residuals have in common."""

    def __init__(self, models: tuple[Model, ...]) -> None:
        self.models = models
        self.state_size, self.param_size = models[0].state_size, models[0].param_size

    @property
    def described(self) -> str:
        """Of what it is mixed."""
        return f"mfdeq.mixed({', '.join(model.described for model in self.models)})"

    def initial_state(self, theta: Array) -> Array | None:
        """That of the first model."""
        return self.models[0].initial_state(theta)

    def residual_scale(self, h: Array, theta: Array) -> float | None:
        """That of the first model."""
        return self.models[0].residual_scale(h, theta)

    def values(self, h: Array, theta: Array) -> Array:
        """The map or residual of the first model."""
        return getattr(self.models[0], self.written)(h, theta)

    @functools.cached_property
    def by_differences(self) -> Model:
        """First derivatives from the values, where nobody gives them."""
        return from_function(self.values, self.state_size, self.param_size, self.written)

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Each field from the first model that gives it."""
        return self._linearized(h, theta, "linearize", 1.0)

    def linearize_again(self, h: Array, theta: Array) -> Linearization:
        """The same of each model's `linearize_again`."""
        return self._linearized(h, theta, "linearize_again", AGAIN)

    def _linearized(self, h: Array, theta: Array, method: str, wider: float) -> Linearization:
        place = _Place(self, h, theta, method)
        changes = _Changes(place, wider)
        first = [place.taken(field) or place.differences(field) for field in FIRST]
        inexact = max(each.accuracy for each in first)
        second = [place.taken(field) or changes.taken(field, inexact) for field in SECOND]
        both = dict(zip((*FIRST, *SECOND), (*first, *second), strict=True))
        return Derived(
            **{field: each.value for field, each in both.items()},
            accuracy=(inexact, max(each.accuracy for each in second)),
            sources={field: each.source for field, each in both.items()},
        )


class _MixedMap(_Mixed, FixedPointModel):
    def map(self, h: Array, theta: Array) -> Array:
        return self.values(h, theta)


class _MixedResidual(_Mixed, ResidualModel):
    def residual(self, h: Array, theta: Array) -> Array:
        return self.values(h, theta)


@dataclass(frozen=True)
class _Taken:
    """A field, where it is from, and its relative accuracy."""

    value: Any
    source: str
    accuracy: float


class _Place:
    """The sources at one place, each linearized when it is first asked."""

    def __init__(self, mixture: _Mixed, h: Array, theta: Array, method: str) -> None:
        self.mixture, self.h, self.theta, self.method = mixture, h, theta, method
        self.backend = Backend.of(h, theta)
        self._given: dict[int, Linearization] = {}

    def moved(self, dtheta: Array, dh: Array) -> _Place:
        """Another place."""
        return _Place(self.mixture, self.h + dh, self.theta + dtheta, self.method)

    def taken(self, field: str) -> _Taken | None:
        """From the first model that gives it."""
        for i, model in enumerate(self.mixture.models):
            given = self._of(i, model)
            if getattr(given, field) is not None:
                source = given.sources.get(field, f"{model.described}.linearize")
                return _Taken(getattr(given, field), source, given.accuracy[field in SECOND])
        return None

    def differences(self, field: str) -> _Taken:
        """A first derivative from the values."""
        given = self._of(-1, self.mixture.by_differences)
        return _Taken(getattr(given, field), given.sources[field], given.accuracy[0])

    def operator(self, field: str, columns: int) -> Operator:
        """A first derivative as an operator."""
        given = (self.taken(field) or self.differences(field)).value
        return as_operator(self.backend, given, (self.h.shape[0], columns), field)

    def _of(self, i: int, model: Model) -> Linearization:
        if i not in self._given:
            copy = self.backend.xp.asarray  # the model may write into it, and others are to come
            linearize = getattr(model, self.method)
            given = linearize(copy(self.h, copy=True), copy(self.theta, copy=True))
            if not isinstance(given, Linearization):
                raise ModelError(
                    f"{model.described}.{self.method} returned {type(given).__name__}; an "
                    "mfdeq.Linearization was expected"
                )
            self._given[i] = given
        return self._given[i]


class _Changes:
    """Second derivatives by central differences of first ones."""

    def __init__(self, place: _Place, wider: float) -> None:
        self.place = place
        self.step = wider * place.backend.eps ** (1 / 3)

    def taken(self, field: str, inexact: float) -> _Taken:
        """One of them; of first derivatives with that error."""
        accuracy = INEXACT * max(inexact / self.step, self.step**2)
        return _Taken(getattr(self, field), "differences of first derivatives", accuracy)

    def curvature(self, lam: Array) -> Curvature:
        """(dtheta, dh) -> the change of (B'lam, J'lam)."""
        return Curvature(
            apply=lambda dtheta, dh: self._change(
                (dtheta, dh),
                lambda state, params: (params._apply_adjoint(lam), state._apply_adjoint(lam)),
            )
        )

    def second(self, a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
        """The change of f'[b] along a."""
        return self._change(a, lambda J, B: (B._apply(b[0]) + J._apply(b[1]),))[0]

    def _change(self, along: tuple[Array, Array], of: Callable[..., Any]) -> tuple[Array, ...]:
        place, xp = self.place, self.place.backend.xp
        sizes = typical_sizes(place.theta), typical_sizes(place.h)
        longest = max(float(xp.max(xp.abs(d) / size)) for d, size in zip(along, sizes, strict=True))
        t = self.step / longest if longest > 0.0 else 1.0
        plus, minus = (
            of(
                there.operator("d_state", place.h.shape[0]),
                there.operator("d_params", place.theta.shape[0]),
            )
            for there in (place.moved(s * along[0], s * along[1]) for s in (t, -t))
        )
        return tuple((p - m) / (2.0 * t) for p, m in zip(plus, minus, strict=True))
