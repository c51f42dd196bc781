"""Losses that a source of automatic derivatives differentiates."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, Backend
from ..errors import ArgumentError
from ..models.curvature import Curvature
from ..models.losses import Loss
from .data import (
    DataConverter,
    DataHolder,
    convert_args,
    count_samples,
    evaluated_samples,
    take_samples,
)
from .hessians import Hessians
from .nearby_points import nearby_point, typical_sizes
from .references import References
from .source import DerivativeSource, Function


def loss_from(
    source: DerivativeSource,
    L: Function,
    state: Any,
    params: Any,
    args: Any = None,
    batched: bool = False,
) -> AutomaticLoss:
    """Create a loss from a scalar function of (state, params), given examples of both."""
    functions = _BatchedLossFunctions if batched else _LossFunctions
    data = convert_args(source, args)
    return AutomaticLoss(functions(source, L, state, params, data), data)


class _LossFunctions:
    """The functions that a source makes of a scalar function, shared by losses with other data."""

    batched = False

    def __init__(
        self,
        source: DerivativeSource,
        L: Function,
        state: Any,
        params: Any,
        data: tuple[Any, ...],
    ) -> None:
        self.source, self.L, self.references = source, L, References(L)
        states, parameters = source.layout(state, "state"), source.layout(params, "params")
        self.examples = states.example, parameters.example
        self.size = states.size

        def flat(h: Any, theta: Any, *data: Any) -> Any:
            return L(states.to_tree(h), parameters.to_tree(theta), *data).reshape(())

        examples = *self.examples, *self.example_data(data)
        source.check_scalar(L, loss_caller(source), *examples)
        once = self.once = source.trace_once(self.combined(flat))
        self.value, self.gradient = source.value(once), source.gradient(once)
        # A loss has no weights lam, so an empty array is passed.
        self.hessians = Hessians(
            source,
            lambda h, theta, _, *data: once(h, theta, *data),
            states.size,
            parameters.size,
        )

    def example_data(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the data for the examples of the state and of the parameters."""
        return data

    def combined(self, flat: Function) -> Function:
        """Return the function of all unknowns, given L as a function of vectors."""
        return flat

    def arguments(self, data: tuple[Any, ...], kept: Any) -> tuple[Any, ...]:
        """Return what the function takes after (h, theta)."""
        if kept is not None:
            raise ArgumentError(
                f"the loss of {loss_caller(self.source)}: expected one for each sample for "
                "on_failure='mask', got one of all of them: pass batched=True, and a function of "
                "one sample, whose values are added"
            )
        return data


class _BatchedLossFunctions(_LossFunctions):
    """The functions that a source makes of a sum over samples, given the function of one."""

    batched = True

    def example_data(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the data of the first sample."""
        if data:
            count_samples(self.source, data, loss_caller(self.source))
        return take_samples(self.source, data, 0)

    def combined(self, flat: Function) -> Function:
        """Return the sum over samples, with weights if some of them do not count."""
        source, size = self.source, self.size

        def total(h: Any, theta: Any, batch: Any) -> Any:
            data, weights, numbers = batch
            H = h.reshape(-1, size)
            H = H if numbers is None else H[numbers]
            values = source.vectorized(flat, (0, None, *[0] * len(data)))(H, theta, *data)
            return (values if weights is None else values * weights).sum()

        return total

    def arguments(self, data: tuple[Any, ...], kept: Any) -> tuple[Any, ...]:
        """Return the data, and the weights of samples with where they are evaluated."""
        if kept is None:
            return ((data, None, None),)
        kept = kept.reshape(-1, self.size).all(axis=1)
        numbers = evaluated_samples(kept)
        chosen = take_samples(self.source, data, numbers)
        return ((chosen, *self.source.to_library(kept, numbers)),)


class AutomaticLoss(DataHolder, Loss):
    """A loss by a source, which is made again from its function where it is unpickled."""

    def __init__(self, functions: _LossFunctions, data: tuple[Any, ...], kept: Any = None) -> None:
        self._functions, self._data, self._kept = functions, data, kept
        self._arguments = functions.arguments(data, kept)
        super().__init__(
            self._value_at,
            d_state=lambda h, theta: self._gradient_part(0, h, theta),
            d_params=lambda h, theta: self._gradient_part(1, h, theta),
            curvature=self._curvature_at,
        )

    def _with_data(self, data: tuple[Any, ...]) -> AutomaticLoss:
        return AutomaticLoss(self._functions, data)

    def without_unknowns(self, kept: Any) -> AutomaticLoss:
        """Return the loss without the samples of some unknowns."""
        return AutomaticLoss(self._functions, self._data, kept)

    @property
    def converter(self) -> DataConverter:
        """The source, which converts data beside the parameters."""
        return self._functions.source

    @property
    def caller(self) -> str:
        """The public function that made the loss."""
        return loss_caller(self._functions.source)

    def _value_at(self, h: Array, theta: Array) -> float:
        functions = self._functions
        return float(functions.value(*functions.source.operands(h, theta), *self._arguments))

    def _gradient_part(self, which: int, h: Array, theta: Array) -> Array:
        functions, source = self._functions, self._functions.source
        gradient = functions.gradient(*source.operands(h, theta), *self._arguments)
        return source.from_library(Backend.of(h), gradient[which])

    def _curvature_at(self, h: Array, theta: Array) -> Curvature:
        functions, source, backend = self._functions, self._functions.source, Backend.of(h)
        unchanged = source.watch(
            lambda *x: functions.once(*x, *self._arguments),
            functions.references,
            *source.operands(h, theta),
        )
        return functions.hessians.at(
            h,
            theta,
            h[:0],
            unchanged,
            lambda i: nearby_point(
                lambda h, theta: backend.asarray(self._value_at(h, theta)),
                h,
                theta,
                (typical_sizes(h), typical_sizes(theta)),
                i,
            ),
            self._arguments,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        functions = self._functions
        example, batched = functions.examples, functions.batched
        arguments = functions.source, functions.L, *example, self.args, batched
        return _restore, (arguments, self._kept)


def _restore(arguments: tuple[Any, ...], kept: Any) -> AutomaticLoss:
    loss = loss_from(*arguments)
    return loss if kept is None else loss.without_unknowns(kept)


def loss_caller(source: DerivativeSource) -> str:
    """Return the public function that makes losses by a source."""
    return source.caller.replace("from_", "loss_from_")
