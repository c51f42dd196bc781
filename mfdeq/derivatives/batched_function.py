"""Models of many independent samples, from a plain function of one, differentiated numerically.

Differences step in the same unknown of all samples at once, so that a derivative with respect to
the state takes the evaluations of one sample in each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import scipy.sparse

from ..arrays.backend import Array, Backend, array_on_host, host, is_dense
from ..arrays.sparse import sparse_on_host
from ..errors import ModelError, is_evaluation_failure
from ..linear.block_diagonal import BlockDiagonal
from ..models.model import Model
from .batched import Batch
from .data import PLAIN, convert_args, count_samples, take_samples
from .function_model import FunctionMap, FunctionModel, FunctionResidual
from .steps import StepRule


class FunctionBatch(Batch, FunctionModel):
    """Common base class of batches that are differentiated numerically.

    Parameters
    ----------
    f : callable
        f(h, theta, args) of one sample.
    sizes : pair of int
        The number of unknowns of one sample, and of the parameters.
    step_rule, order
        As in `FunctionModel`.
    args : object
        Data with a leading axis for the samples.
    """

    def __init__(
        self,
        f: Callable[..., Array],
        sizes: tuple[int, int],
        sparsity: Any,
        step_rule: StepRule,
        order: int = 2,
        args: Any = None,
    ) -> None:
        self.sample_size, params = sizes
        self.samples = count_samples(PLAIN, convert_args(PLAIN, args), self.caller)
        blocks = scipy.sparse.kron(
            scipy.sparse.identity(self.samples), host.ones((sizes[0], sizes[0])), format="csr"
        )
        size = self.samples * self.sample_size
        super().__init__(f, (size, params), (blocks, None), step_rule, order, args)

    def _set_data(self, data: tuple[Any, ...]) -> None:
        super()._set_data(data)
        self._data_of = [take_samples(PLAIN, data, i) for i in range(self.samples)]

    def without_samples(self, kept: Array, H: Array) -> Model:
        """Return the model in which samples that are not kept stay at their rows of H."""
        other = self._copy()
        other.kept, other._frozen = kept, H
        return other

    def flat_state(self, state: Any) -> Array:
        """Convert an array of the states of all samples, or of one for all of them, to a vector."""
        state = host.asarray(state)
        if state.shape == (self.sample_size,):
            return host.tile(state, self.samples)
        if state.shape != (self.samples, self.sample_size):
            raise ModelError(
                f"state of {self.caller}: expected shape ({self.samples}, {self.sample_size}) or "
                f"({self.sample_size},), got {state.shape}"
            )
        return state.reshape(-1)

    def _field_value(self, given: Any, theta: Array, *states: Array) -> Any:
        """Return a field of all samples; a function takes the arguments of one, as f does."""
        if not callable(given):
            return super()._field_value(given, theta, *states)
        backend, rows = Backend.of(theta), [self._rows(h) for h in states]
        ones = backend.zeros(self.sample_size) + 1.0
        values = [
            given(*(H[i] for H in rows), theta, *self._data_of[i]) * ones
            for i in range(self.samples)
        ]
        return backend.xp.concat(values)

    # Values and derivatives.

    def evaluate(self, h: Array, theta: Array) -> Array:
        """Return f of all samples, (N,)."""
        rows = self._evaluated_rows(h.reshape(self.samples, self.sample_size), theta, None)
        return rows.reshape(-1)

    def _evaluated_rows(self, H: Array, theta: Array, failures: list[int] | None) -> Array:
        """Return f of each row, with zeros where it fails if failures are to be listed."""
        values = []
        for i in range(self.samples):
            if self.kept is not None and not self.kept[i]:
                frozen = self._frozen[i]  # type: ignore[index]
                values.append(frozen + 0.0 * H[i] if self._is_map else H[i] - frozen)
                continue
            try:
                values.append(self._checked(self.f(H[i], theta, *self._data_of[i]), i))
            except Exception as error:
                if failures is None or not is_evaluation_failure(error):
                    error.add_note(f"mfdeq: in sample {i} of a batch")
                    raise
                failures.append(i)
                values.append(0.0 * H[i])
        return Backend.of(abs(H)).xp.stack(values)

    def _checked(self, value: Any, i: int) -> Any:
        if getattr(value, "shape", None) != (self.sample_size,):
            raise ModelError(
                f"f of {self.caller}: expected it to return an array of shape "
                f"({self.sample_size},) for one sample, got "
                f"{getattr(value, 'shape', type(value).__name__)} for sample {i}"
            )
        return value

    def sample_values(self, H: Array, theta: Array) -> Array:
        """Return f of each row of H, with NaN where it fails."""
        failures: list[int] = []
        values = self._evaluated_rows(H, theta, failures)
        for i in failures:
            values[i, ...] = float("nan")
        return values

    def sample_blocks(self, H: Array, theta: Array) -> tuple[Array, Array]:
        """Return the values and the Jacobians of each row of H, with NaN where f fails."""
        xp, values = Backend.of(H, theta).xp, self.sample_values(H, theta)
        defined = xp.isfinite(xp.sum(values, axis=1))
        undefined = xp.full((*H.shape, H.shape[1]), float("nan"), dtype=H.dtype)
        kept = defined if self.kept is None else defined & self.kept
        if not bool(xp.any(kept)):
            return values, undefined
        model = self if bool(xp.all(kept)) else self.without_samples(kept, H)
        matrix: Any = model.linearize(xp.reshape(H, (-1,)), theta).d_state
        return values, xp.where(defined[:, None, None], matrix.blocks, undefined)

    def _state_matrix(self, matrix: Any, backend: Backend) -> BlockDiagonal:
        matrix = array_on_host(matrix) if is_dense(matrix) else sparse_on_host(matrix)
        entries, size = scipy.sparse.coo_matrix(matrix), self.sample_size
        blocks = host.zeros((self.samples, size, size), dtype=entries.dtype)
        blocks[entries.row // size, entries.row % size, entries.col % size] = entries.data
        return BlockDiagonal.of(backend, backend.from_host(blocks))


class FunctionBatchMap(FunctionBatch, FunctionMap):
    """A map of many samples, differentiated numerically."""


class FunctionBatchResidual(FunctionBatch, FunctionResidual):
    """A residual of many samples, differentiated numerically."""
