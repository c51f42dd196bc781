"""What a solver and a preconditioner must do: the base classes to derive one's own from.

A `Solver` and a `Preconditioner` are descriptions: small, immutable, cheap to make and to print.
Their `setup(A)` does the work that is done once for each matrix. A solver's set-up gives a
`Factor`, a preconditioner's a `PreconditionerOperator`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError
from ..operators.operator import Operator
from ..report import LinearCounts
from .costs import BYTES_PER_ENTRY
from .factor import Factor

COLUMNS_PER_SPACE = 16  # columns that block methods solve in one search space, by default


class Solver(ABC):
    """Base class of the descriptions of how to solve with A and its adjoint.

    A solver of your own derives from it, defines `setup` and can then be passed as ``solver=`` to
    `mfdeq.solve` and everywhere else where `mfdeq.Direct()` can.

    Notes
    -----
    Whatever the method, the `Factor` that `setup` returns checks the true residual of every solve.
    The description itself should not hold anything that belongs to one matrix: one description is
    set up for many.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.linear import Factor, Solver, matrix_of, operator_of
    >>> class Inverse(Solver):
    ...     def setup(self, A, counts=None):
    ...         return InverseFactor(operator_of(A), None, counts)
    >>> class InverseFactor(Factor):
    ...     name = "inverse"
    ...
    ...     def __init__(self, A, rtol, counts):
    ...         super().__init__(A, rtol, counts)
    ...         self.inverse = np.linalg.inv(matrix_of(A, "Inverse()"))
    ...
    ...     def _attempt(self, b, rtol, adjoint):
    ...         return (self.inverse.T if adjoint else self.inverse) @ b
    >>> print(Inverse().setup(np.diag([2.0, 4.0])).solve(np.ones(2)))
    [0.5  0.25]
    """

    @abstractmethod
    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Do the work that is done once for A.

        Parameters
        ----------
        A : Operator, sparse matrix or array, (N, N)
            `mfdeq.linear.operator_of` makes an `Operator` of the others.
        counts : LinearCounts, optional
            Where the factor adds up what it costs; by default counts of its own.

        Returns
        -------
        Factor

        Raises
        ------
        ArgumentError
            If the method does not suit A.
        SingularStateError
            If the set-up shows that A is singular.
        ConvergenceError
            If the set-up shows that the method cannot converge.
        """

    @property
    def description(self) -> str:
        """The solver in words, for reports: by default as Python prints it."""
        return str(self)

    @property
    def choices(self) -> Sequence[str]:
        """The decisions taken so far and the reasons, in words; () for a solver that takes none."""
        return ()

    def forget(self) -> None:
        """Forget what earlier matrices have taught the solver; nothing, by default."""
        return


class PreconditionerOperator(Operator):
    """Base class of the operators that are applied in place of A^-1.

    As of every `Operator`, subclasses define `_apply` and `_apply_adjoint` on arrays of shape (N,)
    and (N, k); the adjoint preconditions solves with the adjoint of A. The rest has defaults that
    suit a preconditioner that is linear and small, and is set up anew for every matrix.

    Attributes
    ----------
    flexible : bool
        Whether an application is not linear to rounding: an inner iteration, or a cycle that
        computes in lower precision. GMRES then keeps the preconditioned vectors as well, and
        recycling is refused.
    """

    flexible: bool = False

    @property
    def description(self) -> str:
        """The preconditioner in words, for the names of factors."""
        return type(self).__name__

    @property
    def nbytes(self) -> int:
        """Bytes of the incomplete factors or levels that it holds, beside A."""
        return 0

    def refresh(self, A: Operator) -> bool:
        """Become the preconditioner of another matrix with the pattern of A, in place.

        `Reused` asks for it when a preconditioner of an earlier matrix has aged, since it may cost
        less than a set-up.

        Returns
        -------
        bool
            False, the default, if that cannot be done: nothing has changed then, and a new one is
            set up.
        """
        return False

    def application_cost(self, product_entry: float, triangular_entry: float) -> float:
        """Estimate the nanoseconds of one application to one vector.

        By it, "auto" compares iterations with factorizations.

        Parameters
        ----------
        product_entry, triangular_entry : float
            Nanoseconds for each stored entry in a sparse product, and in a triangular solve.
        """
        return product_entry * self.nbytes / BYTES_PER_ENTRY


class Preconditioner(ABC):
    """Base class of the descriptions of preconditioners.

    A preconditioner of your own derives from it, defines `setup` and can then be passed as
    ``preconditioner=`` to `mfdeq.Krylov` and as ``by=`` to `mfdeq.Approximate`.

    Attributes
    ----------
    columns_per_space : int
        How many columns of a block "gmres" and "cg" solve in one search space, by default. 1 suits
        a preconditioner so good that a shared space costs more than the iterations it saves.
    never_symmetric : bool
        Whether the operator is not symmetric even where A is. Methods for symmetric matrices then
        refuse the preconditioner.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> from mfdeq.linear import Preconditioner, PreconditionerOperator
    >>> class Scalar(Preconditioner):
    ...     def setup(self, A):
    ...         return Multiple(A, A.array.diagonal().mean())
    >>> class Multiple(PreconditionerOperator):
    ...     def __init__(self, A, size):
    ...         super().__init__(A, A.shape)
    ...         self.size = size
    ...
    ...     def _apply(self, x):
    ...         return x / self.size
    ...
    ...     def _apply_adjoint(self, y):
    ...         return y / self.size
    >>> factor = mfdeq.Krylov(preconditioner=Scalar()).setup(np.diag([2.0, 4.0]))
    >>> print(factor.name, factor.solve(np.ones(2)).round(4))
    Krylov gmres with Scalar [0.5  0.25]
    """

    columns_per_space: int = COLUMNS_PER_SPACE

    @abstractmethod
    def setup(self, A: Operator) -> PreconditionerOperator:
        """Do the work that is done once for A.

        Parameters
        ----------
        A : Operator, (N, N)
            `mfdeq.linear.matrix_of` gives its entries, or an error where only products are known.

        Returns
        -------
        PreconditionerOperator
            Of shape (N, N), approximately A^-1, with its adjoint.

        Raises
        ------
        ArgumentError
            If the preconditioner does not suit A.
        SingularStateError
            If the set-up shows that A is singular.
        """

    @property
    def never_symmetric(self) -> bool:
        """Whether the operator is not symmetric even where A is: False, by default."""
        return False

    @property
    def description(self) -> str:
        """The preconditioner in words, for reports and the names of factors."""
        return type(self).__name__


def check_solver(solver: Any) -> None:
    """Raise `ArgumentError` unless `solver` is a `Solver`."""
    if not isinstance(solver, Solver):
        hint = (
            "a preconditioner goes into mfdeq.Krylov(preconditioner=...)"
            if isinstance(solver, Preconditioner)
            else "a solver of your own derives from mfdeq.linear.Solver"
        )
        raise ArgumentError(
            "expected solver to be 'auto', mfdeq.Direct(), mfdeq.Krylov(...) or mfdeq.Neumann(), "
            f"got {solver!r} ({hint})"
        )
