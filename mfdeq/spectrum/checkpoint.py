"""Checkpoints of eigenvalue computations: the state of the search and its operators, the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from ..arrays.backend import array_on_host, host
from ..arrays.powers_of_two import scaled_by, times_power
from ..files.checkpoints import Checkpoint, other_run_error
from ..priors.precision import Precision
from .counted_operator import CountedOperator
from .eigen_report import EigenReport
from .eigenpairs import Eigenpairs
from .lanczos import Lanczos

BOUND_FACTOR = 3.0  # largest residual of a saved pair, relative to its error bound


class EigenCheckpoint:
    """The checkpoint of one computation; without a file, every method does nothing.

    Parameters
    ----------
    file : Checkpoint or None
    H : CountedOperator

    Attributes
    ----------
    operators : list of CountedOperator
        The operators whose counts and tolerances are saved: H, and the inverse if there is one.
    search : dict or None
        The state of an unfinished search in the file.
    completion : dict
        What a search for missing pairs needs besides; empty before it.
    """

    def __init__(self, file: Checkpoint | None, H: CountedOperator) -> None:
        self.file, self.H, self.operators = file, H, [H]
        saved: dict[str, Any] = {} if file is None or file.saved is None else file.saved
        self.search: dict[str, Any] | None = saved.get("search")
        self.completion: dict[str, Any] = saved.get("completion", {})
        self._pairs: dict[str, Any] | None = saved.get("pairs")
        self._operator_states: list[Any] = saved.get("products", [])

    def decoding(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the saved state is decoded, whose errors are those of the file."""
        return contextlib.nullcontext() if self.file is None else self.file.decoding()

    def restore_operators(self, counted: CountedOperator, off: float, tol: float) -> None:
        """Restore the operators, if a product agrees with the file.

        Parameters
        ----------
        counted : CountedOperator
            The operator whose products are the steps of the run.
        off, tol : float
            The difference between a product and that in the file, and its tolerance.

        Raises
        ------
        CheckpointError
            If the difference is larger, since the file is then of another operator.
        """
        assert self.file is not None
        if not off <= tol:
            raise other_run_error(
                self.file.path, f"H or M differs, with a product off by {off:.1e}"
            )
        with self.decoding():
            for operator, state in zip(self.operators, self._operator_states, strict=True):
                operator.restore(state)
        self.file.continue_from(counted.count)
        self._forget()

    def save_search(self, done: int, state: Callable[[], dict[str, Any]]) -> None:
        """Save the state of the search after `done` products, if a checkpoint is due."""
        if self.file is not None and self.file.due(done):
            operators = [operator.checkpoint_state for operator in self.operators]
            saved = {"search": state(), "products": operators, "completion": self.completion}
            self.file.write(done, saved)
            self._forget()

    def save_result(self, pairs: Eigenpairs) -> None:
        """Save the result."""
        if self.file is not None:
            krylov = None if pairs.krylov is None else pairs.krylov.checkpoint_state
            fields = {**vars(pairs), "precision": None, "krylov": krylov}
            self.file.write(0, {"pairs": {**fields, "report": vars(pairs.report)}})
            self._forget()

    def load_result(self) -> Eigenpairs | None:
        """Return the result in the file, which must be of this operator; None if there is none."""
        if self._pairs is None:
            return None
        H = self.H
        with self.decoding():
            pairs = self._decode_pairs(self._pairs)
        x, dual = pairs.vectors[:, -1:], H.metric.apply(pairs.vectors[:, -1:])
        product = H.product(x)
        value = times_power(H.backend, pairs.values[-1:], host.asarray(H.exponent))
        off = H.metric.dual_norms(product - dual * value)
        self._operator_states = [H.checkpoint_state]
        bound = float(array_on_host(pairs.error_bounds)[-1])
        rounding = H.backend.eps * pairs.report.norm
        tol = scaled_by(BOUND_FACTOR * (bound + rounding), H.exponent or 0)
        self.restore_operators(H, float(array_on_host(off)[0]), tol)
        return pairs

    def _decode_pairs(self, saved: dict[str, Any]) -> Eigenpairs:
        """Rebuild the pairs that `save_result` has saved."""
        H, fields, report = self.H, {**saved}, {}
        to_device = H.backend.coefficients
        for name, value in fields.pop("report").items():
            report[name] = to_device(value) if name in ("residuals", "product_errors") else value
        for name in ("values", "error_bounds"):
            fields[name] = to_device(fields[name])
        fields["vectors"] = H.backend.from_host(fields["vectors"])
        fields["precision"] = H.metric if isinstance(H.metric, Precision) else None
        if fields["krylov"] is not None:
            fields["krylov"] = Lanczos.from_checkpoint(H.backend, H, H.metric, fields["krylov"])
        return Eigenpairs(**fields, report=EigenReport(**report))

    def _forget(self) -> None:
        """Drop what products depend on besides the file, for identical results after a restart."""
        for operator in self.operators:
            operator.H.forget()
