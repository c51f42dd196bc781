"""Models of many independent samples, from a function of one.

The function is mapped over the samples by the library that differentiates it, so that every
derivative of the whole batch is that of one function, as for any other model. What differs is the
derivative with respect to the state: dense blocks, which are computed together with the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

from ..arrays import dense_blocks
from ..arrays.backend import Array, Backend, host
from ..compositions.batched_equilibrium import BatchedEquilibrium
from ..compositions.sample_newton import SampleNewton
from ..compositions.sample_steps import SampleStep, block_step
from ..errors import ArgumentError, ModelError
from ..linear.block_diagonal import BlockDiagonal
from ..models.library_function import LibraryFunction
from ..models.linearization import DeferredLinearization, Linearization
from ..models.model import Model
from ..operators.matrix_operator import Diagonal
from ..operators.operator import Operator, Product
from ..operators.user_operators import as_operator
from .automatic import AutomaticArgmin, AutomaticMap, AutomaticResidual
from .automatic_model import AutomaticModel
from .configured_model import ConfiguredModel
from .data import count_samples, evaluated_samples, take_samples
from .source import DerivativeSource, Function


class SampleNames(Sequence[str]):
    """The names of the unknowns or equations of all samples.

    Parameters
    ----------
    names : sequence of str or None
        The names in one sample.
    default : str
        The name without an index, if there are none.
    samples, size : int
    """

    def __init__(self, names: Sequence[str] | None, default: str, samples: int, size: int) -> None:
        self.names, self.default = names, default
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return self.samples * self.size

    def __getitem__(self, i: Any) -> Any:
        sample, j = divmod(range(len(self))[i], self.size)
        name = f"{self.default} {j}" if self.names is None else self.names[j]
        return f"{name} of sample {sample}"


class Batch(ConfiguredModel):
    """What models of batches have in common, whatever differentiates their function.

    Attributes
    ----------
    samples, sample_size : int
        The number of samples, and of the unknowns of each.
    kept : (samples,) array of bool or None
        The samples that have an equilibrium, where others are left out.
    tolerates_failures : bool
        Whether samples without an equilibrium are left out, as with ``on_failure="mask"``.
    """

    forward_method = SampleNewton()
    equilibrium_class = BatchedEquilibrium
    _data_are_example = False
    samples: int
    sample_size: int
    tolerates_failures = False
    kept: Array | None = None
    _own = ("_lock", "_latest", "kept", "_frozen", "_numbers")
    _frozen: Array | None = None  # the states of samples that are left out
    _numbers: Any = None  # the sample at which each is evaluated

    @property
    def _named_size(self) -> int:
        return self.sample_size

    def _all_names(self, names: list[str] | None, field: str) -> Sequence[str]:
        default = "unknown" if field == "state_names" else "equation"
        return SampleNames(names, default, self.samples, self.sample_size)

    def _rows(self, h: Array) -> Array:
        return Backend.of(h).xp.reshape(h, (self.samples, self.sample_size))

    def sample_blocks(self, H: Array, theta: Array) -> tuple[Array, Array]:
        """Return the values and the Jacobians of each row of H."""
        raise NotImplementedError

    def sample_step(self, H: Array, theta: Array, sizes: Array) -> SampleStep:
        """Return Newton's step from each row of H, with the Jacobians of `sample_blocks`."""
        backend, (values, blocks) = Backend.of(H, theta), self.sample_blocks(H, theta)
        R = H - values if self._is_map else values
        return block_step(backend, R, blocks, sizes, self._is_map)

    # Samples without an equilibrium.

    def tolerating_failures(self) -> Self:
        """Return the model that leaves out samples without an equilibrium."""
        other = self._copy()
        other.tolerates_failures = True
        return other

    def without_samples(self, kept: Array, H: Array) -> Model:
        """Return the model in which samples that are not kept stay at their rows of H.

        They are evaluated at another sample, with weight zero, since f may have no value there.
        """
        numbers = evaluated_samples(host.asarray(kept))
        other = self._with_data(take_samples(self.converter, self._data, numbers))
        other.kept, other._frozen, other._numbers = kept, H, numbers
        return other

    def _substituted(self, H: Array) -> Array:
        """Return the states at which f is evaluated, those of kept samples in all rows."""
        return H if self.kept is None else H[self._numbers]

    def _with_frozen(self, H: Array, values: Array) -> Array:
        """Return the values, with h = (its start) as the equation of samples left out."""
        if self.kept is None:
            return values
        xp, kept = Backend.of(H).xp, self.kept[:, None]
        return xp.where(kept, values, self._frozen if self._is_map else H - self._frozen)

    def _blocks_with_frozen(self, backend: Backend, blocks: Array) -> Array:
        """Return the Jacobians, with that of the same equation in samples left out."""
        if self.kept is None:
            return blocks
        other = backend.eye(self.sample_size, self.sample_size) * (0.0 if self._is_map else 1.0)
        return backend.xp.where(self.kept[:, None, None], blocks, other)

    @property
    def _is_map(self) -> bool:
        return self.function_name == "map"

    def _masked(self, linearization: Linearization, backend: Backend) -> Linearization:
        """Return the linearization in which samples left out depend on nothing."""
        if self.kept is None:
            return linearization
        xp = backend.xp
        ones = xp.astype(self.kept, backend.dtype)
        weights = xp.reshape(ones[:, None] + backend.zeros(self.samples, self.sample_size), (-1,))
        shape = (weights.shape[0], self.param_size)
        curvature, second = linearization.curvature, linearization.second
        assert curvature is not None
        assert second is not None
        return DeferredLinearization(
            linearization.d_state,
            lambda: Product(
                Diagonal(backend, weights),
                as_operator(backend, linearization.d_params, shape, "d_params"),
            ),
            curvature=lambda lam: curvature(weights * lam),
            second=lambda a, b: weights * second(a, b),
            sources=lambda: linearization.sources,
            accuracy=lambda: linearization.accuracy,
            state_accuracy=linearization.state_accuracy,
            unchanged=linearization.check_unchanged,
        )


