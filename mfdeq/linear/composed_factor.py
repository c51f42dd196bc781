"""The base class of factors that are composed of factors of the parts of a structured operator."""

from __future__ import annotations

from collections.abc import Sequence

from ..operators.operator import Operator
from ..report import LinearCounts
from .factor import Factor
from .part_counts import PartCounts


class ComposedFactor(Factor):
    """Base class of factors that solve with a structured operator by factors of its parts.

    `Operator.factor_of_parts` returns one. A subclass defines `_attempt`, which solves with the
    `_attempt` of the parts, and `_approximate`, which applies their `approximate`. The true
    residual of every solve with the whole is checked, as that of any factor.

    Parameters
    ----------
    A : Operator, (N, N)
        The structured operator.
    parts : sequence of Factor
        The factors of the parts, each once. Their counts are `PartCounts` of `counts`.
    counts : LinearCounts

    Examples
    --------
    Two independent systems as one, each with a factor of its own:

    >>> import mfdeq, numpy as np
    >>> from mfdeq.linear import ComposedFactor, PartCounts, operator_of, set_up
    >>> from mfdeq.operators.operator import Operator
    >>> class Pair(Operator):
    ...     def __init__(self, upper, lower):
    ...         super().__init__(upper, (4, 4))
    ...         self.parts = upper, lower
    ...
    ...     def _apply(self, x):
    ...         return np.concatenate([A._apply(b) for A, b in zip(self.parts, (x[:2], x[2:]))])
    ...
    ...     def _apply_adjoint(self, y):
    ...         return np.concatenate(
    ...             [A._apply_adjoint(b) for A, b in zip(self.parts, (y[:2], y[2:]))]
    ...         )
    ...
    ...     def factor_of_parts(self, solver, counts):
    ...         factors = [set_up(solver, A, PartCounts(counts)) for A in self.parts]
    ...         return PairFactor(self, factors, counts)
    >>> class PairFactor(ComposedFactor):
    ...     def _attempt(self, b, rtol, adjoint):
    ...         sides = zip(self.parts, (b[:2], b[2:]))
    ...         return np.concatenate([part._attempt(side, rtol, adjoint) for part, side in sides])
    >>> A = Pair(operator_of(np.diag([1.0, 2.0])), operator_of(np.array([[2.0, 1.0], [0.0, 4.0]])))
    >>> factor = mfdeq.Direct().setup(A)
    >>> print(factor.solve(np.ones(4)), factor.name, factor.counts.setups)
    [1.    0.5   0.375 0.25 ] Direct (dense LU) 2
    """

    def __init__(self, A: Operator, parts: Sequence[Factor], counts: LinearCounts) -> None:
        self.parts = tuple(parts)
        super().__init__(A, min(part.rtol for part in self.parts), counts)
        self.counts.add(setups=-1)  # The parts count their own set-ups.
        self.counts.raise_to(bytes=self.nbytes)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The names of the factors of the parts."""
        return ", ".join(dict.fromkeys(part.name for part in self.parts))

    @property
    def flexible(self) -> bool:  # type: ignore[override]
        """Whether a part is not linear to rounding."""
        return any(part.flexible for part in self.parts)

    @property
    def iterative(self) -> bool:  # type: ignore[override]
        """Whether a part is solved by iterations."""
        return any(part.iterative for part in self.parts)

    @property
    def advice(self) -> str:  # type: ignore[override]
        """The advice of the first part."""
        return self.parts[0].advice

    def counted_in(self, counts: LinearCounts) -> Factor:
        """Return this factor with other counts, and parts that add to them."""
        other = super().counted_in(counts)
        assert isinstance(other, ComposedFactor)
        other.parts = tuple(part.counted_in(PartCounts(counts)) for part in self.parts)
        return other

    @property
    def nbytes(self) -> int:
        """Bytes of the factors of the parts."""
        return sum(part.nbytes for part in self.parts)

    def forget(self) -> None:
        """Discard what the parts would reuse from earlier solves."""
        for part in self.parts:
            part.forget()