class _CompiledStep:
    """Newton's steps that a source computes in one call; see `SampleStep`."""

    def __init__(
        self, source: DerivativeSource, backend: Backend, arrays: Sequence[Any], solve: Function
    ) -> None:
        converted = (source.from_library(backend, x) for x in arrays)
        self.R, self.terms, self.wide, self.D = converted
        self.solve = lambda b: source.from_library(backend, solve(*source.operands(b)))


class AutomaticBatch(Batch, AutomaticModel):
    """Common base class of batches that a source of derivatives differentiates."""

    _latest: tuple[Array, Array, Array, Array] | None = None  # h, theta, values and Jacobians

    def _total_size(self, size: int) -> int:
        self.samples = count_samples(self.source, self._data, self.caller)
        self.sample_size = size
        return self.samples * size

    def _combined(self, flat: Function) -> Function:
        self._sample_blocks = self.source.sample_blocks(flat)
        self._sample_step = self.source.sample_step(flat, self._is_map)
        mapped, shape = self.source.vectorized(flat, (0, None, 0)), (self.samples, self.sample_size)
        return lambda h, theta, data: mapped(h.reshape(shape), theta, data).reshape(-1)

    def _example_data(self) -> tuple[Any, ...]:
        return take_samples(self.source, self._data, 0)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_sample_blocks", "_sample_step", "_latest", "_fields_by_sample"):
            state.pop(name, None)
        return state

    # States of all samples.

    def state_tree(self, h: Array) -> Any:
        """Convert an (N,) vector to a state with the structure of the example and a first axis."""
        (vector,) = self.source.to_library(h)
        rows = vector.reshape(self.samples, self.sample_size)
        return self.source.vectorized(self._states.to_tree, (0,))(rows)

    def flat_state(self, tree: Any) -> Array:
        """Convert states of all samples, or the state of one for all of them, to a vector.

        The leaves have the shapes of the example, with a first axis for the samples or without.
        """
        found, example = (self.source.data_leaves(x) for x in (tree, self._states.example))
        shapes = {path: tuple(leaf.shape) for path, leaf in example.items()}
        given = {path: tuple(getattr(leaf, "shape", ())) for path, leaf in found.items()}
        if given == shapes:
            return host.tile(self._states.flatten(tree), self.samples)
        if given != {path: (self.samples, *shape) for path, shape in shapes.items()}:
            raise ModelError(
                f"state of {self.caller}: expected the structure of the example, with a first axis "
                f"of {self.samples} samples or without, got shapes {list(given.values())}"
            )
        leaves = [host.asarray(found[path]).reshape(self.samples, -1) for path in shapes]
        return host.concatenate(leaves, axis=1).reshape(-1)

    def function_in(self, library: str) -> LibraryFunction | None:
        """Return the function of all samples, whose states have a first axis for these."""
        function = super().function_in(library)
        if function is None:
            return None
        source, shape = self.source, (self.samples, self.sample_size)
        to_tree, to_vector = (
            source.vectorized(of_one, (0,))
            for of_one in (self._states.to_tree, self._states.to_vector)
        )
        zeros = source.to_library(host.zeros(shape))[0]
        return dataclasses.replace(
            function,
            state_to_tree=lambda h: to_tree(h.reshape(shape)),
            state_to_vector=lambda tree: to_vector(tree).reshape(-1),
            state=to_tree(zeros),
        )

    def _state_vector(self, value: Any, theta: Array) -> Any:
        if getattr(value, "shape", None) == (self.sample_size,) != (self.state_size,):
            return Backend.of(theta).xp.concat([value] * self.samples)
        return super()._state_vector(value, theta)

    def _field_value(self, given: Any, theta: Array, *states: Array) -> Any:
        """Return a field of all samples; a function takes the arguments of one, as f does."""
        if not callable(given):
            return super()._field_value(given, theta, *states)
        source, count = self.source, len(states)
        known = self.__dict__.setdefault("_fields_by_sample", {})
        if (given, count) not in known:
            parameters, trees = self._parameters.to_tree, self._states
            zeros = 0.0 * trees.to_vector(trees.example)

            def of_one(*x: Any) -> Any:
                *h, vector, data = x
                value = given(*map(trees.to_tree, h), parameters(vector), data)
                scalar = getattr(value, "ndim", 0 if isinstance(value, (int, float)) else 1) == 0
                return value + zeros if scalar else trees.to_vector(value)

            axes = (*[0] * count, None, 0)
            known[given, count] = source.value(source.vectorized(of_one, axes))
        rows = [x.reshape(self.samples, -1) for x in source.to_library(*states)]
        value = known[given, count](*rows, *source.to_library(theta), *self._data)
        backend = Backend.of(theta)
        return backend.xp.reshape(source.from_library(backend, value), (-1,))

    # Values and derivatives.

    def evaluate(self, h: Array, theta: Array) -> Array:
        """Return f of all samples, (N,)."""
        xp, H = Backend.of(h).xp, self._rows(h)
        values = super().evaluate(xp.reshape(self._substituted(H), (-1,)), theta)
        return xp.reshape(self._with_frozen(H, self._rows(values)), (-1,))

    def sample_values(self, H: Array, theta: Array) -> Array:
        """Return f of each row of H, (samples, n)."""
        xp = Backend.of(H).xp
        values = self._evaluate(xp.reshape(self._substituted(H), (-1,)), theta)
        return self._with_frozen(H, self._rows(values))

    def sample_blocks(self, H: Array, theta: Array) -> tuple[Array, Array]:
        """Return the values and the Jacobians of each row of H."""
        source, backend = self.source, Backend.of(H, theta)
        values, blocks = (
            source.view(backend, x)
            for x in self._sample_blocks(*source.operands(self._substituted(H), theta), *self._data)
        )
        values = self._with_frozen(H, values)
        blocks = self._blocks_with_frozen(backend, blocks)
        self._latest = backend.copied(H), backend.copied(theta), values, blocks
        return values, blocks

    def sample_step(self, H: Array, theta: Array, sizes: Array) -> SampleStep:
        """Return Newton's step from each row of H."""
        by_loops = dense_blocks.loops_pay(H, *H.shape)
        if self._sample_step is None or self.kept is not None or by_loops:
            return super().sample_step(H, theta, sizes)
        source, backend = self.source, Backend.of(H, theta)
        H, theta, sizes = source.operands(H, theta, sizes)
        *arrays, solve = self._sample_step(H, theta, *self._data, sizes)
        return _CompiledStep(source, backend, arrays, solve)

    def _blocks_at(self, h: Array, theta: Array) -> Array:
        """Return the Jacobians at a state, which may be that of the last evaluation."""
        H, backend, latest = self._rows(h), Backend.of(h, theta), self._latest
        if (
            latest is not None
            and latest[0].dtype == H.dtype
            and backend.all(latest[0] == H)
            and backend.all(latest[1] == theta)
        ):
            return latest[3]
        return self.sample_blocks(H, theta)[1]

    def _derivative(self, which: int, h: Array, theta: Array, unchanged: Function) -> Operator:
        if which != 0:
            return super()._derivative(which, h, theta, unchanged)
        backend = Backend.of(h, theta)
        blocks = self._blocks_at(h, theta)
        finite = backend.xp.isfinite(backend.xp.sum(blocks, axis=(1, 2)))
        if not backend.all(finite):
            bad = [int(i) for i in backend.xp.nonzero(~finite)[0]]
            rows = [i * self.sample_size for i in bad]
            raise self._entries("d_state", unchanged).error(rows, [])
        operator = BlockDiagonal.of(backend, blocks)
        operator.known_symmetric = self.symmetric
        return operator

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Differentiate all samples at (h, theta)."""
        backend = Backend.of(h, theta)
        h = backend.xp.reshape(self._substituted(self._rows(h)), (-1,))
        return self._masked(super().linearize(h, theta), backend)


class BatchedMap(AutomaticBatch, AutomaticMap):
    """A map of many samples."""


class BatchedResidual(AutomaticBatch, AutomaticResidual):
    """A residual of many samples."""


class BatchedArgmin(AutomaticBatch, AutomaticArgmin):
    """The minima of many samples."""


CLASSES: dict[str, type[AutomaticModel]] = {
    "map": BatchedMap,
    "residual": BatchedResidual,
    "argmin": BatchedArgmin,
}


def check_batched(batched: bool, sparsity: Any, caller: str) -> None:
    """Check the arguments of a function that may create a batch.

    Raises
    ------
    ArgumentError
        If `batched` is not a bool, or a pattern is passed for a batch, whose blocks are dense.
    """
    if not isinstance(batched, bool):
        raise ArgumentError(f"batched of {caller}: expected True or False, got {batched!r}")
    if batched and sparsity is not None:
        raise ArgumentError(
            f"sparsity of {caller}: expected none with batched=True, where the derivative is known "
            "to be one dense block for each sample"
        )


def classes_of(batched: bool, sparsity: Any, caller: str) -> dict[str, type[AutomaticModel]] | None:
    """Return the classes of models by kind, if those of a batch; see `check_batched`."""
    check_batched(batched, sparsity, caller)
    return CLASSES if batched else None
